"""Scores of channels, and the rankings made of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lbyl_onnx.methods.importance import distance_sums, kept_count, l1, l2
from lbyl_onnx.methods.registry import find_criterion
from lbyl_onnx.methods.types import Evidence, Ranking

Array = NDArray[np.float64]
Score = Callable[[Array], Array]

WEIGHT = np.array([[3.0, -4.0], [0.0, 0.0], [6.0, 8.0]])


class TestScores:
    @pytest.mark.parametrize(
        ("score", "expected"),
        [
            (l2, [5.0, 0.0, 10.0]),
            (l1, [7.0, 0.0, 14.0]),
            (distance_sums, [5.0 + np.sqrt(153.0), 15.0, 10.0 + np.sqrt(153.0)]),
        ],
    )
    def test_by_hand(self, score: Score, expected: list[float]) -> None:
        # Two roundings per term at the most.
        np.testing.assert_allclose(score(WEIGHT), expected, rtol=1e-15)

    def test_gm_tells_nearly_equal_filters_apart(self) -> None:
        """Through inner products the distance 1e-9 would drown in rounding: 1 + 1e-18 is 1."""
        weight = np.array([[1.0, 0.0], [1.0, 1e-9]])
        np.testing.assert_allclose(distance_sums(weight), [1e-9, 1e-9], rtol=1e-15)

    def test_gm_of_a_single_channel_is_zero(self) -> None:
        np.testing.assert_array_equal(distance_sums(WEIGHT[:1]), [0.0])

    @pytest.mark.parametrize("score", [l2, l1, distance_sums])
    def test_single_precision_weights_are_scored_in_double(self, score: Score) -> None:
        weight = np.array([[0.1, 0.2], [0.3, 0.4]], dtype=np.float32)
        result = score(weight)  # type: ignore[arg-type]
        assert result.dtype == np.float64
        np.testing.assert_array_equal(result, score(weight.astype(np.float64)))

    @pytest.mark.parametrize(
        ("weight", "message"),
        [
            (WEIGHT[0], "one flattened row"),
            (np.zeros((0, 2)), "one flattened row"),
            (np.full((2, 2), np.nan), "NaN"),
        ],
    )
    @pytest.mark.parametrize("score", [l2, l1, distance_sums])
    def test_bad_inputs(self, score: Score, weight: Array, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            score(weight)


class TestCriteria:
    def kept(self, name: str, weight: Array, seed: int = 0) -> list[int]:
        rng = np.random.default_rng(seed)
        actual = find_criterion(name).rank(Evidence(weight), 2, rng).kept(2).tolist()
        assert all(type(channel) is int for channel in actual)
        return list(actual)

    @pytest.mark.parametrize(("name", "kept"), [("l2", [0, 2]), ("l1", [0, 2]), ("gm", [0, 2])])
    def test_by_hand(self, name: str, kept: list[int]) -> None:
        assert self.kept(name, WEIGHT) == kept

    def test_random_follows_the_seed_alone(self) -> None:
        weight = np.random.default_rng(0).standard_normal((40, 2))
        first = self.kept("random", weight, 7)
        assert first == self.kept("random", 2.0 * weight, 7)
        assert first != self.kept("random", weight, 8)


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


class TestRanking:
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
        chosen = Ranking.of_scores(np.array(values), count).kept(count)
        np.testing.assert_array_equal(chosen, expected)
        assert chosen.dtype == np.intp

    @given(values=st.lists(st.integers(0, 5).map(float), min_size=1, max_size=30), data=st.data())
    def test_nothing_left_out_beats_what_is_kept(
        self, values: list[float], data: st.DataObject
    ) -> None:
        """Also of the numbers in between, for which the same ranking is asked."""
        least = data.draw(st.integers(1, len(values)))
        count = data.draw(st.integers(least, len(values)))
        chosen = Ranking.of_scores(np.array(values), least).kept(count).tolist()
        ranked = sorted(range(len(values)), key=lambda i: (-values[i], i))
        assert chosen == sorted(ranked[:count])

    @pytest.mark.parametrize(
        ("values", "count", "message"),
        [
            (np.zeros(3), 0, "keep is 0"),
            (np.zeros(3), 4, "keep 1 to 3"),
            (np.zeros((3, 1)), 1, "one score per channel"),
            (np.array([1.0, np.nan]), 1, "NaN"),
        ],
    )
    def test_bad_scores(self, values: Array, count: int, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Ranking.of_scores(values, count)

    @pytest.mark.parametrize(
        ("order", "losses", "message"),
        [
            ([0, 3], None, "from 0 to 2"),
            ([-1], None, "from 0 to 2"),
            ([0.5], None, "from 0 to 2"),
            ([[0, 1]], None, "from 0 to 2"),
            ([1, 1], None, "twice"),
            ([0, 1], [[0.0], [0.1]], "expected"),
        ],
    )
    def test_a_ranking_is_checked(
        self, order: list[float], losses: list[list[float]] | None, message: str
    ) -> None:
        more = () if losses is None else (np.array(losses), np.ones(1))
        with pytest.raises(ValueError, match=message):
            Ranking(3, np.asarray(order), *more)
