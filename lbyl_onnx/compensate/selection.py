"""Which channels of each group stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.channels.affine import producer_matrix
from lbyl_onnx.channels.groups import ChannelGroup
from lbyl_onnx.graph.model_graph import Graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.methods.importance import Criterion, scores, select

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
    criterion: Criterion,
    seed: int,
) -> PruningPlan:
    """Keep the most important channels of each group.

    Parameters
    ----------
    graph, tensor_info
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
        score = scores(producer_matrix(graph, tensor_info, group), None, criterion, [seed, number])
        plans.append(GroupPlan(group, select(score, counts[group.key])))
    return PruningPlan(tuple(plans))
