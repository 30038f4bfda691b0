"""The report of `benchmarks.fed`: rows on record, and a table for people."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from benchmarks.tables import markdown_table

NO_DATA, CALIBRATED = "no data", "calibrated"


@dataclass(frozen=True)
class Row:
    """One model, compressed once.

    Parameters
    ----------
    subject, model
        Which.
    ratio, seed
        How.
    samples
        NO_DATA or CALIBRATED.
    options
        Those that were set beside, as ``name=value``.
    limit
        Most samples that scored; None for all.
    original, scores
        Figures by name, of the original and of the compressed model; none where it failed.
    parameters, macs
        Share left.
    seconds
        Of `compress`.
    failure
        Why no model was written.
    """

    subject: str
    model: str
    ratio: float
    seed: int
    samples: str
    options: tuple[str, ...]
    limit: int | None
    original: Mapping[str, float]
    scores: Mapping[str, float]
    parameters: float = 1.0
    macs: float = 1.0
    seconds: float = 0.0
    failure: str = ""

    @property
    def line(self) -> tuple[str, str, float, tuple[str, ...]]:
        """Rows of one line of the table differ in seed and samples alone."""
        return self.subject, self.model, self.ratio, self.options

    @property
    def key(self) -> tuple[object, ...]:
        """A new row takes the place of one on record with the same."""
        return *self.line, self.seed, self.samples


def on_record(path: Path) -> list[Row]:
    """Return the rows of earlier runs."""
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    return [Row(**{**row, "options": tuple(row["options"])}) for row in rows]


def merged(old: Sequence[Row], new: Sequence[Row], subjects: Sequence[str]) -> list[Row]:
    """Put new rows in the place of old ones, in the order of the subjects."""
    rows = {row.key: row for row in (*old, *new)}
    place = {name: i for i, name in enumerate(subjects)}
    models = {model: i for i, model in enumerate(dict.fromkeys(r.model for r in rows.values()))}
    return sorted(
        rows.values(),
        key=lambda r: (place[r.subject], models[r.model], r.ratio, r.options, r.samples, r.seed),
    )


def markdown(setting: Mapping[str, object], rows: Sequence[Row], commands: Sequence[str]) -> str:
    """Return the report for people."""
    lines = ["# Models on what they are fed", "", *(f"- `{command}`" for command in commands), ""]
    lines += [
        f"{setting['machine']}, {setting['versions']}",
        "",
        "Each model is compressed at the defaults, first without data, then with samples as its "
        "client feeds it, none of which scores. Figures are the median over the seeds, with the "
        "lowest and highest in brackets: shares in percent; cosine, IoU and error (the norm of the "
        "change over the norm) as they are. Parameters and MACs: percent left; seconds of one "
        "`compress`, without and with samples.",
        "",
    ]
    header = ["subject", "model", "removed", "figure", "original", NO_DATA, CALIBRATED]
    header += ["parameters", "MACs", "seconds"]
    body = []
    for _, group in groupby(rows, key=lambda row: row.line):
        body += _lines(list(group))
    lines += [markdown_table(header, body, left_columns=2), ""]
    failures = [row for row in rows if row.failure]
    lines += [
        f"- **{row.model}, {row.ratio:.0%}, {row.samples}, seed {row.seed}: not written.** "
        f"{row.failure}"
        for row in failures
    ]
    return "\n".join(lines).rstrip() + "\n"


def _lines(rows: Sequence[Row]) -> list[list[str]]:
    """Return a line for each figure of one model at one ratio."""
    first = rows[0]
    written = [row for row in rows if not row.failure]
    title = f"{first.model} ({', '.join(first.options)})" if first.options else first.model
    body = []
    for name, original in first.original.items():
        cells = [_summary(name, [r for r in written if r.samples == s]) for s in _SAMPLES]
        line = [first.subject, title, f"{first.ratio:.0%}", name, shown(name, original), *cells]
        line += [_median([100.0 * row.parameters for row in written])]
        line += [_median([100.0 * row.macs for row in written])]
        seconds = [[r.seconds for r in written if r.samples == s] for s in _SAMPLES]
        body.append([*line, ", ".join(f"{statistics.median(s):.0f}" for s in seconds if s)])
    return body


_SAMPLES = (NO_DATA, CALIBRATED)


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f}" if values else ""


def _summary(name: str, rows: Sequence[Row]) -> str:
    values = [row.scores[name] for row in rows]
    if not values:
        return ""
    middle = shown(name, statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({shown(name, min(values))} to {shown(name, max(values))})"


def shown(name: str, value: float) -> str:
    """Return a figure: shares in percent, others as they are."""
    return f"{value:.4f}" if name in ("cosine", "error", "IoU") else f"{100.0 * value:.1f}"
