"""Which channels of each group stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from lbyl_onnx.channels import ChannelGroup, Refusal
from lbyl_onnx.facts import GraphFacts
from lbyl_onnx.folding import producer_rows
from lbyl_onnx.importance import Criterion, kept_count, scores, select


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
    graph: gs.Graph,
    facts: GraphFacts,
    groups: Sequence[ChannelGroup],
    ratio: float,
    criterion: Criterion,
    seed: int,
) -> tuple[PruningPlan, tuple[Refusal, ...]]:
    """Keep the most important floor(n (1 - ratio)) channels of each group, at least one.

    Parameters
    ----------
    graph, facts
        The graph and its constants.
    groups
        The groups to prune.
    ratio
        Share of the channels to remove, in [0, 1).
    criterion
        How channels are scored, over the producer's own weights as stored; a Gemm row has its
        bias appended.
    seed
        Of the criterion `random`.

    Returns
    -------
    plan
        One entry per group, in the same order.
    refusals
        Groups whose weights are not finite.
    """
    plans: list[GroupPlan] = []
    refusals: list[Refusal] = []
    for number, group in enumerate(groups):
        rows = _rows(graph, facts, group)
        if not np.all(np.isfinite(rows)):
            refusals.append(not_finite(group))
            continue
        score = scores(rows, None, criterion, [seed, number])
        plans.append(GroupPlan(group, select(score, kept_count(group.size, ratio))))
    return PruningPlan(tuple(plans)), tuple(refusals)


def _rows(graph: gs.Graph, facts: GraphFacts, group: ChannelGroup) -> NDArray[np.float64]:
    """Rows of all producers side by side, shape (n, all); a Gemm's bias is appended."""
    parts = []
    for place in group.producers:
        weight, bias = producer_rows(graph, facts, place)
        parts.append(weight.reshape(len(weight), -1))  # (n, taps, d) -> (n, taps * d)
        if bias is not None and graph.nodes[place.slot.node].op == "Gemm":
            parts.append(bias)
    return np.concatenate(parts, axis=1)


def not_finite(group: ChannelGroup) -> Refusal:
    """Refuse a group because of its weights."""
    return Refusal(group.name, group.size, "its weights are not finite", (group.name,))
