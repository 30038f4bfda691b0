"""Cells of a sweep, and how each ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lbyl_onnx.config import Config
from lbyl_onnx.evaluate.doubt import wilson
from lbyl_onnx.evaluate.prediction.predict import Prediction
from lbyl_onnx.evaluate.score import ScoringData
from lbyl_onnx.option_types import Quantize

# Curves that a printed sweep lists.
_CURVES = 4


@dataclass(frozen=True)
class Cell:
    """One compression to be measured.

    Parameters
    ----------
    model
        The model's file, where every worker finds it.
    digest
        SHA-256 of its bytes, external data included.
    config
        How it is compressed.
    data
        What it is scored on.
    key
        Hash of all that the outcome depends on.
    """

    model: Path
    digest: str
    config: Config
    data: ScoringData
    key: str


@dataclass(frozen=True)
class Measures:
    """Costs and score of a model; latency in milliseconds, None where it was not measured."""

    parameters: int
    macs: int
    file_size: int
    latency: float | None
    score: float


class Named:
    """What a cell that has ended is called, however it ended."""

    method: str
    ratio: float
    quantize: Quantize | None
    macs: str | None

    @property
    def series(self) -> str:
        """The method, and how the result is quantised: a line of the picture."""
        return self.method if self.quantize is None else f"{self.method} + {self.quantize}"

    @property
    def aim(self) -> str:
        """The ratio, or what was asked for in its place."""
        return f"{self.ratio:g}" if self.macs is None else f"macs {self.macs}"


@dataclass(frozen=True)
class Outcome(Named):
    """A finished cell.

    Parameters
    ----------
    key
        Of the cell.
    model, method, ratio
        What was compressed, and how.
    metric, samples
        What the score is, and of how many samples.
    before, after
        The original and the compressed model.
    p_value
        Probability of the accuracies' difference by chance; None for other metrics.
    quantize
        How it was quantised afterwards; None where it was not.
    prediction
        How near it is predicted to be to the original on real inputs; None where that is not.
    macs
        The multiply-accumulates that were asked for in place of a ratio; None where a ratio was.
    """

    key: str
    model: str
    method: str
    ratio: float
    metric: str
    samples: int
    before: Measures
    after: Measures
    p_value: float | None = None
    quantize: Quantize | None = None
    prediction: Prediction | None = None
    macs: str | None = None

    def interval(self, side: Measures) -> tuple[float, float] | None:
        """Return the 95 % interval of a side's score; None for a cosine, which is no share."""
        if self.metric in ("cosine", "score"):
            return None
        return wilson(round(side.score * self.samples), self.samples)


@dataclass(frozen=True)
class Failure(Named):
    """A cell that could not be finished, the reason, and the exit code that goes with it."""

    key: str
    model: str
    method: str
    ratio: float
    reason: str
    exit_code: int = 1
    quantize: Quantize | None = None
    macs: str | None = None


@dataclass(frozen=True)
class Sweep:
    """All cells of a sweep, in the order in which they were asked for."""

    outcomes: tuple[Outcome, ...]
    failures: tuple[Failure, ...]
    reused: int

    def __str__(self) -> str:
        """Return a few lines: how many cells there are, and where each curve begins and ends."""
        failed = f", {len(self.failures)} failed" if self.failures else ""
        lines = [f"{len(self.outcomes)} cells measured{failed}"]
        curves: dict[tuple[str, str], list[Outcome]] = {}
        for outcome in self.outcomes:
            curves.setdefault((outcome.model, outcome.series), []).append(outcome)
        for (model, series), outcomes in list(curves.items())[:_CURVES]:
            ends = dict.fromkeys((outcomes[0], outcomes[-1]))
            points = ", ".join(f"{o.after.score:.4f} at {o.aim}" for o in ends)
            lines.append(f"{model}, {series}: {outcomes[0].metric} {points}")
        more = len(curves) - _CURVES
        return "\n".join([*lines, *([f"... and {more} more curves"] if more > 0 else [])])


Scheduler = Callable[[Sequence[Cell]], Iterator[Outcome | Failure]]
"""Runs cells anywhere, and gives what came of each as it ends."""
