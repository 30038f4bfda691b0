"""Tables: constants of which each run reads the rows that it needs, as embeddings are."""

from __future__ import annotations

import numpy as np

from lbyl_onnx.channels.labels import AxisBinding, Labels, Role, varying_axes
from lbyl_onnx.channels.rules.view import NodeView

# Operators that read rows of a constant; which ones, other inputs tell.
READ_ROWS = ("Gather", "Slice")
# Operators whose rules are asked though no channels enter: they bring those of constants.
STARTS = (*READ_ROWS, "Expand")
# Columns from which on a table holds channels, and not pairs or the like.
FEWEST = 4


def started(view: NodeView) -> list[Labels | None]:
    """Start new labels at the last axis of a constant of which rows are read; else none.

    What each run reads of it brings channels as a layer does: an embedding is a layer on tokens
    of which one is 1.
    """
    shape = view.shape(0)
    if view.op_type not in READ_ROWS or not view.is_constant(0) or shape is None:
        return []
    columns = shape[-1] if len(shape) > 1 else 0
    output = view.output_shape()
    if columns < FEWEST or output is None or output[-1] != columns or not _takes_rows(view):
        return []
    fresh = view.flow.coupling.fresh(columns)
    view.binding(0, len(shape) - 1, fresh, Role.PRODUCER)
    return [fresh.reshape((1,) * (len(output) - 1) + (columns,))]  # (C,) -> (1, .., C)


def _takes_rows(view: NodeView) -> bool:
    """Whether a node reads the last axis whole."""
    last = len(view.shape(0) or ()) - 1
    if view.op_type == "Gather":
        return view.int_attribute("axis", 0) % (last + 1) != last
    axes = view.ints(3, "axes")
    return axes is not None and all(axis % (last + 1) != last for axis in axes)


def following(view: NodeView, operand: int, axis: int) -> Labels:
    """Labels of an input of Concat that has none: of a constant put beside channels, along an axis.

    A class token follows the channels of the tokens that it is put beside, repeated for each sample
    or not; other inputs bring fixed positions.
    """
    tensor, shape = view.node.inputs[operand], view.shape(operand) or ()
    fixed = np.zeros((1,) * len(shape), np.int64)
    beside = next(x for x in view.labels if x is not None)
    axes = varying_axes(view.flow.coupling.canonical(beside))
    if len(axes) != 1 or axes[0] == axis or shape[axes[0]] != beside.shape[axes[0]]:
        return fixed
    repeated = view.flow.repeated.get(tensor.name)
    if repeated is None and not view.is_constant(operand):
        return fixed
    along = view.along(beside, axes[0])
    if along is None:
        return fixed
    if repeated is None:
        view.binding(operand, axes[0], along, Role.FOLLOWER)
        return beside
    node, stored = repeated
    position = axes[0] - len(shape) + len(stored)  # Expand may have put axes before
    if position < 0 or stored[position] != len(along):
        return fixed
    view.flow.bindings.append(AxisBinding(node, 0, position, along, Role.FOLLOWER))
    return beside


def repeats(view: NodeView) -> list[Labels | None]:
    """Note an Expand that repeats a constant, and asks for no number of its channels."""
    shape, target = view.shape(0), view.tensor_info.traced_value(view.node.inputs[1].name)
    if shape and target is not None and view.is_constant(0):
        values, dynamic = target
        if values[-1] == 1 and not dynamic[-1]:
            view.flow.repeated[view.node.outputs[0].name] = (view.index, shape)
    return []
