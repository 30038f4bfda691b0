"""Weights and activations in whole numbers, against slow oracles."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from lbyl_onnx.methods.integers.ranges import BINS, LEVELS, Histogram, least_error_range
from lbyl_onnx.methods.integers.rounding import (
    RIDGE,
    most_of,
    nearest,
    round_in_metric,
    steps,
)

Floats = NDArray[np.float64]


def drawn(outputs: int, columns: int, seed: int = 0) -> tuple[Floats, Floats]:
    """A weight, and second moments of inputs that go along with one another."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((columns, columns)) + 2.0 * rng.standard_normal((columns, 1))
    return rng.standard_normal((outputs, columns)), mixed.T @ mixed / columns


def lost(weight: Floats, whole: NDArray[np.int8], step: Floats, moments: Floats) -> Floats:
    """Second moment of what each output loses, (outputs,)."""
    error = weight - whole * step[:, None]
    return np.asarray(np.einsum("oi,ij,oj->o", error, moments, error))


def one_by_one(weight: Floats, step: Floats, most: int, moments: Floats) -> NDArray[np.int8]:
    """Round column after column; what is left is fitted anew by least squares each time."""
    regular = moments + RIDGE * np.trace(moments) / len(moments) * np.eye(len(moments))
    order = np.argsort(-np.diag(moments), kind="stable")
    whole = np.zeros(weight.shape, np.int8)
    for row, original in enumerate(weight):
        fixed = np.zeros(len(original))
        for number, column in enumerate(order):
            done, left = order[:number], order[number:]
            # the columns left make up for what those done have lost
            cross = regular[np.ix_(left, done)] @ (original - fixed)[done]
            wanted = original[left] + np.linalg.solve(regular[np.ix_(left, left)], cross)
            rounded = np.clip(np.rint(wanted[0] / step[row]), -most, most)
            whole[row, column] = rounded
            fixed[column] = rounded * step[row]
    return whole


class TestRounding:
    @pytest.mark.parametrize("bits", [4, 7, 8])
    def test_is_that_of_least_squares_in_each_step(self, bits: int) -> None:
        weight, moments = drawn(5, 9)
        most = most_of(bits)
        step = steps(weight, most)
        expected = one_by_one(weight, step, most, moments)
        assert np.array_equal(round_in_metric(weight, step, most, moments), expected)

    def test_in_blocks_is_that_in_one(self) -> None:
        weight, moments = drawn(3, 150)
        step = steps(weight, 7)
        expected = one_by_one(weight, step, 7, moments)
        assert np.array_equal(round_in_metric(weight, step, 7, moments), expected)

    def test_loses_less_than_the_nearest_numbers(self) -> None:
        weight, moments = drawn(40, 30)
        step = steps(weight, 7)
        near = lost(weight, nearest(weight, step, 7), step, moments)
        fitted = lost(weight, round_in_metric(weight, step, 7, moments), step, moments)
        assert fitted.sum() < 0.5 * near.sum()

    def test_is_near_the_best_of_all_whole_numbers(self) -> None:
        weight, moments = drawn(1, 4, seed=1)
        step = steps(weight, 3)
        found = lost(weight, round_in_metric(weight, step, 3, moments), step, moments)[0]
        all_numbers = itertools.product(range(-3, 4), repeat=4)
        best = min(lost(weight, np.asarray([n], np.int8), step, moments)[0] for n in all_numbers)
        assert best <= found <= 4.0 * best

    @pytest.mark.parametrize("moments", [np.zeros((4, 4)), np.full((4, 4), np.nan)])
    def test_takes_the_nearest_where_moments_say_nothing(self, moments: Floats) -> None:
        weight, _ = drawn(2, 4)
        step = steps(weight, 127)
        expected = nearest(weight, step, 127)
        assert np.array_equal(round_in_metric(weight, step, 127, moments), expected)

    def test_of_zeros_is_zero(self) -> None:
        weight = np.zeros((2, 3))
        step = steps(weight, 127)
        assert np.array_equal(step, [1.0, 1.0])
        assert not np.any(nearest(weight, step, 127))


def histogram(values: Floats) -> Histogram:
    return Histogram.empty().having(values, float(values.min()), float(values.max()))


def loss(values: Floats, low: float, high: float) -> float:
    """Mean squared error of values in whole numbers of a range, one by one."""
    step = (high - low) / (LEVELS - 1)
    zero = np.rint(-low / step)
    whole = np.clip(np.rint(values / step) + zero, 0, LEVELS - 1)
    return float(np.mean(((whole - zero) * step - values) ** 2))


class TestRanges:
    def test_histograms_of_parts_are_that_of_the_whole(self) -> None:
        values = np.random.default_rng(0).standard_normal(1000) * np.repeat([1.0, 5.0], 500)
        first, second = values[:500], values[500:]
        parts = histogram(first).having(second, float(second.min()), float(second.max()))
        assert parts.counts.sum() == 1000
        assert (parts.lowest, parts.highest) == (min(0.0, values.min()), max(0.0, values.max()))
        centres = (np.arange(BINS) + 0.5) * 2.0 * parts.reach / BINS - parts.reach
        mean = float(centres @ parts.counts) / 1000
        assert mean == pytest.approx(values.mean(), abs=2.0 * parts.reach / BINS)

    @pytest.mark.parametrize("kind", ["normal", "rectified", "with_outliers"])
    def test_lose_no_more_than_any_other(self, kind: str) -> None:
        rng = np.random.default_rng(1)
        values = rng.standard_normal(20_000)
        if kind == "rectified":
            values = np.maximum(values, 0.0)
        if kind == "with_outliers":
            values[:3] = 60.0
        low, high = least_error_range(histogram(values))
        least = min(
            loss(values, values.min() * a, values.max() * b)
            for a in np.arange(0.05, 1.01, 0.05)
            for b in np.arange(0.05, 1.01, 0.05)
        )
        # the law of a twelfth of the step's square holds for many small steps
        assert loss(values, low, high) <= 1.1 * least
        assert low <= 0.0 <= high

    def test_have_zero_in_the_middle_where_that_is_wanted(self) -> None:
        values = np.maximum(np.random.default_rng(2).standard_normal(1000), 0.0)
        low, high = least_error_range(histogram(values), symmetric=True)
        assert low == -high

    @pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
    def test_of_one_value_hold_it(self, value: float) -> None:
        low, high = least_error_range(histogram(np.full(10, value)))
        assert low <= value <= high
