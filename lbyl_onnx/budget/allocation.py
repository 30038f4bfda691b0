"""How many channels each group keeps, so that a budget is met at the least predicted damage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lbyl_onnx.budget.cost_model import CountedCost, Counts
from lbyl_onnx.methods.importance import kept_count
from lbyl_onnx.types import Floats

# Halvings of the ratio: more than tell any two counts apart.
_HALVINGS = 50
# What a cost may be above its budget by rounding.
_SLACK = 1e-9
# Steps in which a group goes from whole to nothing, at most.
_STEPS = 64


@dataclass(frozen=True, eq=False)
class Choices:
    """The counts that a group may keep.

    Attributes
    ----------
    counts : (m,) int64
        Descending, from all it may keep to the least.
    damage : (m,) float64
        Predicted damage to the model's outputs at each of them.
    """

    counts: Counts
    damage: Floats

    def convex(self) -> Choices:
        """Return only the choices on the lower convex hull: each further one costs more."""
        hull: list[int] = []
        for i in range(len(self.counts)):
            while len(hull) > 1 and self._slope(hull[-2], hull[-1]) >= self._slope(hull[-1], i):
                hull.pop()
            hull.append(i)
        return Choices(self.counts[hull], self.damage[hull])

    def _slope(self, i: int, j: int) -> float:
        """Damage of each channel from one choice to a later one."""
        lost = float(self.damage[j] - self.damage[i])
        return lost / float(self.counts[i] - self.counts[j])


def rounded_counts(size: int, least: int, step: int) -> Counts:
    """Return the counts that a group may keep, descending: all, and multiples of a step.

    Parameters
    ----------
    size
        Channels of the group.
    least
        How many it keeps at least; rounded up to the step.
    step
        What counts are multiples of.
    """
    low = min(size, -(-least // step) * step)
    counts = np.arange(low, size + 1, step)
    return np.unique(np.append(counts, size))[::-1].astype(np.int64)


def aligned_step(step: int, axes: Iterable[tuple[int, int]]) -> int:
    """Return the step of a group's counts that keeps its tensors' channels multiples of `step`.

    Parameters
    ----------
    step
        What the numbers of channels along a tensor's axis are to be multiples of.
    axes
        Of each axis along which the group lies: how many channels it has there, and how many of
        them are one channel of the group, as with the groups of a grouped Conv. Axes shorter than
        a step have no multiple to keep.
    """
    parts = [step // math.gcd(step, taps) for length, taps in axes if length >= step]
    return max(parts, default=step)


def nearest(
    choices: Sequence[Counts],
    sizes: Sequence[int],
    requested: Counts,
    cost: CountedCost,
    budget: float,
) -> Counts:
    """Return the choices nearest to the requested counts, within a budget as a whole.

    Each group takes its nearest choice. Where all of them together then cost too much, groups go
    one choice down, those first that move least away from what is wanted for what it saves; where
    the budget leaves something, one up likewise, to the first choice that has what is wanted. So
    what one group keeps more, others give.

    Parameters
    ----------
    choices
        What each group may keep, descending.
    sizes
        Channels of each group.
    requested
        The requested counts.
    cost, budget
        What the model costs at given counts, and what it may cost; what cannot be had is left at
        the least choices.
    """
    choices = [c[c <= c[c >= min(w, c[0])].min()] for c, w in zip(choices, requested, strict=True)]
    pairs = zip(choices, sizes, requested, strict=True)
    priced = [Choices(allowed, ((allowed - w) / size) ** 2) for allowed, size, w in pairs]
    at = np.asarray([int(np.argmin(choice.damage)) for choice in priced])
    last = np.asarray([len(allowed) - 1 for allowed in choices])
    counts = np.asarray([allowed[i] for allowed, i in zip(choices, at, strict=True)])
    while not within(cost.at(counts), budget) and np.any(at < last):
        saved = np.maximum(cost.slopes(counts), _SLACK)
        price = [
            choice._slope(i, i + 1) / each if i < end else np.inf
            for choice, i, end, each in zip(priced, at, last, saved, strict=True)
        ]
        one = int(np.argmin(price))
        at[one] += 1
        counts[one] = choices[one][at[one]]
    return _given_back(priced, cost, budget, counts)


def uniform(
    choices: Sequence[Counts], sizes: Sequence[int], ratio: float, blocks: Sequence[int]
) -> Counts:
    """Return the counts for one ratio: of each group's choices the least that keeps enough.

    `blocks` is the number of blocks of each, in which the ratio counts.
    """
    requested = [b * kept_count(n // b, ratio) for n, b in zip(sizes, blocks, strict=True)]
    kept = [int(c[c >= min(w, c[0])].min()) for c, w in zip(choices, requested, strict=True)]
    return np.asarray(kept, dtype=np.int64)


def uniform_within(
    choices: Sequence[Counts],
    sizes: Sequence[int],
    cost: CountedCost,
    budget: float,
    blocks: Sequence[int],
) -> Counts:
    """Return the counts of the smallest ratio whose cost is within the budget.

    The least choices must be within it.
    """
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        ratio = (low + high) / 2
        if within(cost.at(uniform(choices, sizes, ratio, blocks)), budget):
            high = ratio
        else:
            low = ratio
    return uniform(choices, sizes, min(high, 1.0 - 2.0**-_HALVINGS), blocks)


def within(cost: float, budget: float) -> bool:
    """Whether a cost is within a budget, but for rounding."""
    return cost <= budget * (1 + _SLACK)


def spend(choices: Sequence[Choices], cost: CountedCost, budget: float) -> Counts:
    """Return the counts within a budget that do the least damage, as far as greed finds them.

    Parameters
    ----------
    choices
        What each group may keep, and at what damage.
    cost
        What the model costs at given counts; the least choices are within the budget.
    budget
        What it may cost.

    Notes
    -----
    From everything kept, the group goes on that does the least damage for what it saves, until
    the budget is met. What the last step saved too much is then given back where it mends most.
    A group's saving depends on what its neighbours keep, so it is taken anew at every step.
    """
    hulls = [choice.convex() for choice in choices]
    at = np.zeros(len(hulls), dtype=np.intp)
    counts = np.asarray([hull.counts[0] for hull in hulls])
    rates = np.asarray([_rate(hull, 0) for hull in hulls])
    while not within(cost.at(counts), budget):
        saved = np.maximum(cost.slopes(counts), 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            price = np.where(saved > 0, rates / saved, np.inf)
        price[np.isnan(price)] = np.inf
        one = int(np.argmin(price))
        if not np.isfinite(price[one]):
            break
        hull, allowed = hulls[one], choices[one].counts
        counts[one] = _towards(allowed, int(counts[one]), int(hull.counts[at[one] + 1]))
        if counts[one] == hull.counts[at[one] + 1]:
            at[one] += 1
            rates[one] = _rate(hull, int(at[one]))
    return _given_back(choices, cost, budget, counts)


def _rate(hull: Choices, at: int) -> float:
    """Damage of each channel on the way to the next choice; infinite at the last."""
    return hull._slope(at, at + 1) if at + 1 < len(hull.counts) else np.inf


def _towards(allowed: Counts, count: int, end_count: int) -> int:
    """One step down the allowed counts; a wide group takes several at once."""
    start = int(np.flatnonzero(allowed == count)[0])
    end = int(np.flatnonzero(allowed == end_count)[0])
    return int(allowed[min(end, start + max(1, len(allowed) // _STEPS))])


def _given_back(
    choices: Sequence[Choices], cost: CountedCost, budget: float, counts: Counts
) -> Counts:
    """Keep more wherever the budget still allows it, first where that mends most for its cost."""
    counts = counts.copy()
    full = set[int]()
    while len(full) < len(choices):
        slopes = np.maximum(cost.slopes(counts), _SLACK)
        gains = [_gain(choices[i], int(counts[i])) / slopes[i] for i in range(len(choices))]
        one = max((i for i in range(len(choices)) if i not in full), key=lambda i: gains[i])
        allowed = choices[one].counts
        more = counts.copy()
        more[one] = allowed[allowed > counts[one]].min(initial=allowed[0])
        if more[one] > counts[one] and within(cost.at(more), budget):
            counts = more
        else:
            full.add(one)
    return counts


def _gain(choice: Choices, count: int) -> float:
    """Damage that one more step of channels undoes, for each channel."""
    at = int(np.flatnonzero(choice.counts == count)[0])
    return 0.0 if at == 0 else choice._slope(at - 1, at)
