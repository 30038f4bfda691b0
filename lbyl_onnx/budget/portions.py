"""Groups whose blocks all keep as many channels are counted as one."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.budget.cost_model import CountedCost
from lbyl_onnx.budget.damage import Curve
from lbyl_onnx.channels.groups import ChannelGroup
from lbyl_onnx.methods.importance import kept_count
from lbyl_onnx.types import Floats


@dataclass(frozen=True)
class Portion:
    """Groups whose channels go in one proportion: one group alone, or all of a tie.

    A count of a portion is the sum of its groups' counts.

    Parameters
    ----------
    groups
        The groups, at least one.
    """

    groups: tuple[ChannelGroup, ...]

    @property
    def size(self) -> int:
        """Number of channels."""
        return sum(group.size for group in self.groups)

    @property
    def key(self) -> int:
        """Identifier: that of its first group."""
        return self.groups[0].key

    @property
    def blocks(self) -> int:
        """Number of blocks of all its groups."""
        return sum(group.block_count for group in self.groups)

    def kept(self, ratio: float) -> int:
        """Return the count when the share `ratio` of each block goes."""
        return self.blocks * kept_count(self.size // self.blocks, ratio)

    def step(self, steps: Sequence[int]) -> int:
        """Return what counts are multiples of where those of each group are of its own step."""
        blocks = [group.block_count for group in self.groups]
        each = [step // math.gcd(step, b) for step, b in zip(steps, blocks, strict=True)]
        return math.lcm(*each) * sum(blocks)

    def at_least(self, counts: Sequence[int]) -> int:
        """Return the least count at which each group has as many as it should."""
        blocks = [group.block_count for group in self.groups]
        return max(-(-n // b) for n, b in zip(counts, blocks, strict=True)) * sum(blocks)

    def shared(self, count: int) -> dict[int, int]:
        """Return the counts of its groups, by their keys."""
        return {group.key: count * group.size // self.size for group in self.groups}


def portions(
    groups: Sequence[ChannelGroup], ties: Collection[frozenset[int]]
) -> tuple[Portion, ...]:
    """Put the groups of each tie together, in the order of the first of each."""
    members: dict[int, list[ChannelGroup]] = {}
    for group in groups:
        tie = next((tie for tie in ties if group.key in tie), frozenset({group.key}))
        members.setdefault(min(tie), []).append(group)
    return tuple(Portion(tuple(together)) for together in members.values())


def of_portions(
    cost: CountedCost, groups: Sequence[ChannelGroup], wholes: Sequence[Portion]
) -> CountedCost:
    """Return a cost by the counts of groups as one by those of portions."""
    return replace(cost, taps=cost.taps @ _shares(groups, wholes))


def _shares(groups: Sequence[ChannelGroup], wholes: Sequence[Portion]) -> Floats:
    """(groups, portions): a group's part of the channels of its portion."""
    column = {group.key: i for i, whole in enumerate(wholes) for group in whole.groups}
    shares = np.zeros((len(groups), len(wholes)))
    for row, group in enumerate(groups):
        shares[row, column[group.key]] = group.size / wholes[column[group.key]].size
    return shares


def damages(curves: Mapping[int, Curve], wholes: Sequence[Portion]) -> dict[int, Floats]:
    """Return the predicted damage of each portion, by its key and how many channels have gone."""
    return {whole.key: np.sum(list(_damages(curves, whole)), axis=0) for whole in wholes}


def _damages(curves: Mapping[int, Curve], whole: Portion) -> Iterator[Floats]:
    """Yield the damage of each group of a portion by how many channels of that have gone."""
    most = min(
        (len(curves[group.key].damage) - 1) * whole.size // group.size for group in whole.groups
    )
    for group in whole.groups:
        gone: NDArray[np.intp] = np.arange(most + 1) * group.size // whole.size
        yield curves[group.key].damage[gone]
