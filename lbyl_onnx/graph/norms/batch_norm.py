"""BatchNormalization as the scale and shift that it is to each channel."""

from __future__ import annotations

import numpy as np

from lbyl_onnx.graph.layers.linear_layer import LinearLayer
from lbyl_onnx.graph.model_graph import Node
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.types import Floats

Moments = tuple[Floats, Floats]


def epsilon_of(node: Node) -> float:
    """Return what a BatchNormalization adds to each variance."""
    return float(node.attrs.get("epsilon", 1e-5))


def scale_of(node: Node, gamma: Floats, var: Floats) -> Floats:
    """Return gamma / sqrt(var + epsilon); not finite where the variance is negative."""
    with np.errstate(invalid="ignore", divide="ignore"):  # the callers see to these
        return np.asarray(gamma / np.sqrt(var + epsilon_of(node)), np.float64)


def following_scale(node: Node, layer: LinearLayer, tensor_info: TensorInfo) -> Floats:
    """Return what the BatchNormalization behind a layer scales its outputs by, (outputs,).

    Ones where none follows, where others read the outputs too, or where its scale is not known and
    finite.
    """
    ones = np.ones(layer.outputs)
    readers = node.outputs[0].outputs
    if layer.output_axis != 1 or len(readers) != 1 or readers[0].op != "BatchNormalization":
        return ones
    norm = readers[0]
    if not all(tensor_info.is_constant(norm.inputs[i].name) for i in (1, 4)):
        return ones
    gamma, var = (tensor_info.value(norm.inputs[i].name).astype(np.float64) for i in (1, 4))
    scale = scale_of(norm, gamma, var)
    return scale if scale.shape == ones.shape and np.all(np.isfinite(scale)) else ones


def following_moments(node: Node, layer: LinearLayer, tensor_info: TensorInfo) -> Moments | None:
    """Return the mean and variance that a BatchNormalization behind a layer stores of its outputs.

    Returns
    -------
    ((outputs,), (outputs,)) float64 or None
        None where no such node reads the outputs, or where it does not store finite ones.
    """
    readers = [n for n in node.outputs[0].outputs if n.op == "BatchNormalization"]
    if layer.output_axis != 1 or not readers:
        return None
    names = [tensor.name for tensor in readers[0].inputs[3:5]]
    if not all(tensor_info.is_constant(name) for name in names):
        return None
    mean, var = (tensor_info.value(name).astype(np.float64).reshape(-1) for name in names)
    whole = mean.shape == var.shape == (layer.outputs,)
    return (mean, var) if whole and np.all(np.isfinite(mean + var)) else None
