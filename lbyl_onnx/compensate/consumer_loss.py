"""What the loss of channels means to the layers that consume them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import ChannelGroup, GroupBinding, layer_read
from lbyl_onnx.graph.layers.linear_layer import LinearLayer, by_window
from lbyl_onnx.graph.model_graph import Graph, Node
from lbyl_onnx.graph.norms.batch_norm import following_scale
from lbyl_onnx.graph.norms.normalisations import scale_of_stream
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.methods.types import ConsumerLoss, Moments
from lbyl_onnx.types import Floats


def joint_gram(losses: Sequence[ConsumerLoss]) -> NDArray[np.float64]:
    """Inner products of all consumers' weights, each relative to the variance of its outputs."""
    size = len(losses[0].weights)
    return sum((r.gram / (r.total or 1.0) for r in losses), np.zeros((size, size)))


def consumer_losses(
    analyzed: AnalyzedModel, group: ChannelGroup, moments: Sequence[Moments]
) -> list[ConsumerLoss]:
    """How each layer reads a group: its consumers that read one weight are one."""
    losses = []
    for layer in analyzed.layers(group):
        consumers = [group.consumers[i] for i in layer.consumers]
        here = moments[layer.consumers[0]]
        losses.append(
            consumer_loss(analyzed.graph, analyzed.tensor_info, consumers[0], here, consumers)
        )
    return losses


def consumer_loss(
    graph: Graph,
    tensor_info: TensorInfo,
    consumer: GroupBinding,
    moments: Moments,
    uses: Sequence[GroupBinding] = (),
) -> ConsumerLoss:
    """How a consumer reads a group: its input's moments, and its weights' inner products.

    Where a normalisation follows, maybe of the stream that the outputs are added to, they count as
    it scales them; where several consumers read the weight, as what follows each does in the mean.
    """
    layers = [layer_read(graph, tensor_info, place) for place in uses or (consumer,)]
    layer = layer_read(graph, tensor_info, consumer)
    weight = layer.rows(tensor_info, consumer.positions)  # (n, positions, outputs, window)
    scales = [
        _scale_behind(graph.nodes[place.binding.node], other, tensor_info)
        for place, other in zip(uses or (consumer,), layers, strict=True)
    ]
    scale = scales[0] if len(scales) == 1 else np.sqrt(np.mean(np.square(scales), axis=0))
    taps = by_window(weight * scale[:, None])  # (n, positions, window, outputs)
    flat = taps.reshape(len(weight) * moments.taps, -1)  # told apart or not: -> (n * taps, ..)
    return ConsumerLoss(moments, flat)


def _scale_behind(node: Node, layer: LinearLayer, tensor_info: TensorInfo) -> Floats:
    """What the normalisation behind a layer scales its outputs by, (outputs,); ones without one."""
    scale = scale_of_stream(node, layer, tensor_info)
    return following_scale(node, layer, tensor_info) if scale is None else scale
