"""One row per operator: how channel labels cross it. `RULES` at the end is the table.

A rule reads the labels of a node's inputs and returns those of its outputs; on the way it tells
the `LabelFlow` which constants carry labels (slots), which labels are coupled, which must stay.
Semantics: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from lbyl_onnx.facts import GraphFacts
from lbyl_onnx.labels import (
    FIXED,
    Coupling,
    Freeze,
    Labels,
    Role,
    Slot,
    compress,
    expand,
    padded,
    varying_axes,
)

# Labels are spread over a tensor's whole shape to be reshaped; past this they are frozen.
LARGEST_RESHAPE = 1 << 26


@dataclass(frozen=True)
class TargetShape:
    """A shape operand that holds channel counts.

    Parameters
    ----------
    node, operand
        Where it enters.
    template
        Its elements; None where the new size of that output axis goes.
    labels
        The labels of the node's output, to count the new sizes from.
    """

    node: int
    operand: int
    template: tuple[int | None, ...]
    labels: Labels


@dataclass(frozen=True)
class Join:
    """A node that couples the channels of several operands."""

    node: int
    labels: Labels


@dataclass
class LabelFlow:
    """What the interpretation of a graph on labels has found so far."""

    coupling: Coupling = field(default_factory=Coupling)
    slots: list[Slot] = field(default_factory=list)
    freezes: list[Freeze] = field(default_factory=list)
    targets: list[TargetShape] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)


@dataclass(frozen=True)
class NodeView:
    """One node as a rule sees it."""

    index: int
    node: gs.Node
    labels: Sequence[Labels | None]
    facts: GraphFacts
    flow: LabelFlow

    @property
    def op_type(self) -> str:
        """The operator's name."""
        return str(self.node.op)

    def int_attribute(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        return int(self.node.attrs.get(name, default))

    def shape(self, operand: int) -> tuple[int, ...] | None:
        """Shape of an input at the first input shapes; None where any of it is unknown."""
        return _known(self.facts.shape(self.node.inputs[operand].name))

    def output_shape(self) -> tuple[int, ...] | None:
        """Shape of the first output at the first input shapes; None where unknown."""
        return _known(self.facts.shape(self.node.outputs[0].name))

    def has(self, operand: int) -> bool:
        """Whether an optional input is there."""
        return operand < len(self.node.inputs) and bool(self.node.inputs[operand].name)

    def is_constant(self, operand: int) -> bool:
        """Whether an input has the same value in every run."""
        return self.facts.is_constant(self.node.inputs[operand].name)

    def freeze(self, labels: Labels | None, reason: str) -> None:
        """Say that labels must stay."""
        if labels is not None:
            self.flow.freezes.append(Freeze(np.unique(labels), reason, self.index))

    def freeze_inputs(self, reason: str) -> list[Labels | None]:
        """Say that all labels that enter must stay; the outputs then carry none."""
        for labels in self.labels:
            self.freeze(labels, reason)
        return []

    def slot(self, operand: int, axis: int, labels: Labels, role: Role) -> None:
        """Say that labels, shape (length of the axis,), lie along an axis of a constant."""
        self.flow.slots.append(Slot(self.index, operand, axis, labels, role))

    def along(self, labels: Labels, axis: int) -> Labels | None:
        """Labels along one axis; None where they vary along another."""
        axes = varying_axes(self.flow.coupling.canonical(labels))
        if any(a != axis for a in axes):
            return None
        return np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)[:, 0]  # -> (n,)

    def couple(self, first: Labels, second: Labels) -> None:
        """Couple two label arrays position by position; what meets a fixed label must stay."""
        first, second = np.broadcast_arrays(first, second)
        self.flow.coupling.unite(first, second)
        stays = (first == FIXED) != (second == FIXED)
        if np.any(stays):
            reason = f"{self.op_type} joins them to channels that stay"
            self.freeze(np.maximum(first, second)[stays], reason)


Rule = Callable[[NodeView], list[Labels | None]]


def _known(shape: tuple[int | None, ...] | None) -> tuple[int, ...] | None:
    if shape is None or None in shape:
        return None
    return tuple(d for d in shape if d is not None)


# --- operators that keep each position where it is ------------------------------------------


def passes_first(view: NodeView) -> list[Labels | None]:
    """Identity, Cast, Dropout and its mask: the first input, position by position."""
    return [view.labels[0]] * len(view.node.outputs)


def elementwise(view: NodeView) -> list[Labels | None]:
    """Any number of broadcast operands; labels are coupled position by position."""
    shape = view.output_shape()
    if shape is None:
        return view.freeze_inputs(f"the shape that {view.op_type} gives is not known")
    rank = len(shape)
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
    for axis in varying_axes(view.flow.coupling.canonical(base)):
        if axis < offset or shape[axis - offset] == 1:
            continue
        along = view.along(base, axis)
        if along is None or not view.is_constant(operand):
            view.freeze(base, f"{view.op_type} joins them to channels that stay")
        else:
            view.slot(operand, axis - offset, along, Role.FOLLOWER)


def batch_normalization(view: NodeView) -> list[Labels | None]:
    """Scale, bias, mean and variance follow the channels of axis 1."""
    labels = view.labels[0]
    along = None if labels is None else view.along(labels, 1)
    training = view.int_attribute("training_mode", 0) or len(view.node.outputs) > 1
    if along is None or training or not all(view.is_constant(i) for i in range(1, 5)):
        return view.freeze_inputs("BatchNormalization's parameters are not constants per channel")
    for operand in range(1, 5):
        view.slot(operand, 0, along, Role.FOLLOWER)
    return [labels]


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


# --- operators with weights: labels end at the input axis and start at the output axis -------


def conv(view: NodeView) -> list[Labels | None]:
    """Conv of any rank: input channels on axis 1 of the weight, output channels on axis 0."""
    if view.int_attribute("group", 1) != 1:
        return _opaque_weights(view, "grouped Conv has no rule yet")
    if not view.is_constant(1):
        return _opaque_weights(view, "the weight of Conv is computed from the input")
    _consume(view, channel_axis=1, weight_axis=1)
    shape = view.shape(1)
    return _produce(view, channel_axis=1, weight_axis=0, rank=len(shape) if shape else 0)


def gemm(view: NodeView) -> list[Labels | None]:
    """Y = alpha A' B' + beta C, with B constant."""
    if not view.is_constant(1):
        return _opaque_weights(view, "Gemm multiplies two activations")
    transposed = bool(view.int_attribute("transB", 0))
    _consume(
        view,
        channel_axis=0 if view.int_attribute("transA", 0) else 1,
        weight_axis=1 if transposed else 0,
    )
    return _produce(view, channel_axis=1, weight_axis=0 if transposed else 1, rank=2)


def matmul(view: NodeView) -> list[Labels | None]:
    """Y = A B with B a constant matrix: K is the last axis of A, N of B."""
    weight, data = view.shape(1), view.shape(0)
    if not view.is_constant(1) or view.is_constant(0):
        return _opaque_weights(view, "MatMul multiplies two activations or a weight from the left")
    if weight is None or data is None or len(weight) != 2 or len(data) < 2:
        return _opaque_weights(view, "the weight of MatMul is not a matrix")
    labels = view.labels[0]
    last = len(data) - 1
    if labels is not None and last not in varying_axes(labels):
        return [labels]  # each of these channels is multiplied by the same matrix
    _consume(view, channel_axis=last, weight_axis=0)
    return _produce(view, channel_axis=last, weight_axis=1, rank=len(data))


def _consume(view: NodeView, channel_axis: int, weight_axis: int) -> None:
    labels = view.labels[0]
    if labels is None:
        return
    along = view.along(labels, channel_axis)
    if along is None:
        view.freeze(labels, f"{view.op_type} reads them along an axis it does not sum over")
    else:
        view.slot(1, weight_axis, along, Role.CONSUMER)


def _produce(view: NodeView, channel_axis: int, weight_axis: int, rank: int) -> list[Labels | None]:
    weight = view.shape(1)
    if weight is None or rank == 0 or weight[weight_axis] < 2:
        return []  # a single channel has no other to leave its information to
    count = weight[weight_axis]
    fresh = view.flow.coupling.fresh(count)
    view.slot(1, weight_axis, fresh, Role.PRODUCER)
    if view.has(2):
        view.freeze(view.labels[2], f"{view.op_type} reads them as its bias")
        bias = view.shape(2)
        if bias is None or not view.is_constant(2) or any(d != 1 for d in bias[:-1]):
            view.freeze(fresh, f"the bias of {view.op_type} is not one constant per channel")
        elif bias and bias[-1] == count:
            view.slot(2, len(bias) - 1, fresh, Role.FOLLOWER)
        else:
            view.freeze(fresh, f"the bias of {view.op_type} is shared by its channels")
    shape = [1] * rank
    shape[channel_axis] = count
    return [fresh.reshape(shape)]  # (C,) -> (1, .., C, .., 1)


def _opaque_weights(view: NodeView, reason: str) -> list[Labels | None]:
    """Freeze what enters and, for the report, the channels that such a node would produce."""
    view.freeze_inputs(reason)
    weight = view.shape(1)
    if view.op_type == "Conv" and weight is not None and view.is_constant(1):
        fresh = view.flow.coupling.fresh(weight[0])
        view.slot(1, 0, fresh, Role.PRODUCER)
        view.freeze(fresh, reason)
    return []


# --- operators that move positions: the same NumPy operation on the label array --------------


def reshape(view: NodeView) -> list[Labels | None]:
    """Reshape, Flatten, Squeeze, Unsqueeze: the same elements in the same order."""
    labels, before, after = view.labels[0], view.shape(0), view.output_shape()
    if labels is None:
        return view.freeze_inputs(f"{view.op_type} reads them as a shape")
    if before is None or after is None or math.prod(before) > LARGEST_RESHAPE:
        return view.freeze_inputs(f"the shape that {view.op_type} gives is not known")
    moved = compress(expand(labels, before).reshape(after))  # input shape -> output shape
    if moved is None:
        return []
    axes = varying_axes(view.flow.coupling.canonical(moved))
    for axis in axes[:-1]:
        # Channels spread over several axes can only go in whole slices along the last of them.
        view.couple(moved, np.take(moved, [0], axis=axis))
    static = view.facts.static_shape(view.node.outputs[0].name)
    if static is None or any(static[axis] is None for axis in axes):
        return view.freeze_inputs(f"{view.op_type} merges them with a dynamic dimension")
    if view.op_type == "Reshape" and not _retarget(view, moved):
        return view.freeze_inputs("the target of Reshape cannot be rewritten")
    return [moved]


def _retarget(view: NodeView, labels: Labels) -> bool:
    """Note how a Reshape target is rewritten when channels go; False where it cannot be."""
    values = view.facts.value_at_both(view.node.inputs[1].name)
    before = view.facts.static_shape(view.node.inputs[0].name)
    if values is None or before is None:
        return False
    zero_copies = not view.int_attribute("allowzero", 0)
    shape = view.shape(0) or ()
    template: list[int | None] = []
    for axis, (first, second) in enumerate(zip(*values, strict=True)):
        if first == second:
            varies = first not in (0, -1) and labels.shape[axis] > 1
            template.append(None if varies else int(first))
        else:
            copied = axis < len(shape) and before[axis] is None and shape[axis] == int(first)
            template.append(0 if copied and zero_copies else -1)
    if None not in template:
        return True
    if template.count(-1) > 1 or (0 in template and not zero_copies):
        return False
    view.flow.targets.append(TargetShape(view.index, 1, tuple(template), labels))
    return True


def transpose(view: NodeView) -> list[Labels | None]:
    """Permute the axes of the label array."""
    labels = view.labels[0]
    if labels is None:
        return []
    order = view.node.attrs.get("perm", list(reversed(range(labels.ndim))))
    return [np.transpose(labels, order)]


def concat(view: NodeView) -> list[Labels | None]:
    """Concatenate the label arrays; inputs without labels bring fixed positions."""
    shapes = [view.shape(i) for i in range(len(view.labels))]
    if any(shape is None for shape in shapes):
        return view.freeze_inputs("an input of Concat has an unknown shape")
    known = [shape for shape in shapes if shape is not None]
    rank = len(known[0])
    axis = view.int_attribute("axis", 0) % rank
    parts = [np.zeros((1,) * rank, np.int64) if x is None else x for x in view.labels]
    common = np.broadcast_shapes(*(_without(x.shape, axis) for x in parts))
    widened = [
        np.broadcast_to(x, (*common[:axis], shape[axis], *common[axis + 1 :]))
        for x, shape in zip(parts, known, strict=True)
    ]
    joined = np.concatenate(widened, axis=axis)
    if any(size > 1 for size in common):
        # Channels that lie across the concatenation are one channel along it.
        view.couple(joined, np.take(joined, [0], axis=axis))
    return [compress(joined)]


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], 1, *shape[axis + 1 :])


# --- operators that end labels ---------------------------------------------------------------


def reads_shape(view: NodeView) -> list[Labels | None]:
    """Shape, Size: no channel's value is read."""
    return []


def no_rule(view: NodeView) -> list[Labels | None]:
    """Freeze everything: an operator the table does not know."""
    domain = view.node.domain
    name = f"{domain}::{view.op_type}" if domain else view.op_type
    return view.freeze_inputs(f"operator {name} has no rule")


ELEMENTWISE = (
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr "
    "BitwiseXor Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual "
    "HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul "
    "Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus "
    "Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor"
).split()
POOLS = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool".split()
PASSING = ("Cast", "CastLike", "Dropout", "Identity")

RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(POOLS, pool),
    **dict.fromkeys(PASSING, passes_first),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), reshape),
    **dict.fromkeys(("Shape", "Size"), reads_shape),
    "BatchNormalization": batch_normalization,
    "Concat": concat,
    "Conv": conv,
    "Gemm": gemm,
    "MatMul": matmul,
    "Transpose": transpose,
}
