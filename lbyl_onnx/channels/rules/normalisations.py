"""Normalisations in single operators, as exporters write them in older opsets.

Layer normalisation is (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps), RMS normalisation
x / sqrt(mean(x^2) + eps).
"""

from __future__ import annotations

from lbyl_onnx.graph.model_graph import Node, Tensor
from lbyl_onnx.graph.tensor_info import TensorInfo

# What may lie between the operators without changing what they compute.
_PASSED = ("Cast", "Identity")


def normalisation_of(mean: Node, tensor_info: TensorInfo) -> str | None:
    """Return the normalisation that a ReduceMean is part of; None where it is part of none.

    Parameters
    ----------
    mean
        The node.
    tensor_info
        Constants of its graph.
    """
    squared = _squared(mean, tensor_info)
    if squared is not None and _is_divided_by(mean, tensor_info):
        return "layer normalisation" if _is_centred(squared) else "RMS normalisation"
    for difference in _consumers(mean, "Sub"):
        for square in _consumers(difference, "Mul", "Pow"):
            for second in _consumers(square, "ReduceMean"):
                if _squared(second, tensor_info) is not None and _is_divided_by(
                    second, tensor_info
                ):
                    return "layer normalisation"
    return None


def _squared(mean: Node, tensor_info: TensorInfo) -> Tensor | None:
    """Return what is squared in front of a ReduceMean."""
    square = _producer(mean.inputs[0])
    if square is None or len(square.inputs) != 2 or mean.op != "ReduceMean":
        return None
    first, second = square.inputs
    twice = square.op == "Mul" and first is second
    power = square.op == "Pow" and _scalar(second, tensor_info) == 2.0
    return first if twice or power else None


def _is_centred(tensor: Tensor) -> bool:
    """Whether a tensor is the difference from a mean."""
    difference = _producer(tensor)
    if difference is None or difference.op != "Sub":
        return False
    mean = _producer(difference.inputs[1])
    return mean is not None and mean.op == "ReduceMean"


def _is_divided_by(mean: Node, tensor_info: TensorInfo) -> bool:
    """Whether the root of a mean and a constant divides something."""
    for total in _consumers(mean, "Add"):
        for root in _consumers(total, "Sqrt", "Pow"):
            exponent = 0.5 if root.op == "Sqrt" else _scalar(root.inputs[1], tensor_info)
            divides = exponent == 0.5 and _consumers(root, "Div", "Reciprocal")
            if divides or exponent == -0.5:
                return True
    return False


def _scalar(tensor: Tensor, tensor_info: TensorInfo) -> float | None:
    if tensor_info.shape(tensor.name) not in ((), (1,)) or not tensor_info.is_constant(tensor.name):
        return None
    return float(tensor_info.value(tensor.name).reshape(()))  # (1,) -> ()


def _producer(tensor: Tensor) -> Node | None:
    """Return the node that computes a tensor, past what changes nothing."""
    while tensor.inputs and tensor.inputs[0].op in _PASSED:
        tensor = tensor.inputs[0].inputs[0]
    return tensor.inputs[0] if tensor.inputs else None


def _consumers(node: Node, *op_types: str) -> list[Node]:
    """Return the nodes of some types that read a node's output, past what changes nothing."""
    consumers, waiting = [], [node]
    while waiting:
        for consumer in waiting.pop().outputs[0].outputs:
            if consumer.op in _PASSED:
                waiting.append(consumer)
            elif consumer.op in op_types:
                consumers.append(consumer)
    return consumers
