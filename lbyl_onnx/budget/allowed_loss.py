"""The smallest model that loses no more than is allowed: what is lost is measured on models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lbyl_onnx.budget.cost_model import Counts
from lbyl_onnx.budget.search import Space

# Models that are made at most, and the share of the multiply-accumulates that is told apart.
MODELS, RESOLUTION = 9, 2.0**-7
# Share of the multiply-accumulates that goes from the first model, where nothing has been measured.
FIRST_SHARE = 0.15
# A guess stays so far from both ends of what it lies between, as a share of that, and reaches so
# many times as far as the last model at most.
INSIDE, REACH = 0.1, 3.0


@dataclass(frozen=True, eq=False)
class Tried:
    """A model that was made and measured.

    Attributes
    ----------
    counts : (portions,) int64
        What each portion keeps.
    macs : float
        Multiply-accumulates.
    lost : float
        What it loses.
    """

    counts: Counts
    macs: float
    lost: float


def within_loss(
    space: Space,
    measure: Callable[[Counts], float],
    allowed: float,
    tried: Iterable[Tried] = (),
) -> list[Tried]:
    """Make models until the smallest is known that loses no more than is allowed.

    Parameters
    ----------
    space
        What may be kept; its most loses what `measure` says of it.
    measure
        Makes a model of some counts and returns what it loses: 0 for the original.
    allowed
        The most that may be lost.
    tried
        Models of the same allocation that have been measured before.

    Returns
    -------
    list of Tried
        All models that were measured, by descending multiply-accumulates. The smallest of those
        that lose no more than is allowed, before the first that loses more, is what is looked for.

    Notes
    -----
    What is lost grows with what goes, about as a power of it, so its logarithm is interpolated
    between the nearest models on both sides; as its square, while there is only one. A bisection
    that knows no values takes twice as many.
    """
    most = space.macs.at(space.most)
    models = {entry.counts.tobytes(): entry for entry in tried}

    def at(counts: Counts) -> Tried:
        key = counts.tobytes()
        if key not in models:
            models[key] = Tried(counts, space.macs.at(counts), measure(counts))
        return models[key]

    everything = at(space.most)
    if everything.lost > allowed:
        return [everything]
    least = space.macs.at(space.least)
    fits, fails = _bracket(models.values(), allowed, everything)
    made, width = len(models), math.inf
    while len(models) < made + MODELS:
        end = least if fails is None else fails.macs
        if fits.macs - end <= RESOLUTION * most:
            break
        budget = most - _guess(most - fits.macs, most - end, fits, fails, allowed)
        middle = (fits.macs + end) / 2
        if fails is not None and fits.macs - end > width / 2:  # the last guess told too little
            budget, middle = middle, budget
        width = fits.macs - end
        # Steps may be wide: where a guess leads to counts that are known, others lie beside it.
        near = (budget, middle, fits.macs * (1 - RESOLUTION / 2))
        between = (space.within(space.macs, each) for each in near)
        counts = next((c for c in between if c.tobytes() not in models), None)
        if counts is None:
            break
        at(counts)
        fits, fails = _bracket(models.values(), allowed, everything)
    return sorted(models.values(), key=lambda entry: -entry.macs)


def smallest(models: Iterable[Tried], allowed: float) -> Tried | None:
    """Return the last model before one loses more than is allowed; None where the first does."""
    best = None
    for entry in models:
        if entry.lost > allowed:
            break
        best = entry
    return best


def _bracket(
    models: Iterable[Tried], allowed: float, everything: Tried
) -> tuple[Tried, Tried | None]:
    """Return the smallest model that fits, and the next smaller one that does not."""
    ordered = sorted(models, key=lambda entry: -entry.macs)
    best = smallest(ordered, allowed) or everything
    return best, next((entry for entry in ordered if entry.lost > allowed), None)


def _guess(low: float, high: float, fits: Tried, fails: Tried | None, allowed: float) -> float:
    """Return how many multiply-accumulates may go, about; between `low` and `high`."""
    inside = INSIDE * (high - low)
    if fails is None:
        if low <= 0:
            return FIRST_SHARE * high if fits.lost <= 0 else inside
        grown = math.sqrt(allowed / fits.lost) if fits.lost > 0 else REACH
        return min(high, max(low + inside, low * min(REACH, grown)))
    if allowed <= 0 or fails.lost <= 0:
        return (low + high) / 2
    if low <= 0 or fits.lost <= 0:
        guess = high * math.sqrt(allowed / fails.lost)
    else:
        power = math.log(fails.lost / fits.lost) / math.log(high / low)
        guess = low * math.pow(allowed / fits.lost, 1 / power) if power > 0 else (low + high) / 2
    return min(high - inside, max(low + inside, guess))
