"""The report of `benchmarks.ocr`: one document for programs, one for people."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.tables import describe_machine, markdown_table
from lbyl_onnx import Config

TOGETHER = ("det", "cls", "rec")
CHOICES = (TOGETHER, *((stage,) for stage in TOGETHER))
READABLE = 0.9  # nine characters in ten; below it the report says which model is at fault


@dataclass(frozen=True)
class Setting:
    """How the run was made."""

    command: str
    minutes: int
    rounds: int
    config: Config
    versions: dict[str, str]
    page: str


@dataclass(frozen=True)
class Reading:
    """What the engine made of the page.

    Parameters
    ----------
    text
        Its lines, from the top.
    accuracy
        Of its characters; 1 is faultless, below 0 is longer and wrong.
    page_ratios, work_ratios
        Seconds over the original models' seconds, one ratio per round: for the page, and for equal
        work (see `benchmarks.ocr.Engine.work`). Empty where not timed.
    """

    text: str
    accuracy: float
    page_ratios: tuple[float, ...] = ()
    work_ratios: tuple[float, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One configuration, with some stages compressed.

    Parameters
    ----------
    config
        How they were compressed.
    stages
        Which.
    parameters, macs
        Share left, of these models together; None where one was not written.
    reading
        The result, or why a model was not written.
    """

    config: Config
    stages: tuple[str, ...]
    parameters: float | None
    macs: float | None
    reading: Reading | str


def document(setting: Setting, uncompressed: Reading, cells: Sequence[Cell]) -> dict[str, Any]:
    """Return everything measured, for ``ocr.json``."""
    rows = []
    for cell in cells:
        row: dict[str, Any] = {
            "ratio": cell.config.requested_ratio,
            "method": cell.config.method,
            "compressed": list(cell.stages),
            "parameters": cell.parameters,
            "macs": cell.macs,
        }
        row |= {"failure": cell.reading} if isinstance(cell.reading, str) else asdict(cell.reading)
        rows.append(row)
    options = asdict(setting.config)
    for varied in ("ratio", "method"):
        del options[varied]
    return {
        **asdict(setting),
        "config": options,
        "machine": describe_machine(),
        "uncompressed": {"text": uncompressed.text, "accuracy": uncompressed.accuracy},
        "cells": rows,
    }


def markdown(setting: Setting, uncompressed: Reading, cells: Sequence[Cell]) -> str:
    """Return the report for people, ``ocr.md``."""
    machine = describe_machine()
    versions = ", ".join(f"{name} {number}" for name, number in setting.versions.items())
    lines = [
        "# Reading a page with compressed models",
        "",
        f"`{setting.command}` on {machine['processor']}, {machine['cores']} cores, "
        f"{setting.minutes} min; Python {machine['python']}, {versions} (CPU).",
        "",
        "Character accuracy in percent (1 - edit distance / length) of one rendered page of "
        f"{len(setting.page.splitlines())} lines and {len(setting.page)} characters, blanks and "
        "line ends included; no text at all scores 0, wrong text longer than the page less than 0. "
        "The three models of rapidocr-onnxruntime are the detector (det), the classifier of "
        "upside-down lines (cls) and the recogniser (rec); *alone* is one of them compressed, the "
        f"others its own. Scope {setting.config.scope}, criterion {setting.config.criterion}, "
        "options at their defaults; nothing was chosen on the page.",
        "",
        "Parameters and MACs: percent left, of all three models together; MACs of one run of each "
        "at the input shapes of the verification. Time: all three compressed, over the originals, "
        f"median (and range) of {setting.rounds} rounds in turn. *Page* is the whole reading, "
        "which ends sooner where less is found. *Equal work* is detection on the page, then "
        "classifier and recogniser on each true line.",
        "",
        _table(uncompressed, cells),
        "",
        *_remarks(cells),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _table(uncompressed: Reading, cells: Sequence[Cell]) -> str:
    header = ["removed", "method", "all three", *(f"{stage} alone" for stage in TOGETHER)]
    header += ["parameters", "MACs", "time, page", "time, equal work"]
    own = [_percent(uncompressed.accuracy)] * len(CHOICES)
    rows = [["nothing", "", *own, "100.0", "100.0", "1.00", "1.00"]]
    rows += [_row(config, cells) for config in dict.fromkeys(cell.config for cell in cells)]
    return markdown_table(header, rows, left_columns=2)


def _row(config: Config, cells: Sequence[Cell]) -> list[str]:
    of_stages = {cell.stages: cell for cell in cells if cell.config == config}
    readings = [of_stages[stages].reading for stages in CHOICES]
    scores = ["failed" if isinstance(r, str) else _percent(r.accuracy) for r in readings]
    whole = of_stages[TOGETHER]
    costs = ["-" if cost is None else _percent(cost) for cost in (whole.parameters, whole.macs)]
    times = ["-", "-"]
    if isinstance(whole.reading, Reading):
        ratios = (whole.reading.page_ratios, whole.reading.work_ratios)
        times = [f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in ratios]
    return [f"{100 * config.requested_ratio:.3g} %", config.method, *scores, *costs, *times]


def _remarks(cells: Sequence[Cell]) -> list[str]:
    """Say in words which pages are not readable, which models cause it, and what failed."""
    lines = []
    for cell in cells:
        name = f"{100 * cell.config.requested_ratio:.3g} % {cell.config.method}"
        if isinstance(cell.reading, str):
            if len(cell.stages) == 1:
                lines.append(f"- **{name}: a model was not written.** {cell.reading}.")
        elif cell.stages == TOGETHER and cell.reading.accuracy < READABLE:
            lines.append(
                f"- **{name}: below {READABLE:.0%} of the characters**, at "
                f"{_percent(cell.reading.accuracy)}; {_cause(cell.config, cells)}."
            )
    return lines


def _cause(config: Config, cells: Sequence[Cell]) -> str:
    guilty = [
        f"{cell.stages[0]} ({_percent(cell.reading.accuracy)})"
        for cell in cells
        if cell.config == config and len(cell.stages) == 1
        if isinstance(cell.reading, Reading) and cell.reading.accuracy < READABLE
    ]
    return f"so does, alone, {' and '.join(guilty)}" if guilty else "none of the three alone"


def _percent(value: float) -> str:
    return f"{100.0 * value:.1f}"
