"""Normalisations in single operators, as exporters write them in older opsets.

Layer normalisation is (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps), RMS normalisation
x / sqrt(mean(x^2) + eps).
"""

from __future__ import annotations

import numpy as np

from lbyl_onnx.graph.layers.linear_layer import LinearLayer
from lbyl_onnx.graph.model_graph import Node, Tensor
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.types import Floats

# What may lie between the operators without changing what they compute.
PASSED = ("Cast", "Identity")


def normalisation_of(mean: Node, tensor_info: TensorInfo) -> str | None:
    """Return the normalisation that a ReduceMean is part of; None where it is part of none.

    Parameters
    ----------
    mean
        The node.
    tensor_info
        Constants of its graph.
    """
    squared = squared_by(mean, tensor_info)
    if squared is not None and _is_divided_by(mean, tensor_info):
        return "layer normalisation" if is_centred(squared) else "RMS normalisation"
    for difference in consumers_of(mean, "Sub"):
        for square in consumers_of(difference, "Mul", "Pow"):
            for second in consumers_of(square, "ReduceMean"):
                if squared_by(second, tensor_info) is not None and _is_divided_by(
                    second, tensor_info
                ):
                    return "layer normalisation"
    return None


# Operators of layer and RMS normalisation as one node; their second input is the scale.
_ONE_NODE = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
# What takes a layer's outputs to the normalisation of a stream without scaling its channels.
_ONTO_STREAM = ("Add", "Sum", "Dropout", *PASSED)
# Nodes that are looked at on the way.
NEAR = 12


def scale_of_stream(node: Node, layer: LinearLayer, tensor_info: TensorInfo) -> Floats | None:
    """Return `normalising_scale` for the outputs of a layer; None where it has none."""
    if not layer.plain or layer.rank < 2 or layer.output_axis != layer.rank - 1:
        return None
    scale = normalising_scale(node, layer.channels, tensor_info)
    return scale if scale is not None and np.any(scale) else None


def normalising_scale(node: Node, channels: int, tensor_info: TensorInfo) -> Floats | None:
    """Return what the layer or RMS normalisation behind a node scales its channels by, (channels,).

    Parameters
    ----------
    node
        A node whose channels lie on the last axis, maybe of a residual stream.
    channels
        How many.
    tensor_info
        Constants of its graph.

    Returns
    -------
    (channels,) float64 or None
        Of the nearest normalisation; None where there is none with finite constants.
    """
    waiting, visited = [node.outputs[0]], 0
    while waiting and visited < NEAR:
        tensor = waiting.pop(0)
        for reader in tensor.outputs:
            visited += 1
            scale: Floats | None = None
            if reader.op in _ONE_NODE and reader.inputs[0] is tensor:
                scale = _per_channel(reader.inputs[1], channels, tensor_info)
            elif reader.op == "ReduceMean" or reader.op in ("Mul", "Pow"):
                scale = _written_out(tensor, channels, tensor_info)
            if scale is not None:
                return scale
            if reader.op in _ONTO_STREAM:
                waiting.append(reader.outputs[0])
    return None


def _written_out(tensor: Tensor, channels: int, tensor_info: TensorInfo) -> Floats | None:
    """Scale of a normalisation in single operators of a tensor; None where it has none."""
    parts = [tensor, *(x.outputs[0] for x in tensor.outputs if x.op in ("Sub", "Mul", "Pow"))]
    means = [x for part in parts for x in part.outputs if x.op == "ReduceMean"]
    if not any(normalisation_of(mean, tensor_info) for mean in means):
        return None
    waiting = [tensor]
    for _ in range(NEAR):
        if not waiting:
            return None
        for reader in waiting.pop(0).outputs:
            if reader.op == "Mul":
                for operand in reader.inputs:
                    scale = _per_channel(operand, channels, tensor_info)
                    if scale is not None:
                        return scale
            if reader.op in ("Sub", "Div", "Mul", *PASSED):
                waiting.append(reader.outputs[0])
    return None


def _per_channel(tensor: Tensor, channels: int, tensor_info: TensorInfo) -> Floats | None:
    """Absolute values of a constant for each channel; None for any other tensor."""
    shape = tensor_info.shape(tensor.name)
    if not shape or shape[-1] != channels or not tensor_info.is_constant(tensor.name):
        return None
    value = tensor_info.value(tensor.name).astype(np.float64)
    if value.size != channels or not np.all(np.isfinite(value)):
        return None
    return np.abs(value.reshape(-1))  # (1, .., C) -> (C,)


def squared_by(mean: Node, tensor_info: TensorInfo) -> Tensor | None:
    """Return what is squared in front of a ReduceMean."""
    square = _producer(mean.inputs[0])
    if square is None or len(square.inputs) != 2 or mean.op != "ReduceMean":
        return None
    first, second = square.inputs
    twice = square.op == "Mul" and first is second
    power = square.op == "Pow" and scalar_of(second, tensor_info) == 2.0
    return first if twice or power else None


def is_centred(tensor: Tensor) -> bool:
    """Whether a tensor is the difference from a mean."""
    difference = _producer(tensor)
    if difference is None or difference.op != "Sub":
        return False
    mean = _producer(difference.inputs[1])
    return mean is not None and mean.op == "ReduceMean"


def _is_divided_by(mean: Node, tensor_info: TensorInfo) -> bool:
    """Whether the root of a mean and a constant divides something."""
    for total in consumers_of(mean, "Add"):
        for root in consumers_of(total, "Sqrt", "Pow"):
            exponent = 0.5 if root.op == "Sqrt" else scalar_of(root.inputs[1], tensor_info)
            divides = exponent == 0.5 and consumers_of(root, "Div", "Reciprocal")
            if divides or exponent == -0.5:
                return True
    return False


def scalar_of(tensor: Tensor, tensor_info: TensorInfo) -> float | None:
    """Return a constant of one element; None for any other tensor."""
    if tensor_info.shape(tensor.name) not in ((), (1,)) or not tensor_info.is_constant(tensor.name):
        return None
    return float(tensor_info.value(tensor.name).reshape(()))  # (1,) -> ()


def _producer(tensor: Tensor) -> Node | None:
    """Return the node that computes a tensor, past what changes nothing."""
    while tensor.inputs and tensor.inputs[0].op in PASSED:
        tensor = tensor.inputs[0].inputs[0]
    return tensor.inputs[0] if tensor.inputs else None


def consumers_of(node: Node, *op_types: str) -> list[Node]:
    """Return the nodes of some types that read a node's output, past what changes nothing."""
    consumers, waiting = [], [node]
    while waiting:
        for consumer in waiting.pop().outputs[0].outputs:
            if consumer.op in PASSED:
                waiting.append(consumer)
            elif consumer.op in op_types:
                consumers.append(consumer)
    return consumers
