"""Samples cut to the lengths that their masks tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from lbyl_onnx.data.calibration import read_calibration
from lbyl_onnx.data.padding import without_padding
from lbyl_onnx.data.samples import Input, Samples
from lbyl_onnx.errors import CalibrationError

LENGTH = 6
# First and last position of each sample's own part: padded behind, before, on both sides, not.
OWN = ((0, 3), (2, 5), (1, 3), (0, 6), (3, 6), (0, 1))


def takes(
    name: str, *shape: int | None, symbol: str | None = "T", dtype: DTypeLike = np.int64
) -> Input:
    symbols = tuple(symbol if d is None and axis else None for axis, d in enumerate(shape))
    return Input(name, np.dtype(dtype), shape, symbols=symbols)


IDS = takes("ids", None, None)
MASK = takes("attention_mask", None, None)


def arrays() -> dict[str, NDArray[np.int64]]:
    ids = np.arange(1, 1 + len(OWN) * LENGTH).reshape(len(OWN), LENGTH)
    mask = np.zeros_like(ids)
    for row, (begin, end) in zip(mask, OWN, strict=True):
        row[begin:end] = 1
    return {"ids": ids, "attention_mask": mask}


def opened(folder: Path, inputs: list[Input], **given: NDArray[np.int64]) -> Samples:
    np.savez(folder / "x.npz", **{**arrays(), **given})  # type: ignore[arg-type]  # by name
    return without_padding(read_calibration(folder / "x.npz", inputs), inputs)


def test_no_padded_position_is_left_and_no_other_is_lost(tmp_path: Path) -> None:
    stored = arrays()
    samples = opened(tmp_path, [IDS, MASK])
    batches = list(samples.batches(2))
    assert all(np.all(batch["attention_mask"] == 1) for batch in batches)
    assert [batch["ids"].shape for batch in batches] == [(2, 3), (1, 3), (1, 2), (1, 6), (1, 1)]
    left = np.sort(np.concatenate([batch["ids"].ravel() for batch in batches]))
    assert np.array_equal(left, stored["ids"][stored["attention_mask"] == 1])
    assert samples.most_frequent == {"ids": (3,), "attention_mask": (3,)}


def test_each_axis_of_the_name_is_cut(tmp_path: Path) -> None:
    """As of a bias (N, T, T): both its axes are those of the tokens."""
    bias = takes("bias", None, None, None)
    values = np.arange(len(OWN) * LENGTH**2).reshape(len(OWN), LENGTH, LENGTH)
    samples = opened(tmp_path, [IDS, MASK, bias], bias=values)
    for row, (begin, end) in enumerate(OWN):
        (found,) = replace(samples, rows=samples.rows[row : row + 1], shapes=None).batches(1)
        assert np.array_equal(found["bias"][0], values[row, begin:end, begin:end])


def test_where_names_differ_the_axes_that_are_as_long_are_cut(tmp_path: Path) -> None:
    others = [replace(IDS, symbols=(None, "a")), replace(MASK, symbols=(None, None))]
    more = takes("more", None, None, symbol="b")
    values = np.zeros((len(OWN), LENGTH + 1), np.int64)
    samples = opened(tmp_path, [*others, more], more=values)
    assert samples.most_frequent == {"ids": (3,), "attention_mask": (3,), "more": (LENGTH + 1,)}


@pytest.mark.parametrize(
    "inputs",
    [
        [IDS, takes("attention_mask", None, LENGTH)],  # a fixed length
        [takes("ids", None, LENGTH), MASK],  # nothing to cut along with it
        [IDS, takes("attention", None, None)],  # no mask by its name
    ],
    ids=["fixed", "alone", "another name"],
)
def test_what_stays_as_it_is(tmp_path: Path, inputs: list[Input]) -> None:
    values = {"attention": arrays()["attention_mask"]}
    (batch,) = opened(tmp_path, inputs, **values).batches(9)
    assert np.array_equal(batch["ids"], arrays()["ids"])


@pytest.mark.parametrize(("kind", "longest"), [("mask", 3), ("tokens", LENGTH), ("", LENGTH)])
def test_the_graph_tells_a_mask_of_any_name(tmp_path: Path, kind: str, longest: int) -> None:
    mask = replace(MASK, name="attention", kind=kind)
    samples = opened(tmp_path, [IDS, mask], attention=arrays()["attention_mask"])
    assert samples.most_frequent == {"ids": (longest,), "attention": (longest,)}


def test_values_of_no_mask_cut_nothing(tmp_path: Path) -> None:
    values = 2 * arrays()["attention_mask"]
    (batch,) = opened(tmp_path, [IDS, MASK], attention_mask=values).batches(9)
    assert np.array_equal(batch["attention_mask"], values)


def test_samples_without_padding_are_read_together(tmp_path: Path) -> None:
    whole = np.ones((len(OWN), LENGTH), np.int64)
    (batch,) = opened(tmp_path, [IDS, MASK], attention_mask=whole).batches(9)
    assert np.array_equal(batch["ids"], arrays()["ids"])


def test_zeros_between_ones_stay(tmp_path: Path) -> None:
    mask = arrays()["attention_mask"]
    mask[3] = [1, 0, 1, 1, 0, 0]
    batches = opened(tmp_path, [IDS, MASK], attention_mask=mask).batches(1)
    held = [batch["attention_mask"][0].tolist() for batch in batches]
    assert [1, 0, 1, 1] in held


def test_samples_padded_to_different_lengths_run_together(tmp_path: Path) -> None:
    for name, length in (("a", 5), ("b", 8)):
        ids, mask = np.ones((1, length), np.int64), np.zeros((1, length), np.int64)
        mask[:, :4] = 1
        np.savez(tmp_path / f"{name}.npz", ids=ids, attention_mask=mask)
    inputs = [IDS, MASK]
    (batch,) = without_padding(read_calibration(tmp_path, inputs), inputs).batches(4)
    assert batch["ids"].shape == (2, 4)


def test_a_mask_of_zeros_is_an_error(tmp_path: Path) -> None:
    mask = arrays()["attention_mask"]
    mask[1] = 0
    with pytest.raises(CalibrationError, match="a sample whose attention_mask is 0 everywhere"):
        opened(tmp_path, [IDS, MASK], attention_mask=mask)
