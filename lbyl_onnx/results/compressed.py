"""The result of a compression, and its summary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from rich.console import Console, ConsoleOptions, RenderResult

from lbyl_onnx.budget.reached import TargetReport
from lbyl_onnx.channels.groups import Refusal
from lbyl_onnx.config import Config
from lbyl_onnx.evaluate.layers import Details
from lbyl_onnx.evaluate.prediction.predict import Prediction
from lbyl_onnx.evaluate.verify import Verification
from lbyl_onnx.factor.stage import FactorReport
from lbyl_onnx.graph.costs import Costs
from lbyl_onnx.quantise.int8 import Quantised
from lbyl_onnx.results.groups import GroupReport
from lbyl_onnx.results.inputs import InputReport
from lbyl_onnx.results.layout import Lines
from lbyl_onnx.results.rendering import (
    costs_table,
    factor_lines,
    fidelity_text,
    groups_part,
    many,
    nearby_lines,
    nearness,
    prediction_lines,
    quantised_lines,
    refusals_part,
)
from lbyl_onnx.runtime.timing import PairedLatency
from lbyl_onnx.target import BY_OUTPUTS, amount
from lbyl_onnx.text import count, milliseconds, printable, share, size


@dataclass(frozen=True)
class CompressResult:
    """A compressed and verified model, and what the user wants to know of it.

    Parameters
    ----------
    output
        Where it was written; None after a dry run or without an output path.
    model
        The compressed model when no output path was given, else None.
    config
        The options used.
    before, after
        Parameters and multiply-accumulates.
    size_before, size_after
        File sizes in bytes.
    groups, refusals
        What was pruned, what was not and why.
    verification
        The proof.
    target
        The target, and what was reached.
    latency
        Times of the original and of the result, measured in turns.
    details
        The model layer by layer; None unless asked for.
    inputs
        What each input was taken for.
    warnings
        What to know before using it, one line each.
    quantised
        How it was quantised; None where it was not. The proof is of the model before.
    prediction
        How near it is to the original on real inputs; None where the samples were the user's own,
        or no output is of floats.
    factors
        Layers that became two of lower rank.
    """

    output: Path | None
    model: onnx.ModelProto | None
    config: Config
    before: Costs
    after: Costs
    size_before: int
    size_after: int
    groups: tuple[GroupReport, ...]
    refusals: tuple[Refusal, ...]
    verification: Verification
    target: TargetReport
    latency: PairedLatency
    details: Details | None = None
    inputs: tuple[InputReport, ...] = ()
    warnings: tuple[str, ...] = ()
    quantised: Quantised | None = None
    prediction: Prediction | None = None
    factors: tuple[FactorReport, ...] = ()

    def __repr__(self) -> str:
        """Return one line, without the model."""
        where = "a model in memory" if self.output is None else str(self.output)
        return (
            f"<CompressResult {where}: method {self.config.method}, "
            f"parameters {count(self.before.parameters)} -> {count(self.after.parameters)}, "
            f"MACs {count(self.before.macs)} -> {count(self.after.macs)}, "
            f"{len(self.groups)} groups pruned, {len(self.refusals)} skipped>"
        )

    def __str__(self) -> str:
        """Return five lines: what was done, what it saves, and how near the outputs are."""
        before, after, times = self.before, self.after, self.latency
        removed = sum(group.channels - group.kept for group in self.groups)
        done = f"{removed:,} channels removed in {many(len(self.groups), 'group')}"
        where = "a model in memory" if self.output is None else printable(str(self.output))
        warned = f", {many(len(self.warnings), 'warning')}" if self.warnings else ""
        costs = (
            ("parameters", before.parameters, after.parameters, count),
            ("MACs", before.macs, after.macs, count),
            ("file", self.size_before, self.size_after, size),
        )
        saved = [f"{name} {form(a)} -> {form(b)} ({share(b, a)})" for name, a, b, form in costs]
        sides = (milliseconds(times.before.median), milliseconds(times.after.median))
        return "\n".join(
            (
                f"{where}: {self.target.text}, method {self.config.method}",
                ", ".join(saved[:2]),
                f"{saved[2]}, time {sides[0]} -> {sides[1]} ({times})",
                f"outputs, on {self.verification.fidelity.inputs}: "
                f"{nearness(self.verification.fidelity)}",
                f"{done}, {len(self.refusals)} skipped{warned}; .summary() lists them",
            )
        )

    def summary(self, width: int = 100) -> str:
        """Return what the command prints below the names of the files, as plain text.

        Parameters
        ----------
        width
            Characters in a line, at most.
        """
        # As on a terminal of that width, without colours.
        console = Console(width=width, color_system=None, highlight=False, force_terminal=True)
        with console.capture() as captured:
            console.print(self, crop=False)
        return "\n".join(line.rstrip() for line in captured.get().splitlines())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the parts of the summary."""
        yield Lines(self.description)
        for entry in self.inputs:
            yield Lines(printable(entry.description))
        sizes = (self.size_before, self.size_after)
        optimised = self.verification.optimised
        yield costs_table((self.before, self.after), sizes, self.latency, optimised)
        for warning in self.warnings:
            yield Lines(f"warning: {printable(warning)}", "yellow")
        yield fidelity_text(self.verification)
        yield from map(Lines, prediction_lines(self.prediction))
        yield from map(Lines, nearby_lines(self.target))
        yield from map(Lines, factor_lines(self.factors))
        yield from map(Lines, quantised_lines(self.quantised))
        if self.groups or (self.quantised is None and not self.factors):
            yield from groups_part(self.groups)
        yield from refusals_part(self.refusals)

    @property
    def description(self) -> str:
        """How the model was compressed, in one line."""
        config = self.config
        how = f"method {config.method}, criterion {config.chosen_by}"
        if self.factors:
            how = f"factors, then {how}" if self.groups else "factors alone"
        if self.quantised is not None:
            how = f"{how}, then int8" if self.groups or self.factors else "int8 alone"
        return f"{self._target()}, {how}; ran on {self.verification.provider}"

    def _target(self) -> str:
        """The target, and what was reached."""
        target = self.target
        text = target.text
        if target.kind != "ratio":
            text += f": reached {amount(target.kind, target.reached)}"
            if target.kind in BY_OUTPUTS:
                text += " on the samples"
            elif target.wanted:
                text += f" of {amount(target.kind, target.wanted)}"
        if target.kind == "latency" and target.latency is not None:
            after = target.latency.after
            text += f" ({after.low:.3g} to {after.high:.3g} in {after.runs} runs)"
        if target.allocation != ("uniform" if target.kind == "ratio" else "auto"):
            text += f", allocation {target.allocation}"
        return text if target.round_to == 1 else f"{text}, {self._rounding()}"

    def _rounding(self) -> str:
        """What the numbers of channels are multiples of, and why."""
        text = f"channels in steps of {self.target.round_to}"
        if self.config.round_to != "auto":
            return text
        machine = "this machine" if self.config.hardware == "host" else self.config.hardware
        return f"{text} ({machine})"
