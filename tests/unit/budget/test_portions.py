"""Groups of one tie keep as many channels of each block: counts, costs and damage as of one."""

from __future__ import annotations

import numpy as np
import pytest

from lbyl_onnx.budget.cost_model import CountedCost
from lbyl_onnx.budget.damage import Curve
from lbyl_onnx.budget.portions import Portion, damages, of_portions, portions
from lbyl_onnx.channels.groups import ChannelGroup


def group(first: int, blocks: int, each: int) -> ChannelGroup:
    """A group of so many blocks, with so many channels each, of labels from the first on."""
    size = blocks * each
    numbers = np.repeat(np.arange(blocks), each)
    return ChannelGroup("", np.arange(first, first + size), (), (), (), numbers)


# Four heads of queries and keys, two of them beside four of values: heads of 8 channels.
ALONE, FEW, MANY = group(1, 1, 16), group(100, 2, 8), group(200, 4, 8)
TIE = frozenset({FEW.key, MANY.key})


def test_a_tie_is_one_portion_where_its_first_group_is() -> None:
    wholes = portions([FEW, ALONE, MANY], [TIE])
    assert [[g.key for g in whole.groups] for whole in wholes] == [[100, 200], [1]]
    assert [(whole.key, whole.size) for whole in wholes] == [(100, 48), (1, 16)]


def test_without_ties_each_group_is_one() -> None:
    wholes = portions([FEW, ALONE, MANY], [])
    assert [whole.groups for whole in wholes] == [(FEW,), (ALONE,), (MANY,)]


@pytest.mark.parametrize("count", [6, 24, 42, 48])
def test_counts_are_shared_by_the_numbers_of_blocks(count: int) -> None:
    shared = Portion((FEW, MANY)).shared(count)
    assert shared == {100: count // 3, 200: 2 * count // 3}
    assert shared[100] // FEW.block_count == shared[200] // MANY.block_count


@pytest.mark.parametrize(
    ("groups", "steps", "step"),
    [
        ((ALONE,), [1], 1),
        ((ALONE,), [8], 8),
        ((FEW,), [1], 2),  # one of each head
        ((FEW,), [8], 8),
        ((MANY,), [2], 4),  # heads are a multiple already
        ((FEW, MANY), [1, 1], 6),
        ((FEW, MANY), [8, 8], 24),  # 8 of the first, 16 of the second
        ((FEW, MANY), [3, 8], 36),  # 6 of each head: 12, a multiple of 3, and 24, one of 8
    ],
)
def test_steps_fit_each_group(
    groups: tuple[ChannelGroup, ...], steps: list[int], step: int
) -> None:
    whole = Portion(groups)
    assert whole.step(steps) == step
    shared = whole.shared(step)
    assert all(shared[g.key] % n == 0 for g, n in zip(groups, steps, strict=True))
    assert all(shared[g.key] % g.block_count == 0 for g in groups)


@pytest.mark.parametrize(
    ("least", "count"), [([1, 1], 6), ([2, 5], 12), ([3, 1], 12), ([16, 1], 48)]
)
def test_the_least_leaves_each_group_what_it_needs(least: list[int], count: int) -> None:
    whole = Portion((FEW, MANY))
    assert whole.at_least(least) == count
    shared = whole.shared(count)
    assert shared[100] >= least[0]
    assert shared[200] >= least[1]
    below = whole.shared(count - 6)
    assert below[100] < least[0] or below[200] < least[1]


def test_costs_by_portions_are_those_by_groups() -> None:
    groups, rng = [FEW, ALONE, MANY], np.random.default_rng(0)
    taps, lengths = rng.integers(0, 5, (7, 3)).astype(np.float64), rng.uniform(0.0, 9.0, 7)
    factors = rng.integers(0, 7, (5, 2)).astype(np.intp)
    by_group = CountedCost(3.0, rng.uniform(0.5, 2.0, 5), factors, lengths, taps)
    by_portion = of_portions(by_group, groups, portions(groups, [TIE]))
    for many, alone in ((6, 1), (24, 16), (48, 3)):
        whole = np.asarray([many // 3, alone, 2 * many // 3])
        assert by_portion.at(np.asarray([many, alone])) == pytest.approx(by_group.at(whole))


def curve(of: ChannelGroup, least: int) -> Curve:
    """Damage that is the square of how many have gone."""
    gone = np.arange(of.size - least + 1)
    return Curve(of, gone / of.size, gone.astype(np.float64) ** 2, True)


def test_damages_add_up_at_the_counts_that_are_shared() -> None:
    wholes = portions([FEW, ALONE, MANY], [TIE])
    damage = damages({100: curve(FEW, 2), 1: curve(ALONE, 1), 200: curve(MANY, 4)}, wholes)
    assert damage.keys() == {100, 1}
    np.testing.assert_array_equal(damage[1], np.arange(16.0) ** 2)
    assert len(damage[100]) == 43  # down to one of each head
    for gone in (0, 6, 24, 42):
        assert damage[100][gone] == (gone / 3) ** 2 + (2 * gone / 3) ** 2


def test_the_damage_ends_where_the_first_curve_does() -> None:
    wholes = portions([FEW, MANY], [TIE])
    damage = damages({100: curve(FEW, 8), 200: curve(MANY, 4)}, wholes)
    assert len(damage[100]) == 25
