"""Samples that fit a model: which there are, of which shapes, in mini-batches of one shape each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.errors import CalibrationError
from lbyl_onnx.input_options.shapes import Shapes
from lbyl_onnx.types import Array


@dataclass(frozen=True)
class Input:
    """What one input of a model takes.

    Parameters
    ----------
    name
        Of the input.
    dtype
        Of its elements.
    shape
        Its first axis counts samples; None for a dynamic dimension.
    stated_shape
        The shape that the user gave for it, to which images are scaled; empty without.
    symbols
        Names of its dimensions: those of one name have one size; None for one without, and empty
        where none is known.
    kind
        What the graph tells that it takes, as `InputKind` names it; empty where it tells nothing.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    stated_shape: tuple[int, ...] = ()
    symbols: tuple[str | None, ...] = ()
    kind: str = ""


class SampleReader(Protocol):
    """Where samples are read."""

    def read(self, rows: NDArray[np.intp]) -> dict[str, Array]:
        """Return the samples of these numbers, which have one shape, by the name of the input."""


@dataclass(frozen=True)
class SampleShapes:
    """The shapes of samples, where they are known.

    Parameters
    ----------
    kinds : (count,) intp
        The number in `each` of every sample's shape.
    each
        Shapes by the name of the input, without the axis of the samples.
    """

    kinds: NDArray[np.intp]
    each: tuple[Shapes, ...]

    @staticmethod
    def of(shapes: Sequence[Shapes]) -> SampleShapes:
        """Number the shapes of samples in the order in which they appear first."""
        numbers: dict[tuple[tuple[str, tuple[int, ...]], ...], int] = {}
        kinds = [numbers.setdefault(tuple(s.items()), len(numbers)) for s in shapes]
        return SampleShapes(np.asarray(kinds, np.intp), tuple(map(dict, numbers)))

    @staticmethod
    def alike(shape: Shapes, count: int) -> SampleShapes:
        """Return those of so many samples of one shape."""
        return SampleShapes(np.zeros(count, np.intp), (shape,))


@dataclass(frozen=True)
class Samples:
    """Samples that fit a model, read as they are asked for.

    Parameters
    ----------
    rows : (count,) intp
        The numbers of the samples used.
    source
        Where they are read.
    shapes
        Of each of them; None where all have one that need not be known.
    origin
        What reports call them.
    """

    rows: NDArray[np.intp]
    source: SampleReader
    shapes: SampleShapes | None = None
    origin: str = "samples of --calibration"

    @property
    def count(self) -> int:
        """How many there are; a multiple of the model's batch size where that is fixed."""
        return len(self.rows)

    @property
    def most_frequent(self) -> Shapes:
        """The shape that most samples have, by input; the first of several, {} if not known."""
        if self.shapes is None:
            return {}
        return self.shapes.each[int(np.argmax(np.bincount(self.shapes.kinds)))]

    def first(self, count: int) -> Samples:
        """Return the first of them, all where there are no more."""
        return self._only(np.arange(min(count, self.count)))

    def in_whole(self, size: int) -> Samples:
        """Return those that fill batches of exactly `size`, shape by shape; the rest is left out.

        Raises
        ------
        CalibrationError
            When no batch is filled.
        """
        parts = [rows[: len(rows) // size * size] for rows in self._by_shape()]
        if not any(map(len, parts)):
            most = max(map(len, self._by_shape()), default=0)
            raise CalibrationError(
                f"the model takes {size} samples at a time, but of one shape calibration has "
                f"{most} at most; give as many"
            )
        return self._only(np.sort(np.concatenate(parts)))

    def batches(self, size: int, elements: int | None = None) -> Iterator[dict[str, Array]]:
        """Yield all samples, `size` of one shape at a time and the rest at last, by input.

        The most frequent shape comes first, samples of one shape in their order.

        Parameters
        ----------
        size
            Samples in a batch.
        elements
            Values of one sample for which `size` is meant: larger samples come fewer at a time.

        Raises
        ------
        CalibrationError
            When a file cannot be decoded.
        ValueError
            When `size` is below 1.
        """
        if size < 1:
            raise ValueError(f"size is {size}; give at least 1")
        for rows in self._by_shape():
            step = size
            if elements is not None and self.shapes is not None and len(rows):
                own = _elements(self.shapes.each[self.shapes.kinds[rows[0]]])
                step = max(1, min(size, size * elements // max(1, own)))
            for start in range(0, len(rows), step):
                yield self.source.read(self.rows[rows[start : start + step]])

    def _by_shape(self) -> list[NDArray[np.intp]]:
        """Places in `rows` of the samples of each shape, the most frequent first."""
        if self.shapes is None:
            return [np.arange(self.count)]
        by_kind = [np.flatnonzero(self.shapes.kinds == k) for k in range(len(self.shapes.each))]
        return sorted((rows for rows in by_kind if len(rows)), key=len, reverse=True)

    def _only(self, rows: NDArray[np.intp]) -> Samples:
        shapes = self.shapes
        shapes = None if shapes is None else replace(shapes, kinds=shapes.kinds[rows])
        return replace(self, rows=self.rows[rows], shapes=shapes)


def choose(
    name: str, count: int, inputs: Sequence[Input], limit: int, seed: int
) -> NDArray[np.intp]:
    """Choose numbers of the samples to use, ascending: as many as whole batches hold.

    Parameters
    ----------
    name
        What errors call the samples together.
    count
        How many there are.
    inputs
        What the model takes: how many at a time, where the first axis is fixed.
    limit
        Where there are more, a random choice is used.
    seed
        Of that choice.

    Raises
    ------
    CalibrationError
        When there are none, or fewer than the model takes at a time.
    """
    if count == 0:
        raise CalibrationError(f"{name} holds no samples; give at least one")
    batch = math.lcm(*(i.shape[0] or 1 for i in inputs))
    if count < batch:
        raise CalibrationError(
            f"{name} holds {count} samples, but the model takes {batch} at a time; give as many"
        )
    used = max(batch, min(count, limit) // batch * batch)
    if used == count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, used, replace=False))


def _elements(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
