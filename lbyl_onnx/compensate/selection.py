"""Which channels of each group stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.channels.affine import producer_matrix
from lbyl_onnx.channels.groups import ChannelGroup
from lbyl_onnx.errors import OptionError
from lbyl_onnx.graph.model_graph import Graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.methods import registry
from lbyl_onnx.methods.registry import Criterion
from lbyl_onnx.methods.types import BatchNorm, ConsumerLoss, Evidence, Ranking

KeptCounts = Mapping[int, int]
"""How many channels each group keeps, by the group's key."""


@dataclass(frozen=True)
class GroupPlan:
    """A group and the channels of it that stay, ascending, shape (k,)."""

    group: ChannelGroup
    kept: NDArray[np.intp]

    @property
    def removed(self) -> NDArray[np.int64]:
        """Root labels of the channels that go."""
        return np.delete(self.group.units, self.kept)


@dataclass(frozen=True)
class PruningPlan:
    """The plan of every group that is pruned."""

    groups: tuple[GroupPlan, ...]

    @property
    def removed(self) -> NDArray[np.int64]:
        """Root labels of all channels that go."""
        return np.concatenate([np.zeros(0, np.int64), *(g.removed for g in self.groups)])


def choose_channels(
    graph: Graph,
    tensor_info: TensorInfo,
    groups: Sequence[ChannelGroup],
    counts: KeptCounts,
    criterion: str,
    seed: int,
) -> PruningPlan:
    """Choose the channels of each group by its weights.

    Parameters
    ----------
    graph, tensor_info
        The graph and its constants.
    groups
        The groups to prune; their producers' weights are finite.
    counts
        How many channels each of them keeps, 1 to all.
    criterion
        Name of one that needs no moments.
    seed
        Of the random number generator; each group has its own.

    Returns
    -------
    PruningPlan
        One entry per group, in the same order.

    Raises
    ------
    OptionError
        Where there is no such criterion, or it gives no ranking of the group.
    """
    entry, plans = registry.find_criterion(criterion), []
    for number, group in enumerate(groups):
        evidence = evidence_of(graph, tensor_info, group)
        ranking = rank(entry, evidence, counts[group.key], (seed, number))
        plans.append(GroupPlan(group, ranking.kept(counts[group.key])))
    return PruningPlan(tuple(plans))


def evidence_of(
    graph: Graph, tensor_info: TensorInfo, group: ChannelGroup, losses: Sequence[ConsumerLoss] = ()
) -> Evidence:
    """Gather the evidence of a group for a criterion; `losses` where it needs moments."""
    weight = producer_matrix(graph, tensor_info, group)
    blocks = group.blocks if group.block_count > 1 else None
    norms = tuple(_batch_norms(graph, tensor_info, group))
    return Evidence(weight, norms, tuple(losses), blocks)


def rank(criterion: Criterion, evidence: Evidence, keep: int, seed: tuple[int, int]) -> Ranking:
    """Let a criterion rank a group's channels, and check what it gives.

    Parameters
    ----------
    criterion, evidence
        Who ranks, and by what.
    keep
        How many channels are left in the end, of each block as many.
    seed
        The user's, and the number of the group.

    Raises
    ------
    OptionError
        Where it gives no ranking of this group down to so many channels.
    """
    ranking = _checked(criterion, evidence, keep, seed)
    blocks = evidence.blocks
    if blocks is None or ranking.takes_in_turn(blocks):
        return ranking
    # Whose order is not by blocks is asked for all of it.
    whole = _checked(criterion, evidence, 1, seed)
    left = np.setdiff1d(np.arange(whole.size), whole.order)
    return Ranking(whole.size, np.concatenate([whole.order, left])).balanced(blocks)


def _checked(criterion: Criterion, evidence: Evidence, keep: int, seed: tuple[int, int]) -> Ranking:
    ranking = criterion.rank(evidence, keep, np.random.default_rng(seed))
    size = len(evidence.weight)
    if not isinstance(ranking, Ranking) or ranking.size != size or len(ranking.order) < size - keep:
        raise OptionError(
            f"criterion {criterion.name} gives no Ranking of {size} channels down to {keep}"
        )
    if ranking.has_losses and len(ranking.totals) != len(evidence.losses):
        raise OptionError(
            f"criterion {criterion.name} gives losses of {len(ranking.totals)} layers; give one "
            f"column for each of the {len(evidence.losses)} of its evidence"
        )
    return ranking


def _batch_norms(graph: Graph, tensor_info: TensorInfo, group: ChannelGroup) -> Iterator[BatchNorm]:
    """Yield the parameters of each BatchNormalization that a producer's output enters."""
    followers = {(place.binding.node, place.binding.operand): place for place in group.followers}
    outputs = {graph.nodes[place.binding.node].outputs[0].name for place in group.producers}
    for index in sorted({node for node, _ in followers}):
        node = graph.nodes[index]
        bindings = [followers.get((index, operand)) for operand in range(1, 5)]
        is_norm = node.op == "BatchNormalization" and node.inputs[0].name in outputs
        if not is_norm or not all(tensor_info.is_constant(t.name) for t in node.inputs[1:5]):
            continue
        values = [
            tensor_info.value(node.inputs[operand].name)[place.positions].astype(np.float64)
            for operand, place in enumerate(bindings, start=1)
            if place is not None
        ]
        if len(values) == len(bindings):
            yield BatchNorm(*values)
