"""Counts for a budget, against every combination there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lbyl_onnx.budget.allocation import Choices, rounded_counts, spend, uniform, uniform_within
from lbyl_onnx.budget.cost_model import CountedCost
from lbyl_onnx.methods.importance import kept_count


def linear(*prices: float) -> CountedCost:
    """So much for each channel of each group."""
    n = len(prices)
    taps = np.concatenate([np.zeros((1, n)), np.eye(n)])
    return CountedCost(
        0.0,
        np.asarray(prices),
        np.arange(1, n + 1)[:, None],
        np.concatenate([[1.0], np.zeros(n)]),
        taps,
    )


def chained() -> CountedCost:
    """Two layers: 3 k0 + 2 k0 k1 + 5 k1."""
    taps = np.asarray([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    factors = np.asarray([[1, 0], [1, 2], [2, 0]])
    return CountedCost(0.0, np.asarray([3.0, 2.0, 5.0]), factors, np.asarray([1.0, 0, 0]), taps)


def smooth(size: int, scale: float, power: float = 2.0) -> Choices:
    counts = rounded_counts(size, 1, 1)
    return Choices(counts, scale * ((size - counts) / size) ** power)


def best(choices: list[Choices], cost: CountedCost, budget: float) -> float:
    """The least damage of all combinations within the budget."""
    errors = [
        sum(float(c.damage[i]) for c, i in zip(choices, at, strict=True))
        for at in itertools.product(*(range(len(c.counts)) for c in choices))
        if cost.at(np.asarray([c.counts[i] for c, i in zip(choices, at, strict=True)])) <= budget
    ]
    return min(errors)


def damage(choices: list[Choices], counts: np.ndarray) -> float:
    pairs = zip(choices, counts, strict=True)
    return sum(float(c.damage[c.counts == count][0]) for c, count in pairs)


class TestSpend:
    @pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
    @pytest.mark.parametrize("cost", [linear(1, 1), linear(1, 4), chained()])
    def test_it_is_near_the_best_combination(self, cost: CountedCost, share: float) -> None:
        choices = [smooth(20, 1.0), smooth(24, 3.0)]
        budget = share * cost.at(np.asarray([20, 24]))
        counts = spend(choices, cost, budget)
        assert cost.at(counts) <= budget
        assert damage(choices, counts) <= 1.1 * best(choices, cost, budget)

    def test_a_threshold_is_seen_from_before_it(self) -> None:
        # All of the first group's damage comes with its first channel: then all of it goes.
        counts = rounded_counts(10, 1, 1)
        choices = [Choices(counts, np.where(counts < 10, 0.5, 0.0)), smooth(10, 5.0, 1.0)]
        assert spend(choices, linear(1, 1), 11).tolist() == [1, 10]

    def test_channels_that_cost_nothing_stay(self) -> None:
        assert spend([smooth(8, 0.1), smooth(8, 1.0)], linear(0, 1), 4).tolist() == [8, 4]

    def test_no_channel_more_fits(self) -> None:
        choices, cost = [smooth(20, 1.0), smooth(24, 3.0)], chained()
        counts = spend(choices, cost, 400)
        for group in range(2):
            assert cost.at(counts + (np.arange(2) == group)) > 400

    def test_a_budget_above_the_whole_keeps_all(self) -> None:
        assert spend([smooth(5, 1.0), smooth(6, 1.0)], linear(1, 1), 99).tolist() == [5, 6]

    def test_counts_are_among_the_choices(self) -> None:
        step = [rounded_counts(n, 1, 16) for n in (40, 64)]
        choices = [Choices(c, 1.0 - c / c[0]) for c in step]
        counts = spend(choices, linear(1, 1), 60)
        assert all(count in allowed for count, allowed in zip(counts, step, strict=True))


@pytest.mark.parametrize(
    ("size", "least", "step", "counts"),
    [
        (5, 1, 1, [5, 4, 3, 2, 1]),
        (40, 1, 16, [40, 32, 16]),
        (40, 17, 16, [40, 32]),
        (8, 1, 16, [8]),
        (48, 48, 16, [48]),
    ],
)
def test_rounded_counts(size: int, least: int, step: int, counts: list[int]) -> None:
    assert rounded_counts(size, least, step).tolist() == counts


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.9])
def test_uniform_keeps_the_share_and_rounds_up(ratio: float) -> None:
    sizes = [40, 64, 7]
    ones = [rounded_counts(n, 1, 1) for n in sizes]
    alone = [1] * len(sizes)
    assert uniform(ones, sizes, ratio, alone).tolist() == [kept_count(n, ratio) for n in sizes]
    steps = [rounded_counts(n, 1, 16) for n in sizes]
    rounded = uniform(steps, sizes, ratio, alone)
    assert all(a >= b for a, b in zip(rounded, uniform(ones, sizes, ratio, alone), strict=True))
    assert rounded[2] == 7


def test_uniform_within_is_the_smallest_ratio_that_fits() -> None:
    sizes = [30, 50]
    choices = [rounded_counts(n, 1, 1) for n in sizes]
    counts = uniform_within(choices, sizes, linear(1, 1), 41, [1, 1])
    ratios = np.arange(1000) / 1000
    fitting = next(u for u in (uniform(choices, sizes, r, [1, 1]) for r in ratios) if u.sum() <= 41)
    assert counts.tolist() == fitting.tolist()
