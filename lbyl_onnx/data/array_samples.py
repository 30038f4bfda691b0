"""Samples in arrays: of one file or several, or in memory; checked against what a model takes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.data.arrays import open_arrays
from lbyl_onnx.data.samples import Input, Samples, SampleShapes, choose
from lbyl_onnx.errors import CalibrationError, first_line
from lbyl_onnx.option_types import shown
from lbyl_onnx.text import listed
from lbyl_onnx.types import Array

# Values looked at together when arrays are checked.
BLOCK = 1 << 22
# Bytes to which the archives of one calibration may unpack together, and of samples in memory.
HELD = 1 << 30
_ARCHIVE = "give an .npz with the arrays named after the model's inputs"
SamplesLike = Array | Mapping[str, Array] | Iterable[Array | Mapping[str, Array]]
"""Samples that a caller holds: one batch or several, each an array or arrays by input."""


@dataclass(frozen=True)
class ArrayPart:
    """Samples of one file or of one batch in memory.

    Parameters
    ----------
    name
        What errors call it.
    arrays
        By the names of the inputs.
    file
        Where the array lies that is mapped anew for each batch: of many files each open one counts.
    """

    name: str
    arrays: Mapping[str, Array]
    file: Path | None = None

    @property
    def count(self) -> int:
        """How many samples it holds, once it is checked."""
        return len(next(iter(self.arrays.values())))

    def take(self, rows: NDArray[np.intp]) -> dict[str, Array]:
        """Return the samples of these numbers."""
        if self.file is None:
            return {name: np.asarray(array[rows]) for name, array in self.arrays.items()}
        (name,) = self.arrays
        (mapped,) = open_arrays(self.file).read([""]).values()
        if (mapped.shape, mapped.dtype) != (self.arrays[name].shape, self.arrays[name].dtype):
            raise CalibrationError(f"{self.file} has changed meanwhile; run again")
        return {name: np.asarray(mapped[rows])}


@dataclass(frozen=True)
class _Arrays:
    """Samples in parts: each lies in the part `part` under the number `row`."""

    parts: Sequence[ArrayPart]
    part: NDArray[np.intp]
    row: NDArray[np.intp]
    dtypes: Mapping[str, np.dtype[Any]]

    def read(self, rows: NDArray[np.intp]) -> dict[str, Array]:
        part, row = self.part[rows], self.row[rows]
        cuts = np.flatnonzero(np.diff(part)) + 1
        runs = zip(np.split(part, cuts), np.split(row, cuts), strict=True)
        parts = [self.parts[numbers[0]].take(indices) for numbers, indices in runs]
        return {
            name: np.concatenate([cast(arrays[name], dtype) for arrays in parts])
            for name, dtype in self.dtypes.items()
        }


def cast(array: Array, dtype: np.dtype[Any]) -> Array:
    """Give values the type of an input; what becomes infinite is refused by `_check_values`."""
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def open_array_files(
    files: Sequence[Path],
    name: str,
    inputs: Sequence[Input],
    limit: int,
    seed: int,
    most: int = HELD,
) -> Samples:
    """Open samples in .npz and .npy files; see `read_calibration`.

    Raises
    ------
    CalibrationError
        When one cannot be read, or does not fit the inputs.
    """
    parts, held = list[ArrayPart](), 0
    for file in files:
        part = _load(file, inputs)
        mapped = any(isinstance(array, np.memmap) for array in part.arrays.values())
        if mapped and len(files) > 1:
            unread = {n: _like(array) for n, array in part.arrays.items()}
            part = ArrayPart(part.name, unread, file)
        elif not mapped:
            held += sum(array.nbytes for array in part.arrays.values())
        if held > most:
            raise CalibrationError(
                f"{file} and the files before it unpack to {held:,} bytes, of {most:,} at most; "
                "take fewer samples, or save .npy files, which are not read as a whole"
            )
        parts.append(part)
    return open_parts(parts, name, inputs, limit, seed)


def open_in_memory(
    samples: SamplesLike, inputs: Sequence[Input], limit: int, seed: int, most: int = HELD
) -> Samples:
    """Open samples that a caller holds; they are checked as those of a file are.

    Parameters
    ----------
    samples
        An array for a model with one input, or arrays by the names of the inputs; the first axis of
        each counts samples. Or any number of such batches, which may differ in size along dynamic
        axes.
    inputs, limit, seed
        As for `read_calibration`.

    Raises
    ------
    CalibrationError
        When they are no arrays of numbers, do not fit the inputs, or are not finite.
    """
    if isinstance(samples, str | os.PathLike):
        raise CalibrationError(
            f"samples is {shown(samples)}; give {_MEMORY}; a path is calibration"
        )
    if _is_batch(samples):
        parts = [_in_memory("samples", samples, inputs)]
    else:
        parts, held = list[ArrayPart](), 0
        try:
            batches = iter(samples)
        except TypeError as error:
            raise CalibrationError(f"samples is {shown(samples)}; give {_MEMORY}") from error
        for number, batch in enumerate(batches):
            parts.append(_in_memory(f"batch {number} of samples", batch, inputs))
            held += sum(array.nbytes for array in parts[-1].arrays.values())
            if held > most:
                raise CalibrationError(
                    f"samples holds more than {most:,} bytes; give fewer, or save .npy files, "
                    "which are not read as a whole"
                )
    opened = open_parts(parts, "samples", inputs, limit, seed)
    return replace(opened, origin="samples from Python")


_MEMORY = "an array, arrays by the names of the model's inputs, or a list of such batches"


def _is_batch(value: object) -> bool:
    return isinstance(value, Mapping) or hasattr(value, "__array__")


def _in_memory(name: str, batch: Any, inputs: Sequence[Input]) -> ArrayPart:
    if not _is_batch(batch):
        raise CalibrationError(f"{name} is {shown(batch)}; give {_MEMORY}")
    held = batch if isinstance(batch, Mapping) else {"": batch}
    array_names = wanted_arrays(
        name, list(map(str, held)), inputs, "give arrays by the names of them"
    )
    arrays = {}
    for i, key in array_names.items():
        try:
            arrays[i] = np.asarray(held[key])
        except Exception as error:  # an array of another library converts itself
            raise CalibrationError(
                f"{name} holds no array for input {i}: {first_line(error)}; give {_MEMORY}"
            ) from error
        if arrays[i].dtype.kind not in "biufcSU" or not arrays[i].ndim:
            raise CalibrationError(
                f"{name} holds {shown(held[key])} for input {i}; give an array of numbers"
            )
    return ArrayPart(name, arrays)


def open_parts(
    parts: Sequence[ArrayPart], name: str, inputs: Sequence[Input], limit: int, seed: int
) -> Samples:
    """Choose among samples whose arrays lie in parts, and check those that are chosen.

    Parameters
    ----------
    parts
        They may differ in size along dynamic axes.
    name
        What errors call all of them.
    inputs, limit, seed
        As for `read_calibration`.

    Raises
    ------
    CalibrationError
        When one does not fit the inputs, or holds what is not finite.
    """
    for i in inputs:
        if not i.shape:
            raise CalibrationError(f"input {i.name} is a scalar; it can take no samples")
    for part in parts:
        for i in inputs:
            _check_array(part.name, i, part.arrays[i.name])
        counts = {n: len(array) for n, array in part.arrays.items()}
        if len(set(counts.values())) > 1:
            each = ", ".join(f"{count} for {n}" for n, count in counts.items())
            raise CalibrationError(
                f"{part.name} holds unequal numbers of samples: {each}; give as many"
            )
    starts = np.cumsum([0, *(part.count for part in parts)])
    rows = choose(name, int(starts[-1]), inputs, limit, seed)
    number = np.searchsorted(starts, rows, "right") - 1
    kept, indices = list[ArrayPart](), rows - starts[number]
    where = indices.copy()
    for at, part in enumerate(parts):
        mine = number == at
        kept.append(_kept(part, where[mine]))
        if kept[-1] is not part:
            indices[mine] = np.arange(int(mine.sum()))
    source = _Arrays(kept, number, indices, {i.name: i.dtype for i in inputs})
    for i in inputs:
        _check_values(parts, i, source, where)
    shapes = [{n: array.shape[1:] for n, array in part.arrays.items()} for part in parts]
    return Samples(np.arange(len(rows)), source, SampleShapes.of([shapes[at] for at in number]))


def _kept(part: ArrayPart, rows: NDArray[np.intp]) -> ArrayPart:
    """The part with the samples of these numbers alone, where it is in memory."""
    lazy = part.file is not None or any(isinstance(a, np.memmap) for a in part.arrays.values())
    return part if lazy else ArrayPart(part.name, {n: a[rows] for n, a in part.arrays.items()})


def _like(array: Array) -> Array:
    """An array of this shape and type that takes no memory."""
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)


def _load(path: Path, inputs: Sequence[Input]) -> ArrayPart:
    """Return the arrays by the names of the inputs, whatever they are like."""
    file = open_arrays(path)
    array_names = wanted_arrays(str(path), file.names, inputs)
    arrays = file.read(set(array_names.values()))
    return ArrayPart(str(path), {name: arrays[held] for name, held in array_names.items()})


def wanted_arrays(
    path: str, held: Sequence[str], inputs: Sequence[Input], mend: str = _ARCHIVE
) -> dict[str, str]:
    """Return the name of the array for each input.

    Raises
    ------
    CalibrationError
        When there is none for one.
    """
    if not held:
        raise CalibrationError(f"{path} holds no arrays; give one for each input of the model")
    if len(inputs) == 1 and len(held) == 1:
        return {inputs[0].name: held[0]}
    missing = [i.name for i in inputs if i.name not in held]
    if missing:
        names = listed(held) if tuple(held) != ("",) else "one array without a name"
        raise CalibrationError(
            f"{path} holds no array for {', '.join(missing)}, but {names}; {mend}"
        )
    return {i.name: i.name for i in inputs}


def _check_array(path: str, i: Input, array: Array) -> None:
    """Refuse an array whose shape or type is not what the input takes."""
    sides = zip(array.shape[1:], i.shape[1:], strict=False)
    if array.ndim != len(i.shape) or any(s not in (None, own) for own, s in sides):
        dims = ", ".join(["samples", *("any" if s is None else str(s) for s in i.shape[1:])])
        raise CalibrationError(
            f"{path} has shape {array.shape} for input {i.name}, which takes ({dims}); give "
            "samples of that shape, one along the first axis for each"
        )
    own = array.dtype
    if i.dtype.kind == "f" and own.kind in "iub":
        raise CalibrationError(
            f"{path} holds {own} for input {i.name}, which takes {i.dtype}; normalise the values "
            f"as the model's inputs are, then save them as {i.dtype}"
        )
    whole = i.dtype.kind in "iu" and own.kind in "iu"
    if not (whole or own == i.dtype or (i.dtype.kind == own.kind == "f")):
        raise CalibrationError(
            f"{path} holds {own} for input {i.name}, which takes {i.dtype}; save it as {i.dtype}"
        )


def _check_values(
    parts: Sequence[ArrayPart], i: Input, source: _Arrays, numbers: NDArray[np.intp]
) -> None:
    """Refuse values that are not finite, or not once they have the input's type.

    `numbers` are those of the samples in their part, as errors call them.
    """
    for at, part in enumerate(source.parts):
        mine = np.flatnonzero(source.part == at)
        step = max(1, BLOCK // max(1, math.prod(parts[at].arrays[i.name].shape[1:])))
        for start in range(0, len(mine), step):
            here = mine[start : start + step]
            stored = part.take(source.row[here])[i.name]
            values = cast(stored, i.dtype)
            good = np.isfinite(values) if i.dtype.kind == "f" else values == stored
            bad = np.flatnonzero(~good.reshape(len(here), -1).all(axis=1))
            if bad.size:
                what = "are NaN, infinite or too large for" if i.dtype.kind == "f" else "do not fit"
                raise CalibrationError(
                    f"{part.name} holds values that {what} {i.dtype} in sample "
                    f"{numbers[here[bad[0]]]} for input {i.name}; leave that sample out or mend it"
                )
