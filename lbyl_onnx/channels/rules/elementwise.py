"""Operators that keep each position where it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lbyl_onnx.channels.labels import FIXED, Labels, Role, padded, varying_axes
from lbyl_onnx.channels.rules.view import Join, NodeView, SelectedAxis
from lbyl_onnx.graph.layers import linear_layer

# Operators whose operands scale or mask one another, channel by channel: gates.
PRODUCTS = ("And", "Div", "Mul", "PRelu", "Pow")
# Those that scale channels by numbers of a table, and the most nodes that compute it.
SCALING, LARGEST_TABLE = ("Mul",), 64


def passes_first(view: NodeView) -> list[Labels | None]:
    """Identity, Cast, Dropout and its mask: the first input, position by position."""
    return [view.labels[0]] * len(view.node.outputs)


def elementwise(view: NodeView) -> list[Labels | None]:
    """Any number of broadcast operands; labels are coupled position by position."""
    shape = view.output_shape()
    if shape is None:
        return view.freeze_inputs(f"the shape that {view.op_type} gives is not known")
    rank = len(shape)
    if any(x is not None and x.ndim > rank for x in view.labels):
        return view.freeze_inputs(f"{view.op_type} gives fewer axes than its operands have")
    spread = [None if x is None else padded(x, rank) for x in view.labels]
    labelled = [x for x in spread if x is not None]
    # What varies along fewer axes is broadcast: it meets several channels of another operand.
    base = max(labelled, key=lambda x: len(varying_axes(x)))
    if any(not set(varying_axes(x)) <= set(varying_axes(base)) for x in labelled):
        return view.freeze_inputs(f"{view.op_type} broadcasts its operands' channels")
    others = [x for x in labelled if x is not base]
    for other in others:
        view.meet(base, other)
    if any(np.any(other != base) for other in others):
        base = _joined(view, base, spread)
    for operand, labels in enumerate(spread):
        if labels is None and view.has(operand):
            _meet_unlabelled(view, operand, base)
    return [base]


def _joined(view: NodeView, base: Labels, spread: Sequence[Labels | None]) -> Labels:
    """Note that operands come together; return the labels of the result, shaped as `base`.

    They are new ones, coupled to the operands': a label tells which layers a tensor comes from.
    """
    labelled = [x for x in spread if x is not None]
    lines = np.stack(np.broadcast_arrays(base, *labelled)).reshape(1 + len(labelled), -1)
    distinct, inverse = np.unique(lines, axis=1, return_inverse=True)
    fresh = view.flow.coupling.fresh(distinct.shape[1])
    view.flow.coupling.unite(fresh, distinct[0])
    made = np.where(distinct[0] == FIXED, FIXED, fresh)[inverse].reshape(base.shape)
    factors = [x for i, x in enumerate(spread) if x is not None and _multiplies(view, i)]
    terms = [x for i, x in enumerate(spread) if x is not None and not _multiplies(view, i)]
    view.flow.joins.append(Join(view.index, tuple(terms), tuple(factors), made))
    return made


def _multiplies(view: NodeView, operand: int) -> bool:
    """Whether an operand scales or masks the others; the condition of Where does."""
    return view.op_type in PRODUCTS or (view.op_type == "Where" and operand == 0)


def _meet_unlabelled(view: NodeView, operand: int, base: Labels) -> None:
    """Let an operand without labels follow where it is constant, freeze where it is not."""
    shape = view.shape(operand)
    if shape is None:
        view.freeze(base, f"an operand of {view.op_type} has an unknown shape")
        return
    offset = base.ndim - len(shape)
    static = view.tensor_info.static_shape(view.node.inputs[operand].name) or (None,) * len(shape)
    axes = varying_axes(view.flow.coupling.canonical(base))
    met = [axis for axis in axes if axis >= offset and static[axis - offset] != 1]
    if not met:
        return
    table = view.op_type in SCALING and _is_table(view, operand)
    along = view.along(base, met[-1]) if view.is_constant(operand) or table else None
    if along is None or (table and static[met[-1] - offset] is None):
        view.freeze(base, f"{view.op_type} joins them to channels that stay")
    elif table:
        view.flow.selected.append(SelectedAxis(view.index, operand, met[-1] - offset, along))
    else:
        view.binding(operand, met[-1] - offset, along, Role.FOLLOWER)


def _is_table(view: NodeView, operand: int) -> bool:
    """Whether an input is computed of shapes, positions and vectors, as angles of a rotation are.

    No layer lies before it, but one whose weight is a vector: one number for each channel.
    """
    if view.is_constant(operand):
        return False
    waiting, visited = [view.node.inputs[operand]], set[int]()
    while waiting:
        for node in waiting.pop().inputs:
            layer = linear_layer(view.tensor_info, node)
            if layer is not None and layer.channels * layer.groups > 1:
                shape = view.tensor_info.shape(layer.weight_name) or ()
                if math.prod(d or 0 for d in shape) > max(d or 0 for d in shape):
                    return False
            if id(node) in visited or len(visited) > LARGEST_TABLE:
                continue
            visited.add(id(node))
            waiting += list(node.inputs)
    return len(visited) <= LARGEST_TABLE
