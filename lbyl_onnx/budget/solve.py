"""Reach the user's target: decide how many channels each group keeps, and make the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from lbyl_onnx.budget.allocation import uniform, within
from lbyl_onnx.budget.cost_model import CountedCost, Counts, counted_macs, counted_parameters
from lbyl_onnx.budget.damage import Curve, curves, rankings
from lbyl_onnx.budget.portions import Portion, damages, of_portions, portions
from lbyl_onnx.budget.search import (
    TRIES,
    Space,
    allowed_counts,
    leasts,
    near_choices,
    reach_budget,
    search,
)
from lbyl_onnx.compensate.group import Fitted
from lbyl_onnx.config import Config
from lbyl_onnx.errors import TargetError, VerificationError
from lbyl_onnx.graph.costs import Costs
from lbyl_onnx.methods.types import Ranking
from lbyl_onnx.observe.session import Measurement, Prepared, rounds
from lbyl_onnx.option_types import Allocation
from lbyl_onnx.rewrite.build import ModelBuilder
from lbyl_onnx.runtime import timing
from lbyl_onnx.runtime.baseline import Baseline
from lbyl_onnx.runtime.providers import channel_block
from lbyl_onnx.target import Kind, Target, amount
from lbyl_onnx.types import Progress

Files = tuple[Path, Path, Path]
"""The original, the compressed model, and the reference that it must equal."""
# Targets that are measured on models, not counted.
MEASURED = ("latency", "fidelity", "min_score")
# Share of the multiply-accumulates at which allocations are compared for what is measured.
COMPARED = 0.75
# Steps in a group below which rounding it is coarse.
FEW_STEPS = 8


@dataclass(frozen=True)
class Before:
    """What the original costs, and its bytes.

    `stored` are those of the model that is pruned, where that is another one.
    """

    costs: Costs
    size: int
    stored: int | None = None


@dataclass(frozen=True)
class TargetReport:
    """The target, and what was reached.

    Parameters
    ----------
    kind
        What of the model.
    wanted
        The most (of fidelity the least) that was allowed: multiply-accumulates, parameters, bytes,
        milliseconds; for a ratio the share of the groups' channels to remove.
    reached
        The same of the result.
    text
        The target as the user gave it.
    allocation, round_to
        How channels were shared out, and what their numbers are multiples of.
    latency
        The measured times that a latency was decided by; None for other targets.
    """

    kind: Kind
    wanted: float
    reached: float
    text: str
    allocation: Allocation
    round_to: int
    latency: timing.PairedLatency | None = None


@dataclass(frozen=True, eq=False)
class Reached:
    """What was made, what it costs, and how that compares with the target.

    `predicted` is the share of its consumers' outputs that each group's loss takes along, by the
    group's key, where moments or curves tell it.
    """

    fitted: Fitted
    costs: Costs
    size: int
    target: TargetReport
    predicted: Mapping[int, float]


def reach(
    prepared: Prepared, baseline: Baseline, before: Before, files: Files, progress: Progress
) -> Reached:
    """Make the model that the options ask for.

    Parameters
    ----------
    prepared, baseline
        What can be fitted, and the original as it runs.
    before
        What the original costs.
    files
        Where it is, and where to write.
    progress
        Called with each stage as it begins.

    Raises
    ------
    TargetError
        When the target cannot be reached.
    OptionError
        Where a glob matches no group.
    """
    config = prepared.config
    target = config.target
    steps = _steps(config, baseline.provider)
    wholes = portions(prepared.groups, prepared.analyzed.channels.ties)
    choices = {step: allowed_counts(wholes, config, step) for step in {*steps, 1}}
    even = config.allotted == "uniform"
    weighed = not even or _coarse(prepared, steps[0])
    again = weighed or target.kind not in ("ratio", "macs")
    measured = Measurement(prepared) if again else rounds(prepared)
    orders: Mapping[int, Ranking] = {}
    predicted: Mapping[int, Curve] = {}
    if weighed:
        lowest = _lowest(prepared, wholes, choices, steps)
        orders = rankings(prepared, measured, lowest, partial(progress, "looking for what can go"))
        progress("measuring sensitivities", 0, 1)
        predicted = curves(prepared, orders, lowest)
    damage = damages(predicted, wholes) if weighed else None
    macs = of_portions(counted_macs(prepared.analyzed, prepared.groups), prepared.groups, wholes)
    spaces = [
        Space(wholes, step, tuple(choices[step]), tuple(choices[1]), damage, even, macs)
        for step in steps
    ]
    maker = ModelBuilder(prepared, baseline, measured, orders, *files, progress)
    cost, budget = _budgeted(prepared, wholes, before, macs, target)
    space = _space(spaces, target, cost, budget)
    return _Reaching(space, maker, target, before, cost, budget, predicted).run()


def _coarse(prepared: Prepared, step: int) -> bool:
    """Whether predicted damage decides which groups give what rounding leaves to others.

    Where a step is a small part of most groups, it moves none by much, and is not worth measuring.
    """
    if step == 1 or prepared.run is None or not prepared.config.by_loss:
        return False
    return bool(np.median([group.size for group in prepared.groups]) < FEW_STEPS * step)


def _lowest(
    prepared: Prepared,
    wholes: Sequence[Portion],
    choices: Mapping[int, Sequence[Counts]],
    steps: Sequence[int],
) -> dict[int, int]:
    """Return the least that each group may come to keep, by its key: where its curve ends."""
    config = prepared.config
    if config.allotted == "auto" or config.target.kind != "ratio":
        return leasts(wholes, choices[min(steps)])
    sizes = [whole.size for whole in wholes]
    blocks = [whole.blocks for whole in wholes]
    requested = uniform(choices[1], sizes, config.target.value, blocks)
    near = [leasts(wholes, near_choices(choices[step], requested)) for step in steps]
    return {group.key: min(least[group.key] for least in near) for group in prepared.groups}


def _steps(config: Config, provider: str) -> list[int]:
    """What the numbers of channels may be multiples of, the first that serves the target."""
    if isinstance(config.round_to, int):
        return [config.round_to]
    block = channel_block(config.hardware, provider)
    return [block >> i for i in range(block.bit_length())]


def _space(spaces: Sequence[Space], target: Target, cost: CountedCost, budget: float) -> Space:
    """Return the first space in which a target can be reached; the last where none is."""
    for space in spaces[:-1]:
        if target.kind == "ratio":
            serves = space.serves(target.value)
        else:
            serves = target.kind in MEASURED or within(cost.at(space.least), budget)
        if serves:
            return space
    return spaces[-1]


def _budgeted(
    prepared: Prepared,
    wholes: Sequence[Portion],
    before: Before,
    macs: CountedCost,
    target: Target,
) -> tuple[CountedCost, float]:
    """What a target counts, by kept channels, and the most of it that it allows."""
    costs = before.costs
    if target.kind not in ("params", "size"):
        return macs, target.budget(float(costs.macs)) if target.kind == "macs" else math.inf
    biases, groups = prepared.config.method_entry.adds_bias, prepared.groups
    counted = counted_parameters(prepared.analyzed, groups, biases, target.kind == "size")
    predicted = of_portions(counted, groups, wholes)
    if target.kind == "params":
        return predicted, target.budget(float(costs.parameters))
    whole = np.asarray([portion.size for portion in wholes])
    # Names and the graph itself stay.
    rest = (before.stored or before.size) - predicted.at(whole)
    return replace(predicted, fixed=predicted.fixed + rest), target.budget(float(before.size))


@dataclass(frozen=True, eq=False)
class _Reaching:
    space: Space
    maker: ModelBuilder
    target: Target
    before: Before
    cost: CountedCost
    budget: float
    curves: Mapping[int, Curve]

    def run(self) -> Reached:
        kind = self.target.kind
        if kind in MEASURED:
            whole = self.space.macs.at(self.space.most)
            best = self._nearest(self.space.macs, COMPARED * whole)
            return best._latency() if kind == "latency" else best._as_near()
        if kind == "ratio":
            exact = self.space.evenly()
            even = exact.macs.at(exact.by_ratio(self.target.value))
            best = self._nearest(self.space.macs, even)
            counts = best.space.by_ratio(self.target.value)
            removed = 1 - counts.sum() / max(1, sum(self.space.sizes))
            return best._reached(best._make(counts), self.target.value, float(removed))
        return self._nearest(self.cost, self.budget)._within_budget(kind)

    def _nearest(self, cost: CountedCost, budget: float) -> _Reaching:
        """Return this with the allocation that keeps the outputs nearest at a budget.

        Predicted damage tells where channels go; that its sum over all layers is right is not
        believed: where it is misled, as by errors that add up along the depth, the same share of
        each group is better, or what lies between. Models of all three are made and measured.
        """
        space = self.space
        if space.even or not within(cost.at(space.least), budget):
            return self
        even = space.evenly()
        tried: dict[bytes, tuple[float, Space]] = {}
        for candidate in (space, space.near(even.within(cost, budget)), even):
            counts = candidate.within(cost, budget)
            key = counts.tobytes()
            if key not in tried and within(cost.at(counts), budget):
                tried[key] = self._agreement(counts), candidate
        return replace(self, space=max(tried.values(), key=lambda pair: pair[0])[1])

    def _agreement(self, counts: Counts) -> float:
        """How near a model of some counts is to the original; 0 where nothing can be compared."""
        fitted = self._make(counts)
        try:
            return self.maker.agreement() if fitted.plan.groups else 1.0
        except VerificationError:
            return 0.0

    def _make(self, counts: Counts) -> Fitted:
        return self.maker.make(self.space.keyed(counts))

    def _reached(
        self, fitted: Fitted, limit: float, got: float, latency: timing.PairedLatency | None = None
    ) -> Reached:
        costs, size = self.maker.costs() if fitted.plan.groups else (self.before.costs, 0)
        allocation: Allocation = "uniform" if self.space.even else "auto"
        report = TargetReport(
            self.target.kind, limit, got, str(self.target), allocation, self.space.step, latency
        )
        predicted = {
            entry.group.key: float(self.curves[entry.group.key].errors[len(entry.removed)])
            for entry in fitted.plan.groups
            if entry.group.key in self.curves
        }
        predicted |= fitted.errors
        return Reached(fitted, costs, size, report, predicted)

    def _within_budget(self, kind: Kind) -> Reached:
        """Reach a number of multiply-accumulates, parameters or bytes."""
        before = self.before

        def actual(fitted: Fitted) -> float:
            costs, size = self.maker.costs() if fitted.plan.groups else (before.costs, before.size)
            return float({"macs": costs.macs, "params": costs.parameters, "size": size}[kind])

        fitted = reach_budget(self.space, self.target, self.cost, self.budget, self._make, actual)
        return self._reached(fitted, self.budget, actual(fitted))

    def _latency(self) -> Reached:
        """Reach a latency: find the counts on models that are only cut, then make the model."""
        aim = 1.0
        for _ in range(TRIES):
            counts = search(
                self.space,
                partial(self._fast_enough, aim),
                lambda _: f"{self.target} cannot be reached: the least is {self._cut_time()}",
                cheapest=False,
            )
            fitted = self._make(counts)
            if not fitted.plan.groups:
                return self._reached(fitted, 0.0, 0.0)
            times = self.maker.times()
            over = _over(self.target, times)
            if over <= 1.0:
                limit = self.target.budget(times.before.median)
                return self._reached(fitted, limit, times.after.median, times)
            aim /= over
        raise TargetError(
            f"{self.target} is missed: {times.after.median:.3g} ms ({times.after.low:.3g} to "
            f"{times.after.high:.3g}) of {times.before.median:.3g} ms were measured; ask for a "
            "little more, or give the machine less other work"
        )

    def _fast_enough(self, aim: float, counts: Counts) -> bool:
        self.maker.progress("timing", 0, 1)
        self.maker.cut(self.space.keyed(counts))
        return _over(self.target, self.maker.times()) <= aim

    def _cut_time(self) -> str:
        times = self.maker.times()
        return f"{amount('latency', times.after.median)} ({times.ratio:.0%})"

    def _as_near(self) -> Reached:
        """Reach a fidelity or a score: make models until the smallest is found that has it."""
        kind, maker = self.target.kind, self.maker
        measure = maker.agreement if kind == "fidelity" else maker.score
        # Of a score that of the original is measured, too: it may be less than is asked for.
        whole = 1.0 if kind == "fidelity" else maker.original_score()
        values: dict[bytes, float] = {}

        def fits(counts: Counts) -> bool:
            everything = bool((counts == self.space.sizes).all())
            self._make(counts)
            values[counts.tobytes()] = whole if everything else measure()
            return values[counts.tobytes()] >= self.target.value

        def why(counts: Counts) -> str:
            best = amount(kind, values[counts.tobytes()])
            return f"{self.target} cannot be reached: the most is {best} with the layers kept"

        counts = search(self.space, fits, why, cheapest=True)
        if bool((counts == self.space.sizes).all()):
            raise TargetError(f"{self.target} leaves no channel that can go; ask for less")
        return self._reached(self._make(counts), self.target.value, values[counts.tobytes()])


def _over(target: Target, times: timing.PairedLatency) -> float:
    """Return the upper end of what was measured as a multiple of what a latency target allows.

    A share of the original's time is held against the ratio, which is steadier than either time.
    """
    return (times.high if target.relative else times.after.high) / target.value
