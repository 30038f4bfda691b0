"""From the user's target to the number of channels that each group keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

import numpy as np

from lbyl_onnx.budget.allocation import (
    Choices,
    aligned_step,
    nearest,
    rounded_counts,
    spend,
    uniform,
    uniform_within,
    within,
)
from lbyl_onnx.budget.cost_model import CountedCost, Counts
from lbyl_onnx.budget.portions import Portion
from lbyl_onnx.channels.groups import ChannelGroup
from lbyl_onnx.config import Config
from lbyl_onnx.errors import OptionError, TargetError
from lbyl_onnx.option_types import shown
from lbyl_onnx.target import Kind, Target, amount
from lbyl_onnx.types import Floats

# Times that a budget is tightened by what the written model is above it.
TRIES = 4
# Halvings of the share of the multiply-accumulates that a measured target searches.
HALVINGS = 7
# Of the multiply-accumulates that a ratio is to save, rounding may save this many times as much.
COARSE = 1.5
# Groups of so many blocks or fewer keep multiples of half a block: kernels fill these up to whole
# ones, which costs no more time than was there, and a whole block would be half of their channels.
NARROW = 2
Made = TypeVar("Made")
Sharing = Literal["free", "near", "even"]


@dataclass(frozen=True, eq=False)
class Space:
    """What the groups may keep, and what that costs and does.

    Parameters
    ----------
    portions
        What is counted, in the order of all counts.
    step
        What the numbers of channels are multiples of.
    choices
        The counts that each may keep, descending.
    exact
        The same in steps of one channel.
    damages
        Predicted damage by how many channels have gone, (m + 1,), by the key of each portion; None
        where it is not known.
    sharing
        How budgets are shared out: each group loses the same share, but for rounding (`even`), or
        what does the least predicted damage, any (`free`) or not far from an even share (`near`).
    macs
        Multiply-accumulates by counts.
    """

    portions: tuple[Portion, ...]
    step: int
    choices: tuple[Counts, ...]
    exact: tuple[Counts, ...]
    damages: Mapping[int, Floats] | None
    sharing: Sharing
    macs: CountedCost

    @property
    def sizes(self) -> list[int]:
        """Channels of each portion."""
        return [portion.size for portion in self.portions]

    @property
    def blocks(self) -> list[int]:
        """Blocks of each portion."""
        return [portion.blocks for portion in self.portions]

    @property
    def least(self) -> Counts:
        """The fewest channels that each portion may keep."""
        return np.asarray([choice[-1] for choice in self.choices], dtype=np.int64)

    @property
    def most(self) -> Counts:
        """The most channels that each portion may keep."""
        return np.asarray([choice[0] for choice in self.choices], dtype=np.int64)

    def keyed(self, counts: Counts) -> dict[int, int]:
        """Return counts by the groups' keys."""
        return by_group(self.portions, counts)

    def by_ratio(self, ratio: float) -> Counts:
        """Return the counts for a ratio, which have no more multiply-accumulates than it leaves.

        Where they are not even, they are any others that have no more.
        """
        requested = uniform(self.exact, self.sizes, ratio, self.blocks)
        return self._shared(requested, self.macs, self.macs.at(requested))

    def serves(self, ratio: float) -> bool:
        """Whether rounding leaves about what a ratio asks for: neither more nor far less."""
        whole = self.macs.at(self.most)
        requested_macs = self.macs.at(uniform(self.exact, self.sizes, ratio, self.blocks))
        got = self.macs.at(self.by_ratio(ratio))
        return within(got, requested_macs) and whole - got <= COARSE * (whole - requested_macs)

    def within(self, cost: CountedCost, budget: float) -> Counts:
        """Return the counts that keep a cost within a budget; the least ones must."""
        if self.sharing == "free":
            return self._spent(self.choices, cost, budget)
        requested = uniform_within(self.exact, self.sizes, cost, budget, self.blocks)
        return self._shared(requested, cost, budget)

    def _shared(self, requested: Counts, cost: CountedCost, budget: float) -> Counts:
        """Return counts within a budget that even counts in steps of one channel have."""
        if self.sharing == "free":
            return self._spent(self.choices, cost, budget)
        even = self._rounded(requested, cost, budget)
        if self.sharing == "even" or not within(cost.at(even), budget):
            return even
        pairs = zip(self.choices, self.sizes, even, strict=True)
        return self._spent([_bounded(c, n, int(w)) for c, n, w in pairs], cost, budget)

    def _rounded(self, requested: Counts, cost: CountedCost, budget: float) -> Counts:
        """Return even counts in steps, within a budget.

        Which groups give what others keep more is told by the predicted damage where that is known,
        by how far they are moved where it is not.
        """
        if self.step == 1:
            return requested
        if self.damages is None:
            return nearest(self.choices, self.sizes, requested, cost, budget)
        return self._spent(near_choices(self.choices, requested), cost, budget)

    def _spent(self, choices: Sequence[Counts], cost: CountedCost, budget: float) -> Counts:
        """Return the choices of least predicted damage within a budget."""
        damages = self.damages or {}
        priced = [
            Choices(counts, damages[portion.key][portion.size - counts])
            for portion, counts in zip(self.portions, choices, strict=True)
        ]
        return spend(priced, cost, budget)

    def shared(self, sharing: Sharing) -> Space:
        """Return the same space, in which budgets are shared out another way."""
        return replace(self, sharing=sharing)


# How far a group may be from requested counts, as a share of what they take from it.
FARTHEST = 0.5


def _bounded(choices: Counts, size: int, requested: int) -> Counts:
    """Of a group's choices those near a requested one, and the first beyond on each side.

    It loses at least half of what the requested one takes, and half as much again at most.
    """
    some = FARTHEST * (size - requested)
    high = choices[choices >= min(requested + some, choices[0])].min()
    low = choices[choices <= max(requested - some, choices[-1])].max()
    kept: Counts = choices[(choices <= high) & (choices >= low)]
    return kept


def near_choices(choices: Sequence[Counts], requested: Counts) -> tuple[Counts, ...]:
    """Return the choices that rounding takes a group to: the next below the request, and above.

    Predicted damage decides between these two, and no further: where it misleads, a wide group
    still loses about its share.
    """
    return tuple(
        c[(c >= c[c <= w].max(initial=c[-1])) & (c <= c[c >= w].min(initial=c[0]))]
        for c, w in zip(choices, requested, strict=True)
    )


def allowed_counts(wholes: Sequence[Portion], config: Config, step: int) -> list[Counts]:
    """Return the counts that each portion may keep, descending.

    Parameters
    ----------
    wholes
        The groups, by portions.
    config
        The options: what is fixed for some groups, and the least for all.
    step
        What the counts of the others are multiples of.

    Raises
    ------
    OptionError
        Where a glob matches no group.
    """
    fixed: list[tuple[str, float | None, int | None]]
    fixed = [(glob, None, count) for glob, count in config.keep_for]
    fixed += [(glob, ratio, None) for glob, ratio in config.ratio_for]
    for glob, ratio, _ in fixed:
        if not any(_matches(whole, glob) for whole in wholes):
            option = "keep-for" if ratio is None else "ratio-for"
            raise OptionError(
                f"--{option} {shown(glob)} matches no group that can be pruned; "
                "lbyl-onnx inspect lists their producers"
            )
    allowed = []
    for whole in wholes:
        least = whole.at_least([min(config.min_channels, g.size) for g in whole.groups])
        halved = config.round_to == "auto"
        counts = rounded_counts(
            whole.size, least, whole.step([_step(group, step, halved) for group in whole.groups])
        )
        for glob, ratio, count in fixed:
            if _matches(whole, glob):
                kept = (
                    whole.kept(ratio)
                    if ratio is not None
                    else whole.at_least([count or 1] * len(whole.groups))
                )
                counts = np.asarray([min(whole.size, kept)], dtype=np.int64)
                break
        allowed.append(counts)
    return allowed


def _step(group: ChannelGroup, step: int, halved: bool) -> int:
    """What a group's counts are multiples of.

    Half blocks are filled up only in tensors of their own: a Concat of such is copied.
    """
    alone = all(len(place.binding.labels) == place.positions.size for place in group.consumers)
    narrow = halved and alone and group.size <= NARROW * step
    return aligned_step(max(1, step // 2) if narrow else step, _axes(group))


def _axes(group: ChannelGroup) -> Iterator[tuple[int, int]]:
    """Length of each axis on which a group lies, and its positions for one channel."""
    for place in (*group.producers, *group.consumers):
        yield place.positions.size, place.positions.shape[1]


def _matches(whole: Portion, glob: str) -> bool:
    names = [name for group in whole.groups for name in (group.name, *group.name.split(", "))]
    return any(fnmatchcase(name, glob) for name in names)


def reach_budget(
    space: Space,
    target: Target,
    cost: CountedCost,
    budget: float,
    make: Callable[[Counts], Made],
    actual: Callable[[Made], float],
) -> Made:
    """Make the model that a budget allows; tighten the budget where what is written is above it.

    Parameters
    ----------
    space
        What may be kept.
    target, budget
        What is wanted, and the most that it allows.
    cost
        What is predicted for counts.
    make
        Makes the model for counts.
    actual
        What it costs.

    Raises
    ------
    TargetError
        When not even the least that may be kept is within the budget.
    """
    aim, counts = budget, space.most
    for _ in range(TRIES):
        least = cost.at(space.least)
        if not within(least, aim):
            raise TargetError(_unreachable(target, target.kind, least + budget - aim))
        counts = space.within(cost, aim)
        made = make(counts)
        over = actual(made) - budget
        if over <= 0.5:
            return made
        # What is written differs by as much at the next counts, near enough.
        aim = budget - (over + budget - cost.at(counts))
    raise TargetError(f"{target} is missed by {amount(target.kind, over)}; ask for a little more")


def _unreachable(target: Target, kind: Kind, least: float) -> str:
    return (
        f"{target} cannot be reached: the least is {amount(kind, least)}; widen --scope, lower "
        "--min-channels or --round-to, or leave out fewer layers"
    )


def search(
    space: Space, fits: Callable[[Counts], bool], message: Callable[[Counts], str], cheapest: bool
) -> Counts:
    """Bisect the multiply-accumulates for the last counts that fit.

    Parameters
    ----------
    space
        What may be kept.
    fits
        Whether counts meet the target.
    message
        Says why not, of the counts nearest to it.
    cheapest
        Whether fewer channels are wanted, and more of them fit; else the other way round.

    Raises
    ------
    TargetError
        When the nearest counts do not fit.
    """
    low, high = space.macs.at(space.least), space.macs.at(space.most)
    near, far = (space.most, space.least) if cheapest else (space.least, space.most)
    if not fits(near):
        raise TargetError(message(near))
    if fits(far):
        return far
    best, tried = near, {near.tobytes(): True, far.tobytes(): False}
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        counts = space.within(space.macs, middle)
        key = counts.tobytes()
        if key not in tried:
            tried[key] = fits(counts)
        if tried[key]:
            best = counts
        low, high = (low, middle) if tried[key] == cheapest else (middle, high)
    return best


def leasts(wholes: Sequence[Portion], choices: Sequence[Counts]) -> dict[int, int]:
    """Return the least that each group may keep, by its key."""
    return by_group(wholes, np.asarray([int(c[-1]) for c in choices]))


def by_group(wholes: Sequence[Portion], counts: Counts) -> dict[int, int]:
    """Return the counts of portions by the keys of their groups."""
    shared = [w.shared(int(count)) for w, count in zip(wholes, counts, strict=True)]
    return {key: count for each in shared for key, count in each.items()}
