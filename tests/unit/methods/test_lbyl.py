"""LBYL against slow and independent answers: dense solves, lstsq and its own gradient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, minimize

from lbyl_onnx.methods import lbyl, neuron_merging, none
from lbyl_onnx.methods.types import Delivery, FoldedRows
from tests.support.rows import Array, assert_close, changed, make_rows


def stacked_system(
    rows: FoldedRows, kept: list[int], j: int, lambda1: float, lambda2: float
) -> tuple[Array, Array]:
    """The matrix A and vector y for which L(s) = |A s - y|^2, written from METHODS section 3."""
    k = len(kept)
    if rows.normalized:
        folded = rows.scale[:, None] * rows.weight
        blocks = [
            (folded[kept].T / rows.scale[j], folded[j] / rows.scale[j]),
            (np.sqrt(lambda1) * rows.shift[kept][None, :], np.sqrt(lambda1) * rows.shift[[j]]),
        ]
    else:
        blocks = [(rows.weight[kept].T, rows.weight[j]), (rows.shift[kept][None], rows.shift[[j]])]
    if lambda2 > 0.0:
        blocks.append((np.sqrt(lambda2) * np.eye(k), np.zeros(k)))
    return np.vstack([a for a, _ in blocks]), np.concatenate([y for _, y in blocks])


def slow_lbyl(rows: FoldedRows, kept: list[int], lambda1: float, lambda2: float) -> Array:
    """One dense solve per removed channel."""
    solutions = []
    for j in removed_of(rows, kept):
        a, y = stacked_system(rows, kept, j, lambda1, lambda2)
        solutions.append(np.linalg.solve(a.T @ a, a.T @ y))
    return np.array(solutions).reshape(-1, len(kept))  # (|P|, k) even where |P| is 0


def lstsq_lbyl(rows: FoldedRows, kept: list[int], lambda1: float, lambda2: float) -> Array:
    """One minimum-norm least-squares solve per removed channel."""
    return np.array(
        [
            np.linalg.lstsq(*stacked_system(rows, kept, j, lambda1, lambda2), rcond=None)[0]
            for j in removed_of(rows, kept)
        ]
    )


def removed_of(rows: FoldedRows, kept: list[int]) -> list[int]:
    return [j for j in range(rows.scale.size) if j not in kept]


def output(rows: FoldedRows, inputs: Array) -> Array:
    """The n channels after BatchNormalization on (d, samples) inputs; the activation is linear."""
    value: Array = rows.scale[:, None] * (rows.weight @ inputs) + rows.shift[:, None]
    return value


PENALTIES = [(1e-5, 1e-2), (1e-6, 1e-4), (5e-4, 0.1), (0.0, 1e-3), (3.0, 0.5)]


class TestLbylSolve:
    @pytest.mark.parametrize(("lambda1", "lambda2"), PENALTIES)
    @pytest.mark.parametrize("normalized", [True, False])
    @pytest.mark.parametrize(
        ("n", "d", "kept"),
        [
            (12, 30, [0, 1, 4, 7, 8, 11]),
            (12, 3, [0, 1, 4, 7, 8, 11]),  # fewer inputs than kept channels: G is singular
            (6, 2500, [0, 2, 3]),  # more inputs than the products take at a time
            (9, 4, [3]),
            (9, 4, [0, 1, 2, 3, 5, 6, 7, 8]),
        ],
    )
    def test_equals_one_dense_solve_per_channel(
        self, n: int, d: int, kept: list[int], normalized: bool, lambda1: float, lambda2: float
    ) -> None:
        rows = make_rows(n, d, normalized=normalized, seed=n)
        delivery = lbyl.deliver(rows, kept, lambda1=lambda1, lambda2=lambda2)
        expected = slow_lbyl(rows, kept, lambda1, lambda2)
        assert_close(delivery.matrix[delivery.removed], expected)
        np.testing.assert_array_equal(delivery.offset, np.zeros(n))

    @settings(max_examples=100, deadline=None)
    @given(
        n=st.integers(2, 14),
        d=st.integers(1, 20),
        normalized=st.booleans(),
        lambda1=st.floats(0.0, 10.0),
        lambda2=st.floats(1e-3, 10.0),
        seed=st.integers(0, 2**32 - 1),
        data=st.data(),
    )
    def test_equals_the_dense_solve_on_any_shape(
        self,
        n: int,
        d: int,
        normalized: bool,
        lambda1: float,
        lambda2: float,
        seed: int,
        data: st.DataObject,
    ) -> None:
        kept = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=n - 1)))
        rows = make_rows(n, d, normalized=normalized, seed=seed)
        delivery = lbyl.deliver(rows, kept, lambda1=lambda1, lambda2=lambda2)
        expected = slow_lbyl(rows, kept, lambda1, lambda2)
        # The dense oracle itself loses digits to a condition number of up to 1e6.
        np.testing.assert_allclose(
            delivery.matrix[delivery.removed], expected, rtol=1e-7, atol=1e-9
        )

    @pytest.mark.parametrize("lambda1", [0.0, 1e-5, 1.0])
    @pytest.mark.parametrize("normalized", [True, False])
    @pytest.mark.parametrize("d", [1, 3, 5, 6, 40])
    def test_zero_ridge_is_the_shortest_least_squares_solution(
        self, d: int, normalized: bool, lambda1: float
    ) -> None:
        kept = [0, 1, 4, 7, 8, 11]
        rows = make_rows(12, d, normalized=normalized, seed=d)
        delivery = lbyl.deliver(rows, kept, lambda1=lambda1, lambda2=0.0)
        expected = lstsq_lbyl(rows, kept, lambda1, 0.0)
        assert_close(delivery.matrix[delivery.removed], expected)

    @pytest.mark.parametrize("lambda1", [0.0, 1e-2])
    def test_zero_ridge_with_bias_in_the_range_of_singular_rows(self, lambda1: float) -> None:
        """Two kept channels are equal in row and shift: nothing but the norm tells them apart."""
        rows = make_rows(8, 20)
        rows = replace(
            rows,
            weight=changed(rows.weight, 1, rows.weight[0]),
            scale=changed(rows.scale, 1, rows.scale[0]),
            shift=changed(rows.shift, 1, rows.shift[0]),
        )
        kept = [0, 1, 2, 3]
        delivery = lbyl.deliver(rows, kept, lambda1=lambda1, lambda2=0.0)
        expected = lstsq_lbyl(rows, kept, lambda1, 0.0)
        assert_close(delivery.matrix[delivery.removed], expected)
        assert_close(delivery.matrix[4:, 0], delivery.matrix[4:, 1])

    @pytest.mark.parametrize("spread", [1e-3, 1e-6, 1e-9])
    def test_ill_conditioned_rows_keep_the_digits_of_lstsq(self, spread: float) -> None:
        """At a spread of 1e-9 the eigenvalues of G lie 1e-18 apart, beyond float64."""
        rng = np.random.default_rng(2)
        rows = make_rows(10, 30)
        left, _ = np.linalg.qr(rng.standard_normal((5, 5)))
        right, _ = np.linalg.qr(rng.standard_normal((30, 5)))
        near_singular = (left * np.geomspace(1.0, spread, 5)) @ right.T  # (5, 30)
        combined = rng.standard_normal((5, 5)) @ near_singular
        rows = replace(rows, weight=np.concatenate([near_singular, combined]), scale=np.ones(10))
        delivery = lbyl.deliver(rows, range(5), lambda1=0.0, lambda2=0.0)
        expected = lstsq_lbyl(rows, list(range(5)), 0.0, 0.0)
        # Backward-stable answers differ by some eps times the condition number, 1 / spread.
        np.testing.assert_allclose(delivery.matrix[5:], expected, rtol=0, atol=1e-14 / spread)

    @pytest.mark.parametrize(
        ("lambda2", "tolerance"),
        [
            (1e-7, 2e-8),  # through G: some eps / lambda2
            (1e-9, 1e-12),  # through singular values, where G would leave 3e-7
            (1e-12, 1e-12),
        ],
    )
    def test_small_ridges_agree_on_both_sides_of_the_change_of_method(
        self, lambda2: float, tolerance: float
    ) -> None:
        kept = list(range(6))
        rows = make_rows(12, 4)  # singular G: only the ridge makes the answer unique
        delivery = lbyl.deliver(rows, kept, lambda1=1e-2, lambda2=lambda2)
        expected = lstsq_lbyl(rows, kept, 1e-2, lambda2)
        np.testing.assert_allclose(delivery.matrix[6:], expected, rtol=0, atol=tolerance)

    def test_a_scale_near_zero_neither_overflows_nor_loses_the_direction(self) -> None:
        rows = make_rows(8, 20)
        dying = replace(rows, scale=changed(rows.scale, 7, 1e-30))
        delivery = lbyl.deliver(dying, [0, 1, 2], lambda1=0.0, lambda2=1e-2)
        # At such a scale 1 / scale^2 swamps the ridge: least squares on the row as stored.
        folded = rows.scale[:3, None] * rows.weight[:3]
        expected = np.linalg.lstsq(folded.T, rows.weight[7], rcond=None)[0]
        np.testing.assert_allclose(delivery.matrix[7] / 1e-30, expected, rtol=1e-9)

    def test_the_sign_of_gamma_turns_the_delivery(self) -> None:
        rows = make_rows(6, 9)
        flipped = replace(
            rows, scale=changed(rows.scale, 5, -rows.scale[5]), shift=changed(rows.shift, 5, 0.3)
        )
        mirrored = replace(rows, shift=changed(rows.shift, 5, -0.3))
        one = lbyl.deliver(flipped, [0, 1, 2])
        other = lbyl.deliver(mirrored, [0, 1, 2])
        assert_close(one.matrix[5], -other.matrix[5])
        assert np.any(np.abs(one.matrix[5]) > 1e-3)

    @pytest.mark.parametrize("normalized", [True, False])
    def test_exact_combinations_leave_the_output_unchanged(self, normalized: bool) -> None:
        kept = [0, 2, 3, 6]
        rows = make_rows(8, 30, normalized=normalized)
        mix = np.random.default_rng(3).standard_normal((4, 4))
        gone = [1, 4, 5, 7]
        folded = mix @ (rows.scale[kept, None] * rows.weight[kept])
        rows = replace(
            rows,
            weight=changed(rows.weight, gone, folded / rows.scale[gone, None]),
            shift=changed(rows.shift, gone, mix @ rows.shift[kept]),
        )
        delivery = lbyl.deliver(rows, kept, lambda1=0.0, lambda2=0.0)
        values = output(rows, np.random.default_rng(4).standard_normal((30, 20)))
        assert_close(delivery.matrix @ values[kept], values)

    @pytest.mark.parametrize("name", ["lambda1", "lambda2"])
    @pytest.mark.parametrize("value", [-1e-9, np.inf, np.nan])
    def test_lambdas_out_of_range(self, name: str, value: float) -> None:
        penalties = {"lambda1": 0.1, "lambda2": 0.1, name: value}
        rows = make_rows(4, 4)
        with pytest.raises(ValueError, match=name):
            lbyl.deliver(rows, [0, 1], **penalties)
        with pytest.raises(ValueError, match=name):
            lbyl.objective(rows, none.deliver(4, [0, 1]), **penalties)


class TestLbylObjective:
    KEPT = (0, 1, 4, 7)

    @staticmethod
    def value_at(rows: FoldedRows, s: Array, lambda1: float, lambda2: float) -> float:
        """L at s for channel 9, the last one, through the public function."""
        kept = np.array(TestLbylObjective.KEPT)
        delivered = np.concatenate([np.zeros((5, 4)), [s]])
        delivery = Delivery(kept, delivered, np.zeros(6))
        return float(lbyl.objective(rows, delivery, lambda1, lambda2)[-1])

    @pytest.mark.parametrize(("lambda1", "lambda2"), [(0.0, 0.0), *PENALTIES])
    @pytest.mark.parametrize("normalized", [True, False])
    def test_equals_the_squared_residual_of_the_stacked_system(
        self, normalized: bool, lambda1: float, lambda2: float
    ) -> None:
        rows = make_rows(10, 6, normalized=normalized)
        s = np.random.default_rng(5).standard_normal(4)
        a, y = stacked_system(rows, list(self.KEPT), 9, lambda1, lambda2)
        value = self.value_at(rows, s, lambda1, lambda2)
        assert_close(value, np.sum((a @ s - y) ** 2))

    @pytest.mark.parametrize(("lambda1", "lambda2"), [(0.0, 0.0), *PENALTIES])
    @pytest.mark.parametrize("normalized", [True, False])
    def test_its_gradient_vanishes_at_the_delivered_s(
        self, normalized: bool, lambda1: float, lambda2: float
    ) -> None:
        rows = make_rows(10, 30, normalized=normalized)
        s = lbyl.deliver(rows, self.KEPT, lambda1=lambda1, lambda2=lambda2).matrix[9]

        def value(at: Array) -> float:
            return self.value_at(rows, at, lambda1, lambda2)

        # Central differences of a quadratic are exact but for rounding: eps / step = 2e-12.
        step = 1e-4
        gradient = [(value(s + step * e) - value(s - step * e)) / (2 * step) for e in np.eye(4)]
        np.testing.assert_allclose(gradient, np.zeros(4), atol=1e-9)
        assert approx_fprime(s + 0.1, value).max() > 1e-3  # not flat elsewhere
        assert minimize(value, np.zeros(4)).fun >= value(s) - 1e-12

    @settings(max_examples=60, deadline=None)
    @given(
        normalized=st.booleans(),
        lambda1=st.floats(0.0, 10.0),
        lambda2=st.floats(0.0, 10.0),
        d=st.integers(1, 12),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_solved_is_never_above_dropping_or_merging(
        self, normalized: bool, lambda1: float, lambda2: float, d: int, seed: int
    ) -> None:
        rows = make_rows(10, d, normalized=normalized, seed=seed)
        solved = lbyl.deliver(rows, self.KEPT, lambda1=lambda1, lambda2=lambda2)
        value = lbyl.objective(rows, solved, lambda1, lambda2)
        for other in (none.deliver(10, self.KEPT), neuron_merging.deliver(rows, self.KEPT)):
            bound = lbyl.objective(rows, other, lambda1, lambda2)
            assert np.all(value <= bound * (1 + 1e-9) + 1e-12)

    def test_a_channel_of_zero_scale_costs_only_what_is_drawn(self) -> None:
        rows = make_rows(3, 4)
        rows = replace(rows, scale=changed(rows.scale, 2, 0.0))
        dropped = lbyl.objective(rows, none.deliver(3, [0, 1]), 0.5, 0.0)
        assert_close(dropped[0], 0.5 * rows.shift[2] ** 2)
        drawn = Delivery(np.array([0, 1]), np.array([[1.0, 0.0]]), np.zeros(1))
        np.testing.assert_array_equal(lbyl.objective(rows, drawn, 0.5, 0.0), [np.inf])

    def test_the_delivery_must_be_of_the_same_group(self) -> None:
        with pytest.raises(ValueError, match="5 channels, the rows are of 4"):
            lbyl.objective(make_rows(4, 4), none.deliver(5, [0]), 0.0, 0.0)
