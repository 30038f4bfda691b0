"""Results read back from the JSON that `compress --json` wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from lbyl_onnx.channels.groups import Refusal
from lbyl_onnx.errors import ReportError, first_line
from lbyl_onnx.evaluate.metrics import Fidelity
from lbyl_onnx.io.files import read_bounded
from lbyl_onnx.report.json import FORMAT
from lbyl_onnx.report.origin import Machine
from lbyl_onnx.results.groups import GroupReport
from lbyl_onnx.runtime.timing import Latency, PairedLatency
from lbyl_onnx.text import short

# Bytes of a file: a group takes some hundred, names of bounded length included.
LARGEST = 1 << 24
# No number of a result is as large; a picture of larger ones would leave the range of floats.
_LARGEST_NUMBER = 1e18


@dataclass(frozen=True)
class Side:
    """Costs of one model: its file in bytes, its time in milliseconds."""

    parameters: int
    macs: int
    file_size: int
    latency_ms: Latency


@dataclass(frozen=True)
class TimeRatio:
    """The result's time as a share of the original's, with its interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Asked:
    """What was asked for, and what of that was reached."""

    kind: str
    reached: float
    text: str


@dataclass(frozen=True)
class Proof:
    """Where the models ran, and how near the outputs are."""

    provider: str
    fidelity: Fidelity


@dataclass(frozen=True)
class Quantisation:
    """How the result was quantised, and the bits of its weights."""

    kind: str
    bits: int


@dataclass(frozen=True)
class Options:
    """Those options that tell results from each other."""

    method: str


@dataclass(frozen=True)
class Recorded:
    """A result as its JSON tells it, by the names that it has there.

    Parameters
    ----------
    lbyl_onnx
        Version of the tool that wrote it.
    date, machine
        When and where it was measured; an empty text and None where that is not told.
    input, output
        The models, as the user named them; no output after a dry run.
    options, target
        How it was made.
    before, after, time_ratio
        What both models cost.
    verification
        How near their outputs are.
    quantised
        None where it was not.
    groups, refusals, warnings
        What was pruned, what was not and why, and what to know.
    """

    lbyl_onnx: str
    date: str
    machine: Machine | None
    input: str
    output: str | None
    options: Options
    target: Asked
    before: Side
    after: Side
    time_ratio: TimeRatio
    verification: Proof
    quantised: Quantisation | None
    groups: tuple[GroupReport, ...]
    refusals: tuple[Refusal, ...]
    warnings: tuple[str, ...]

    @property
    def times(self) -> PairedLatency:
        """Times of both models."""
        ratio = self.time_ratio
        sides = self.before.latency_ms, self.after.latency_ms
        return PairedLatency(*sides, ratio.median, ratio.low, ratio.high)


def read_result(path: Path, largest: int = LARGEST) -> Recorded:
    """Read a result from the JSON that `compress --json` wrote.

    Parameters
    ----------
    path
        The file.
    largest
        Bytes that it may have.

    Raises
    ------
    ReportError
        When it cannot be read, is no such file, is of another format, or is damaged.
    """
    try:
        text = read_bounded(path, largest).decode("utf-8")
        document = json.loads(text, parse_constant=_no_number)
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ReportError(f"{path} is no JSON: {short(first_line(ValueError(reason)))}") from error
    if not isinstance(document, dict) or "format" not in document:
        raise ReportError(f"{path} is no result of this version's `lbyl-onnx compress --json`")
    number = document["format"]
    if type(number) is not int or number != FORMAT:
        raise ReportError(
            f"{path} is of format {short(repr(number), 40)}, by lbyl-onnx "
            f"{short(str(document.get('lbyl_onnx')), 40)}; this version reads format {FORMAT}: "
            "write it anew"
        )
    try:
        result: Recorded = _read(Recorded, document, "")
    except _DamagedError as error:
        raise ReportError(f"{path} is damaged: {error}") from error
    return result


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


class _DamagedError(Exception):
    """A value is missing, or not of its type."""


def _read(kind: Any, value: object, where: str) -> Any:
    """Return a value as the type that it must be, or raise _DamagedError."""
    if is_dataclass(kind):
        return _read_object(kind, value, where)
    if NoneType in get_args(kind):
        (other,) = (part for part in get_args(kind) if part is not NoneType)
        return None if value is None else _read(other, value, where)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise _DamagedError(f"{where} is no list")
        item = get_args(kind)[0]
        return tuple(_read(item, one, f"{where}[{n}]") for n, one in enumerate(value))
    if kind is float and type(value) in (int, float):
        # Whole numbers may be too large for a float: they are compared first.
        if abs(value) <= _LARGEST_NUMBER:  # type: ignore[arg-type]
            return float(value)  # type: ignore[arg-type]
    elif kind is int and type(value) is int:
        if 0 <= value <= _LARGEST_NUMBER:
            return value
    elif type(value) is kind:
        return value
    raise _DamagedError(f"{where} is {short(repr(value), 40)}")


def _read_object(kind: Any, value: object, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise _DamagedError(f"{where or 'the document'} is no object")
    types, read = get_type_hints(kind), {}
    for field in fields(kind):
        place = f"{where}.{field.name}".removeprefix(".")
        if field.name in value:
            read[field.name] = _read(types[field.name], value[field.name], place)
        elif field.default is MISSING:
            raise _DamagedError(f"{place} is missing")
    return kind(**read)
