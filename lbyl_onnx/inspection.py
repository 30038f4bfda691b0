"""What could be pruned in a model, without pruning it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs

from lbyl_onnx import model_io, runtime
from lbyl_onnx.assemble import to_graph
from lbyl_onnx.channels import (
    ChannelGroup,
    Placement,
    Refusal,
    Scope,
    Selection,
    find_channels,
    node_name,
)
from lbyl_onnx.costs import Costs, count_costs, node_macs
from lbyl_onnx.external_data import TensorReader
from lbyl_onnx.facts import GraphFacts


@dataclass(frozen=True)
class GroupView:
    """One channel group as a person sees it.

    Parameters
    ----------
    name
        Names of the producing nodes.
    channels
        How many can go one by one.
    producers, followers, consumers
        Names of the nodes that make, carry and read them.
    parameters
        Elements of constants that lie on these channels; constants between two groups count for
        both.
    macs
        Multiply-accumulates of the producers and consumers that these channels cause.
    """

    name: str
    channels: int
    producers: tuple[str, ...]
    followers: tuple[str, ...]
    consumers: tuple[str, ...]
    parameters: int
    macs: int


@dataclass(frozen=True)
class Inspection:
    """The channel groups and refusals of a model, and what the whole model costs."""

    costs: Costs
    groups: tuple[GroupView, ...]
    refusals: tuple[Refusal, ...]


def inspect(
    model: onnx.ModelProto | str | os.PathLike[str],
    *,
    scope: Scope = "inner",
    provider: runtime.Provider = "auto",
) -> Inspection:
    """Find a model's channel groups.

    Parameters
    ----------
    model
        A path, or a model in memory.
    scope
        As for `compress`.
    provider
        Where ONNX Runtime finds input shapes that the model accepts.

    Returns
    -------
    Inspection
        What can be pruned, and what cannot and why.

    Raises
    ------
    LbylOnnxError
        When the model cannot be read or run.
    """
    with model_io.on_disk(model) as path:
        model_io.check_source(path)
        first, second = runtime.input_shapes(path, runtime.provider_name(provider))
        proto, _ = model_io.load_model(path)
        facts = GraphFacts(proto, first, second, TensorReader(path))
        graph = to_graph(proto)
        channels = find_channels(graph, facts, Selection(scope=scope))
        views = tuple(_view(proto, graph, facts, group) for group in channels.groups)
        return Inspection(count_costs(proto, facts), views, channels.refusals)


def _view(
    model: onnx.ModelProto, graph: gs.Graph, facts: GraphFacts, group: ChannelGroup
) -> GroupView:
    places = (*group.producers, *group.followers, *group.consumers)
    weighted = (*group.producers, *group.consumers)
    return GroupView(
        group.name,
        group.size,
        _names(graph, group.producers),
        _names(graph, group.followers),
        _names(graph, group.consumers),
        sum(_share(p, _elements(graph, facts, p)) for p in places),
        sum(_share(p, node_macs(model.graph.node[p.slot.node], facts)) for p in weighted),
    )


def _names(graph: gs.Graph, places: Sequence[Placement]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(node_name(graph.nodes[p.slot.node]) for p in places))


def _elements(graph: gs.Graph, facts: GraphFacts, place: Placement) -> int:
    shape = facts.shape(graph.nodes[place.slot.node].inputs[place.slot.operand].name) or ()
    return math.prod(size or 0 for size in shape)


def _share(place: Placement, whole: int) -> int:
    """The part of a node's whole that lies on a group's positions."""
    return whole * place.positions.size // len(place.slot.labels)
