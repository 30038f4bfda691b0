"""Bring the outputs of compensated layers back to the mean and variance that they had.

Least squares shrinks variance, and what is lost in one layer is lost for all behind it. What is
lost is measured on the compensated model; where that cannot be, the moments that the compensation
was computed from tell it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from lbyl_onnx.channels import ChannelMap
from lbyl_onnx.compensate import Moments
from lbyl_onnx.facts import GraphFacts
from lbyl_onnx.labels import Role
from lbyl_onnx.layers import layer_weight
from lbyl_onnx.restore import Fit, Repair, own_bias
from lbyl_onnx.rules import PRODUCING
from lbyl_onnx.sights import output_view
from lbyl_onnx.statistics import Measured
from lbyl_onnx.views import Target, View

Floats = NDArray[np.float64]
# A gain beyond this is a channel that the compensation has silenced: nothing is left to amplify.
LARGEST_GAIN = 4.0
# Variances below this share of the layer's largest are rounding.
_ROUNDING = 1e-12


def repairable(
    graph: gs.Graph, facts: GraphFacts, channels: ChannelMap, consumers: Collection[int]
) -> dict[int, View]:
    """View the outputs that a repair is for, by node.

    They are those of the consumers, and of the layers behind them, to which what is lost is passed
    on. Outputs behind which no layer follows are left alone: there the least error counts, and no
    loss of variance is passed on. So are those whose node has a bias that cannot be scaled.

    Parameters
    ----------
    graph, facts, channels
        The graph, its constants, and where its channels lie.
    consumers
        Nodes that read channels of which some go.
    """
    views: dict[int, View] = {}
    for index in sorted({*consumers, *_layers_behind(graph, channels, consumers)}):
        node = graph.nodes[index]
        view = output_view(graph, facts, index)
        if view is None or not _feeds_a_layer(node):
            continue
        has_bias = len(node.inputs) > 2 and bool(node.inputs[2].name)
        dtype = facts.value(node.inputs[1].name).dtype
        scaled = own_bias(facts, node, len(view.positions), dtype) is not None
        # A consumer's offset may need an Add behind it; another layer is not worth a node.
        if not scaled and (has_bias or index not in consumers):
            continue
        views[index] = view
    return {
        index: view for index, view in views.items() if _all_uses(channels, index) <= set(views)
    }


def _all_uses(channels: ChannelMap, index: int) -> set[int]:
    """Nodes that read a layer's weight, or what it is made of: one repair has to be right for all.

    -1 among them is a reader that takes it whole.
    """
    sharing = channels.sharing
    use = sharing.uses[index, 1]
    whole = {-1} if use.base in sharing.apart else set[int]()
    return {other.node for other in sharing.readers[use.base]} | whole


def behind(graph: gs.Graph, nodes: Collection[int]) -> set[int]:
    """Nodes that read, near or far, what these nodes give; those that do so of these, too."""
    numbers = {id(node): index for index, node in enumerate(graph.nodes)}
    holders = {
        id(inner): node
        for node in graph.nodes
        for body in node.subgraphs(recursive=True)
        for inner in body.nodes
    }
    starts = [graph.nodes[index] for index in nodes]
    return {numbers[id(reader)] for reader in _readers(starts, holders)}


def _readers(starts: Sequence[gs.Node], holders: Mapping[int, gs.Node]) -> Iterator[gs.Node]:
    """Yield the nodes that read, near or far, what some nodes give.

    What `holders` has by the id of a node in a body stands for it.
    """
    seen: set[int] = set()
    waiting = [*starts]
    while waiting:
        for reader in [x for tensor in waiting.pop().outputs for x in tensor.outputs]:
            node = holders.get(id(reader), reader)
            if id(node) not in seen:
                seen.add(id(node))
                waiting.append(node)
                yield node


def _layers_behind(graph: gs.Graph, channels: ChannelMap, consumers: Collection[int]) -> set[int]:
    """Layers behind others whose weight no other reads."""
    layers = {s.node for s in channels.slots if s.role is Role.PRODUCER and s.operand == 1}
    found = layers & behind(graph, consumers)
    return {index for index in found if channels.sharing.sole(index, 1)}


def _feeds_a_layer(node: gs.Node) -> bool:
    return any(reader.op in PRODUCING for reader in _readers([node], {}))


def targets(views: Mapping[int, View], before: Mapping[int, Measured]) -> dict[str, Target]:
    """What the outputs are brought to while they are measured again, by tensor.

    So each layer is measured with all layers before it repaired, in one run.
    """
    return {
        view.tensor: Target(
            view.axis, view.rank, before[i].mean, np.sqrt(np.maximum(before[i].second, 0.0))
        )
        for i, view in views.items()
    }


def repairs(before: Mapping[int, Measured], after: Mapping[int, Measured]) -> dict[int, Repair]:
    """Scale and shift of each output, from its moments before and after the compensation.

    Parameters
    ----------
    before, after
        Mean and variance of each node's output channels; nodes with moments that are not finite
        are left out of the result.
    """
    result: dict[int, Repair] = {}
    for index, now in after.items():
        was = before[index]
        if not all(np.all(np.isfinite(x)) for x in (was.mean, was.second, now.mean, now.second)):
            continue
        gain = _gain(was.second, now.second)
        result[index] = Repair(gain, was.mean - gain * now.mean)
    return result


def _gain(before: Floats, after: Floats) -> Floats:
    """What brings variances, (out,), back; 1 where none is left."""
    alive = after > _ROUNDING * float(np.max(after, initial=0.0))
    ratio = np.where(alive, before / np.where(alive, after, 1.0), 1.0)
    return np.clip(np.sqrt(np.maximum(ratio, 0.0)), 1 / LARGEST_GAIN, LARGEST_GAIN)


@dataclass(frozen=True, eq=False)
class Part:
    """What one group brings to a consumer's outputs, each (out,): mean, variance and what is left.

    `width` is how many of the weight's input positions are the group's.
    """

    mean: Floats
    before: Floats
    after: Floats
    width: int


def part(graph: gs.Graph, facts: GraphFacts, fit: Fit, moments: Moments) -> Part:
    """Tell from the moments what a delivery leaves of a group's part in a consumer's outputs.

    Without taps, all that a window sees of a channel counts as one value.
    """
    slot, taps = fit.consumer.slot, moments.taps
    stored = layer_weight(facts, graph.nodes[slot.node], slot.operand)
    rows = np.moveaxis(stored, slot.axis, 0)[fit.consumer.positions].astype(np.float64)
    n, places, out = rows.shape[:3]
    window = np.moveaxis(rows.reshape(n, places, out, -1), 2, 3)  # -> (n, places, window, out)
    # (n, places, window, out) -> (n, taps, what is not told apart, out) -> (n, taps, out)
    weight = window.reshape(n, taps, -1, out).sum(axis=2)
    kept, removed = fit.delivery.kept, fit.delivery.removed
    left = weight[kept].reshape(-1, out)  # (k, taps, out) -> (k * taps, out)
    left += fit.delivery.rows.T @ weight[removed].reshape(-1, out)
    columns = (kept[:, None] * taps + np.arange(taps)).reshape(-1)  # (k, taps) -> (k * taps,)
    whole = weight.reshape(-1, out)  # (n, taps, out) -> (n * taps, out)
    c = moments.covariance
    return Part(
        moments.mean @ whole,
        np.einsum("do,do->o", whole, c @ whole),
        np.einsum("do,do->o", left, c[np.ix_(columns, columns)] @ left),
        n * places,
    )


def modelled(
    graph: gs.Graph, facts: GraphFacts, parts: Mapping[int, Sequence[Part]]
) -> dict[int, Repair]:
    """Scale and shift of outputs by what the moments tell of them.

    Parameters
    ----------
    graph, facts
        The original.
    parts
        Of each consumer, by node; groups count as independent. One of which they leave out inputs
        is left alone.
    """
    result: dict[int, Repair] = {}
    for index, here in parts.items():
        node = graph.nodes[index]
        weight = facts.value(node.inputs[1].name)
        out = len(here[0].mean)
        bias = own_bias(facts, node, out, weight.dtype)
        window = int(np.prod(weight.shape[2:]))
        if sum(p.width for p in here) * out * window != weight.size:
            continue
        before, after, mean = (
            np.sum([getattr(p, name) for p in here], axis=0) for name in ("before", "after", "mean")
        )
        gain = _gain(before, after)
        alpha, beta = (
            float(node.attrs.get(name, 1.0)) if node.op == "Gemm" else 1.0
            for name in ("alpha", "beta")
        )
        mean = alpha * mean
        if bias is not None:
            mean = mean + beta * bias.astype(np.float64).reshape(-1)  # (1, N) -> (N,)
        result[index] = Repair(gain, mean - gain * mean)
    return result
