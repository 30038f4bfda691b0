"""Which channels of each group stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from lbyl_onnx.channels import ChannelGroup, Refusal
from lbyl_onnx.facts import GraphFacts
from lbyl_onnx.folding import producer_rows
from lbyl_onnx.importance import Criterion, scores, select

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


def finite_groups(
    graph: gs.Graph, facts: GraphFacts, groups: Sequence[ChannelGroup]
) -> tuple[tuple[ChannelGroup, ...], tuple[Refusal, ...]]:
    """Part the groups whose producers' weights are all finite from the others, which are refused.

    Both are in the order of `groups`.
    """
    finite = [bool(np.all(np.isfinite(producer_matrix(graph, facts, group)))) for group in groups]
    pairs = list(zip(groups, finite, strict=True))
    return (
        tuple(group for group, good in pairs if good),
        tuple(not_finite(group) for group, good in pairs if not good),
    )


def choose_channels(
    graph: gs.Graph,
    facts: GraphFacts,
    groups: Sequence[ChannelGroup],
    counts: KeptCounts,
    criterion: Criterion,
    seed: int,
) -> PruningPlan:
    """Keep the most important channels of each group.

    Parameters
    ----------
    graph, facts
        The graph and its constants.
    groups
        The groups to prune; their producers' weights are finite.
    counts
        How many channels each of them keeps, 1 to all.
    criterion
        How channels are scored, over the producer's own weights as stored; a Gemm row has its
        bias appended.
    seed
        Of the criterion `random`.

    Returns
    -------
    PruningPlan
        One entry per group, in the same order.
    """
    plans = []
    for number, group in enumerate(groups):
        score = scores(producer_matrix(graph, facts, group), None, criterion, [seed, number])
        plans.append(GroupPlan(group, select(score, counts[group.key])))
    return PruningPlan(tuple(plans))


def producer_matrix(graph: gs.Graph, facts: GraphFacts, group: ChannelGroup) -> NDArray[np.float64]:
    """Rows of all producers side by side, shape (n, all); a Gemm's bias is appended.

    Nodes that read one weight are one producer.
    """
    parts, seen = [], set[tuple[str | int, int]]()
    for place in group.producers:
        if place.slot.layer in seen:
            continue
        seen.add(place.slot.layer)
        weight, bias = producer_rows(graph, facts, place)
        parts.append(weight.reshape(len(weight), -1))  # (n, taps, d) -> (n, taps * d)
        if bias is not None and graph.nodes[place.slot.node].op == "Gemm":
            parts.append(bias)
    return np.concatenate(parts, axis=1)


def not_finite(group: ChannelGroup) -> Refusal:
    """Refuse a group because of its weights."""
    return Refusal(group.name, group.size, "its weights are not finite", (group.name,))
