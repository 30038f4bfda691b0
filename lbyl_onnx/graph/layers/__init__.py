"""Layers with constant weights: one row per operator in `LAYERS` says how its weight is read."""

from __future__ import annotations

from collections.abc import Callable

from onnx import NodeProto

from lbyl_onnx.graph.layers.einsum import einsum
from lbyl_onnx.graph.layers.linear_layer import Layout, LinearLayer, Operation, TensorShapes
from lbyl_onnx.graph.layers.standard import conv, conv_transpose, gemm, matmul
from lbyl_onnx.graph.model_graph import Node, Tensor
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.types import Array, OperatorKey, operator_key

Describe = Callable[[Operation, TensorShapes], LinearLayer | str]
"""The layer that a node is by its attributes and shapes, or the reason why it is none.

It is asked before the model has run, too, when of the activations the rank alone is known.
"""
LAYERS: dict[OperatorKey, Describe] = {
    ("", "Conv"): conv,
    ("", "ConvTranspose"): conv_transpose,
    ("", "Einsum"): einsum,
    ("", "Gemm"): gemm,
    ("", "MatMul"): matmul,
}


def _key(node: Node | NodeProto) -> OperatorKey:
    name = node.op_type if isinstance(node, NodeProto) else node.op
    return operator_key(node.domain or "", name)


def is_layer(node: Node | NodeProto) -> bool:
    """Whether a node's operator has a row in `LAYERS`, whatever its operands are."""
    return _key(node) in LAYERS


def describe(tensors: TensorShapes, node: Node | NodeProto) -> LinearLayer | str:
    """Describe a node as a linear layer by its shapes and attributes.

    Parameters
    ----------
    tensors
        What is known of the tensors: a `TensorInfo`, or less than that.
    node
        A node of a graph, or of a model.

    Returns
    -------
    LinearLayer or str
        The layer; its weight need not be constant. Otherwise the reason why the node is none.
    """
    row = LAYERS.get(_key(node))
    return "its operator has no weight" if row is None else row(Operation.of(node), tensors)


def linear_layer(tensors: TensorShapes, node: Node | NodeProto) -> LinearLayer | None:
    """Describe a node as a linear layer with a constant weight; None where it is no such."""
    layer = describe(tensors, node)
    if isinstance(layer, str) or not tensors.is_constant(layer.weight_name):
        return None
    return layer


def data_input(tensor_info: TensorInfo, node: Node) -> Tensor:
    """Return the input that brings a node's activations: the first, but for some layers."""
    layer = linear_layer(tensor_info, node)
    return node.inputs[0 if layer is None else layer.data]


def layout_of(tensor_info: TensorInfo, node: Node, operand: int) -> Layout:
    """Return how a node's constant operand is stored."""
    layer = linear_layer(tensor_info, node)
    return layer.layout if layer is not None and operand == layer.operand else Layout()


def layer_weight(tensor_info: TensorInfo, node: Node, operand: int) -> Array:
    """Return a constant operand with the axes that bindings name."""
    return layout_of(tensor_info, node, operand).logical(
        tensor_info.value(node.inputs[operand].name)
    )
