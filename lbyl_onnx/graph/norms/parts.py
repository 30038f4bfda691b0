"""The constants of a layer or RMS normalisation, as one node or in single operators."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lbyl_onnx.graph.model_graph import Node, Tensor
from lbyl_onnx.graph.norms.normalisations import (
    NEAR,
    PASSED,
    consumers_of,
    is_centred,
    normalisation_of,
    scalar_of,
    squared_by,
)
from lbyl_onnx.graph.tensor_info import TensorInfo

CENTRED = {"LayerNormalization": True, "RMSNormalization": False}


@dataclass(frozen=True, eq=False)
class NormParts:
    """Where a normalisation takes its mean square, and its constants.

    Parameters
    ----------
    tensor
        What is squared; its last axis is that of the channels.
    centred
        Whether the mean over the channels is taken away before.
    epsilon, epsilon_at
        The value, and where it is: a node and its input, or None for its attribute.
    scale_at
        The node and its input that gamma is.
    """

    tensor: Tensor
    centred: bool
    epsilon: float
    epsilon_at: tuple[Node, int | None]
    scale_at: tuple[Node, int]


def parts_of(node: Node, channels: int, tensor_info: TensorInfo) -> NormParts | None:
    """Return the parts of a normalisation of so many channels; None where one is missing.

    Parameters
    ----------
    node
        LayerNormalization, RMSNormalization, or the ReduceMean of the squares.
    channels
        Length of the last axis.
    tensor_info
        Constants of its graph.
    """
    if node.op in CENTRED:
        epsilon = float(node.attrs.get("epsilon", 1e-5))
        if not _is_per_channel(node.inputs[1], channels, tensor_info):
            return None
        return NormParts(node.inputs[0], CENTRED[node.op], epsilon, (node, None), (node, 1))
    squared = squared_by(node, tensor_info)
    if squared is None or normalisation_of(node, tensor_info) is None:
        return None
    for total in consumers_of(node, "Add"):
        for operand, tensor in enumerate(total.inputs):
            epsilon_here = scalar_of(tensor, tensor_info)
            scale = _scale_behind(total, channels, tensor_info)
            if epsilon_here is not None and scale is not None:
                centred, at = is_centred(squared), (total, operand)
                return NormParts(squared, centred, epsilon_here, at, scale)
    return None


def has_parts(mean: Node, channels: int, tensor_info: TensorInfo) -> bool:
    """Whether a ReduceMean is part of a normalisation all of whose constants are known."""
    if squared_by(mean, tensor_info) is not None:
        return parts_of(mean, channels, tensor_info) is not None
    squares = [
        second
        for difference in consumers_of(mean, "Sub")
        for square in consumers_of(difference, "Mul", "Pow")
        for second in consumers_of(square, "ReduceMean")
    ]
    return any(parts_of(second, channels, tensor_info) is not None for second in squares)


def _scale_behind(total: Node, channels: int, tensor_info: TensorInfo) -> tuple[Node, int] | None:
    """Find gamma behind the sum of mean square and epsilon."""
    for node in _near(total):
        if node.op != "Mul":
            continue
        for operand, tensor in enumerate(node.inputs):
            if _is_per_channel(tensor, channels, tensor_info):
                return node, operand
    return None


def _near(start: Node) -> Iterator[Node]:
    """Yield nodes behind one that scale what they read, those that are near."""
    waiting = [start]
    for _ in range(NEAR):
        if not waiting:
            return
        for reader in waiting.pop(0).outputs[0].outputs:
            if reader.op in ("Sqrt", "Pow", "Div", "Reciprocal", "Mul", *PASSED):
                yield reader
                waiting.append(reader)


def _is_per_channel(tensor: Tensor, channels: int, tensor_info: TensorInfo) -> bool:
    """Whether a tensor is a constant with one value for each channel."""
    shape = tensor_info.shape(tensor.name)
    if not shape or not tensor_info.is_constant(tensor.name):
        return False
    return shape[-1] == channels and all(d == 1 for d in shape[:-1])
