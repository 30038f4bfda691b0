"""Operators that keep each position where it is."""

from __future__ import annotations

import numpy as np

from lbyl_onnx.channels.labels import Labels, Role, padded, varying_axes
from lbyl_onnx.channels.rules.view import Join, NodeView


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
    axes = {varying_axes(x) for x in labelled}
    if len(axes) > 1:
        return view.freeze_inputs(f"{view.op_type} broadcasts its operands' channels")
    base = labelled[0]
    for other in labelled[1:]:
        view.couple(base, other)
    if len(labelled) > 1:
        view.flow.joins.append(Join(view.index, np.unique(np.stack(labelled))))
    for operand, labels in enumerate(spread):
        if labels is None and view.has(operand):
            _meet_unlabelled(view, operand, base)
    return [base]


def _meet_unlabelled(view: NodeView, operand: int, base: Labels) -> None:
    """Let an operand without labels follow where it is constant, freeze where it is not."""
    shape = view.shape(operand)
    if shape is None:
        view.freeze(base, f"an operand of {view.op_type} has an unknown shape")
        return
    offset = base.ndim - len(shape)
    static = view.tensor_info.static_shape(view.node.inputs[operand].name) or (None,) * len(shape)
    for axis in varying_axes(view.flow.coupling.canonical(base)):
        if axis < offset or static[axis - offset] == 1:
            continue
        along = view.along(base, axis)
        if along is None or not view.is_constant(operand):
            view.freeze(base, f"{view.op_type} joins them to channels that stay")
        else:
            view.binding(operand, axis - offset, along, Role.FOLLOWER)
