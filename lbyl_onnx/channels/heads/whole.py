"""Whole heads: a graph interpreted once more, with the channels of each head as one.

The first interpretation tells which channels are a head's; the second starts with one label for
all of them, and so finds by itself what goes with a head: the axes and numbers that count heads,
tables with a row for each, the keys that queries meet, the values that they weigh.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np

from lbyl_onnx.channels.groups import ChannelMap, Refusal
from lbyl_onnx.channels.heads.products import head_size
from lbyl_onnx.channels.labels import AxisBinding, Labels, Role, components
from lbyl_onnx.graph.model_graph import Graph, node_name
from lbyl_onnx.graph.tensor_info import TensorInfo

Units = Mapping[int, Labels]
"""By the node of a layer, the number of the unit of each channel that it produces, (channels,)."""


def with_whole_heads(
    graph: Graph,
    tensor_info: TensorInfo,
    channels: ChannelMap,
    interpret: Callable[[Units], ChannelMap],
    by_dims: Collection[int] = (),
) -> ChannelMap:
    """Make whole heads the channels of attention layers, where all that counts heads can change.

    Parameters
    ----------
    graph, tensor_info
        The graph and its constants.
    channels
        Its channels as the dims of heads.
    interpret
        Finds its channels for given units.
    by_dims
        Layers, by node, whose channels stay the dims of heads, with all that they meet.

    Returns
    -------
    ChannelMap
        With a refusal for each layer whose heads have to stay, whose dims may go all the same.
    """
    units = head_units(graph, tensor_info, channels)
    refusals = _of_one_head(graph, tensor_info, channels, units)
    asked = {*by_dims}
    while units:
        # What the first finds to go together, the second takes for one from the start:
        # an axis of queries, keys and values behind that of heads carries no channels then.
        first = interpret(units)
        whole = interpret(_together(units, first))
        failed = {node for node in units if _stays(units[node], node, whole)} | (asked & {*units})
        if not failed:
            return replace(whole, refusals=(*whole.refusals, *refusals))
        stay = _connected(units, failed, (channels, first))
        refusals += _refusals(graph, units, stay - _connected(units, asked, (channels,)), whole)
        units = {node: numbers for node, numbers in units.items() if node not in stay}
    return replace(channels, refusals=(*channels.refusals, *refusals))


def head_units(graph: Graph, tensor_info: TensorInfo, channels: ChannelMap) -> dict[int, Labels]:
    """Return units of the layers that make queries, keys or values of several heads: the heads.

    A head's channels follow each other among those of a group that a layer makes. Where they do
    not, the second interpretation finds no heads that can go.
    """
    units: dict[int, Labels] = {}
    for group in channels.groups:
        size = head_size(graph, tensor_info, channels, group)
        for place in group.producers:
            if not size or place.positions.size % size or place.positions.size < 2 * size:
                continue
            numbers = units.setdefault(place.binding.node, np.arange(len(place.binding.labels)))
            heads = np.sort(place.positions.reshape(-1)).reshape(-1, size)  # -> (heads, d)
            numbers[heads] = heads[:, :1]
    return {node: _numbered(numbers) for node, numbers in units.items()}


def _of_one_head(
    graph: Graph, tensor_info: TensorInfo, channels: ChannelMap, units: Units
) -> list[Refusal]:
    """Refuse whole heads where the channels that a layer makes are those of one head."""
    reason = "no whole heads: the layer has one, or an axis of its own for heads"
    refusals = []
    for group in channels.groups:
        nodes = [place.binding.node for place in group.producers]
        of_heads = head_size(graph, tensor_info, channels, group) is not None
        if of_heads and not any(node in units for node in nodes):
            names = tuple(node_name(graph.nodes[node]) for node in nodes)
            refusals.append(Refusal(group.name, 1, reason, names))
    return refusals


def _numbered(codes: Labels) -> Labels:
    return np.unique(codes, return_inverse=True)[1].reshape(-1)


def _together(units: Units, channels: ChannelMap) -> dict[int, Labels]:
    """Units of what an interpretation has found to go together."""
    made = _producers(channels)
    return {
        node: _numbered(channels.roots[made[node].labels]) if node in made else numbers
        for node, numbers in units.items()
    }


def _producers(channels: ChannelMap) -> dict[int, AxisBinding]:
    return {s.node: s for s in channels.bindings if s.role is Role.PRODUCER}


def _stays(numbers: Labels, node: int, channels: ChannelMap) -> bool:
    """Whether a layer's heads, or some of them, cannot go."""
    made = _producers(channels).get(node)
    if made is None:
        return True
    heads = np.bincount(numbers)[numbers] > 1
    roots = channels.roots[made.labels[heads]]
    go = [group.units for group in channels.groups if group.whole_heads]
    return not np.all(np.isin(roots, np.concatenate([np.zeros(0, np.int64), *go])))


def _connected(units: Units, nodes: Collection[int], maps: Collection[ChannelMap]) -> set[int]:
    """Layers among `units` whose channels meet those of some of them, near or far."""
    order = sorted(units)
    edges = []
    for channels in maps:
        made = _producers(channels)
        owner = np.full(len(channels.roots), -1)
        for number, node in enumerate(order):
            if node not in made:
                continue
            roots = np.unique(channels.roots[made[node].labels])
            met = owner[roots]
            edges.append(np.stack([met[met >= 0], np.full(int(np.sum(met >= 0)), number)]))
            owner[roots] = number
    part = components(len(order), edges)
    parts = {int(part[order.index(node)]) for node in nodes if node in units}
    return {node for node, number in zip(order, part.tolist(), strict=True) if number in parts}


def _refusals(
    graph: Graph, units: Units, nodes: Collection[int], channels: ChannelMap
) -> list[Refusal]:
    """Say why the heads of some layers stay, as a refusal of what these make says it."""
    refusals: dict[Refusal, None] = {}
    for node in sorted(nodes):
        name = node_name(graph.nodes[node])
        why = [refusal for refusal in channels.refusals if name in refusal.name.split(", ")]
        heads = int(np.sum(np.bincount(units[node]) > 1))
        why = why or [Refusal(name, heads, "what reads them does not take them as heads", (name,))]
        refusals |= {replace(r, reason=f"no whole heads: {r.reason}"): None for r in why}
    return list(refusals)
