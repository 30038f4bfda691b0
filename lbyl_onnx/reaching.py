"""Reach what a person wants: decide how many channels each group keeps, and make the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lbyl_onnx import runtime, timing
from lbyl_onnx.config import Allocation
from lbyl_onnx.costs import Costs
from lbyl_onnx.counted_costs import Counts, counted_bytes, counted_macs, counted_parameters
from lbyl_onnx.curves import Curve, curves, ways_out
from lbyl_onnx.elimination import Elimination
from lbyl_onnx.errors import TargetError
from lbyl_onnx.fitting import Fitted
from lbyl_onnx.goals import Goal, Kind, amount
from lbyl_onnx.making import Maker, Measurement, Progress
from lbyl_onnx.measuring import Prepared, rounds
from lbyl_onnx.targets import (
    LATENCY_SLACK,
    TRIES,
    Space,
    allowed_counts,
    leasts,
    reach_budget,
    search,
)

Files = tuple[Path, Path, Path]
"""The original, the compressed model, and the uncut one that it must equal."""


@dataclass(frozen=True)
class Before:
    """What the original costs, and its bytes."""

    costs: Costs
    size: int


@dataclass(frozen=True)
class TargetReport:
    """What was wanted, and what was reached.

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
        The target as a person gave it.
    allocation, round_to
        How channels were shared out, and what their numbers are multiples of.
    latency
        The measured times behind a latency; None for other targets.
    """

    kind: Kind
    wanted: float
    reached: float
    text: str
    allocation: Allocation
    round_to: int
    latency: timing.Latency | None = None


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
    prepared: Prepared, probe: runtime.Probe, before: Before, files: Files, progress: Progress
) -> Reached:
    """Make the model that the options ask for.

    Parameters
    ----------
    prepared, probe
        What can be fitted, and the original as it runs.
    before
        What the original costs.
    files
        Where it is, and where to write.
    progress
        Told of each stage as it begins.

    Raises
    ------
    TargetError
        When the target cannot be reached.
    OptionError
        Where a glob matches no group.
    """
    config = prepared.config
    goal = config.goal
    step = _step(prepared, probe)
    choices = allowed_counts(prepared.groups, config, step)
    again = config.allotted == "auto" or goal.kind not in ("ratio", "macs")
    measured = Measurement(prepared) if again else rounds(prepared)
    ways: Mapping[int, Elimination] = {}
    damage: Mapping[int, Curve] | None = None
    if config.allotted == "auto":
        least = leasts(prepared.groups, choices)
        ways = ways_out(prepared, measured, least, partial(progress, "looking for what can go"))
        progress("measuring sensitivities", 0, 1)
        damage = curves(prepared, ways, least)
    stages = prepared.stages
    macs = counted_macs(stages.model, stages.facts, stages.channels, prepared.groups)
    space = Space(prepared.groups, tuple(choices), damage, macs)
    maker = Maker(prepared, probe, measured, ways, *files, progress)
    return _Reaching(space, maker, goal, before, step).run()


def _step(prepared: Prepared, probe: runtime.Probe) -> int:
    """What the numbers of channels are multiples of."""
    config = prepared.config
    wanted = config.round_to or ("auto" if config.goal.kind == "latency" else 1)
    return runtime.channel_step(probe.provider) if wanted == "auto" else int(wanted)


@dataclass(frozen=True, eq=False)
class _Reaching:
    space: Space
    maker: Maker
    goal: Goal
    before: Before
    step: int

    def run(self) -> Reached:
        kind = self.goal.kind
        if kind == "latency":
            return self._latency()
        if kind == "fidelity":
            return self._fidelity()
        if kind == "ratio":
            counts = self.space.by_ratio(self.goal.value)
            removed = 1 - counts.sum() / max(1, sum(self.space.sizes))
            return self._reached(self._make(counts), self.goal.value, float(removed))
        return self._cost(kind)

    def _make(self, counts: Counts) -> Fitted:
        return self.maker.make(self.space.keyed(counts))

    def _reached(
        self, fitted: Fitted, wanted: float, got: float, latency: timing.Latency | None = None
    ) -> Reached:
        costs, size = self.maker.costs() if fitted.plan.groups else (self.before.costs, 0)
        allocation = self.maker.prepared.config.allotted
        target = TargetReport(
            self.goal.kind, wanted, got, str(self.goal), allocation, self.step, latency
        )
        known = self.space.curves or {}
        predicted = {
            entry.group.key: float(known[entry.group.key].errors[len(entry.removed)])
            for entry in fitted.plan.groups
            if entry.group.key in known
        }
        predicted |= fitted.errors
        return Reached(fitted, costs, size, target, predicted)

    def _cost(self, kind: Kind) -> Reached:
        """Reach a number of multiply-accumulates, parameters or bytes."""
        before = self.before
        stages, groups = self.maker.prepared.stages, self.space.groups
        biases = self.maker.prepared.config.method == "lbyl+"
        original, predicted = float(before.costs.macs), self.space.macs
        if kind != "macs":
            count = counted_parameters if kind == "params" else counted_bytes
            predicted = count(
                stages.model, stages.facts, stages.channels, groups, stages.graph, biases
            )
            original = float(before.costs.parameters if kind == "params" else before.size)
        if kind == "size":
            # Names and the graph itself stay.
            rest = original - predicted.at(self.space.most)
            predicted = replace(predicted, fixed=predicted.fixed + rest)
        budget = self.goal.budget(original)

        def actual(fitted: Fitted) -> float:
            costs, size = self.maker.costs() if fitted.plan.groups else (before.costs, before.size)
            return float({"macs": costs.macs, "params": costs.parameters, "size": size}[kind])

        fitted = reach_budget(self.space, self.goal, predicted, budget, self._make, actual)
        return self._reached(fitted, budget, actual(fitted))

    def _latency(self) -> Reached:
        """Reach a latency: find the counts on models that are only cut, then make the model."""
        aim = 1.0
        for _ in range(TRIES):
            counts = search(
                self.space,
                partial(self._fast_enough, aim),
                lambda _: f"{self.goal} cannot be reached: the least is {self._cut_time()}",
                cheapest=False,
            )
            fitted = self._make(counts)
            if not fitted.plan.groups:
                return self._reached(fitted, 0.0, 0.0)
            over, latency = self._over()
            if over <= 1 + LATENCY_SLACK:
                return self._reached(fitted, latency.median / over, latency.median, latency)
            aim /= over
        raise TargetError(f"{self.goal} is missed: {latency.median:.3g} ms were measured")

    def _fast_enough(self, aim: float, counts: Counts) -> bool:
        self.maker.progress("timing", 0, 1)
        self.maker.cut(self.space.keyed(counts))
        return self._over()[0] <= aim

    def _over(self) -> tuple[float, timing.Latency]:
        """What was written takes as a multiple of what it may; its time."""
        before, after = self.maker.times()
        return after.median / self.goal.budget(before.median), after

    def _cut_time(self) -> str:
        before, after = self.maker.times()
        return f"{amount('latency', after.median)} ({after.median / before.median:.0%})"

    def _fidelity(self) -> Reached:
        """Reach a fidelity: make models until the smallest is found that has it."""
        found: dict[bytes, float] = {}

        def fits(counts: Counts) -> bool:
            whole = bool((counts == self.space.sizes).all())
            self._make(counts)
            found[counts.tobytes()] = 1.0 if whole else self.maker.agreement()
            return found[counts.tobytes()] >= self.goal.value

        def why(counts: Counts) -> str:
            best = amount("fidelity", found[counts.tobytes()])
            return f"{self.goal} cannot be reached: the most is {best} with the layers kept"

        counts = search(self.space, fits, why, cheapest=True)
        if bool((counts == self.space.sizes).all()):
            raise TargetError(f"{self.goal} leaves no channel that can go; ask for less")
        return self._reached(self._make(counts), self.goal.value, found[counts.tobytes()])
