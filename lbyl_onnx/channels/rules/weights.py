"""Operators with weights: labels end at the weight's input axis, new ones start at its output."""

from __future__ import annotations

import numpy as np

from lbyl_onnx.channels.labels import Labels, Role, varying_axes
from lbyl_onnx.channels.rules.view import NodeView, ShapeParameter

# The axis of their weight along which outputs lie.
CONVOLUTIONS = {"Conv": 0, "ConvTranspose": 1}


def conv(view: NodeView) -> list[Labels | None]:
    """Conv of any rank: weight (out, in / group, ..)."""
    weight, group = view.shape(1), view.int_attribute("group", 1)
    if weight is None or not view.is_constant(1):
        return opaque(view, "the weight of Conv is computed from the input")
    if group == 1:
        consume(view, channel_axis=1, weight_axis=1)
        return produce(view, channel_axis=1, weight_axis=0, rank=len(weight))
    if weight[1] == 1:
        return _depthwise(view, weight[0] // group, weight_axis=0)
    return _grouped(view, group, input_axis=1)


def conv_transpose(view: NodeView) -> list[Labels | None]:
    """ConvTranspose of any rank: weight (in, out / group, ..), seen as (in / group, out, ..)."""
    weight, group = view.shape(1), view.int_attribute("group", 1)
    if weight is None or not view.is_constant(1):
        return opaque(view, "the weight of ConvTranspose is computed from the input")
    if group == 1:
        consume(view, channel_axis=1, weight_axis=0)
        return produce(view, channel_axis=1, weight_axis=1, rank=len(weight))
    if group == weight[0]:
        return _depthwise(view, weight[1], weight_axis=1)
    return _grouped(view, group, input_axis=0)


def _depthwise(view: NodeView, multiplier: int, weight_axis: int) -> list[Labels | None]:
    """Each input channel makes `multiplier` output channels, which go with it."""
    labels = view.labels[0]
    if labels is None:
        return opaque(view, f"a depthwise {view.op_type} reads channels that stay")
    along = view.along(labels, 1)
    if along is None:
        return opaque(view, f"{view.op_type} reads them along an axis it does not sum over")
    made = np.repeat(along, multiplier)
    view.slot(1, weight_axis, made, Role.FOLLOWER)
    follow_bias(view, made)
    view.flow.sizes.append(ShapeParameter(view.index, "group", (along,), scalar=True))
    return [made.reshape(1, -1, *(1,) * (labels.ndim - 2))]  # (C,) -> (1, C, 1, ..)


def _grouped(view: NodeView, group: int, input_axis: int) -> list[Labels | None]:
    """The same number goes from each conv group: the j-th channels of all groups go together."""
    labels = view.labels[0]
    if labels is not None:
        along = view.along(labels, 1)
        if along is None:
            view.freeze(labels, f"{view.op_type} reads them along an axis it does not sum over")
        else:
            grid = along.reshape(group, -1)  # (C,) -> (group, C / group)
            view.couple(grid, grid[:1])
            view.slot(1, input_axis, grid[0], Role.CONSUMER)
    rank = len(view.shape(1) or ())
    made = produce(view, channel_axis=1, weight_axis=1 - input_axis, rank=rank)
    for labels in made:
        if labels is not None:
            grid = labels.reshape(group, -1)  # (1, C, 1, ..) -> (group, C / group)
            view.couple(grid, grid[:1])
    return made


def gemm(view: NodeView) -> list[Labels | None]:
    """Y = alpha A' B' + beta C, with B constant."""
    if not view.is_constant(1):
        return opaque(view, "Gemm multiplies two activations")
    transposed = bool(view.int_attribute("transB", 0))
    consume(
        view,
        channel_axis=0 if view.int_attribute("transA", 0) else 1,
        weight_axis=1 if transposed else 0,
    )
    return produce(view, channel_axis=1, weight_axis=0 if transposed else 1, rank=2)


def matmul(view: NodeView) -> list[Labels | None]:
    """Y = A B, K the last axis of A and the one before the last of B."""
    weight, data = view.shape(1), view.shape(0)
    if weight is None or data is None or len(data) < 2 or len(weight) < 2:
        return opaque(view, "MatMul of unknown shapes or vectors")
    if not view.is_constant(1) and not view.is_constant(0):
        return _product(view, max(len(data), len(weight)))
    labels = view.labels[0]
    if view.is_constant(0) or len(weight) != 2:
        return opaque(view, "MatMul by a weight from the left, or by a stack of weights")
    last = len(data) - 1
    if labels is not None and last not in varying_axes(labels):
        return [labels]  # each of these channels is multiplied by the same matrix
    consume(view, channel_axis=last, weight_axis=0)
    return produce(view, channel_axis=last, weight_axis=1, rank=len(data))


def _product(view: NodeView, rank: int) -> list[Labels | None]:
    """Product of two activations, as in attention: channels on the summed axis must stay.

    Those on the last axis of the second operand (the values' channels) pass to the output's.
    """
    first, second = (
        None if x is None else x.reshape((1,) * (rank - x.ndim) + x.shape)  # -> rank axes
        for x in view.labels
    )
    if first is not None:
        view.freeze(first, "MatMul multiplies two activations")
    if second is None:
        return []
    if second.shape[rank - 2] > 1:
        view.freeze(second, "MatMul multiplies two activations")
        return []
    return [second]


def consume(view: NodeView, channel_axis: int, weight_axis: int) -> None:
    """Let the channels on an axis of the first input end at an axis of the weight."""
    labels = view.labels[0]
    if labels is None:
        return
    along = view.along(labels, channel_axis)
    if along is None:
        view.freeze(labels, f"{view.op_type} reads them along an axis it does not sum over")
    else:
        view.slot(1, weight_axis, along, Role.CONSUMER)


def produce(view: NodeView, channel_axis: int, weight_axis: int, rank: int) -> list[Labels | None]:
    """Start new labels at an axis of the weight."""
    count = _outputs(view, weight_axis)
    if rank == 0 or count < 2:
        return []  # a single channel has no other to leave its information to
    fresh = view.flow.coupling.fresh(count)
    view.slot(1, weight_axis, fresh, Role.PRODUCER)
    follow_bias(view, fresh)
    shape = [1] * rank
    shape[channel_axis] = count
    return [fresh.reshape(shape)]  # (C,) -> (1, .., C, .., 1)


def _outputs(view: NodeView, weight_axis: int) -> int:
    """Length of the axis of outputs; 0 where it is not known."""
    weight = view.shape(1)
    if weight is None:
        return 0
    groups = view.int_attribute("group", 1) if view.op_type == "ConvTranspose" else 1
    return weight[weight_axis] * groups


def follow_bias(view: NodeView, labels: Labels) -> None:
    """Let the bias, where there is one, follow its channels."""
    if not view.has(2):
        return
    view.freeze(view.labels[2], f"{view.op_type} reads them as its bias")
    bias = view.shape(2)
    if bias is None or not view.is_constant(2) or any(d != 1 for d in bias[:-1]):
        view.freeze(labels, f"the bias of {view.op_type} is not one constant per channel")
    elif bias and bias[-1] == len(labels):
        view.slot(2, len(bias) - 1, labels, Role.FOLLOWER)
    else:
        view.freeze(labels, f"the bias of {view.op_type} is shared by its channels")


def unfollowed(view: NodeView, reason: str) -> None:
    """Freeze, for the report, what the first axis of a node's first weight stands for."""
    for operand in range(len(view.node.inputs)):
        shape = view.shape(operand) if view.has(operand) and view.is_constant(operand) else None
        if shape is not None and len(shape) > 1 and shape[0] > 1:
            fresh = view.flow.coupling.fresh(shape[0])
            view.slot(operand, 0, fresh, Role.PRODUCER)
            view.freeze(fresh, reason)
            return


def opaque(view: NodeView, reason: str) -> list[Labels | None]:
    """Freeze what enters and, for the report, the channels that such a node would produce."""
    view.freeze_inputs(reason)
    weight = view.shape(1) if view.has(1) else None
    if view.op_type in CONVOLUTIONS and weight is not None and view.is_constant(1):
        axis = CONVOLUTIONS[view.op_type]
        fresh = view.flow.coupling.fresh(_outputs(view, axis))
        view.slot(1, axis, fresh, Role.PRODUCER)
        view.freeze(fresh, reason)
    return []
