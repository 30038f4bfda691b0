"""Operators that work along some axes only: channels on the others pass."""

from __future__ import annotations

import numpy as np

from lbyl_onnx.channels.labels import Labels, Role, varying_axes
from lbyl_onnx.channels.rules.view import NodeView, ShapeParameter, SharedNorm
from lbyl_onnx.graph.norms.normalisations import normalisation_of
from lbyl_onnx.graph.norms.parts import has_parts


def _beyond(labels: Labels, axis: int) -> bool:
    """Whether channels lie on an axis that is averaged over."""
    return any(a >= axis for a in varying_axes(labels))


def pool(view: NodeView) -> list[Labels | None]:
    """Pooling works on axes 2 and up, on each channel by itself."""
    labels = view.labels[0]
    if labels is None:
        return []
    if _beyond(labels, 2):
        return view.freeze_inputs(f"{view.op_type} mixes them")
    if len(view.node.outputs) > 1:
        return view.freeze_inputs(f"the indices that {view.op_type} gives count them")
    return [labels]


def batch_normalization(view: NodeView) -> list[Labels | None]:
    """Scale, bias, mean and variance follow the channels of axis 1."""
    training = view.int_attribute("training_mode", 0) or len(view.node.outputs) > 1
    return _scaled_per_channel(view, range(1, 5), bool(training))


def instance_normalization(view: NodeView) -> list[Labels | None]:
    """Each channel of each sample by itself; scale and bias follow.

    GroupNormalization is also written as a Reshape to one channel for each group, which brings the
    group's channels to the axes that are averaged over; scale and bias are then of groups.
    """
    labels = view.labels[0]
    if labels is None or not _beyond(labels, 2):
        return _scaled_per_channel(view, range(1, 3), False)
    for axis in range(2):  # the j-th channels of all groups go together
        labels = view.couple_along(labels, axis)
    spread = varying_axes(view.flow.coupling.canonical(labels))
    if any(axis < 2 for axis in spread) or not view.is_constant(1) or not view.is_constant(2):
        return view.freeze_inputs("InstanceNormalization mixes them")
    view.flow.norms.append(SharedNorm(view.index, labels, None))
    return [labels]


def group_normalization(view: NodeView) -> list[Labels | None]:
    """GroupNormalization: the same number goes from each group; the j-th of all go together.

    Scale and bias are of groups until opset 20, then of channels.
    """
    labels, shape = view.labels[0], view.shape(0)
    groups = view.int_attribute("num_groups", 1)
    along = None if labels is None else view.along(labels, 1)
    if along is None or shape is None:
        return view.freeze_inputs("GroupNormalization mixes them")
    if groups == shape[1]:
        made = _scaled_per_channel(view, range(1, 3), False)
        if made:
            view.flow.sizes.append(ShapeParameter(view.index, "num_groups", (along,), scalar=True))
        return made
    if not view.is_constant(1) or not view.is_constant(2):
        return view.freeze_inputs("GroupNormalization's scale and bias are not constant")
    grid = along.reshape(groups, -1)  # (C,) -> (groups, C / groups)
    view.couple(grid, grid[:1])
    for operand in (1, 2):
        if view.shape(operand) == (shape[1],):
            view.binding(operand, 0, along, Role.FOLLOWER)
    view.flow.norms.append(
        SharedNorm(view.index, along.reshape(1, -1, *(1,) * (len(shape) - 2)), groups)
    )
    return [labels]


def _scaled_per_channel(view: NodeView, operands: range, training: bool) -> list[Labels | None]:
    labels = view.labels[0]
    if labels is not None and view.op_type != "BatchNormalization" and _beyond(labels, 2):
        return view.freeze_inputs(f"{view.op_type} mixes them")
    along = None if labels is None else view.along(labels, 1)
    if along is None or training or not all(view.is_constant(i) for i in operands):
        return view.freeze_inputs(f"{view.op_type}'s parameters are not constants per channel")
    for operand in operands:
        view.binding(operand, 0, along, Role.FOLLOWER)
    return [labels]


def reduce(view: NodeView) -> list[Labels | None]:
    """ReduceMean and its like: what lies along another axis passes."""
    labels, shape = view.labels[0], view.shape(0)
    if labels is None or shape is None:
        return view.freeze_inputs(f"the shape that {view.op_type} reduces is not known")
    axes = view.ints(1, "axes")
    if axes is None:
        if view.has_parameter(1, "axes"):
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
        part_of = (
            normalisation_of(view.node, view.tensor_info) if view.op_type == "ReduceMean" else None
        )
        reason = f"{part_of} averages over them" if part_of else f"{view.op_type} sums over them"
        last = labels.ndim - 1
        complete = part_of and has_parts(view.node, labels.shape[last], view.tensor_info)
        if not complete or axes != {last} or view.along(labels, last) is None:
            return view.freeze_inputs(reason)
        view.flow.norms.append(SharedNorm(view.index, labels, None))
        return []
    if view.int_attribute("keepdims", 1):
        return [labels]
    return [np.squeeze(labels, tuple(axes))]


def normalisation(view: NodeView) -> list[Labels | None]:
    """LayerNormalization, RMSNormalization: statistics are over the channels that stay.

    Gamma and beta follow.
    """
    labels = view.labels[0]
    if labels is None or labels.shape[-1] < 2 or varying_axes(labels)[-1:] != (labels.ndim - 1,):
        return along_axis(view)
    operands = [i for i in (1, 2) if view.has(i)]
    constant = all(view.is_constant(i) and view.shape(i) == labels.shape[-1:] for i in operands)
    last = view.int_attribute("axis", -1) in (-1, labels.ndim - 1)
    alone = len([output for output in view.node.outputs if output.name]) == 1
    along = view.along(labels, labels.ndim - 1)
    if not (constant and last and alone) or along is None:
        return view.freeze_inputs(f"{view.op_type} mixes them")
    for operand in operands:
        view.binding(operand, 0, along, Role.FOLLOWER)
    view.flow.norms.append(SharedNorm(view.index, labels, None))
    return [labels]


def along_axis(view: NodeView) -> list[Labels | None]:
    """Softmax and others that mix one axis, or all from one axis on."""
    labels, shape = view.labels[0], view.shape(0)
    if labels is None or shape is None:
        return view.freeze_inputs(f"{view.op_type} mixes them")
    old_softmax = view.op_type in SOFTMAXES and view.tensor_info.opset < 13
    default = 1 if old_softmax or view.op_type == "LRN" else -1
    axis = view.int_attribute("axis", default)
    if view.op_type == "CumSum":
        value = view.ints_of(1)
        if value is None:
            return view.freeze_inputs("the axis of CumSum is not constant")
        axis = value[0]
    first = axis % len(shape)
    to_the_end = old_softmax or view.op_type in TO_THE_END
    mixed = range(first, len(shape) if to_the_end else first + 1)
    if any(labels.shape[a] > 1 for a in mixed):
        return view.freeze_inputs(f"{view.op_type} mixes them")
    return [labels]


def mean_variance(view: NodeView) -> list[Labels | None]:
    """MeanVarianceNormalization over the axes that it names: channels on the others pass."""
    labels, axes = view.labels[0], view.node.attrs.get("axes", [0, 2, 3])
    if labels is None or any(labels.shape[axis] > 1 for axis in axes):
        return view.freeze_inputs("MeanVarianceNormalization mixes them")
    return [labels]


SOFTMAXES = ("Softmax", "LogSoftmax", "Hardmax")
TO_THE_END = ("LayerNormalization", "RMSNormalization")
ALONG_AXIS = (*SOFTMAXES, "CumSum", "LRN", "LpNormalization")
