"""Mixtures of the channels of each head: against dropping, each head alone, and least squares."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from lbyl_onnx.methods.mixing.blockwise import reduce_blocks
from lbyl_onnx.methods.mixing.reduced_rank import ReducedRank, reduce_rank
from lbyl_onnx.methods.types import Moments
from tests.support.correlated import correlated, moments_of

Floats = NDArray[np.float64]
# heads side by side, heads interleaved, three heads
BLOCKS = ([0] * 4 + [1] * 4, [0, 1] * 4, [0, 0, 0, 1, 1, 1, 2, 2, 2])


def drawn(size: int, seed: int) -> tuple[Floats, Moments, Floats]:
    """Samples, (rows, n), their moments almost without a ridge, and a consumer's weight."""
    samples = correlated(400, size, seed=seed) + np.linspace(-1.0, 1.0, size)
    moments = replace(moments_of(samples), ridge_share=1e-12, ridge_per_row=0.0)
    return samples, moments, np.random.default_rng(seed + 7).standard_normal((5, size))


def reduced(moments: Moments, weight: Floats, count: int, blocks: NDArray[np.intp]) -> ReducedRank:
    reduction = reduce_blocks(moments, weight.T @ weight, count, blocks)
    assert reduction is not None
    return reduction


def error(reduction: ReducedRank, samples: Floats, weight: Floats) -> float:
    """Mean squared error at the consumer, from the samples themselves."""
    mixtures = samples @ reduction.mixing.T + reduction.shift
    restored = mixtures @ reduction.delivery.matrix.T + reduction.delivery.offset
    return float(np.mean(np.sum(((samples - restored) @ weight.T) ** 2, axis=1)))


def fitted_error(mixtures: Floats, samples: Floats, weight: Floats) -> float:
    """What an empirical least squares fit of the outputs to some mixtures leaves."""
    inputs = np.column_stack([mixtures, np.ones(len(mixtures))])
    outputs = samples @ weight.T
    left = outputs - inputs @ np.linalg.lstsq(inputs, outputs, rcond=None)[0]
    return float(np.mean(np.sum(left**2, axis=1)))


@pytest.mark.parametrize("numbers", BLOCKS)
@pytest.mark.parametrize("seed", [0, 1])
class TestEachDraw:
    def test_the_error_is_that_of_least_squares_on_the_mixtures(
        self, numbers: list[int], seed: int
    ) -> None:
        blocks = np.asarray(numbers, np.intp)
        samples, moments, weight = drawn(len(numbers), seed)
        reduction = reduced(moments, weight, 2 * len(set(numbers)), blocks)
        fitted = fitted_error(samples @ reduction.mixing.T, samples, weight)
        assert error(reduction, samples, weight) == pytest.approx(fitted, rel=1e-5)
        total = float(np.trace(weight @ moments.covariance @ weight.T))
        assert reduction.lost == pytest.approx(fitted, abs=1e-6 * total)

    def test_no_choice_of_channels_loses_less(self, numbers: list[int], seed: int) -> None:
        """Not even with the best refit of the consumer; dropping alone loses more than that."""
        blocks = np.asarray(numbers, np.intp)
        samples, moments, weight = drawn(len(numbers), seed)
        heads = [np.flatnonzero(blocks == head) for head in np.unique(blocks)]
        reduction = reduced(moments, weight, len(heads), blocks)
        chosen = (fitted_error(samples[:, list(kept)], samples, weight) for kept in product(*heads))
        assert error(reduction, samples, weight) <= min(chosen) * (1 + 1e-9)

    def test_heads_that_know_of_one_another_lose_less_than_each_alone(
        self, numbers: list[int], seed: int
    ) -> None:
        blocks = np.asarray(numbers, np.intp)
        samples, moments, weight = drawn(len(numbers), seed)
        heads = [np.flatnonzero(blocks == head) for head in np.unique(blocks)]
        restored = np.zeros_like(samples)
        for at in heads:
            of_one = replace(
                moments, mean=moments.mean[at], covariance=moments.covariance[np.ix_(at, at)]
            )
            alone = reduce_rank(of_one, weight[:, at].T @ weight[:, at], 2)
            assert alone is not None
            mixtures = samples[:, at] @ alone.mixing.T + alone.shift
            restored[:, at] = mixtures @ alone.delivery.matrix.T + alone.delivery.offset
        by_head = float(np.mean(np.sum(((samples - restored) @ weight.T) ** 2, axis=1)))
        together = error(reduced(moments, weight, 2 * len(heads), blocks), samples, weight)
        assert together < by_head

    def test_mixtures_are_of_one_head_and_stand_in_its_places(
        self, numbers: list[int], seed: int
    ) -> None:
        blocks = np.asarray(numbers, np.intp)
        _, moments, weight = drawn(len(numbers), seed)
        reduction = reduced(moments, weight, 2 * len(set(numbers)), blocks)
        kept = reduction.delivery.kept
        assert np.bincount(blocks[kept]).tolist() == [2] * len(set(numbers))
        for row, channel in zip(reduction.mixing, kept, strict=True):
            np.testing.assert_array_equal(row[blocks != blocks[channel]], 0.0)


def test_mixtures_keep_the_mean_of_the_channels_whose_places_they_take() -> None:
    samples, moments, weight = drawn(8, 0)
    reduction = reduced(moments, weight, 4, np.asarray(BLOCKS[0], np.intp))
    mixtures = samples @ reduction.mixing.T + reduction.shift
    np.testing.assert_allclose(mixtures.mean(axis=0), samples.mean(axis=0)[reduction.delivery.kept])
    np.testing.assert_allclose(mixtures.std(axis=0), reduction.std, rtol=1e-6)


def test_heads_of_low_rank_lose_nothing() -> None:
    rng = np.random.default_rng(0)
    samples = np.concatenate(
        [rng.standard_normal((400, 2)) @ rng.standard_normal((2, 4)) for _ in range(2)], axis=1
    )
    weight = rng.standard_normal((5, 8))
    moments = replace(moments_of(samples), ridge_share=1e-12, ridge_per_row=0.0)
    reduction = reduced(moments, weight, 4, np.asarray(BLOCKS[0], np.intp))
    assert error(reduction, samples, weight) < 1e-6 * np.mean(np.sum((samples @ weight.T) ** 2, 1))


def test_moments_that_are_no_covariance_are_refused() -> None:
    _, moments, weight = drawn(8, 0)
    bad = replace(moments, covariance=-moments.covariance)
    blocks = np.asarray(BLOCKS[0], np.intp)
    assert reduce_blocks(bad, weight.T @ weight, 4, blocks) is None
