"""Unlabelled samples of the user's own, from arrays or a folder of images, as mini-batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.config import Layout
from lbyl_onnx.data.arrays import open_arrays
from lbyl_onnx.data.image_files import find_images, form_of, open_images
from lbyl_onnx.data.samples import Input, Samples, SampleShapes
from lbyl_onnx.errors import CalibrationError, OptionError
from lbyl_onnx.guard.bounds import bounded, seconds_for
from lbyl_onnx.text import listed
from lbyl_onnx.types import Array

# More samples than this are left out: moments gain little beyond a few hundred images.
LIMIT = 512
# Values looked at together when arrays are checked.
BLOCK = 1 << 22


def read_calibration(
    path: Path,
    inputs: Sequence[Input],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    layout: Layout = "auto",
    *,
    limit: int = LIMIT,
    seed: int = 0,
) -> Samples:
    """Open samples for a model, and check all of them that is cheap to check.

    Parameters
    ----------
    path
        A .npz file with an array for each input, by its name; other arrays in it, as labels, are
        left aside; for a model with one input a single array may have any name. Or a .npy file for
        a model with one input. Or a folder, searched to any depth for images, for a model with one
        input that takes images.

        The first axis of an array counts samples; its values are what the model is fed with,
        normalised already. Any float type is cast to the input's, whole numbers only to other
        whole numbers that hold them.

        Images are turned upright, made grey for one channel and RGB for three, scaled so that they
        cover the model's height and width and cropped to them about the centre. Floats are in
        [0, 1] before `mean` and `std`; for uint8 they are the bytes.
    inputs
        What the model takes: along a dynamic axis samples of any size, along a fixed one that.
        Images are scaled to the shape that the user gave; where an open side has none, they must be
        of one size.
    mean, std
        Of a folder's images, in [0, 1], one for each channel or one for all: (x - mean) / std.
    layout
        Where a folder's images have their channels; "auto" tells by the input's shape.
    limit
        Where there are more samples than this, a random choice of them is used.
    seed
        Of that choice.

    Returns
    -------
    Samples
        They are read again at each iteration: from the mapped file for .npy, from the image files
        for a folder; the chosen ones of an .npz stay in memory.

    Raises
    ------
    CalibrationError
        When there is nothing to read, it cannot be read, is empty, not finite, or does not fit the
        inputs.
    OptionError
        For a `mean`, `std`, `layout` or `limit` that is wrong or has no use here.
    """
    if limit < 1:
        raise OptionError(f"the limit of samples is {limit}; give at least 1")
    if path.is_dir():
        return _open_folder(path, inputs, layout, mean, std, limit, seed)
    if mean is not None or std is not None:
        raise OptionError(
            f"mean and std are for a folder of images, but {path} is none; normalise its arrays "
            "before saving them"
        )
    if not path.exists():
        raise CalibrationError(f"{path} does not exist; give an .npz, an .npy or a folder")
    if not path.is_file() or path.suffix.lower() not in (".npz", ".npy"):
        raise CalibrationError(f"{path} is no .npz, .npy or folder of images; give one of these")
    with bounded(f"reading {path.name}", seconds_for(path.stat().st_size)):
        return _open_arrays(path, inputs, limit, seed)


def _choose(
    path: Path, count: int, inputs: Sequence[Input], limit: int, seed: int
) -> NDArray[np.intp]:
    """Numbers of the samples to use, ascending: as many as whole batches hold."""
    if count == 0:
        raise CalibrationError(f"{path} holds no samples; give at least one")
    batch = math.lcm(*(i.shape[0] or 1 for i in inputs))
    if count < batch:
        raise CalibrationError(
            f"{path} holds {count} samples, but the model takes {batch} at a time; give as many"
        )
    used = max(batch, min(count, limit) // batch * batch)
    if used == count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, used, replace=False))


@dataclass(frozen=True)
class _Arrays:
    """Samples in arrays, by the name of the input; `dtypes` are those of the inputs."""

    arrays: Mapping[str, Array]
    dtypes: Mapping[str, np.dtype[Any]]

    def read(self, rows: NDArray[np.intp]) -> dict[str, Array]:
        with np.errstate(over="ignore"):  # what becomes infinite is refused by `_check_values`
            return {
                name: np.asarray(array[rows]).astype(self.dtypes[name])
                for name, array in self.arrays.items()
            }


def _open_arrays(path: Path, inputs: Sequence[Input], limit: int, seed: int) -> Samples:
    for i in inputs:
        if not i.shape:
            raise CalibrationError(f"input {i.name} is a scalar; it can take no samples")
    arrays = _load(path, inputs)
    for i in inputs:
        _check_array(path, i, arrays[i.name])
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} for {name}" for name, count in counts.items())
        raise CalibrationError(f"{path} holds unequal numbers of samples: {listed}; give as many")
    rows = _choose(path, counts[inputs[0].name], inputs, limit, seed)
    numbers = rows
    if not any(isinstance(array, np.memmap) for array in arrays.values()):
        arrays = {name: array[rows] for name, array in arrays.items()}  # the others go
        rows = np.arange(len(rows))
    source = _Arrays(arrays, {i.name: i.dtype for i in inputs})
    for i in inputs:
        _check_values(path, i, source, rows, numbers)
    shape = {name: array.shape[1:] for name, array in arrays.items()}
    return Samples(rows, source, SampleShapes.alike(shape, len(rows)))


def _load(path: Path, inputs: Sequence[Input]) -> dict[str, Array]:
    """Return the arrays by the names of the inputs, whatever they are like."""
    file = open_arrays(path)
    wanted = _wanted(path, file.names, inputs)
    found = file.read(set(wanted.values()))
    return {name: found[held] for name, held in wanted.items()}


def _wanted(path: Path, held: Sequence[str], inputs: Sequence[Input]) -> dict[str, str]:
    """Return the name of the array for each input."""
    if not held:
        raise CalibrationError(f"{path} holds no arrays; give one for each input of the model")
    if len(inputs) == 1 and len(held) == 1:
        return {inputs[0].name: held[0]}
    missing = [i.name for i in inputs if i.name not in held]
    if missing:
        names = listed(held) if tuple(held) != ("",) else "one array without a name"
        raise CalibrationError(
            f"{path} holds no array for {', '.join(missing)}, but {names}; give an .npz with the "
            "arrays named after the model's inputs"
        )
    return {i.name: i.name for i in inputs}


def _check_array(path: Path, i: Input, array: Array) -> None:
    """Refuse an array whose shape or type is not what the input takes."""
    sides = zip(array.shape[1:], i.shape[1:], strict=False)
    if array.ndim != len(i.shape) or any(s not in (None, given) for given, s in sides):
        wanted = ", ".join(["samples", *("any" if s is None else str(s) for s in i.shape[1:])])
        raise CalibrationError(
            f"{path} has shape {array.shape} for input {i.name}, which takes ({wanted}); give "
            "samples of that shape, one along the first axis for each"
        )
    given = array.dtype
    if i.dtype.kind == "f" and given.kind in "iub":
        raise CalibrationError(
            f"{path} holds {given} for input {i.name}, which takes {i.dtype}; normalise the values "
            f"as the model's inputs are, then save them as {i.dtype}"
        )
    whole = i.dtype.kind in "iu" and given.kind in "iu"
    if not (whole or given == i.dtype or (i.dtype.kind == given.kind == "f")):
        raise CalibrationError(
            f"{path} holds {given} for input {i.name}, which takes {i.dtype}; save it as {i.dtype}"
        )


def _check_values(
    path: Path, i: Input, source: _Arrays, rows: NDArray[np.intp], numbers: NDArray[np.intp]
) -> None:
    """Refuse values that are not finite, or not once they have the input's type.

    `rows` are the samples in the source, `numbers` the same in the file.
    """
    array = source.arrays[i.name]
    one = _Arrays({i.name: array}, source.dtypes)
    step = max(1, BLOCK // max(1, math.prod(array.shape[1:])))
    for start in range(0, len(rows), step):
        here = rows[start : start + step]
        values = one.read(here)[i.name].reshape(len(here), -1)
        good = np.isfinite(values) if i.dtype.kind == "f" else values == _flat(array[here])
        bad = np.flatnonzero(~good.all(axis=1))
        if bad.size:
            what = "are NaN, infinite or too large for" if i.dtype.kind == "f" else "do not fit"
            raise CalibrationError(
                f"{path} holds values that {what} {i.dtype} in sample "
                f"{numbers[start + bad[0]]} for input {i.name}; leave that sample out or mend it"
            )


def _flat(array: Array) -> Array:
    return array.reshape(len(array), -1)


def _open_folder(
    path: Path,
    inputs: Sequence[Input],
    layout: Layout,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    limit: int,
    seed: int,
) -> Samples:
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        listed = ", ".join(f"{i.name} of rank {len(i.shape)}" for i in inputs)
        raise CalibrationError(
            f"{path} is a folder of images, for models with one input of rank 4, but this one has "
            f"{listed}; give an .npz"
        )
    known = inputs[0].given or inputs[0].shape
    form = form_of(inputs[0].name, inputs[0].dtype, known, layout, mean, std)
    files = find_images(path)
    rows = _choose(path, len(files), inputs, limit, seed)
    images = open_images([files[row] for row in rows], form)
    shape = {form.name: images.form.shape}
    return Samples(np.arange(len(rows)), images, SampleShapes.alike(shape, len(rows)))
