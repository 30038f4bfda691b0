"""Padding that a mask tells: samples are cut to their own lengths, so that none is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.data.samples import Input, SampleReader, Samples, SampleShapes
from lbyl_onnx.errors import CalibrationError
from lbyl_onnx.input_options.shapes import Shapes
from lbyl_onnx.types import Array

Axes = Mapping[str, tuple[int, ...]]
"""Axes of inputs, by their names."""


@dataclass(frozen=True)
class _Spans:
    """What of each sample is its own: positions `begin` to `end` along some axes."""

    axes: Axes
    begin: NDArray[np.intp]
    end: NDArray[np.intp]


@dataclass(frozen=True)
class _Cut:
    """Samples of another source, each cut to its own lengths."""

    source: SampleReader
    rows: NDArray[np.intp]
    spans: Sequence[_Spans]

    def read(self, rows: NDArray[np.intp]) -> dict[str, Array]:
        # One by one: samples of one length may have been padded to different ones.
        each = [self._one(int(row)) for row in rows]
        return {name: np.concatenate([one[name] for one in each]) for name in each[0]}

    def _one(self, row: int) -> dict[str, Array]:
        sample = self.source.read(self.rows[row : row + 1])
        for spans in self.spans:
            own = slice(int(spans.begin[row]), int(spans.end[row]))
            for name, axes in spans.axes.items():
                where = [own if axis in axes else slice(None) for axis in range(sample[name].ndim)]
                sample[name] = sample[name][tuple(where)]
        return sample


def without_padding(samples: Samples, inputs: Sequence[Input]) -> Samples:
    """Return samples cut to their own lengths, where a mask tells them and the model takes any.

    A mask is an input of rank 2, (samples, length), that the graph reads as one, or whose name
    holds "mask" where the graph tells nothing, and whose values are 0 and 1. Its axis is cut from
    the first to the last 1, and along with it each axis of the same name; where no other has that
    name, the axes 1 that are as long. What has a fixed length stays as it is, and so do zeros
    between ones.

    Parameters
    ----------
    samples
        Samples, padded or not.
    inputs
        What the model takes.

    Raises
    ------
    CalibrationError
        When the mask of a sample is 0 everywhere.
    """
    if samples.shapes is None:
        return samples
    cuts = list[_Spans]()
    for mask in inputs:
        if not _may_mask(mask):
            continue
        axes = _cut_axes(mask, inputs, [samples.shapes.each[k] for k in set(samples.shapes.kinds)])
        spans = None if axes is None else _spans(samples, mask.name, axes)
        if spans is not None:
            cuts.append(spans)
    if not cuts:
        return samples
    shapes = [dict(samples.shapes.each[kind]) for kind in samples.shapes.kinds]
    for spans in cuts:
        lengths = (spans.end - spans.begin).tolist()
        for shape, length in zip(shapes, lengths, strict=True):
            shape.update(_resized(shape, spans.axes, length))
    cut = _Cut(samples.source, samples.rows, cuts)
    each_shape = SampleShapes.of(shapes)
    return replace(samples, rows=np.arange(samples.count), source=cut, shapes=each_shape)


def _may_mask(i: Input) -> bool:
    is_mask = i.kind == "mask" if i.kind else "mask" in i.name.lower()
    return is_mask and len(i.shape) == 2 and i.shape[1] is None


def _cut_axes(mask: Input, inputs: Sequence[Input], shapes: Sequence[Shapes]) -> Axes | None:
    """The axes that are as long as a mask; None where there are none but its own."""
    named = _named_alike(mask, inputs)
    if named.keys() - {mask.name} and all(_as_long(mask, named, shape) for shape in shapes):
        return named
    first = {i.name: (1,) for i in inputs if len(i.shape) > 1 and i.shape[1] is None}
    long = {
        name: axes
        for name, axes in first.items()
        if all(_as_long(mask, {name: axes}, shape) for shape in shapes)
    }
    return long if long.keys() - {mask.name} else None


def _named_alike(mask: Input, inputs: Sequence[Input]) -> Axes:
    symbol = mask.symbols[1] if mask.symbols else None
    alike = {i.name: tuple(a for a, s in enumerate(i.symbols) if a and s == symbol) for i in inputs}
    return {name: axes for name, axes in alike.items() if axes and symbol is not None}


def _as_long(mask: Input, axes: Axes, shape: Shapes) -> bool:
    """Whether axes are as long as a mask, in samples of this shape."""
    sizes = {shape[name][axis - 1] for name, positions in axes.items() for axis in positions}
    return sizes == set(shape[mask.name])


def _spans(samples: Samples, mask: str, axes: Axes) -> _Spans | None:
    """The own part of each sample; None where the values are no mask's, or all is their own."""
    begin, end = (np.zeros(samples.count, np.intp) for _ in range(2))
    padded = False
    for row, value in enumerate(_each(samples, mask)):
        if not np.all((value == 0) | (value == 1)):
            return None
        own = np.flatnonzero(value)
        if not own.size:
            raise CalibrationError(
                f"calibration holds a sample whose {mask} is 0 everywhere; leave it out"
            )
        begin[row], end[row] = own[0], own[-1] + 1
        padded = padded or end[row] - begin[row] < len(value)
    return _Spans(axes, begin, end) if padded else None


def _each(samples: Samples, name: str) -> Iterator[Array]:
    for row in range(samples.count):
        yield samples.source.read(samples.rows[row : row + 1])[name][0]


def _resized(shape: Shapes, axes: Axes, length: int) -> Shapes:
    return {
        name: tuple(length if at + 1 in positions else d for at, d in enumerate(shape[name]))
        for name, positions in axes.items()
    }
