"""What images a model has seen, as the BatchNormalization behind its first layers remembers.

The mean and variance that it stores are those of the filters' outputs on the training images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from lbyl_onnx.config import Config
from lbyl_onnx.data.image_statistics import ImageStatistics
from lbyl_onnx.data.input_kind import IMAGES, InputKind, subject_of
from lbyl_onnx.data.synthetic.images import Subject
from lbyl_onnx.graph.layers import linear_layer
from lbyl_onnx.graph.layers.linear_layer import LinearLayer
from lbyl_onnx.graph.model_graph import Graph, Node, Tensor, node_name
from lbyl_onnx.graph.norms.batch_norm import following_moments
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.inputs.affine_chain import AffineChain, image_chain
from lbyl_onnx.inputs.choices import kinds_of
from lbyl_onnx.inputs.image_fit import Filters, fit_images
from lbyl_onnx.option_types import Layout
from lbyl_onnx.types import Floats


def sampled_kinds(
    graph: Graph, tensor_info: TensorInfo, config: Config, model: Path
) -> dict[str, InputKind]:
    """Return what synthetic samples of each input are: `kinds_of`, then `with_statistics`."""
    kinds = kinds_of(graph, tensor_info, config, model)
    return with_statistics(kinds, graph, tensor_info, config.layout)


def with_statistics(
    kinds: Mapping[str, InputKind], graph: Graph, tensor_info: TensorInfo, layout: Layout
) -> dict[str, InputKind]:
    """Return the kinds of inputs, images with the statistics of those that the model has seen.

    Where these can be told, images are no mere guess any more. Where most layers have their
    BatchNormalization folded nothing is added: no layer behind would bring the signal to what it
    was trained on, and such models keep less with these statistics than without.

    Parameters
    ----------
    kinds
        What each input takes; where the user gave the range of an image, nothing is added.
    graph, tensor_info
        The graph, and its shapes and constants.
    layout
        Where images have their channels.
    """
    completed = dict(kinds)
    if not _mostly_normalised(graph):
        return completed
    for tensor in graph.inputs:
        kind = kinds[tensor.name]
        stated = kind.pixels is not None and kind.sure == "stated"
        if kind.name in IMAGES and not stated:
            statistics = image_statistics(tensor, tensor_info, layout, subject_of(kind))
            sure = kind.sure if statistics is None or kind.sure != "guessed" else "likely"
            completed[tensor.name] = replace(kind, statistics=statistics, sure=sure)
    return completed


def _mostly_normalised(graph: Graph) -> bool:
    """Whether at least half of the convolutions have a BatchNormalization."""
    operators = Counter(node.op for node in graph.nodes)
    return 2 * operators["BatchNormalization"] >= operators["Conv"]


def image_statistics(
    tensor: Tensor, tensor_info: TensorInfo, layout: Layout, subject: Subject = "image"
) -> ImageStatistics | None:
    """Return the statistics of the images that one input has brought.

    Parameters
    ----------
    tensor, tensor_info
        The input, and the graph's shapes and constants.
    layout
        Where images have their channels.
    subject
        What the synthetic images show that are brought to the statistics.

    Returns
    -------
    ImageStatistics or None
        None for no image of two sides, where no first layer has a BatchNormalization, and where
        the filters are few or do not tell.
    """
    chained, shape = image_chain(tensor, tensor_info, layout), tensor_info.shape(tensor.name)
    if chained is None or shape is None:
        return None
    chain, end = chained
    plane = tuple(
        side or 0 for axis, side in enumerate(shape) if axis not in (0, chain.source_axis)
    )
    by_node = {node_name(node): _filters(node, tensor_info, chain) for node in _readers(end)}
    layers = {name: filters for name, filters in by_node.items() if filters is not None}
    if not layers or min(plane) < 1:
        return None
    sides = (plane[0], plane[1])
    fit = fit_images(list(layers.values()), chain.scale, chain.shift, sides, subject)
    if fit is None:
        return None
    return ImageStatistics(
        tuple(fit.mean.tolist()),
        tuple(map(tuple, fit.covariance.tolist())),
        tuple(map(tuple, fit.gains.tolist())),
        chain.source_axis,
        fit.flat,
        fit.fitted,
        fit.filters,
        tuple(layers),
    )


def _readers(tensor: Tensor) -> list[Node]:
    """Nodes that read a tensor, or read it with a border around."""
    border = [node for node in tensor.outputs if node.op == "Pad"]
    return [*tensor.outputs, *(reader for node in border for reader in node.outputs[0].outputs)]


def _filters(node: Node, tensor_info: TensorInfo, chain: AffineChain) -> Filters | None:
    """The filters of a layer and what its BatchNormalization stores; None where it is no such."""
    layer = linear_layer(tensor_info, node)
    if layer is None or layer.window is None or len(layer.window.kernel) != 2 or layer.scattered:
        return None
    moments, bias = following_moments(node, layer, tensor_info), layer.bias(tensor_info)
    whole = layer.groups == 1 and layer.data_axis == chain.axis
    shape = tensor_info.shape(layer.data_name)
    if moments is None or bias is None or not whole or shape is None or None in shape:
        return None
    mean, var = moments
    logical = layer.logical(tensor_info.value(layer.weight_name)).astype(np.float64)
    weight = np.empty((layer.outputs, len(chain.order), *layer.window.kernel))
    # (c, outputs, kh * kw) as the layer reads it -> (outputs, c, kh, kw) as the input brings it
    weight[:, chain.order] = np.moveaxis(logical, 0, 1).reshape(weight.shape)
    rows, columns = (_inside(layer, axis, int(shape[axis + 2] or 0)) for axis in (0, 1))
    dilations = (layer.window.dilations[0], layer.window.dilations[1])
    return Filters(weight, mean - bias.astype(np.float64), var, rows, columns, dilations)


def _inside(layer: LinearLayer, axis: int, size: int) -> Floats:
    """Whether each tap along an axis lies inside of the data, (taps, places): 1 or 0."""
    assert layer.window is not None
    window = layer.window
    taps = np.arange(window.kernel[axis]) * window.dilations[axis]
    before, after = window.pads[axis], window.pads[axis + 2]
    last = size + after - int(taps[-1])
    place = np.arange(-before, max(last, 1 - before), window.strides[axis])
    position = taps[:, None] + place
    return ((position >= 0) & (position < size)).astype(np.float64)
