"""One layer that is applied several times sees all of its inputs: their moments are pooled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from lbyl_onnx.channels.analyzed_model import Layer, bias_of
from lbyl_onnx.channels.groups import ChannelMap
from lbyl_onnx.graph.layers import linear_layer
from lbyl_onnx.graph.model_graph import Graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.methods.types import Delivery, Moments
from lbyl_onnx.observe.accumulate import SampleMoments
from lbyl_onnx.types import Floats


def pooled(moments: Sequence[Moments], biases: Sequence[Hashable]) -> list[Moments]:
    """Pool the moments of what one weight is applied to.

    Parameters
    ----------
    moments
        Of each use: means (D,), covariances (D, D), of the same columns.
    biases
        What each use adds to its outputs; uses of one bias have one shift.

    Returns
    -------
    list of Moments
        Of each use: the covariance of all, and the mean of the uses of its bias; one object for
        each bias.

    Notes
    -----
    With r_t rows, mean m_t and covariance C_t of use t, the uses of one bias have the mean
    ``m = sum r_t m_t / sum r_t``, and the covariance of all is
    ``sum r_t (C_t + (m_t - m)(m_t - m)^T) / sum r_t``, m that of use t's bias. S fitted to this
    covariance, with the shift ``m_P - S m_K`` for each bias, has the least squared error over the
    rows of all uses.
    """
    means, covariance = _pool(
        [m.rows for m in moments],
        [m.mean for m in moments],
        [m.covariance for m in moments],
        biases,
    )
    total = sum(m.rows for m in moments)
    pooled = replace(moments[0], covariance=covariance, rows=total)
    whole = {b: replace(pooled, mean=mean) for b, mean in means.items()}
    return [whole[bias] for bias in biases]


def _pool(
    rows: Sequence[int],
    means: Sequence[Floats],
    seconds: Sequence[Floats],
    biases: Sequence[Hashable],
) -> tuple[dict[Hashable, Floats], Floats]:
    """Means by bias, and the second moment of all: a matrix, or the variance of each column."""
    members: dict[Hashable, list[int]] = defaultdict(list)
    for number, bias in enumerate(biases):
        members[bias].append(number)
    shares = np.asarray(rows, dtype=np.float64) / sum(rows)
    pooled: dict[Hashable, Floats] = {}
    second = np.zeros_like(seconds[0])
    with np.errstate(invalid="ignore", over="ignore"):  # `Moments.finite` tells of it
        for bias, uses in members.items():
            pooled[bias] = shares[uses] @ np.stack([means[t] for t in uses]) / shares[uses].sum()
            for t in uses:
                step = means[t] - pooled[bias]
                apart = np.outer(step, step) if second.ndim == 2 else step**2
                second += shares[t] * (seconds[t] + apart)
    return pooled, second


def pooled_by_layer(moments: Sequence[Moments], layers: Sequence[Layer]) -> list[Moments] | None:
    """Pool moments, one for each consumer, over the consumers of each layer.

    None where the consumers of one layer are seen in different columns.
    """
    result = list(moments)
    for layer in layers:
        if len(layer.consumers) == 1:
            continue
        here = [moments[i] for i in layer.consumers]
        if len({(len(m.mean), m.taps) for m in here}) > 1:
            return None
        for place, one in zip(layer.consumers, pooled(here, layer.biases), strict=True):
            result[place] = one
    return result


def deliveries(
    deliver: Callable[[Moments], Delivery], moments: Sequence[Moments], layers: Sequence[Layer]
) -> list[Delivery]:
    """Fit each layer once; each consumer's shift is that of its moments.

    Parameters
    ----------
    deliver
        A method that takes moments, for the channels that are kept.
    moments, layers
        At each consumer, and the layers that the consumers are.

    Returns
    -------
    list of Delivery
        One for each consumer. Where uses of one layer have biases of their own, the shift of each
        is ``m_P - S m_K`` of its mean.
    """
    fitted: dict[int, Delivery] = {}
    for layer in layers:
        first = deliver(moments[layer.consumers[0]])
        for place in layer.consumers:
            same = moments[place] is moments[layer.consumers[0]]
            fitted[place] = first if same else _shifted(first, moments[place])
    return [fitted[place] for place in range(len(moments))]


def _shifted(delivery: Delivery, moments: Moments) -> Delivery:
    """Return a delivery with the shift c = m_P - S m_K of these moments."""
    reduced = moments if delivery.taps == moments.taps else moments.per_channel()
    by_channel = reduced.mean.reshape(delivery.size, delivery.taps)  # (n * taps,) -> (n, taps)
    left, gone = (by_channel[at].reshape(-1) for at in (delivery.kept, delivery.removed))
    return replace(delivery, shift=gone - delivery.rows @ left)


def averaged(separate: Sequence[Delivery], layers: Sequence[Layer]) -> list[Delivery]:
    """Give the consumers of each layer one delivery, and those of each bias one shift.

    Of deliveries that weights alone tell, none counts more than another: the mean is taken.
    """
    result = list(separate)
    for layer in layers:
        if len(layer.consumers) == 1:
            continue
        here = [separate[i] for i in layer.consumers]
        rows = np.mean([d.rows for d in here], axis=0)
        for place, bias in zip(layer.consumers, layer.biases, strict=True):
            alike = [d.shift for d, b in zip(here, layer.biases, strict=True) if b == bias]
            result[place] = Delivery(here[0].kept, rows, np.mean(alike, axis=0), here[0].taps)
    return result


def shared_layers(
    graph: Graph, tensor_info: TensorInfo, channels: ChannelMap, nodes: Collection[int]
) -> list[tuple[list[int], list[str]]]:
    """Gather nodes that read one weight, with the bias of each."""
    nodes_by_weight: dict[str, list[int]] = defaultdict(list)
    layers = {node: linear_layer(tensor_info, graph.nodes[node]) for node in nodes}
    weights = {(node, x.operand) for node, x in layers.items() if x is not None}
    sources = {
        s.node: s.source for s in channels.bindings if s.source and (s.node, s.operand) in weights
    }
    for node in sorted(sources):
        nodes_by_weight[sources[node]].append(node)
    biases = partial(bias_of, graph, tensor_info, channels.sharing)
    return [(here, [biases(node) for node in here]) for here in nodes_by_weight.values()]


def pooled_outputs(
    measured: Mapping[int, SampleMoments], layers: Sequence[tuple[Sequence[int], Sequence[str]]]
) -> dict[int, SampleMoments]:
    """Pool the means and variances of layers' outputs, by node, as `pooled` does those of inputs.

    Parameters
    ----------
    measured
        Of each node.
    layers
        The nodes of each layer that is applied several times, all of them measured, and their
        biases.
    """
    result = dict(measured)
    for nodes, biases in layers:
        here = [measured[node] for node in nodes]
        rows = [m.rows for m in here]
        means, second = _pool(rows, [m.mean for m in here], [m.second for m in here], biases)
        for node, bias in zip(nodes, biases, strict=True):
            result[node] = SampleMoments(sum(rows), means[bias], second)
    return result
