"""Samples of several shapes: chosen, counted, and put into mini-batches of one shape each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from lbyl_onnx.data.samples import Samples, SampleShapes
from lbyl_onnx.data.source import SampleSource
from lbyl_onnx.errors import CalibrationError
from lbyl_onnx.types import Array
from tests.support.specs import plain_spec


@dataclass(frozen=True)
class Rows:
    """Samples of different lengths, each filled with its number."""

    lengths: Sequence[int]

    def read(self, rows: NDArray[np.intp]) -> dict[str, Array]:
        return {"x": np.stack([np.full(self.lengths[row], row, np.float32) for row in rows])}


def of_lengths(*lengths: int) -> Samples:
    shapes = SampleShapes.of([{"x": (length,)} for length in lengths])
    return Samples(np.arange(len(lengths)), Rows(lengths), shapes)


def numbers(samples: Samples, size: int, elements: int | None = None) -> list[list[int]]:
    return [batch["x"][:, 0].astype(int).tolist() for batch in samples.batches(size, elements)]


def test_a_batch_has_samples_of_one_shape_the_most_frequent_first() -> None:
    samples = of_lengths(5, 3, 3, 5, 3, 7)
    assert numbers(samples, 2) == [[1, 2], [4], [0, 3], [5]]
    assert samples.most_frequent == {"x": (3,)}


def test_of_two_shapes_as_frequent_the_first_counts() -> None:
    assert of_lengths(5, 3, 3, 5).most_frequent == {"x": (5,)}


def test_larger_samples_come_fewer_at_a_time() -> None:
    assert numbers(of_lengths(4, 4, 4, 8, 8, 2, 40), 4, elements=4) == [
        *([0, 1, 2], [3, 4], [5], [6]),
    ]
    assert numbers(of_lengths(40, 40), 4, elements=4) == [[0], [1]]


def test_the_first_are_taken_whatever_their_shape() -> None:
    assert numbers(of_lengths(5, 3, 3, 5).first(2), 4) == [[0], [1]]
    assert of_lengths(5, 3).first(9).count == 2


def test_whole_batches_leave_out_what_fills_none() -> None:
    whole = of_lengths(5, 3, 3, 5, 3, 7).in_whole(2)
    assert numbers(whole, 2) == [[0, 3], [1, 2]]
    with pytest.raises(CalibrationError, match=r"takes 4 samples at a time.* has 3 at most"):
        of_lengths(5, 3, 3, 5, 3, 7).in_whole(4)


def test_a_source_uses_as_many_as_it_says() -> None:
    samples, spec = of_lengths(3, 3, 5, 3, 5, 3), {"x": plain_spec("f4", (2, 3))}
    found = [b["x"][:, 0].tolist() for b in SampleSource(spec, 4, 2, 0, supplied=samples).batches()]
    assert found == [[0, 1], [3], [2]]
    exact = SampleSource(spec, 4, 2, 0, supplied=samples.in_whole(2), exact=True)
    assert [b["x"][:, 0].tolist() for b in exact.batches()] == [[0, 1], [3, 5]]
