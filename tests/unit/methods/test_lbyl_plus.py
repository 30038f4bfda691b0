"""lbyl+: the delivery of least expected squared error, from mean and covariance."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from lbyl_onnx.methods import types
from lbyl_onnx.methods.lbyl_plus import deliver
from lbyl_onnx.methods.types import Moments
from tests.support.correlated import Floats, correlated, moments_of

SIZE, KEPT, REMOVED = 7, np.array([0, 2, 3, 6]), np.array([1, 4, 5])


def columns_of(channels: NDArray[np.intp], taps: int) -> NDArray[np.intp]:
    """Columns of some channels: i * taps to (i + 1) * taps of each."""
    return np.array([i * taps + t for i in channels for t in range(taps)])


def assert_close(actual: ArrayLike, expected: ArrayLike, rtol: float = 1e-9) -> None:
    """Allow what float64 loses in systems of condition at most some 1e5."""
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=rtol, atol=1e-10)


def without_ridge(moments: Moments, share: float = 1e-13) -> Moments:
    """Make the ridge so small that it is below the tolerances here."""
    return replace(moments, ridge_share=share, ridge_per_row=0.0)


class TestFormula:
    @pytest.mark.parametrize("seed", range(4))
    def test_it_is_the_one_of_the_ridge_regression(self, seed: int) -> None:
        moments = moments_of(correlated(200, SIZE, seed))
        c, mean = moments.covariance, moments.mean
        system = c[np.ix_(KEPT, KEPT)] + moments.ridge * np.eye(len(KEPT))
        rows = c[np.ix_(REMOVED, KEPT)] @ np.linalg.inv(system)
        delivery, regular = deliver(moments, KEPT)
        assert regular
        np.testing.assert_array_equal(delivery.kept, KEPT)
        assert_close(delivery.rows, rows)
        assert_close(delivery.shift, mean[REMOVED] - rows @ mean[KEPT])

    @pytest.mark.parametrize("seed", range(4))
    def test_without_ridge_it_is_least_squares_on_the_samples(self, seed: int) -> None:
        samples = correlated(300, SIZE, seed)
        design = np.column_stack([samples[:, KEPT], np.ones(len(samples))])
        solution = np.linalg.lstsq(design, samples[:, REMOVED], rcond=None)[0]
        delivery, _ = deliver(without_ridge(moments_of(samples)), KEPT)
        assert_close(delivery.rows, solution[:-1].T)
        assert_close(delivery.shift, solution[-1])

    def test_any_other_delivery_has_a_larger_penalised_error(self) -> None:
        moments = moments_of(correlated(200, SIZE))
        delivery, _ = deliver(moments, KEPT)
        second = moments.covariance + np.outer(moments.mean, moments.mean)

        def loss(rows: Floats, shift: Floats) -> float:
            """E |a_P - S a_K - c|^2 + rho |S|^2 by the raw second moments."""
            carry = np.zeros((len(REMOVED), SIZE))
            carry[:, KEPT] = -rows
            carry[np.arange(len(REMOVED)), REMOVED] = 1.0
            error = np.trace(carry @ second @ carry.T) - 2 * shift @ carry @ moments.mean
            return float(error + shift @ shift + moments.ridge * np.sum(rows**2))

        least = loss(delivery.rows, delivery.shift)
        rng = np.random.default_rng(1)
        for size in (1e-3, 1e-2, 1.0):
            other = delivery.rows + size * rng.standard_normal(delivery.rows.shape)
            moved = delivery.shift + size * rng.standard_normal(delivery.shift.shape)
            assert loss(other, delivery.shift) > least
            assert loss(delivery.rows, moved) > least

    def test_the_mean_of_what_is_delivered_is_exact(self) -> None:
        moments = moments_of(correlated(200, SIZE))
        delivery, _ = deliver(moments, KEPT)
        delivered = delivery.matrix @ moments.mean[KEPT] + delivery.offset
        assert_close(delivered, moments.mean, rtol=1e-12)

    def test_keeping_everything_delivers_the_identity(self) -> None:
        delivery, regular = deliver(moments_of(correlated(50, SIZE)), np.arange(SIZE))
        assert regular
        np.testing.assert_array_equal(delivery.matrix, np.eye(SIZE))
        np.testing.assert_array_equal(delivery.offset, np.zeros(SIZE))

    def test_uncorrelated_channels_are_replaced_by_their_mean(self) -> None:
        mean = np.arange(4.0)
        delivery, _ = deliver(Moments(mean, np.diag([1.0, 2.0, 3.0, 4.0]), 100), [0, 2])
        np.testing.assert_array_equal(delivery.rows, np.zeros((2, 2)))
        np.testing.assert_array_equal(delivery.shift, [1.0, 3.0])

    @pytest.mark.parametrize("kept", [[], [0, SIZE], [2, 1], [1, 1], [0.0, 1.0]])
    def test_kept_must_name_channels(self, kept: list[int]) -> None:
        with pytest.raises(ValueError, match="kept"):
            deliver(moments_of(correlated(50, SIZE)), kept)


class TestExactness:
    @pytest.mark.parametrize("seed", range(3))
    def test_exact_linear_combinations_are_restored(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        samples = correlated(500, SIZE, seed)
        mix, offset = rng.standard_normal((3, 4)), rng.standard_normal(3)
        samples[:, REMOVED] = samples[:, KEPT] @ mix.T + offset
        delivery, _ = deliver(without_ridge(moments_of(samples)), KEPT)
        assert_close(delivery.rows, mix)
        assert_close(delivery.shift, offset)
        restored = samples[:, KEPT] @ delivery.matrix.T + delivery.offset
        assert_close(restored, samples)

    def test_the_ridge_as_it_is_leaves_little_of_a_duplicate(self) -> None:
        """One kept channel v of variance 1 and its duplicate: S = 1 / (1 + rho)."""
        base = correlated(20_000, 3)
        base = (base - base.mean(axis=0)) / base.std(axis=0)
        samples = base[:, [0, 1, 2, 0]]
        delivery, _ = deliver(moments_of(samples), [0, 1, 2])
        # Deviation rho, 1e-3 and a little for the samples, times the condition of three channels.
        np.testing.assert_allclose(delivery.rows, [[1.0, 0.0, 0.0]], atol=1e-2)
        assert np.any(delivery.rows != [[1.0, 0.0, 0.0]])


def unfolded(images: Floats, kernel: tuple[int, int]) -> Floats:
    """Rows of what a window sees: (count * places, channels * taps)."""
    windows = np.lib.stride_tricks.sliding_window_view(images, kernel, axis=(2, 3))
    rows = np.moveaxis(windows, 1, 3)  # (N, C, H, W, kh, kw) -> (N, H, W, C, kh, kw)
    return np.ascontiguousarray(rows.reshape(-1, images.shape[1] * kernel[0] * kernel[1]))


class TestTaps:
    @pytest.mark.parametrize("kernel", [(3, 3), (1, 3), (2, 2)])
    def test_it_is_the_regression_on_unfolded_patches(self, kernel: tuple[int, int]) -> None:
        rng = np.random.default_rng(0)
        images = rng.standard_normal((20, 5, 8, 9))
        images[:, 3] += 0.7 * images[:, 0] + 0.5 * np.roll(images[:, 1], 1, axis=1)
        samples, taps = unfolded(images, kernel), kernel[0] * kernel[1]
        k, p = columns_of(np.array([0, 1, 4]), taps), columns_of(np.array([2, 3]), taps)
        design = np.column_stack([samples[:, k], np.ones(len(samples))])
        solution = np.linalg.lstsq(design, samples[:, p], rcond=None)[0]
        delivery, regular = deliver(without_ridge(moments_of(samples, taps)), [0, 1, 4])
        assert regular
        assert delivery.taps == taps
        assert_close(delivery.rows, solution[:-1].T)
        assert_close(delivery.shift, solution[-1])

    def test_neighbours_in_the_plane_restore_a_shifted_channel(self) -> None:
        """Channel 1 is channel 0 moved by one pixel: only a window can tell."""
        noise = np.random.default_rng(0).standard_normal((40, 1, 12, 12))
        images = np.concatenate([noise, np.roll(noise, 1, axis=3)], axis=1)[:, :, :, 1:]
        samples = unfolded(images, (1, 3))
        apart, _ = deliver(moments_of(samples, 3), [0])
        alike, _ = deliver(moments_of(samples, 3).per_channel(), [0])

        def error(guess: Floats) -> float:
            return float(np.mean((samples[:, 3:] - guess) ** 2))

        alone = error(samples[:, :3] @ apart.rows.T + apart.shift)
        blind = error(samples[:, :3] * alike.rows[0, 0] + alike.shift[0])
        assert blind > 0.9  # of a variance of 1
        # Two of the three taps lie under the window, the outermost one does not.
        assert alone == pytest.approx(1 / 3, abs=0.05)

    def test_a_combination_of_the_same_tap_is_restored_alike_at_all_taps(self) -> None:
        images = np.random.default_rng(0).standard_normal((20, 3, 8, 8))
        images[:, 2] = 2.0 * images[:, 0] - images[:, 1] + 0.5
        moments = without_ridge(moments_of(unfolded(images, (2, 2)), 4))
        delivery, _ = deliver(moments, [0, 1])
        assert_close(delivery.rows, np.kron([[2.0, -1.0]], np.eye(4)))
        assert_close(delivery.shift, np.full(4, 0.5))


class TestPerChannel:
    @pytest.mark.parametrize("taps", [2, 9])
    def test_taps_of_one_mean_are_pooled(self, taps: int) -> None:
        samples = correlated(400, 4 * taps).reshape(400, 4, taps)
        samples -= samples.mean(axis=0)
        samples += np.arange(4.0)[:, None]
        pooled = moments_of(np.moveaxis(samples, 2, 1).reshape(-1, 4))  # -> (400 * taps, 4)
        pooled_moments = moments_of(samples.reshape(400, -1), taps).per_channel()
        assert (pooled_moments.rows, pooled_moments.taps) == (400 * taps, 1)
        assert_close(pooled_moments.mean, pooled.mean)
        assert_close(pooled_moments.covariance, pooled.covariance)

    def test_taps_of_several_means_count_by_their_own(self) -> None:
        taps = 3
        samples = correlated(400, 4 * taps)
        apart = samples.reshape(400, 4, taps)
        means = apart.mean(axis=(0, 2))
        each = [np.cov(apart[:, :, t].T, bias=True) for t in range(taps)]
        pooled_moments = moments_of(samples, taps).per_channel()
        assert_close(pooled_moments.mean, means)
        assert_close(pooled_moments.covariance, np.mean(each, axis=0))

    def test_one_tap_is_left_as_it_is(self) -> None:
        moments = moments_of(correlated(20, 4))
        assert moments.per_channel() is moments


class TestSingular:
    @pytest.mark.parametrize("rank", [0, 1, 2, 5])
    def test_a_covariance_of_low_rank_is_no_failure(self, rank: int) -> None:
        mix = np.random.default_rng(rank).standard_normal((SIZE, rank))
        delivery, regular = deliver(Moments(np.ones(SIZE), mix @ mix.T, 1000), KEPT)
        assert regular  # by its ridge
        assert np.all(np.isfinite(delivery.rows))
        assert np.max(np.abs(delivery.rows), initial=0.0) < 100.0

    @pytest.mark.parametrize("taps", [1, 4])
    def test_of_zeros_only_the_mean_is_left(self, taps: int) -> None:
        mean = np.arange(float(SIZE * taps))
        delivery, regular = deliver(Moments(mean, np.zeros((mean.size,) * 2), 10, taps), KEPT)
        assert regular
        assert not np.any(delivery.rows)
        np.testing.assert_array_equal(delivery.shift, mean[columns_of(REMOVED, taps)])

    @pytest.mark.parametrize("channel", [0, 1])
    def test_a_constant_channel_is_neither_drawn_upon_nor_amplified(self, channel: int) -> None:
        samples = correlated(300, SIZE)
        samples[:, channel] = 5.0
        delivery, regular = deliver(moments_of(samples), KEPT)
        assert regular
        if channel in KEPT:
            assert_close(delivery.rows[:, 0], np.zeros(3))
        else:
            assert_close(delivery.rows[0], np.zeros(4))
            assert_close(delivery.shift[0], 5.0)

    def test_fewer_rows_than_channels(self) -> None:
        delivery, regular = deliver(moments_of(correlated(3, SIZE)), KEPT)
        assert regular
        assert np.all(np.isfinite(delivery.rows))

    def test_what_rounding_has_made_indefinite_is_solved_and_told(self) -> None:
        """An eigenvalue of minus a tenth is far below what the ridge lifts."""
        covariance = moments_of(correlated(300, SIZE)).covariance
        k = np.arange(SIZE - 1)
        values, vectors = np.linalg.eigh(covariance[np.ix_(k, k)])
        values[0] = -0.1 * values.mean()
        covariance[np.ix_(k, k)] = (vectors * values) @ vectors.T
        moments = Moments(np.ones(SIZE), covariance, 300)
        system = covariance[np.ix_(k, k)] + moments.ridge * np.eye(SIZE - 1)
        assert np.linalg.eigvalsh(system)[0] < 0
        delivery, regular = deliver(moments, k)
        assert not regular
        expected = np.linalg.lstsq(system, covariance[k, -1], rcond=None)[0]
        assert_close(delivery.rows[0], expected)
        assert_close(delivery.shift[0], 1.0 - expected.sum())

    def test_an_exactly_singular_system_is_solved_by_least_squares(self) -> None:
        """Where two kept channels are one, the removed third draws on both alike."""
        covariance = np.array([[1.0, 1.0, 0.5], [1.0, 1.0, 0.5], [0.5, 0.5, 1.0]])
        moments = without_ridge(Moments(np.zeros(3), covariance, 10), 1e-300)
        delivery, regular = deliver(moments, [0, 1])
        assert not regular
        assert_close(delivery.rows, [[0.25, 0.25]])


class TestRidge:
    def test_it_grows_as_rows_shrink(self) -> None:
        moments = moments_of(correlated(100, SIZE))
        ridges = [replace(moments, rows=rows).ridge for rows in (1, 10, 100, 10_000, 10**9)]
        assert all(more > less for more, less in pairwise(ridges))
        floor = types.RIDGE * np.mean(np.diag(moments.covariance))
        # Of a billion rows the samples' share is 0.03 * 7 / 1e9.
        np.testing.assert_allclose(ridges[-1], floor, rtol=1e-5)

    def test_it_grows_with_the_columns(self) -> None:
        few, many = (Moments(np.zeros(n), np.eye(n), 100) for n in (4, 400))
        assert many.ridge > few.ridge

    def test_it_shrinks_what_few_rows_claim(self) -> None:
        moments = moments_of(correlated(100, SIZE))
        norms = [
            np.linalg.norm(deliver(replace(moments, rows=rows), KEPT)[0].rows)
            for rows in (1, 100, 10_000)
        ]
        assert norms[0] < norms[1] < norms[2]

    @pytest.mark.parametrize("rows", [0, 1])
    def test_it_is_a_number_for_no_rows(self, rows: int) -> None:
        ridge = Moments(np.zeros(2), np.eye(2), rows).ridge
        assert np.isfinite(ridge)
        assert ridge > 0

    def test_it_lifts_zeros(self) -> None:
        assert Moments(np.zeros(2), np.zeros((2, 2)), 5).ridge > 0


class TestNotFinite:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("place", ["mean of kept", "mean of removed", "kept", "between"])
    def test_it_is_refused(self, place: str, value: float) -> None:
        moments = moments_of(correlated(50, SIZE))
        mean, covariance = moments.mean.copy(), moments.covariance.copy()
        if place.startswith("mean"):
            mean[2 if place.endswith("kept") else 4] = value
        else:
            row, column = (2, 2) if place == "kept" else (4, 2)
            covariance[row, column] = covariance[column, row] = value
        broken = replace(moments, mean=mean, covariance=covariance)
        assert not broken.finite
        with pytest.raises(ValueError, match="NaN or infinity"):
            deliver(broken, KEPT)

    def test_moments_know_that_they_are_finite(self) -> None:
        assert moments_of(correlated(50, SIZE)).finite


class TestInvariance:
    @pytest.mark.parametrize("taps", [1, 2])
    @pytest.mark.parametrize("seed", range(3))
    def test_the_order_of_channels_does_not_matter(self, taps: int, seed: int) -> None:
        moments = moments_of(correlated(300, SIZE * taps), taps)
        order = np.random.default_rng(seed).permutation(SIZE)  # new channel i is old order[i]
        index = columns_of(order, taps)
        turned = replace(
            moments, mean=moments.mean[index], covariance=moments.covariance[np.ix_(index, index)]
        )
        kept = np.flatnonzero(np.isin(order, KEPT))
        one, two = deliver(moments, KEPT)[0], deliver(turned, kept)[0]
        back = np.argsort(order[kept])  # where each kept channel went
        permuted = two.matrix[:, columns_of(back, taps)]
        assert_close(permuted, one.matrix[index])
        assert_close(two.offset, one.offset[index])

    @pytest.mark.parametrize("scale", [1e-6, 0.5, 1e6])
    def test_a_common_scale_scales_the_shift_alone(self, scale: float) -> None:
        moments = moments_of(correlated(300, SIZE))
        scaled = replace(
            moments, mean=scale * moments.mean, covariance=scale**2 * moments.covariance
        )
        one, two = deliver(moments, KEPT)[0], deliver(scaled, KEPT)[0]
        assert_close(two.rows, one.rows)
        assert_close(two.shift / scale, one.shift)

    def test_a_scale_of_each_channel_carries_over(self) -> None:
        moments = without_ridge(moments_of(correlated(300, SIZE)))
        scale = np.random.default_rng(0).uniform(0.1, 10.0, SIZE)
        scaled = replace(
            moments,
            mean=scale * moments.mean,
            covariance=np.outer(scale, scale) * moments.covariance,
        )
        one, two = deliver(moments, KEPT)[0], deliver(scaled, KEPT)[0]
        # The ridge, 1e-13 of the mean variance, is 1e-9 of the least one here.
        assert_close(two.rows, scale[REMOVED, None] * one.rows / scale[KEPT], rtol=1e-7)
        assert_close(two.shift, scale[REMOVED] * one.shift, rtol=1e-7)

    def test_another_mean_moves_the_shift_alone(self) -> None:
        moments = moments_of(correlated(300, SIZE))
        step = np.random.default_rng(0).standard_normal(SIZE)
        one = deliver(moments, KEPT)[0]
        two = deliver(replace(moments, mean=moments.mean + step), KEPT)[0]
        np.testing.assert_array_equal(two.rows, one.rows)
        assert_close(two.shift, one.shift + step[REMOVED] - one.rows @ step[KEPT])
