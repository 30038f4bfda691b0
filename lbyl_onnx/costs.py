"""What a model costs: parameters, multiply-accumulates, bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import AttributeProto, NodeProto, TensorProto

from lbyl_onnx.facts import GraphFacts, attribute

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
        Multiply-accumulates of Conv, ConvTranspose, Gemm and MatMul for one run at the first
        input shapes.
    """

    parameters: int
    macs: int


def count_costs(model: onnx.ModelProto, facts: GraphFacts) -> Costs:
    """Count a model's parameters and multiply-accumulates."""
    parameters = sum(math.prod(tensor.dims) for _, tensor in constants(model))
    return Costs(parameters, sum(node_macs(node, facts) for node in model.graph.node))


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


def node_macs(node: NodeProto, facts: GraphFacts) -> int:
    """Multiply-accumulates of one node; 0 where its shapes are not known."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    shapes = [facts.shape(name) for name in (node.input[0], node.input[1], node.output[0])]
    if any(shape is None or None in shape for shape in shapes):
        return 0
    data, weight, output = ([d or 0 for d in shape or ()] for shape in shapes)
    if node.op_type == "ConvTranspose":
        return math.prod(data) * math.prod(weight[1:])
    if node.op_type == "Conv":
        return math.prod(output) * math.prod(weight[1:])
    transposed = attribute(node, "transA")
    depth = data[0] if transposed is not None and transposed.i else data[-1]
    return math.prod(output) * depth
