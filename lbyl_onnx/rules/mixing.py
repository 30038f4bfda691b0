"""Operators that work along some axes only: channels on the others pass."""

from __future__ import annotations

import numpy as np

from lbyl_onnx.labels import Labels, Role, varying_axes
from lbyl_onnx.rules.view import NodeView


def pool(view: NodeView) -> list[Labels | None]:
    """Pooling works on axes 2 and up, on each channel by itself."""
    labels = view.labels[0]
    if labels is None:
        return []
    if any(axis > 1 for axis in varying_axes(labels)):
        return view.freeze_inputs(f"{view.op_type} mixes them")
    if len(view.node.outputs) > 1:
        return view.freeze_inputs(f"the indices that {view.op_type} gives count them")
    return [labels]


def batch_normalization(view: NodeView) -> list[Labels | None]:
    """Scale, bias, mean and variance follow the channels of axis 1."""
    training = view.int_attribute("training_mode", 0) or len(view.node.outputs) > 1
    return _scaled_per_channel(view, range(1, 5), bool(training))


def instance_normalization(view: NodeView) -> list[Labels | None]:
    """Each channel of each sample by itself; scale and bias follow."""
    return _scaled_per_channel(view, range(1, 3), False)


def _scaled_per_channel(view: NodeView, operands: range, training: bool) -> list[Labels | None]:
    labels = view.labels[0]
    along = None if labels is None else view.along(labels, 1)
    if along is None or training or not all(view.is_constant(i) for i in operands):
        return view.freeze_inputs(f"{view.op_type}'s parameters are not constants per channel")
    for operand in operands:
        view.slot(operand, 0, along, Role.FOLLOWER)
    return [labels]


def reduce(view: NodeView) -> list[Labels | None]:
    """ReduceMean and its like: what lies along another axis passes."""
    labels, shape = view.labels[0], view.shape(0)
    if labels is None or shape is None:
        return view.freeze_inputs(f"the shape that {view.op_type} reduces is not known")
    axes = view.ints(1, "axes")
    if axes is None:
        if view.given(1, "axes"):
            return view.freeze_inputs(f"the axes of {view.op_type} are not constant")
        axes = [] if view.int_attribute("noop_with_empty_axes", 0) else list(range(len(shape)))
    return _reduced(view, labels, {a % len(shape) for a in axes})


def arg_reduce(view: NodeView) -> list[Labels | None]:
    """ArgMax, ArgMin: along one axis."""
    labels, shape = view.labels[0], view.shape(0)
    if labels is None or shape is None:
        return view.freeze_inputs(f"the shape that {view.op_type} reduces is not known")
    return _reduced(view, labels, {view.int_attribute("axis", 0) % len(shape)})


def _reduced(view: NodeView, labels: Labels, axes: set[int]) -> list[Labels | None]:
    if any(labels.shape[axis] > 1 for axis in axes):
        return view.freeze_inputs(f"{view.op_type} sums over them")
    if view.int_attribute("keepdims", 1):
        return [labels]
    return [np.squeeze(labels, tuple(axes))]


def along_axis(view: NodeView) -> list[Labels | None]:
    """Softmax, LayerNormalization and others that mix one axis, or all from one axis on."""
    labels, shape = view.labels[0], view.shape(0)
    if labels is None or shape is None:
        return view.freeze_inputs(f"{view.op_type} mixes them")
    old_softmax = view.op_type in SOFTMAXES and view.facts.opset < 13
    default = 1 if old_softmax or view.op_type == "LRN" else -1
    axis = view.int_attribute("axis", default)
    if view.op_type == "CumSum":
        value = view.ints_of(1)
        if value is None:
            return view.freeze_inputs("the axis of CumSum is not constant")
        axis = value[0]
    first = axis % len(shape)
    to_the_end = old_softmax or view.op_type == "LayerNormalization"
    mixed = range(first, len(shape) if to_the_end else first + 1)
    if any(labels.shape[a] > 1 for a in mixed):
        return view.freeze_inputs(f"{view.op_type} mixes them")
    return [labels]


SOFTMAXES = ("Softmax", "LogSoftmax", "Hardmax")
ALONG_AXIS = (*SOFTMAXES, "CumSum", "LRN", "LayerNormalization", "LpNormalization")
