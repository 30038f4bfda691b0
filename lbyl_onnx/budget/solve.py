"""Reach the user's target: decide how many channels each group keeps, and make the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np

from lbyl_onnx.budget.allocation import uniform, within
from lbyl_onnx.budget.allowed_loss import Tried, smallest, within_loss
from lbyl_onnx.budget.cost_model import CountedCost, Counts, counted_macs, counted_parameters
from lbyl_onnx.budget.damage import Curve, curves, rankings
from lbyl_onnx.budget.portions import Portion, damages, of_portions, portions
from lbyl_onnx.budget.reached import Before, Nearby, Reached, TargetReport
from lbyl_onnx.budget.search import (
    TRIES,
    Sharing,
    Space,
    allowed_counts,
    leasts,
    near_choices,
    reach_budget,
    search,
)
from lbyl_onnx.compensate.group import Fitted
from lbyl_onnx.config import Config
from lbyl_onnx.errors import NothingSafeError, TargetError, VerificationError
from lbyl_onnx.methods.types import Ranking
from lbyl_onnx.observe.session import Measurement, Prepared, rounds
from lbyl_onnx.option_types import Allocation
from lbyl_onnx.rewrite.build import ModelBuilder
from lbyl_onnx.rewrite.deployment import Deployment
from lbyl_onnx.runtime import timing
from lbyl_onnx.runtime.providers import channel_block
from lbyl_onnx.target import BY_OUTPUTS, SEARCHED, Kind, Target, amount
from lbyl_onnx.types import Progress

Files = tuple[Path, Path]
"""The compressed model, and the reference that it must equal."""
# Targets that are measured on models, not counted.
MEASURED = ("latency", *SEARCHED)
# Share of a model's bytes that is left once it is quantised, about.
USUAL_DEPLOYED = 0.27
# What a model that nobody asked a size of has to gain: this share of the time.
LEAST_GAIN = 0.03
# Share of the multiply-accumulates at which allocations are compared for what is measured.
COMPARED = 0.75
_OTHER_WAYS = (
    "try --quantize int8, give --calibration with samples of your own, or ask for more by --ratio"
)
# Steps in a group below which rounding it is coarse.
FEW_STEPS = 8


def reach(
    prepared: Prepared,
    deployment: Deployment,
    before: Before,
    files: Files,
    progress: Progress,
) -> Reached:
    """Make the model that the options ask for.

    Parameters
    ----------
    prepared, deployment
        What can be fitted, and what becomes of what is made.
    before
        What the original costs.
    files
        Where to write.
    progress
        Called with each stage as it begins.

    Raises
    ------
    TargetError
        When the target cannot be reached.
    NothingSafeError
        Where no target is given, when nothing that is safe makes the model faster.
    OptionError
        Where a glob matches no group.
    """
    config = prepared.config
    target = config.target
    steps = _steps(config, deployment.baseline.provider)
    wholes = portions(prepared.groups, prepared.analyzed.channels.ties)
    choices = {step: allowed_counts(wholes, config, step) for step in {*steps, 1}}
    even = config.allotted == "uniform"
    weighed = not even or _coarse(prepared, steps[0])
    again = weighed or target.kind not in ("ratio", "macs")
    measured = Measurement(prepared) if again else rounds(prepared, once=True)
    orders: Mapping[int, Ranking] = {}
    predicted: Mapping[int, Curve] = {}
    if weighed:
        lowest = _lowest(prepared, wholes, choices, steps)
        orders = rankings(prepared, measured, lowest, partial(progress, "looking for what can go"))
        progress("measuring sensitivities", 0, 1)
        predicted = curves(prepared, orders, lowest)
    damage = damages(predicted, wholes) if weighed else None
    macs = of_portions(counted_macs(prepared.analyzed, prepared.groups), prepared.groups, wholes)
    sharing: Sharing = "even" if even else "free"
    spaces = [
        Space(wholes, step, tuple(choices[step]), tuple(choices[1]), damage, sharing, macs)
        for step in steps
    ]
    maker = ModelBuilder(prepared, deployment, measured, orders, *files, progress)
    cost, budget = _budgeted(prepared, wholes, before, macs, target)
    space = _space(spaces, target, cost, budget)
    if deployment.deploy is not None and target.kind == "size":
        cost = _deployed_bytes(space, maker, cost, budget)
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


def _deployed_bytes(
    space: Space, maker: ModelBuilder, cost: CountedCost, budget: float
) -> CountedCost:
    """Return the bytes of what is deployed, by the share that one model shows."""
    budget = max(budget / USUAL_DEPLOYED, cost.at(space.least))
    counts = space.within(cost, budget)
    if not maker.make(space.keyed(counts)).plan.groups:
        maker.whole()
    share = maker.deployed.size() / cost.at(counts)
    return replace(cost, fixed=share * cost.fixed, scale=share * cost.scale)


@dataclass(frozen=True, eq=False)
class _Reaching:
    space: Space
    maker: ModelBuilder
    target: Target
    before: Before
    cost: CountedCost
    budget: float
    curves: Mapping[int, Curve]
    compared: tuple[Tried, ...] = ()

    def run(self) -> Reached:
        kind = self.target.kind
        if kind in MEASURED:
            whole = self.space.macs.at(self.space.most)
            best = self._nearest(self.space.macs, COMPARED * whole)
            return best._latency() if kind == "latency" else best._as_near()
        if kind == "ratio":
            exact = self.space.shared("even")
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
        if space.sharing == "even" or not within(cost.at(space.least), budget):
            return self
        tried: dict[bytes, tuple[float, Space, Counts]] = {}
        for sharing in get_args(Sharing):
            candidate = space.shared(sharing)
            counts = candidate.within(cost, budget)
            key = counts.tobytes()
            if key not in tried and within(cost.at(counts), budget):
                tried[key] = self._agreement(counts), candidate, counts
        near, best, counts = max(tried.values(), key=lambda entry: entry[0])
        return replace(
            self, space=best, compared=(Tried(counts, space.macs.at(counts), 1.0 - near),)
        )

    def _agreement(self, counts: Counts) -> float:
        """How near a model of some counts is to the original; 0 where nothing can be compared."""
        fitted = self._make(counts)
        try:
            return self.maker.deployed.agreement() if fitted.plan.groups else 1.0
        except VerificationError:
            return 0.0

    def _make(self, counts: Counts) -> Fitted:
        return self.maker.make(self.space.keyed(counts))

    def _reached(
        self, fitted: Fitted, limit: float, got: float, latency: timing.PairedLatency | None = None
    ) -> Reached:
        costs, size = self.maker.costs() if fitted.plan.groups else (self.before.costs, 0)
        allocation: Allocation = "uniform" if self.space.sharing == "even" else "auto"
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
            if kind == "size":
                return float(self._bytes(fitted))
            costs = self.maker.costs()[0] if fitted.plan.groups else before.costs
            return float(costs.macs if kind == "macs" else costs.parameters)

        fitted = reach_budget(self.space, self.target, self.cost, self.budget, self._make, actual)
        return self._reached(fitted, self.budget, actual(fitted))

    def _bytes(self, fitted: Fitted) -> int:
        """Bytes of what is deployed; what was made is the original where nothing goes."""
        if not fitted.plan.groups:
            if self.maker.deployment.deploy is None:
                return self.before.size
            self.maker.whole()
        return self.maker.deployed.size()

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
                if self.maker.deployment.deploy is None:
                    return self._reached(fitted, 0.0, 0.0)
                self.maker.whole()
            times = self.maker.deployed.times()
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
        return _over(self.target, self.maker.deployed.times()) <= aim

    def _cut_time(self) -> str:
        times = self.maker.deployed.times()
        least = f"{amount('latency', times.after.median)} ({times.ratio:.0%})"
        # The upper end of the interval is what has to be within the target.
        high = f"{times.high:.0%}" if self.target.relative else amount("latency", times.after.high)
        return f"{least}, and {high} cannot be ruled out"

    def _as_near(self) -> Reached:
        """Reach a fidelity or a score: make models until the smallest is known that has it."""
        kind, maker = self.target.kind, self.maker
        by_outputs = kind in BY_OUTPUTS
        deployed = maker.deployed
        measure = deployed.agreement if by_outputs else deployed.score
        # Of a score that of the original is measured, too: it may be less than is asked for.
        whole = 1.0 if by_outputs else maker.deployment.original_score()
        last: dict[bytes, Fitted] = {}

        def lost(counts: Counts) -> float:
            if bool((counts == self.space.sizes).all()):
                if self.maker.deployment.deploy is None:
                    return 0.0
                self.maker.whole()
                return whole - measure()
            last.clear()
            last[counts.tobytes()] = self._make(counts)
            return whole - measure()

        allowed = whole - self.target.value
        models = within_loss(self.space, lost, allowed, self.compared if by_outputs else ())
        best = smallest(models, allowed)
        if best is None or bool((best.counts == self.space.sizes).all()):
            raise self._nothing(models, whole)
        fitted = last.get(best.counts.tobytes()) or self._make(best.counts)
        times = self._gained(whole - best.lost) if kind == "safe" else None
        reached = self._reached(fitted, self.target.value, whole - best.lost, times)
        original = self.before.costs.macs or 1
        at = models.index(best)
        # The first is the original, of which there is nothing to say.
        less, more = (
            next((Nearby(entry.macs / original, whole - entry.lost) for entry in near), None)
            for near in (models[max(1, at - 1) : at], models[at + 1 : at + 2])
        )
        return replace(reached, target=replace(reached.target, less=less, more=more))

    def _gained(self, near: float) -> timing.PairedLatency:
        """Return the times of what is safe.

        Raises
        ------
        NothingSafeError
            When it is not faster.
        """
        times = self.maker.deployed.times()
        if not gains(times):
            raise NothingSafeError(
                f"what is predicted safe (fidelity {near:.3f}) takes {times.ratio:.1%} of the "
                f"original's time; {_OTHER_WAYS}"
            )
        return times

    def _nothing(self, models: Sequence[Tried], whole: float) -> TargetError | NothingSafeError:
        """Say that not even the first step is within what may be lost, or that it is not known."""
        kind, most = self.target.kind, models[min(1, len(models) - 1)]
        if kind == "safe":
            share = most.macs / (self.before.costs.macs or 1)
            return NothingSafeError(
                f"no channels are predicted safe to remove: at {share:.0%} of the "
                f"multiply-accumulates the fidelity is {whole - most.lost:.3f}, "
                f"{self.target.value:g} is safe; {_OTHER_WAYS}"
            )
        if models[0].lost > whole - self.target.value:
            best = amount(kind, whole - models[0].lost)
            return TargetError(
                f"{self.target} cannot be reached: the most is {best} with the layers kept"
            )
        return TargetError(f"{self.target} leaves no channel that can go; ask for less")


def gains(times: timing.PairedLatency) -> bool:
    """Whether a model is as much faster as is asked for, within what can be measured.

    Where the machine is too busy to tell, the channels that went are believed.
    """
    return times.low <= 1.0 - LEAST_GAIN


def _over(target: Target, times: timing.PairedLatency) -> float:
    """Return the upper end of what was measured as a multiple of what a latency target allows.

    A share of the original's time is held against the ratio, which is steadier than either time.
    """
    return (times.high if target.relative else times.after.high) / target.value
