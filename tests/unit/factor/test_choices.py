"""Ranks within a budget, against every combination of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from lbyl_onnx.factor.choices import Choice, cheapest, spend


def convex(seed: int) -> dict[int, list[Choice]]:
    """Three layers, as they are and at three ranks: each unit costs more than the one before."""
    rng = np.random.default_rng(seed)
    layers = {}
    for index in range(3):
        slopes = np.sort(rng.uniform(0.1, 2.0, 3))
        damages = np.concatenate([[0.0], np.cumsum(slopes)])
        layers[index] = [
            Choice(None if i == 0 else 4 - i, 10.0 - i, float(d), float(d) / 10.0)
            for i, d in enumerate(damages)
        ]
    return layers


def cost_of(choices: Sequence[Choice]) -> float:
    return sum(choice.cost for choice in choices)


def least_damage(layers: Mapping[int, Sequence[Choice]], budget: float) -> float:
    return min(
        sum(choice.damage for choice in combination)
        for combination in itertools.product(*layers.values())
        if cost_of(combination) <= budget
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [30.0, 27.0, 24.0, 21.0])
def test_the_damage_is_the_least_of_all_combinations(seed: int, budget: float) -> None:
    layers = convex(seed)
    chosen = spend(layers, budget)
    assert cost_of([*chosen.values()]) <= budget
    damage = sum(choice.damage for choice in chosen.values())
    assert damage == pytest.approx(least_damage(layers, budget))


def test_what_the_last_step_saves_too_much_is_given_back() -> None:
    coarse = [Choice(None, 10.0, 0.0, 0.0), Choice(2, 4.0, 5.0, 0.5), Choice(1, 3.9, 6.0, 0.6)]
    fine = [Choice(None, 10.0, 0.0, 0.0), Choice(3, 8.0, 1.0, 0.1), Choice(1, 2.0, 4.4, 0.4)]
    chosen = spend({0: coarse, 1: fine}, 18.5)
    assert chosen[0].rank is None
    assert chosen[1].rank == 3


def test_the_cheapest_where_the_budget_is_less() -> None:
    layers = convex(0)
    chosen = spend(layers, 1.0)
    assert cost_of([*chosen.values()]) == cheapest(layers)
