"""Samples that a caller holds: arrays, arrays by input, batches of such."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike

from lbyl_onnx.data.array_samples import open_in_memory
from lbyl_onnx.data.samples import Input, Samples
from lbyl_onnx.errors import CalibrationError
from lbyl_onnx.types import Array


def takes(*shape: int | None, name: str = "x", dtype: DTypeLike = np.float32) -> Input:
    return Input(name, np.dtype(dtype), shape)


VECTORS, IDS = takes(None, 4), takes(None, 2, name="ids", dtype=np.int32)
VALUES = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


def opened(given: Any, *inputs: Input, limit: int = 512) -> Samples:
    return open_in_memory(given, inputs or (VECTORS,), limit, 0)


def joined(samples: Samples, name: str = "x") -> Array:
    return np.concatenate([batch[name] for batch in samples.batches(4)])


class Foreign:
    """An array of another library."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return VALUES


def one_by_one() -> Iterator[dict[str, Array]]:
    yield from ({"x": row[None]} for row in VALUES)


@pytest.mark.parametrize(
    "given",
    [
        lambda: VALUES,
        lambda: VALUES.astype(np.float64),
        lambda: {"x": VALUES},
        lambda: {"anything": VALUES},
        lambda: {"x": VALUES, "labels": np.arange(6)},
        lambda: {"x": VALUES.tolist()},
        lambda: [VALUES[:2], VALUES[2:]],
        lambda: ({"x": VALUES[:5]}, {"x": VALUES[5:]}),
        one_by_one,
        Foreign,
    ],
)
def test_each_form_gives_the_samples(given: Callable[[], Any]) -> None:
    samples = opened(given())
    assert joined(samples).dtype == np.float32
    assert np.array_equal(joined(samples), VALUES)
    assert np.array_equal(joined(samples), VALUES)  # a second time, of a generator too
    assert samples.origin == "samples from Python"


def test_several_inputs_go_together() -> None:
    ids = np.arange(12).reshape(6, 2)
    samples = opened({"x": VALUES, "ids": ids}, VECTORS, IDS, limit=3)
    rows = joined(samples, "ids")[:, 0] // 2
    assert len(rows) == 3
    assert np.array_equal(joined(samples), VALUES[rows])


def test_batches_may_differ_in_size() -> None:
    batches = [np.ones((2, 4, width), np.float32) for width in (3, 5, 3)]
    samples = opened(batches, takes(None, 4, None))
    assert [batch["x"].shape for batch in samples.batches(8)] == [(4, 4, 3), (2, 4, 5)]


WRONG: dict[str, tuple[Any, str]] = {
    "a number": (3, "samples is 3; give an array, arrays by"),
    "a path": ("x.npy", "samples is 'x.npy'; give an array.*; a path is calibration"),
    "numbers": ([1.0, 2.0], "batch 0 of samples is 1.0; give"),
    "nothing": ([], "samples holds no samples"),
    "no rows": (VALUES[:0], "samples holds no samples"),
    "no arrays": ({}, "samples holds no arrays"),
    "another shape": (VALUES[:, :3], r"samples has shape \(6, 3\) for input x, which takes"),
    "a later batch": ([VALUES, VALUES[:, :3]], r"batch 1 of samples has shape \(6, 3\)"),
    "bytes": (VALUES.astype(np.uint8), "normalise"),
    "NaN": (np.where(VALUES > 2, VALUES, np.nan), "NaN.* in sample 0 for input x"),
    "objects": ({"x": [object()]}, "for input x; give an array of numbers"),
    "ragged": ({"x": [[1.0], [1.0, 2.0]]}, "samples holds no array for input x: .*; give"),
    "a scalar": (np.float32(3), r"holds np.float32\(3.0\).* for input x; give an array"),
}


@pytest.mark.parametrize(("given", "says"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_one_line(given: Any, says: str) -> None:
    with pytest.raises(CalibrationError, match=says) as caught:
        opened(given)
    assert "\n" not in str(caught.value)


def test_names_that_lack_are_told() -> None:
    with pytest.raises(CalibrationError, match=r"no array for ids, but x; give arrays by the nam"):
        opened({"x": VALUES}, VECTORS, IDS)


def test_what_is_held_is_bounded() -> None:
    with pytest.raises(CalibrationError, match="more than 200 bytes"):
        open_in_memory(itertools.repeat(VALUES), [VECTORS], 99, 0, most=200)
