"""What a model costs: parameters, multiply-accumulates, bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import onnx
from onnx import AttributeProto, NodeProto, TensorProto

from lbyl_onnx.graph.layers import describe
from lbyl_onnx.graph.tensor_info import TensorInfo, attribute
from lbyl_onnx.types import OperatorKey, operator_key

FLOATS = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
)


@dataclass(frozen=True)
class Costs:
    """Costs of one model.

    Parameters
    ----------
    parameters
        Elements of its floating-point constants.
    macs
        Multiply-accumulates of convolutions, matrix products (Einsum and Attention among them) and
        recurrent layers for one run at the first input shapes. Bodies of If and Loop do not count.
    """

    parameters: int
    macs: int


def count_costs(model: onnx.ModelProto, tensor_info: TensorInfo) -> Costs:
    """Count a model's parameters and multiply-accumulates."""
    parameters = sum(math.prod(tensor.dims) for _, tensor in constants(model))
    return Costs(parameters, sum(node_macs(node, tensor_info) for node in model.graph.node))


def constants(model: onnx.ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Yield a model's floating-point constants, each with the name that nodes read it by."""
    for tensor in model.graph.initializer:
        if tensor.data_type in FLOATS:
            yield tensor.name, tensor
    for node in model.graph.node:
        for a in node.attribute if node.op_type == "Constant" else ():
            is_tensor = a.type == AttributeProto.TENSOR and a.t.data_type in FLOATS
            if is_tensor and math.prod(a.t.dims) > 1:
                yield node.output[0], a.t


def node_macs(node: NodeProto, tensor_info: TensorInfo) -> int:
    """Multiply-accumulates of one node; 0 where its shapes are not known."""
    return sum(macs_in_parts(node, tensor_info))


def macs_in_parts(node: NodeProto, tensor_info: TensorInfo) -> tuple[int, ...]:
    """Return the multiply-accumulates of each product that a node is made of.

    They are one number for most operators, two for Attention: of queries by keys, and of the
    attention by values.
    """
    row = _MACS.get(operator_key(node.domain, node.op_type))
    if row is None:
        layer = describe(tensor_info, node)
        return () if isinstance(layer, str) else (layer.macs(tensor_info),)
    count, operands, reads_output = row
    needed = [*node.input[:operands], *(node.output[:1] if reads_output else ())]
    shapes = [tensor_info.shape(name) for name in needed]
    if any(shape is None or None in shape for shape in shapes):
        return ()
    return count(node, [tuple(d or 0 for d in shape or ()) for shape in shapes], tensor_info)


Shapes = Sequence[tuple[int, ...]]


def _product(node: NodeProto, shapes: Shapes, tensor_info: TensorInfo) -> tuple[int, ...]:
    data, _, output = shapes
    return (math.prod(output) * data[-1],)


def _recurrent(node: NodeProto, shapes: Shapes, tensor_info: TensorInfo) -> tuple[int, ...]:
    """Each step of each sequence meets the weights of all gates and directions, W and R."""
    data, weight, recurrence = shapes
    return (math.prod(data[:2]) * (math.prod(weight) + math.prod(recurrence)),)


def _einsum(node: NodeProto, shapes: Shapes, tensor_info: TensorInfo) -> tuple[int, ...]:
    """One for each combination of the letters' values; none where nothing is multiplied."""
    sizes: dict[str, int] = {}
    equation = attribute(node, "equation")
    terms = "" if equation is None else equation.s.decode().replace(" ", "").partition("->")[0]
    for term, shape in zip(terms.split(","), shapes, strict=False):
        before, dots, after = term.partition("...")
        # The axes of an ellipsis are aligned at the last one.
        hidden = range(len(shape) - len(before) - len(after) if dots else 0, 0, -1)
        for letter, size in zip([*before, *map(str, hidden), *after], shape, strict=False):
            sizes[letter] = max(size, sizes.get(letter, 0))  # an axis of length 1 is repeated
    return (math.prod(sizes.values()) if len(shapes) > 1 else 0,)


def _attention(node: NodeProto, shapes: Shapes, tensor_info: TensorInfo) -> tuple[int, ...]:
    """Each element of queries and output meets every position of the keys.

    Queries are (N, heads, T, d) or (N, T, heads * d), keys likewise with S for T; those of runs
    before, (N, heads, P, d), come on top.
    """
    queries, keys, output = shapes
    past = tensor_info.shape(node.input[4]) if len(node.input) > 4 and node.input[4] else None
    positions = keys[-2] + ((past[2] or 0) if past else 0)
    return math.prod(queries) * positions, math.prod(output) * positions


def _multi_head(node: NodeProto, shapes: Shapes, tensor_info: TensorInfo) -> tuple[int, ...]:
    """As `_attention`, of operands (N, T, heads * d) without those of runs before."""
    queries, keys, output = shapes
    if len(keys) != 3:
        return ()
    return math.prod(queries) * keys[1], math.prod(output) * keys[1]


Count = Callable[[NodeProto, Shapes, TensorInfo], tuple[int, ...]]
_ALL = None
# Operators that are no layers, or are counted with two activations, too; layers count themselves.
# How each is counted, how many of its first inputs and whether its output tell the shapes.
_MACS: dict[OperatorKey, tuple[Count, int | None, bool]] = {
    **dict.fromkeys((("", "GRU"), ("", "LSTM"), ("", "RNN")), (_recurrent, 3, False)),
    ("", "Attention"): (_attention, 2, True),
    ("", "Einsum"): (_einsum, _ALL, False),
    ("", "MatMul"): (_product, 2, True),
    ("com.microsoft", "MultiHeadAttention"): (_multi_head, 2, True),
}
