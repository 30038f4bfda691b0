"""Reach a target by pruning, by factors, or by both: each is made, and the nearest is taken."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lbyl_onnx.budget.allocation import within
from lbyl_onnx.budget.reached import Before, Reached, TargetReport
from lbyl_onnx.budget.solve import USUAL_DEPLOYED, Files, gains, reach
from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.compensate.group import NOTHING
from lbyl_onnx.errors import NothingToPruneError, TargetError, VerificationError
from lbyl_onnx.factor.choices import Choice
from lbyl_onnx.factor.layers import Counted
from lbyl_onnx.factor.stage import Factored, FactorReport, FactorStage
from lbyl_onnx.graph import source as graph_source
from lbyl_onnx.observe.session import Prepared, prepare
from lbyl_onnx.option_types import Move
from lbyl_onnx.rewrite.deployment import Deployed, Deployment
from lbyl_onnx.runtime.providers import channel_block
from lbyl_onnx.target import BY_OUTPUTS, SEARCHED, Target
from lbyl_onnx.types import Progress

# Part of the way to a target that factors take before pruning where one of them does not reach it,
# and the least and the most that they take.
PART, FEW_FACTORS, MANY_FACTORS = 0.5, 0.2, 0.8
# Shares of the multiply-accumulates that factors may leave, for what is measured on models.
LEVELS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
# Times that a latency is aimed at anew.
TRIES = 3
Open = Callable[[graph_source.Source], AnalyzedModel]
"""Reads a model and finds the channels that the options choose."""


@dataclass(frozen=True, eq=False)
class Moved:
    """A model that has reached its target.

    Parameters
    ----------
    prepared
        What was pruned: the original, or the model with factors.
    reached
        What came of it.
    factors
        Layers that became two.
    nearness
        Of its outputs to the original's.
    path, reference
        Where it was written, and the model that it must equal.
    """

    prepared: Prepared
    reached: Reached
    factors: tuple[FactorReport, ...]
    nearness: float
    path: Path
    reference: Path


@dataclass(frozen=True)
class Attempt:
    """One way to a target.

    Parameters
    ----------
    moves
        In their order.
    write
        Makes the model; None where the moves do not reach the target.
    alone
        Where a move that was made alone is put.
    """

    moves: tuple[Move, ...]
    write: Callable[[], Moved | None]
    alone: dict[Move, Moved]

    def make(self) -> Moved | None:
        """Make the model; None where the moves do not reach the target."""
        moved = self.write()
        if moved is not None and len(self.moves) == 1:
            self.alone[self.moves[0]] = moved
        return moved


@dataclass(frozen=True, eq=False)
class Moves:
    """The original, and what it takes to make models of it.

    Parameters
    ----------
    prepared, deployment
        The original, and what becomes of what is made of it.
    before
        What it costs.
    files
        Where to write.
    open
        Reads a model that came of it.
    progress
        Called with each stage as it begins.
    """

    prepared: Prepared
    deployment: Deployment
    before: Before
    files: Files
    open: Open
    progress: Progress

    def best(self) -> Moved:
        """Make a model by each way that the options allow, and write the best one.

        For a fidelity or a score that is the one of fewest multiply-accumulates, for other targets
        the one whose outputs are nearest to the original's.

        Raises
        ------
        TargetError
            When no way reaches the target.
        NothingToPruneError
            When there is nothing that could change.
        """
        made, error = list[Moved](), None
        for attempt in self.attempts():
            try:
                moved = attempt.make()
            except (TargetError, NothingToPruneError, VerificationError) as caught:
                error = caught
                continue
            if moved is not None:
                made.append(moved)
        if not made:
            raise error or TargetError(f"{self._target} cannot be reached by factors")
        best = max(made, key=self._worth)
        self._publish(best)
        return best

    def _publish(self, best: Moved) -> None:
        """Copy the files of an attempt to where they are to be; their names are the same."""
        for path, output in zip((best.path, best.reference), self.files, strict=True):
            for file in graph_source.model_files(path):
                shutil.copyfile(file, output.with_name(file.name))

    @property
    def _target(self) -> Target:
        return self.prepared.config.target

    def _worth(self, moved: Moved) -> float:
        if self._target.kind in SEARCHED:
            return -float(moved.reached.costs.macs)
        return moved.nearness

    def attempts(self) -> Iterator[Attempt]:
        """Yield each way that the options allow; each writes to files of its own.

        Both moves together come last: how far each goes depends on what it did alone.
        """
        config, alone = self.prepared.config, dict[Move, Moved]()
        if config.prunes and self.prepared.groups:
            own = self._apart("prune")
            yield Attempt(("prune",), partial(own._pruned, self.prepared, ()), alone)
        self.progress("measuring factors", 0, 1)
        source, baseline = self.deployment.source, self.deployment.baseline
        block = channel_block(config.hardware, baseline.provider)
        if isinstance(config.round_to, int):
            block = config.round_to
        stage = FactorStage.of(self.prepared, baseline, source, block)
        if stage is None:
            return
        yield Attempt(("factor",), partial(self._apart("factor")._factored, stage), alone)
        if config.prunes:
            part = self._part(alone)
            yield Attempt(("factor", "prune"), partial(self._apart("both")._both, stage, part), {})

    def _part(self, alone: Mapping[Move, Moved]) -> float:
        """Part of the way that factors take so that both together do the least damage.

        Damage, ``-log`` of the nearness, grows as the square of the way, on a scale of logarithms;
        ``f x^2 + p (1 - x)^2`` is least at ``x = p / (f + p)``. Where both do the same damage and
        reach different costs, as for a fidelity, ``x`` is the part of the damage.
        """
        if len(alone) < 2:
            return PART
        rates = dict[Move, float]()
        for move, moved in alone.items():
            distance = math.log(self.before.costs.macs / max(1, moved.reached.costs.macs))
            damage = -math.log(min(max(moved.nearness, 1e-3), 1.0 - 1e-9))
            searched = self._target.kind in SEARCHED
            rates[move] = damage / max(distance, 1e-3) ** 2 if searched else damage
        part = rates["prune"] / (rates["factor"] + rates["prune"])
        return min(max(part, FEW_FACTORS), MANY_FACTORS)

    def _apart(self, name: str) -> Moves:
        """Return the same with files in a folder of its own."""
        path, reference = self.files
        folder = reference.parent / name
        folder.mkdir(exist_ok=True)
        return replace(self, files=(folder / path.name, folder / reference.name))

    def _pruned(self, prepared: Prepared, factors: tuple[FactorReport, ...]) -> Moved | None:
        """Prune a model to the target; None where nothing has to go."""
        reached = reach(prepared, self.deployment, self.before, self.files, self.progress)
        if not reached.fitted.plan.groups:
            return None
        near = self.deployment.of(self.files[0]).agreement()
        return Moved(prepared, reached, factors, near, *self.files)

    def _both(self, stage: FactorStage, part: float) -> Moved | None:
        """Factor a part of the way, then prune the rest of it."""
        path = self.files[1].with_name("factored.onnx")
        factored = self._toward(stage, part, path, path.with_name("product.onnx"))
        if factored is None:
            return None
        source = graph_source.open_source(path)
        prepared = self._prepared(self.open(source))
        before = replace(self.before, stored=source.size)
        moves = replace(self, before=before)
        return moves._pruned(prepared, factored.reports) if prepared.groups else None

    def _factored(self, stage: FactorStage) -> Moved | None:
        """Reach the target by factors alone; None where they do not reach it."""
        path, reference = self.files
        factored = self._toward(stage, 1.0, path, reference)
        if factored is None:
            return None
        deployed = self.deployment.of(path)
        analyzed = self.open(graph_source.open_source(path))
        costs, size = analyzed.costs, deployed.size()
        amounts = {"macs": costs.macs, "params": costs.parameters, "size": size}
        target, kind = self._target, self._target.kind
        times = deployed.times() if kind in ("latency", "safe") else None
        if kind in amounts:
            limit, got = self._budget(), float(amounts[kind])
            fits = within(got, limit)
        elif kind == "latency" and times is not None:
            limit, got = target.budget(times.before.median), times.after.median
            fits = (times.high if target.relative else times.after.high) <= target.value
        else:
            limit, got = target.value, self._measure(deployed)
            fits = got >= limit and (times is None or gains(times))
        if not fits:
            return None
        report = TargetReport(kind, limit, got, str(target), "auto", stage.block, times)
        reached = Reached(NOTHING, costs, size, report, {})
        prepared = replace(self.prepared, analyzed=analyzed, groups=(), refusals=())
        near = got if kind in BY_OUTPUTS else deployed.agreement()
        return Moved(prepared, reached, factored.reports, near, path, reference)

    def _toward(
        self, stage: FactorStage, part: float, path: Path, reference: Path
    ) -> Factored | None:
        """Write a model whose factors take a part of the way to the target; None without any."""
        target, step = self._target, partial(self.progress, "factoring", 0, 1)
        whole = self.prepared.analyzed.costs
        step()
        if target.kind in SEARCHED:
            return self._as_near(stage, part, path, reference)
        if target.kind == "latency":
            return self._as_fast(stage, part, path, reference)
        counted: Counted = "macs" if target.kind == "macs" else "params"
        all_of_it = whole.macs if target.kind == "macs" else whole.parameters
        size = self.before.size * (1.0 if self.deployment.deploy is None else USUAL_DEPLOYED)
        share = self._budget() / {"macs": whole.macs, "params": whole.parameters,
                                  "size": size}[target.kind]  # fmt: skip
        chosen = stage.within(counted, all_of_it * min(share, 1.0) ** part)
        return stage.write(chosen, path, reference) if chosen else None

    def _as_fast(
        self, stage: FactorStage, part: float, path: Path, reference: Path
    ) -> Factored | None:
        """Aim at a latency by multiply-accumulates, and again by what was measured."""
        target, whole = self._target, self.prepared.analyzed.costs.macs
        share = target.value
        if not target.relative:
            share /= self.deployment.of(self.deployment.source).times().before.median
        aim, factored = min(share, 1.0) ** part, None
        for _ in range(TRIES):
            chosen = stage.within("macs", whole * aim)
            if not chosen:
                return None
            factored = stage.write(chosen, path, reference)
            over = self.deployment.of(path).times().high / min(share, 1.0) ** part
            if over <= 1.0:
                break
            aim /= over
        return factored

    def _as_near(
        self, stage: FactorStage, part: float, path: Path, reference: Path
    ) -> Factored | None:
        """Bisect the levels for the least that leaves a part of what the target allows to lose."""
        whole = self.prepared.analyzed.costs.macs
        own = self._target.kind == "min_score"
        most = self.deployment.original_score() if own else 1.0
        limit = most - part * (most - self._target.value)
        low, high, best = 0, len(LEVELS), dict[int, Choice]()
        written: Factored | None = None
        while low < high:
            middle = (low + high) // 2
            chosen = stage.within("macs", whole * LEVELS[middle])
            written = stage.write(chosen, path, reference) if chosen else None
            if written is not None and self._measure(self.deployment.of(path)) >= limit:
                low, best = middle + 1, chosen
            else:
                high = middle
        return stage.write(best, path, reference) if best else None

    def _measure(self, deployed: Deployed) -> float:
        """What a fidelity or a score target asks for."""
        return deployed.score() if self._target.kind == "min_score" else deployed.agreement()

    def _budget(self) -> float:
        """The most that the target allows of what it counts."""
        costs = self.before.costs
        whole = {"macs": costs.macs, "params": costs.parameters, "size": self.before.size}
        return self._target.budget(float(whole[self._target.kind]))

    def _prepared(self, analyzed: AnalyzedModel) -> Prepared:
        """Prepare a model that came of the original, on the same kind of samples."""
        was, baseline = self.prepared, self.deployment.baseline
        folder = self.files[1].parent if was.run is None else was.run.folder
        new = prepare(
            analyzed, baseline, was.config, folder, measured=True, own=was.own, kinds=was.kinds
        )
        return replace(new, spread=was.spread)
