"""What could be pruned in a model, without pruning it."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from lbyl_onnx.budget.cost_model import counted_macs, counted_parameters
from lbyl_onnx.budget.damage import curves, rankings
from lbyl_onnx.budget.portions import Portion
from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import ChannelGroup, GroupBinding, Refusal, Selection
from lbyl_onnx.channels.heads.products import ChannelRole, role_of
from lbyl_onnx.channels.refusals import held_elsewhere, why_nothing
from lbyl_onnx.config import Config
from lbyl_onnx.data.input_kind import InputKind
from lbyl_onnx.errors import NothingToPruneError
from lbyl_onnx.graph import source
from lbyl_onnx.graph.costs import Costs, node_macs
from lbyl_onnx.graph.model_graph import Graph, node_name
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.input_options.kinds import Said, choices_given
from lbyl_onnx.input_options.shapes import SuppliedShapes, checked_shapes
from lbyl_onnx.inputs.choices import stated_sizes
from lbyl_onnx.inputs.first_layers import sampled_kinds
from lbyl_onnx.io import reader
from lbyl_onnx.observe.session import prepare, rounds
from lbyl_onnx.option_types import Attention, Provider, Scope
from lbyl_onnx.results.inputs import InputReport, input_reports
from lbyl_onnx.runtime import providers
from lbyl_onnx.runtime.baseline import Baseline, input_shapes, run_baseline
from lbyl_onnx.text import count, printable

# Shares of a group's channels whose loss is predicted.
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class Predicted:
    """What the loss of a share of one group's channels is predicted to do.

    Parameters
    ----------
    removed
        Share of the channels that goes.
    layer_error
        Share of the variance of what reads them that is lost, once the others make up for them.
    output_error
        Likewise of the model's outputs.
    """

    removed: float
    layer_error: float
    output_error: float


@dataclass(frozen=True)
class GroupView:
    """One channel group as the user sees it.

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
    predicted
        What pruning does, at `SHARES`; empty where it was not asked for.
    role
        What they are to attention: `queries and keys`, `values`, `whole heads` with all of these,
        or `hidden` for any other.
    blocks
        How many blocks, such as heads, they lie in; of each go as many. 1 where there are none.
    """

    name: str
    channels: int
    producers: tuple[str, ...]
    followers: tuple[str, ...]
    consumers: tuple[str, ...]
    parameters: int
    macs: int
    predicted: tuple[Predicted, ...] = ()
    role: ChannelRole = "hidden"
    blocks: int = 1

    @property
    def per_block(self) -> int:
        """Channels of each block: of a head its dimensions."""
        return self.channels // self.blocks


@dataclass(frozen=True)
class Reach:
    """The shares of a model that would go if each group that can be pruned kept one channel.

    Parameters
    ----------
    parameters, macs
        In [0, 1]; each constant and each product counts once, whatever groups it lies between.
    """

    parameters: float
    macs: float


@dataclass(frozen=True)
class Inspection:
    """What a model costs, what of that is within reach, its groups, refusals and inputs."""

    costs: Costs
    reach: Reach
    groups: tuple[GroupView, ...]
    refusals: tuple[Refusal, ...]
    inputs: tuple[InputReport, ...] = ()

    def __str__(self) -> str:
        """Return a few lines: what the model costs, and what of that is within reach."""
        costs, reach, inputs = self.costs, self.reach, self.inputs
        return "\n".join(
            (
                f"{count(costs.parameters)} parameters, {count(costs.macs)} MACs",
                f"within reach: {reach.parameters:.1%} of parameters, {reach.macs:.1%} of MACs",
                f"{len(self.groups)} channel groups, {len(self.refusals)} skipped",
                *(printable(entry.description) for entry in inputs[:1]),
                *((f"... and {len(inputs) - 1} more inputs",) if len(inputs) > 1 else ()),
            )
        )


def inspect(
    model: onnx.ModelProto | str | os.PathLike[str],
    *,
    scope: Scope = "inner",
    provider: Provider = "auto",
    sensitivity: bool = False,
    input_shape: SuppliedShapes = (),
    input: Said = (),
    attention: Attention = "dims",
) -> Inspection:
    """Find a model's channel groups.

    Parameters
    ----------
    model
        A path, of a file or of a folder that holds one model, or a model in memory.
    scope
        As for `compress`.
    provider
        Where ONNX Runtime finds input shapes that the model accepts.
    sensitivity
        Whether to predict what pruning each group does; it takes as long as pruning.
    input_shape
        Shapes of inputs, by name, at which the model is counted and measured; the name may be empty
        where there is one input.
    input
        What inputs take, as for `compress`.
    attention
        As for `compress`; `auto` shows whole heads where they can go, as `heads` does.

    Returns
    -------
    Inspection
        What can be pruned, and what cannot and why.

    Raises
    ------
    LbylOnnxError
        When the model cannot be read or run, it is quantised, or an option's value is outside what
        it may be.
    """
    supplied_shapes = checked_shapes(input_shape)
    config = Config(scope=scope, provider=provider, input=choices_given(input), attention=attention)
    selection = Selection(scope=scope, attention="dims" if attention == "dims" else "heads")
    stated = partial(stated_sizes, config.input, config.layout)
    with reader.on_disk(model) as path:
        files = source.check_source(path)
        name = providers.provider_name(provider)
        if sensitivity:
            baseline = run_baseline(path, name, 0, supplied_shapes=supplied_shapes, stated=stated)
            shapes = baseline.shape_sets
        else:
            baseline, shapes = None, input_shapes(path, name, supplied_shapes, stated)
        analyzed = AnalyzedModel.open(files, shapes[:2], selection)
        channels, graph, tensor_info = analyzed.channels, analyzed.graph, analyzed.tensor_info
        if not channels.groups and not channels.refusals and held_elsewhere(graph, tensor_info):
            raise NothingToPruneError(why_nothing(graph, tensor_info, ()))
        kinds = sampled_kinds(graph, tensor_info, config, path)
        predicted = {} if baseline is None else _predicted(analyzed, baseline, config, kinds)
        views = tuple(_view(analyzed, group, predicted) for group in channels.groups)
        files.check_unchanged()
        inputs = input_reports(kinds, shapes[0], calibrated=False)
        return Inspection(analyzed.costs, _reach(analyzed), views, channels.refusals, inputs)


def _reach(analyzed: AnalyzedModel) -> Reach:
    groups = analyzed.channels.groups
    whole = np.asarray([group.size for group in groups], dtype=np.int64)
    parameters = counted_parameters(analyzed, groups, with_biases=False, in_bytes=False)
    macs = counted_macs(analyzed, groups)
    shares = [
        1.0 - cost.at(np.ones_like(whole)) / cost.at(whole) if cost.at(whole) else 0.0
        for cost in (parameters, macs)
    ]
    return Reach(*shares)


def _predicted(
    analyzed: AnalyzedModel, baseline: Baseline, config: Config, kinds: Mapping[str, InputKind]
) -> dict[int, tuple[Predicted, ...]]:
    """Predict what pruning does to each group with finite weights, by its key."""
    with tempfile.TemporaryDirectory(prefix="lbyl-onnx-") as folder:
        prepared = prepare(analyzed, baseline, config, Path(folder), kinds=kinds)
        least = {g.key: Portion((g,)).kept(SHARES[-1]) for g in prepared.groups}
        orders = rankings(prepared, rounds(prepared), least, lambda done, total: None)
        by_group = curves(prepared, orders, least)
    return {
        key: tuple(
            Predicted(share, float(curve.errors[at]), float(-np.expm1(-curve.damage[at])))
            for share in SHARES
            for at in [curve.group.size - Portion((curve.group,)).kept(share)]
        )
        for key, curve in by_group.items()
    }


def _view(
    analyzed: AnalyzedModel, group: ChannelGroup, predicted: Mapping[int, tuple[Predicted, ...]]
) -> GroupView:
    graph, tensor_info, nodes = analyzed.graph, analyzed.tensor_info, analyzed.model.graph.node
    bindings = (*group.producers, *group.followers, *group.consumers)
    weighted = (*group.producers, *group.consumers)
    return GroupView(
        group.name,
        group.size,
        _names(graph, group.producers),
        _names(graph, group.followers),
        tuple(dict.fromkeys(node_name(graph.nodes[index]) for index in group.readers)),
        sum(_share(p, _elements(graph, tensor_info, p)) for p in bindings),
        sum(_share(p, node_macs(nodes[p.binding.node], tensor_info)) for p in weighted),
        predicted.get(group.key, ()),
        role_of(graph, tensor_info, analyzed.channels, group),
        group.block_count,
    )


def _names(graph: Graph, bindings: Sequence[GroupBinding]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(node_name(graph.nodes[p.binding.node]) for p in bindings))


def _elements(graph: Graph, tensor_info: TensorInfo, place: GroupBinding) -> int:
    operand = graph.nodes[place.binding.node].inputs[place.binding.operand]
    return math.prod(size or 0 for size in tensor_info.shape(operand.name) or ())


def _share(place: GroupBinding, whole: int) -> int:
    """The part of a node's whole that lies on a group's positions."""
    return whole * place.positions.size // len(place.binding.labels)
