"""Scores of channels and the choice among them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lbyl_onnx.methods.importance import CRITERIA, Criterion, kept_count, scores, select

Array = NDArray[np.float64]

WEIGHT = np.array([[3.0, -4.0], [0.0, 0.0], [6.0, 8.0]])
BIAS = np.array([12.0, -1.0, 0.0])
SEED = (0, 0)


class TestScores:
    @pytest.mark.parametrize(
        ("criterion", "bias", "expected"),
        [
            ("l2", None, [5.0, 0.0, 10.0]),
            ("l2", BIAS, [13.0, 1.0, 10.0]),
            ("l1", None, [7.0, 0.0, 14.0]),
            ("l1", BIAS, [19.0, 1.0, 14.0]),
            ("gm", None, [5.0 + np.sqrt(153.0), 15.0, 10.0 + np.sqrt(153.0)]),
            ("gm", BIAS, np.sqrt([194, 194, 101]) + np.sqrt([297, 101, 297])),
        ],
    )
    def test_by_hand(self, criterion: Criterion, bias: Array | None, expected: Array) -> None:
        # Two roundings per term at the most.
        np.testing.assert_allclose(scores(WEIGHT, bias, criterion, SEED), expected, rtol=1e-15)

    def test_gm_tells_nearly_equal_filters_apart(self) -> None:
        """Through inner products the distance 1e-9 would drown in rounding: 1 + 1e-18 is 1."""
        weight = np.array([[1.0, 0.0], [1.0, 1e-9]])
        np.testing.assert_allclose(scores(weight, None, "gm", SEED), [1e-9, 1e-9], rtol=1e-15)

    def test_gm_of_a_single_channel_is_zero(self) -> None:
        np.testing.assert_array_equal(scores(WEIGHT[:1], None, "gm", SEED), [0.0])

    def test_random_follows_the_seed_alone(self) -> None:
        first = scores(WEIGHT, None, "random", (7, 1))
        np.testing.assert_array_equal(first, scores(2.0 * WEIGHT, BIAS, "random", (7, 1)))
        assert not np.array_equal(first, scores(WEIGHT, None, "random", (7, 2)))

    @pytest.mark.parametrize("criterion", CRITERIA)
    def test_single_precision_weights_are_scored_in_double(self, criterion: Criterion) -> None:
        weight = np.array([[0.1, 0.2], [0.3, 0.4]], dtype=np.float32)
        result = scores(weight, None, criterion, SEED)
        assert result.dtype == np.float64
        np.testing.assert_array_equal(
            result, scores(weight.astype(np.float64), None, criterion, SEED)
        )

    @pytest.mark.parametrize(
        ("weight", "bias", "criterion", "message"),
        [
            (WEIGHT[0], None, "l2", "one flattened row"),
            (np.zeros((0, 2)), None, "l2", "one flattened row"),
            (WEIGHT, BIAS[:2], "l2", "expected"),
            (np.full((2, 2), np.nan), None, "gm", "NaN"),
            (WEIGHT, np.array([0.0, np.inf, 0.0]), "l1", "infinity"),
            (WEIGHT, None, "l3", "unknown criterion 'l3'"),
        ],
    )
    def test_bad_inputs(
        self, weight: Array, bias: Array | None, criterion: Criterion, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            scores(weight, bias, criterion, SEED)


class TestKeptCount:
    @pytest.mark.parametrize(
        ("n", "ratio", "expected"),
        [
            (64, 0.0, 64),
            (64, 0.5, 32),
            (10, 0.25, 7),
            (10, 0.9, 1),  # 10 * (1 - 0.9) is 0.9999999999999998
            (10, 0.7, 3),  # 10 * (1 - 0.7) is 3.0000000000000004
            (100, 0.42, 58),  # 100 * (1 - 0.42) is 58.00000000000001
            (30, 0.9, 3),  # 30 * (1 - 0.9) is 2.9999999999999993
            (3, 0.99, 1),
            (1, 0.5, 1),
        ],
    )
    def test_by_hand(self, n: int, ratio: float, expected: int) -> None:
        assert kept_count(n, ratio) == expected

    @given(n=st.integers(1, 4096), percent=st.integers(0, 99))
    def test_whole_percents_are_exact(self, n: int, percent: int) -> None:
        assert kept_count(n, percent / 100) == max(1, n * (100 - percent) // 100)

    @pytest.mark.parametrize("ratio", [-0.1, 1.0, np.nan])
    def test_ratio_out_of_range(self, ratio: float) -> None:
        with pytest.raises(ValueError, match="ratio"):
            kept_count(8, ratio)

    def test_a_group_has_channels(self) -> None:
        with pytest.raises(ValueError, match="at least one channel"):
            kept_count(0, 0.5)


class TestSelect:
    @pytest.mark.parametrize(
        ("values", "count", "expected"),
        [
            ([1.0, 5.0, 3.0], 2, [1, 2]),
            ([2.0, 1.0, 2.0, 2.0], 2, [0, 2]),
            ([0.0, -0.0, 0.0], 1, [0]),
            ([1.0, 2.0], 2, [0, 1]),
            ([1.0, np.inf], 1, [1]),
        ],
    )
    def test_by_hand(self, values: list[float], count: int, expected: list[int]) -> None:
        chosen = select(np.array(values), count)
        np.testing.assert_array_equal(chosen, expected)
        assert chosen.dtype == np.intp

    @given(values=st.lists(st.integers(0, 5).map(float), min_size=1, max_size=30), data=st.data())
    def test_nothing_left_out_beats_what_is_kept(
        self, values: list[float], data: st.DataObject
    ) -> None:
        count = data.draw(st.integers(1, len(values)))
        chosen = select(np.array(values), count).tolist()
        ranked = sorted(range(len(values)), key=lambda i: (-values[i], i))
        assert chosen == sorted(ranked[:count])

    @pytest.mark.parametrize(
        ("values", "count", "message"),
        [
            (np.zeros(3), 0, "count is 0"),
            (np.zeros(3), 4, "keep 1 to 3"),
            (np.zeros((3, 1)), 1, "one score per channel"),
            (np.array([1.0, np.nan]), 1, "NaN"),
        ],
    )
    def test_bad_inputs(self, values: Array, count: int, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            select(values, count)
