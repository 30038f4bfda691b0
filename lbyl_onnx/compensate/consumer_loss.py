"""What the loss of channels means to the layers that consume them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import ChannelGroup, GroupBinding
from lbyl_onnx.graph.layers import layer_weight
from lbyl_onnx.graph.model_graph import Graph, Node
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.methods.types import ConsumerLoss, Moments
from lbyl_onnx.types import Floats


def _together(readings: Sequence[ConsumerLoss]) -> NDArray[np.float64]:
    """Inner products of all consumers' weights, each relative to the variance of its outputs."""
    return sum((r.gram / (r.total or 1.0) for r in readings), np.zeros_like(readings[0].gram))


def consumer_losses(
    analyzed: AnalyzedModel, group: ChannelGroup, moments: Sequence[Moments]
) -> list[ConsumerLoss]:
    """How each layer reads a group: its consumers that read one weight are one."""
    readings = []
    for layer in analyzed.layers(group):
        places = [group.consumers[i] for i in layer.consumers]
        here = moments[layer.consumers[0]]
        readings.append(
            consumer_loss(analyzed.graph, analyzed.tensor_info, places[0], here, places)
        )
    return readings


def consumer_loss(
    graph: Graph,
    tensor_info: TensorInfo,
    consumer: GroupBinding,
    moments: Moments,
    uses: Sequence[GroupBinding] = (),
) -> ConsumerLoss:
    """How a consumer reads a group: its input's moments, and its weights' inner products.

    Where a BatchNormalization follows, outputs count as it scales them; where several consumers
    read the weight, as what follows each does in the mean.
    """
    node, slot = graph.nodes[consumer.slot.node], consumer.slot
    stored = np.moveaxis(layer_weight(tensor_info, node, slot.operand), slot.axis, 0)
    weight = stored[consumer.positions].astype(np.float64)  # (n, places, out, ..)
    n, places, out = weight.shape[:3]
    scales = [
        _output_scale(graph.nodes[p.slot.node], tensor_info, out) for p in uses or (consumer,)
    ]
    scale = scales[0] if len(scales) == 1 else np.sqrt(np.mean(np.square(scales), axis=0))
    weight = weight.reshape(n, places, out, -1) * scale[:, None]
    taps = np.moveaxis(weight, 2, 3)  # (n, places, window, out)
    flat = taps.reshape(n * moments.taps, -1)  # told apart or not: -> (n * taps, ..)
    return ConsumerLoss(moments, flat @ flat.T)


def _output_scale(node: Node, tensor_info: TensorInfo, out: int) -> Floats:
    readers = node.outputs[0].outputs
    if len(readers) != 1 or readers[0].op != "BatchNormalization":
        return np.ones(out)
    norm = readers[0]
    if not all(tensor_info.is_constant(norm.inputs[i].name) for i in (1, 4)):
        return np.ones(out)
    gamma = tensor_info.value(norm.inputs[1].name).astype(np.float64)
    var = tensor_info.value(norm.inputs[4].name).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = gamma / np.sqrt(var + float(norm.attrs.get("epsilon", 1e-5)))
    return scale if scale.shape == (out,) and np.all(np.isfinite(scale)) else np.ones(out)
