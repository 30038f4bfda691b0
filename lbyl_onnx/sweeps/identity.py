"""Whose sweep a folder holds: another one would take the place of its table and its picture."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lbyl_onnx.errors import OutputError
from lbyl_onnx.io.files import read_bounded
from lbyl_onnx.io.text_file import write_whole
from lbyl_onnx.sweeps.cells import digest_of, scoring_files
from lbyl_onnx.sweeps.types import Cell, Failure, Outcome, Scheduler

# In the folder of a sweep.
_NAME = "identity.json"
# Bytes of that file; it takes a line for each model.
LARGEST = 1 << 20
# What may differ within a sweep: a folder may get more ratios, methods and quantisations.
_VARIED = ("ratio", "macs", "method", "method_options", "quantize")
_AGAIN = "give another folder, or remove this one first"


def check_own(folder: Path, cells: Sequence[Cell]) -> None:
    """Refuse a folder that holds another sweep; more models may come to those that it has.

    Raises
    ------
    OutputError
        When it holds the sweep of other models, or of other options or samples.
    """
    held = _read(folder / _NAME)
    if held is not None:
        _check(folder, held, _record(cells))


def noting(scheduler: Scheduler, folder: Path, cells: Sequence[Cell]) -> Scheduler:
    """Return a scheduler that notes in a folder whose sweep it holds, once there is an outcome."""

    def run(missing: Sequence[Cell]) -> Iterator[Outcome | Failure]:
        noted = False
        for done in scheduler(missing):
            if isinstance(done, Outcome) and not noted:
                note(folder, cells)
                noted = True
            yield done

    return run


def note(folder: Path, cells: Sequence[Cell]) -> None:
    """Note in a folder whose sweep it holds.

    Raises
    ------
    OutputError
        When it cannot be written.
    """
    write_whole(json.dumps(_record(cells), indent=2) + "\n", folder / _NAME)


def _record(cells: Sequence[Cell]) -> dict[str, Any]:
    """What tells one sweep from another, as JSON has it."""
    first = cells[0]
    options = asdict(first.config)
    record = {
        "models": {cell.digest: str(cell.model) for cell in cells},
        "options": {name: value for name, value in options.items() if name not in _VARIED},
        "scored_on": [
            *(digest_of([path]) for path in scoring_files(first.data)),
            *(first.data.labels, first.data.seed),
        ],
    }
    loaded: dict[str, Any] = json.loads(json.dumps(record, default=str))
    return loaded


def _read(file: Path) -> dict[str, Any] | None:
    """Return what is noted; None where nothing is that can be read."""
    try:
        held = json.loads(read_bounded(file, LARGEST))
        sound = all(isinstance(held[name], dict) for name in ("models", "options"))
        return held if sound and isinstance(held["scored_on"], list) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _check(folder: Path, held: dict[str, Any], record: dict[str, Any]) -> None:
    missing = [str(name) for key, name in held["models"].items() if key not in record["models"]]
    if missing:
        what = f"of {missing[0]}, which is another model or has changed"
        raise OutputError(f"--out {folder} holds the sweep {what}; {_AGAIN}")
    changed = [n for n, v in record["options"].items() if held["options"].get(n, v) != v]
    if changed:
        raise OutputError(f"--out {folder} holds a sweep with another {changed[0]}; {_AGAIN}")
    if held["scored_on"] != record["scored_on"]:
        raise OutputError(f"--out {folder} holds a sweep scored on other samples; {_AGAIN}")
