"""The compression curve: every method at every ratio, each cell kept once it is finished."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

from lbyl_onnx.config import Config
from lbyl_onnx.errors import LbylOnnxError, ModelError, OutputError
from lbyl_onnx.evaluate.prediction.predict import Prediction, Quantity, SampleKind
from lbyl_onnx.evaluate.score import ScoringData, score
from lbyl_onnx.graph.costs import Costs
from lbyl_onnx.graph.source import model_files, open_source, sha256
from lbyl_onnx.io.files import read_bounded
from lbyl_onnx.io.text_file import write_whole
from lbyl_onnx.pipeline import compress
from lbyl_onnx.runtime import providers
from lbyl_onnx.runtime.timing import Latency
from lbyl_onnx.sweeps.output import METRICS
from lbyl_onnx.sweeps.types import Cell, Failure, Measures, Outcome, Scheduler, Sweep


def plan_cells(
    models: Sequence[Path], configs: Sequence[Config], data: ScoringData, version: str
) -> tuple[Cell, ...]:
    """Return a cell for each model and configuration.

    Parameters
    ----------
    models
        The models' files.
    configs
        How each is compressed.
    data
        What all are scored on.
    version
        Of this tool: another one may give other models.

    Raises
    ------
    ModelError
        When a file cannot be read.
    """
    scored = [digest_of([path]) for path in scoring_files(data)]
    cells = []
    for model in models:
        digest = digest_of(model_files(model))
        for config in configs:
            tensor_info = {
                "model": digest,
                "config": asdict(config),
                "scored_on": [*scored, data.labels, data.seed, data.own],
                "version": version,
            }
            key = hashlib.sha256(json.dumps(tensor_info, sort_keys=True).encode()).hexdigest()
            cells.append(Cell(model, digest, config, data, key))
    return tuple(cells)


def scoring_files(data: ScoringData) -> list[Path]:
    """Return the files that models are scored on."""
    files = [] if data.inputs is None else [data.inputs]
    if data.labels is not None and data.labels.endswith(".npy"):
        files.append(Path(data.labels))
    code = Path((data.own or "").rpartition(":")[0])
    if code.suffix == ".py":
        files.append(code)
    return files


def digest_of(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of files, in hexadecimal.

    Raises
    ------
    ModelError
        When one cannot be read.
    """
    try:
        return hashlib.sha256("".join(map(sha256, paths)).encode()).hexdigest()
    except OSError as error:
        raise ModelError(f"{error.filename} cannot be read: {error.strerror}") from error


def run_cell(cell: Cell) -> Outcome | Failure:
    """Compress, score, and forget the compressed model; a worker's whole task."""
    config = cell.config
    names = cell.key, str(cell.model), config.method, config.requested_ratio
    try:
        files = open_source(cell.model)
        if digest_of(model_files(cell.model)) != cell.digest:
            raise ModelError(f"{cell.model} is not the file here that the sweep began with")
        with (
            # A worker's stderr is the user's: only what is raised is told there.
            warnings.catch_warnings(action="ignore"),
            tempfile.TemporaryDirectory(prefix="lbyl-onnx-") as folder,
        ):
            output = Path(folder) / "compressed.onnx"
            result = compress(cell.model, output, config=config)
            provider = providers.provider_name(config.provider)
            scored = score(cell.model, output, cell.data, provider)
        files.check_unchanged()
    except LbylOnnxError as error:
        return Failure(*names, str(error), error.exit_code, config.quantize, macs_of(config))
    before = _measures(result.before, result.size_before, result.latency.before, scored.before)
    after = _measures(result.after, result.size_after, result.latency.after, scored.after)
    sides = scored.metric, scored.samples, before, after
    more = config.quantize, result.prediction, macs_of(config)
    return Outcome(*names, *sides, scored.p_value, *more)


def macs_of(config: Config) -> str | None:
    """Return the multiply-accumulates that a cell is to reach, as text; None for a ratio."""
    return None if config.macs is None else str(config.macs)


def _measures(costs: Costs, size: int, latency: Latency, score: float) -> Measures:
    return Measures(costs.parameters, costs.macs, size, latency.median, score)


def run_sweep(
    cells: Sequence[Cell], folder: Path, scheduler: Scheduler, progress: Callable[[int, int], None]
) -> Sweep:
    """Run the cells that have not been run; keep each outcome as soon as it is there.

    Parameters
    ----------
    cells
        The cells.
    folder
        Where outcomes are kept, one file for each.
    scheduler
        Where they run.
    progress
        Told how many cells are done, and how many there are.

    Raises
    ------
    OutputError
        When an outcome cannot be kept.
    """
    # The same model may be there under two names: its cells have the same keys.
    unique = {cell.key: cell for cell in cells}
    kept = {key: outcome for key, c in unique.items() if (outcome := _read(folder, c)) is not None}
    missing = [cell for key, cell in unique.items() if key not in kept]
    failures: dict[str, Failure] = {}
    progress(len(kept), len(unique))
    for done in scheduler(missing) if missing else ():
        if isinstance(done, Failure):
            failures[done.key] = done
        else:
            write_whole(json.dumps(asdict(done), indent=2) + "\n", _place(folder, done.key))
            kept[done.key] = done
        progress(len(kept) + len(failures), len(unique))
    return Sweep(
        tuple(replace(kept[c.key], model=str(c.model)) for c in cells if c.key in kept),
        tuple(replace(failures[c.key], model=str(c.model)) for c in cells if c.key in failures),
        sum(cell.key not in {m.key for m in missing} for cell in cells),
    )


def make_folder(folder: Path) -> None:
    """Make the folder of a sweep.

    Raises
    ------
    OutputError
        When it cannot be made.
    """
    try:
        (folder / _CELLS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--out {folder} cannot be made: {error.strerror}") from error


# Folder of the finished cells.
_CELLS = "cells"
# Bytes of a cell's file; it takes about a thousand.
LARGEST_CELL = 1 << 16


def _place(folder: Path, key: str) -> Path:
    return folder / _CELLS / f"{key}.json"


def _read(folder: Path, cell: Cell) -> Outcome | None:
    """Return the outcome that is kept of a cell; None where there is none that can be believed."""
    try:
        held = json.loads(read_bounded(_place(folder, cell.key), LARGEST_CELL))
        before, after = (Measures(**held.pop(side)) for side in ("before", "after"))
        predicted = held.pop("prediction")
        prediction = None if predicted is None else Prediction(**predicted)
        outcome = Outcome(**held, before=before, after=after, prediction=prediction)
    except OSError:
        return None  # it is not there, or no regular file
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None  # damaged, or of another form: it is run again
    return outcome if _sound(outcome, cell) else None


def _sound(outcome: Outcome, cell: Cell) -> bool:
    """Whether an outcome is one that `run_cell` could have given for a cell."""
    config, p_value = cell.config, outcome.p_value
    said = outcome.key, outcome.method, outcome.ratio, outcome.quantize, outcome.macs
    asked = config.method, config.requested_ratio, config.quantize, macs_of(config)
    return (
        said == (cell.key, *asked)
        and isinstance(outcome.model, str)
        and isinstance(outcome.metric, str)
        and outcome.metric in METRICS
        and _counts(outcome.samples)
        and all(_measured(side, outcome.metric) for side in (outcome.before, outcome.after))
        and (p_value is None or (type(p_value) in (int, float) and 0.0 <= p_value <= 1.0))
        and (outcome.prediction is None or _predicted(outcome.prediction))
    )


def _predicted(prediction: Prediction) -> bool:
    """Whether a prediction is of its types, and its numbers are what shares and cosines may be."""
    ends = [end for end in (prediction.low, prediction.high) if end is not None]
    return (
        prediction.quantity in get_args(Quantity)
        and prediction.kind in get_args(SampleKind)
        and _counts(prediction.samples)
        and all(
            type(n) in (int, float) and -1.0 - 1e-6 <= n <= 1.0 + 1e-6
            for n in (prediction.value, *ends)
        )
    )


def _measured(side: Measures, metric: str) -> bool:
    """Whether measures are of their types, finite, and within what they may be."""
    numbers = [side.score, *([] if side.latency is None else [side.latency])]
    return (
        all(type(n) in (int, float) and math.isfinite(n) for n in numbers)
        and (metric == "score" or abs(side.score) <= 1.0 + 1e-6)  # cosines are rounded
        and (side.latency is None or side.latency >= 0)
        and all(map(_counts, (side.parameters, side.macs, side.file_size)))
    )


def _counts(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63
