"""Which sizes of a model's inputs its weights prescribe, whatever the inputs declare."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto, NodeProto, TensorProto, numpy_helper

from lbyl_onnx.graph.layers import linear_layer
from lbyl_onnx.graph.layers.linear_layer import LinearLayer
from lbyl_onnx.types import DEFAULT_DOMAINS

Dims = tuple[int, ...]
# Of ONNX, and of ONNX Runtime's fused operators.
_DOMAINS = (*DEFAULT_DOMAINS, "com.microsoft")


@dataclass(frozen=True)
class Length:
    """The length of a tensor's axis, as a multiple of that of a model input's axis."""

    name: str
    axis: int
    times: int = 1


Axes = tuple[Length | None, ...]
"""For each axis of a tensor the input's axis that it stems from; None where it is not known."""


@dataclass
class _Trace:
    """Facts traced so far, node by node in the order of the graph.

    It tells a layer's description (`TensorShapes`) the shapes of constants, and the ranks of
    tensors that stem from an input.
    """

    axes: dict[str, Axes] = field(default_factory=dict)
    dims: dict[str, Dims] = field(default_factory=dict)
    stored: dict[str, TensorProto] = field(default_factory=dict)
    sizes: dict[tuple[str, int], int] = field(default_factory=dict)

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Return a constant's shape; of what stems from an input the rank alone is known."""
        axes = self.axes.get(name)
        return self.dims.get(name, None if axes is None else (None,) * len(axes))

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is an initializer, or one that is stored otherwise."""
        return name in self.dims

    def store(self, name: str, tensor: TensorProto) -> None:
        self.dims[name], self.stored[name] = tuple(tensor.dims), tensor

    def operand(self, node: NodeProto, index: int) -> str:
        return node.input[index] if index < len(node.input) else ""

    def ints(self, node: NodeProto, attribute: str, index: int) -> list[int] | None:
        """A parameter of whole numbers: an attribute or, in newer opsets, a constant input."""
        for a in node.attribute:
            if a.name == attribute:
                return [int(a.i)] if a.type == AttributeProto.INT else [int(i) for i in a.ints]
        tensor = self.stored.get(self.operand(node, index))
        whole = (TensorProto.INT64, TensorProto.INT32)
        if tensor is None or tensor.data_type not in whole or tensor.external_data:
            return None
        return [int(v) for v in numpy_helper.to_array(tensor).reshape(-1)]  # scalars too

    def needs(self, axes: Axes, axis: int, size: int) -> None:
        """Note that an axis must have this length; what was noted first stays."""
        length = axes[axis] if -len(axes) <= axis < len(axes) else None
        if length is not None and size > 0 and size % length.times == 0:
            self.sizes.setdefault((length.name, length.axis), size // length.times)


def needed_sizes(model: onnx.ModelProto) -> dict[tuple[str, int], int]:
    """Return the sizes of inputs that weights prescribe, by input and axis.

    Each axis of an input is followed through operators that keep its length, or multiply it, to
    the first operator whose weights have to fit it.

    Parameters
    ----------
    model
        The model, without functions and fused nodes, as `load_model` gives it; initializers in
        external files are not read.
    """
    trace = _Trace()
    for tensor in model.graph.initializer:
        trace.store(tensor.name, tensor)
    for value in model.graph.input:
        if value.name not in trace.dims and value.type.tensor_type.HasField("shape"):
            rank = len(value.type.tensor_type.shape.dim)
            trace.axes[value.name] = tuple(Length(value.name, axis) for axis in range(rank))
    for node in model.graph.node:
        _visit(trace, node)
    return trace.sizes


def _visit(trace: _Trace, node: NodeProto) -> None:
    if not node.output:
        return
    layer = linear_layer(trace, node)
    if layer is not None:
        _keep(trace, node, _layer(trace, layer))
        return
    if node.domain not in _DOMAINS:
        return
    if node.op_type == "Constant":
        tensor = next((a.t for a in node.attribute if a.type == AttributeProto.TENSOR), None)
        if tensor is not None:
            trace.store(node.output[0], tensor)
        return
    traced = [trace.axes.get(name) for name in node.input]
    if any(axes is not None for axes in traced):
        _keep(trace, node, _PASSES.get(node.op_type, _unknown)(trace, node, traced))
    elif node.input and node.input[0] in trace.dims:
        _constant(trace, node, trace.dims[node.input[0]])


def _constant(trace: _Trace, node: NodeProto, dims: Dims) -> None:
    """Follow the dimensions of a weight that is cast, dequantised or transposed."""
    if node.op_type in ("Cast", "CastLike", "DequantizeLinear", "Identity"):
        trace.dims[node.output[0]] = dims
    elif node.op_type == "Transpose":
        trace.dims[node.output[0]] = tuple(dims[axis] for axis in _order(trace, node, len(dims)))


def _keep(trace: _Trace, node: NodeProto, made: Axes | None) -> None:
    if made is not None and any(made):
        trace.axes[node.output[0]] = made


def _layer(trace: _Trace, layer: LinearLayer) -> Axes:
    """Note what a layer's weight needs; return the axes of its output that the input's stay."""
    axes = trace.axes.get(layer.data_name, ())
    for axis, size in layer.data_sizes.items():
        trace.needs(axes, axis, size)
    made: list[Length | None] = [None] * layer.rank
    for axis, place in layer.kept_axes.items():
        made[place] = axes[axis] if axis < len(axes) else None
    return tuple(made)


Traced = Sequence[Axes | None]
Pass = Callable[[_Trace, NodeProto, Traced], Axes | None]
"""Notes what a node needs; returns the axes of its first output, None where they are not known."""


def _unknown(trace: _Trace, node: NodeProto, traced: Traced) -> Axes | None:
    return None


def _same(trace: _Trace, node: NodeProto, traced: Traced) -> Axes | None:
    return traced[0]


def _elementwise(trace: _Trace, node: NodeProto, traced: Traced) -> Axes | None:
    """Operands are aligned at their last axes."""
    rank = max(
        len(trace.dims.get(n, axes or ())) for n, axes in zip(node.input, traced, strict=True)
    )
    aligned = [(None,) * (rank - len(axes)) + axes for axes in traced if axes is not None]
    return tuple(
        next((one for one in column if one), None) for column in zip(*aligned, strict=True)
    )


def _recurrent(trace: _Trace, node: NodeProto, traced: Traced) -> Axes | None:
    weight = trace.dims.get(trace.operand(node, 1))
    if traced[0] is not None and weight is not None and len(weight) == 3:
        trace.needs(traced[0], 2, weight[2])
    return None


def _per_channel(trace: _Trace, node: NodeProto, traced: Traced) -> Axes | None:
    scale = trace.dims.get(trace.operand(node, 1))
    if traced[0] is not None and scale is not None and len(scale) == 1:
        trace.needs(traced[0], 1, scale[0])
    return traced[0]


def _layer_norm(trace: _Trace, node: NodeProto, traced: Traced) -> Axes | None:
    scale = trace.dims.get(trace.operand(node, 1))
    if traced[0] is not None and scale is not None and scale != (1,):
        for axis, size in enumerate(scale, -len(scale)):
            trace.needs(traced[0], axis, size)
    return traced[0]


def _transpose(trace: _Trace, node: NodeProto, traced: Traced) -> Axes | None:
    axes = traced[0] or ()
    return tuple(axes[axis] for axis in _order(trace, node, len(axes)))


def _order(trace: _Trace, node: NodeProto, rank: int) -> Sequence[int]:
    """Return the order of a Transpose's axes; that of all backwards is the default."""
    order = trace.ints(node, "perm", len(node.input)) or range(rank)[::-1]
    return order if sorted(order) == list(range(rank)) else ()


def _unsqueeze(trace: _Trace, node: NodeProto, traced: Traced) -> Axes | None:
    new, axes = trace.ints(node, "axes", 1), traced[0]
    if new is None or axes is None:
        return None
    rank = len(axes) + len(new)
    added, rest = {axis % rank for axis in new}, iter(axes)
    return tuple(None if axis in added else next(rest, None) for axis in range(rank))


def _squeeze(trace: _Trace, node: NodeProto, traced: Traced) -> Axes | None:
    gone, axes = trace.ints(node, "axes", 1), traced[0]
    if gone is None or not axes:
        return None
    dropped = {axis % len(axes) for axis in gone}
    return tuple(one for axis, one in enumerate(axes) if axis not in dropped)


def _concat(trace: _Trace, node: NodeProto, traced: Traced) -> Axes | None:
    """Parts that stem from one axis add up."""
    parts = [axes for axes in traced if axes]
    axis = (trace.ints(node, "axis", len(node.input)) or [0])[0]
    alike = len({len(axes) for axes in parts}) == 1
    if len(parts) != len(traced) or not alike or not -len(parts[0]) <= axis < len(parts[0]):
        return None
    along = [axes[axis] for axes in parts]
    first, whole = along[0], sum(one.times for one in along if one is not None)
    adds = first and all(one and one.name == first.name and one.axis == first.axis for one in along)
    joined = Length(first.name, first.axis, whole) if first and adds else None
    return tuple(
        joined if place == axis % len(parts[0]) else one for place, one in enumerate(parts[0])
    )


def _without(axes: Axes | None, changed: set[int]) -> Axes | None:
    return axes and tuple(None if axis in changed else one for axis, one in enumerate(axes))


def _pad(trace: _Trace, node: NodeProto, traced: Traced) -> Axes | None:
    pads, axes = trace.ints(node, "pads", 1), traced[0] or ()
    padded = trace.ints(node, "axes", 3)
    if not axes or pads is None or (padded is None and trace.operand(node, 3)):
        return None
    named = range(len(axes)) if padded is None else [axis % len(axes) for axis in padded]
    both = zip(named, pads[: len(named)], pads[len(named) :], strict=False)
    return _without(axes, {axis for axis, before, after in both if before or after})


def _slice(trace: _Trace, node: NodeProto, traced: Traced) -> Axes | None:
    axes, sliced = traced[0], trace.ints(node, "axes", 3)
    if not axes:
        return None
    if sliced is None:
        starts = trace.ints(node, "starts", 1)
        if starts is None or trace.operand(node, 3):
            return None
        sliced = list(range(len(starts)))
    return _without(axes, {axis % len(axes) for axis in sliced})


def _space_to_depth(trace: _Trace, node: NodeProto, traced: Traced) -> Axes | None:
    axes = traced[0] or ()
    block = (trace.ints(node, "blocksize", len(node.input)) or [1])[0]
    if len(axes) != 4:
        return None
    depth = axes[1] and Length(axes[1].name, axes[1].axis, axes[1].times * block**2)
    return axes[0], depth, None, None


def _gather(trace: _Trace, node: NodeProto, traced: Traced) -> Axes | None:
    """Indices that name every channel once, as from BGR to RGB, give the number of channels."""
    axis = (trace.ints(node, "axis", len(node.input)) or [0])[0]
    if traced[0] is None:  # rows of a table
        table, axes = trace.dims.get(node.input[0]), traced[1] or ()
        if table is None or not -len(table) <= axis < len(table):
            return None
        place = axis % len(table)
        return (None,) * place + axes + (None,) * (len(table) - place - 1)
    chosen, dims = trace.ints(node, "", 1), trace.dims.get(trace.operand(node, 1))
    if chosen is None or dims is None or not -len(traced[0]) <= axis < len(traced[0]):
        return None
    place = axis % len(traced[0])
    if len(chosen) > 1 and sorted(chosen) == list(range(math.prod(dims))):
        trace.needs(traced[0], place, len(chosen))
    return traced[0][:place] + (None,) * len(dims) + traced[0][place + 1 :]


_SAME = (
    "Abs Cast CastLike Ceil Clip Dropout Elu Erf Exp Floor HardSigmoid HardSwish Identity "
    "LeakyRelu Log Neg QuantizeLinear DequantizeLinear Reciprocal Relu Resize Round Selu Sigmoid "
    "Softmax Softplus Sqrt Tanh Upsample"  # of Resize only the axes that a weight reads count
).split()
_PASSES: Mapping[str, Pass] = {
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(("Add", "Div", "Max", "Min", "Mul", "Pow", "PRelu", "Sub"), _elementwise),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), _per_channel),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _layer_norm),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _recurrent),
    "Concat": _concat,
    "Gather": _gather,
    "Pad": _pad,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
