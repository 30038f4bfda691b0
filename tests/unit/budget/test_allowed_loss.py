"""The smallest model within what may be lost, against every model there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from lbyl_onnx.budget.allocation import rounded_counts
from lbyl_onnx.budget.allowed_loss import MODELS, RESOLUTION, Tried, smallest, within_loss
from lbyl_onnx.budget.cost_model import Counts
from lbyl_onnx.budget.portions import Portion
from lbyl_onnx.budget.search import Space
from tests.unit.budget.test_allocation import linear
from tests.unit.budget.test_portions import ALONE

CURVES: dict[str, Callable[[float], float]] = {
    "square": lambda gone: 0.5 * gone**2,
    "line": lambda gone: 0.3 * gone,
    "steep": lambda gone: 40.0 * gone**4,
    "cliff": lambda gone: 0.0005 if gone < 0.4 else 0.9,
}


def space(size: int, step: int) -> Space:
    """One group, whose channels cost one each."""
    whole = Portion((ALONE,))
    counts = rounded_counts(size, 1, step)
    damage = {whole.key: np.arange(size + 1, dtype=np.float64)}
    exact = rounded_counts(size, 1, 1)
    return Space(
        (Sized(whole.groups, size),), step, (counts,), (exact,), damage, "free", linear(1.0)
    )


@dataclass(frozen=True)
class Sized(Portion):
    """A portion of another size than its group's."""

    channels: int

    @property
    def size(self) -> int:
        return self.channels


@dataclass
class Maker:
    """Counts the models that it makes."""

    curve: Callable[[float], float]
    size: int
    made: int = 0

    def __call__(self, counts: Counts) -> float:
        self.made += counts[0] < self.size
        return self.curve(1.0 - float(counts[0]) / self.size)


@pytest.mark.parametrize("allowed", [0.001, 0.02, 0.1])
@pytest.mark.parametrize("step", [1, 8, 64])
@pytest.mark.parametrize("name", CURVES)
def test_it_is_as_small_as_the_resolution_tells(name: str, step: int, allowed: float) -> None:
    size = 512
    maker = Maker(CURVES[name], size)
    models = within_loss(space(size, step), maker, allowed)
    best = smallest(models, allowed)
    assert best is not None
    assert best.lost <= allowed
    assert maker.made <= MODELS
    # The first step down that would lose too much, of all steps that there are.
    every = [int(count) for count in rounded_counts(size, 1, step)]
    fits = [n for n in every if all(CURVES[name](1 - m / size) <= allowed for m in every if m >= n)]
    assert best.macs <= min(fits) + max(step, RESOLUTION * size)


def test_a_loss_that_goes_up_and_down_is_not_passed_over() -> None:
    def wavy(gone: float) -> float:
        return 0.2 * gone**2 + 0.002 * float(np.sin(70 * gone)) ** 2

    best = smallest(within_loss(space(512, 1), Maker(wavy, 512), 0.02), 0.02)
    assert best is not None
    assert best.lost <= 0.02


def test_nothing_fits_where_the_first_step_loses_too_much() -> None:
    models = within_loss(space(64, 8), Maker(lambda gone: 1.0 * (gone > 0), 64), 0.02)
    best = smallest(models, 0.02)
    assert best is not None
    assert best.counts.tolist() == [64]
    assert models[1].macs == 56


def test_everything_may_go_where_nothing_is_lost() -> None:
    models = within_loss(space(64, 8), Maker(lambda gone: 0.0, 64), 0.02)
    assert smallest(models, 0.02) is models[-1]
    assert models[-1].counts.tolist() == [8]


def test_models_that_were_measured_before_are_not_made_again() -> None:
    maker = Maker(CURVES["square"], 512)
    fresh = within_loss(space(512, 1), maker, 0.02)
    before = maker.made
    seed = Tried(np.asarray([384]), 384.0, CURVES["square"](0.25))
    again = within_loss(space(512, 1), maker, 0.02, (seed,))
    assert maker.made - before < before
    assert seed in again
    assert smallest(again, 0.02) is not None
    assert abs(smallest(again, 0.02).macs - smallest(fresh, 0.02).macs) <= RESOLUTION * 512  # type: ignore[union-attr]


def test_the_most_that_may_be_kept_may_lose_too_much() -> None:
    models = within_loss(space(64, 8), Maker(lambda gone: 0.5, 64), 0.02)
    assert len(models) == 1
    assert smallest(models, 0.02) is None
