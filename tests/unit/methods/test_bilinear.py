"""Fewer channels of queries and keys: the best there is, by another way of finding it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from lbyl_onnx.methods.mixing.bilinear import BilinearRank, losses, reduce_bilinear
from lbyl_onnx.methods.types import Moments

Floats = NDArray[np.float64]


def factor(size: int, seed: int, rank: int | None = None) -> Moments:
    """Moments of channels with a mean, of full rank or less, almost without a ridge."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((size, rank or size))
    return Moments(rng.normal(size=size), root @ root.T, 10**9, 1, 1e-12, 0.0)


def second_moment(first: Moments) -> Floats:
    return first.covariance + np.outer(first.mean, first.mean)


def map_of(reduction: BilinearRank) -> Floats:
    """A of q^T A k, (n, n)."""
    return np.asarray(reduction.first.T @ reduction.second)


def error(a: Floats, queries: Moments, keys: Moments) -> float:
    """E (q^T A k - q^T k)^2 of independent q and k, k centred; as a share of E (q^T k)^2."""
    second, both = second_moment(queries), (a - np.eye(len(a)), np.eye(len(a)))
    lost, whole = (float(np.trace(m.T @ second @ m @ keys.covariance)) for m in both)
    return lost / whole


def slow_error(queries: Moments, keys: Moments, rank: int, seed: int) -> float:
    """Alternating least squares from a random start: A = U V^T, one of both at a time."""
    second, size = second_moment(queries), len(queries.mean)
    v: Floats = np.random.default_rng(seed).standard_normal((size, rank))
    for _ in range(3000):
        u = np.linalg.solve(v.T @ keys.covariance @ v, v.T @ keys.covariance).T
        v = np.asarray(np.linalg.solve(u.T @ second @ u, u.T @ second).T)
    return error(u @ v.T, queries, keys)


def reduced(queries: Moments, keys: Moments, blocks: NDArray[np.intp], count: int) -> BilinearRank:
    reduction = reduce_bilinear(queries, keys, blocks, count)
    assert reduction is not None
    return reduction


ONE = np.zeros(6, np.intp)


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("seed", [0, 2])
def test_no_other_mixtures_lose_less(rank: int, seed: int) -> None:
    queries, keys = factor(6, seed), factor(6, seed + 1)
    reduction = reduced(queries, keys, ONE, rank)
    slow = min(slow_error(queries, keys, rank, start) for start in range(3))
    assert reduction.lost == pytest.approx(slow, rel=1e-5)
    assert error(map_of(reduction), queries, keys) == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("which", [0, 1])
def test_nothing_is_lost_where_the_rank_suffices(which: int) -> None:
    """Keys of rank 3 leave the products as they are; so do queries, with a mean of that span."""
    full, thin = factor(6, 0), factor(6, 1, rank=3)
    thin = replace(thin, mean=np.zeros(6), ridge_share=1e-13)
    queries, keys = (full, thin) if which else (thin, full)
    reduction = reduced(queries, keys, ONE, 3)
    assert reduction.lost < 1e-9
    assert error(map_of(reduction), queries, keys) < 1e-9
    assert reduced(queries, keys, ONE, 2).lost > 1e-4


def test_all_channels_leave_the_products_as_they_are() -> None:
    reduction = reduced(factor(6, 0), factor(6, 1), ONE, 6)
    np.testing.assert_allclose(map_of(reduction), np.eye(6), atol=1e-6)


@pytest.mark.parametrize("blocks", [[0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 2, 2]])
def test_channels_of_one_block_alone_are_mixed(blocks: list[int]) -> None:
    numbers = np.asarray(blocks, np.intp)
    count = len(set(blocks))
    queries, keys = factor(6, 0), factor(6, 1)
    reduction = reduced(queries, keys, numbers, count)
    assert sorted(numbers[reduction.kept]) == sorted(set(blocks))
    for weights in (reduction.first, reduction.second):
        for row, kept in zip(weights, reduction.kept, strict=True):
            np.testing.assert_array_equal(row[numbers != numbers[kept]], 0.0)
            assert np.any(row)


def test_each_block_is_what_it_would_be_alone() -> None:
    blocks = np.asarray([0, 1, 1, 0, 1, 0], np.intp)
    queries, keys = factor(6, 0), factor(6, 1)
    both = map_of(reduced(queries, keys, blocks, 4))
    for block in (0, 1):
        at = np.flatnonzero(blocks == block)
        alone = [
            replace(m, mean=m.mean[at], covariance=m.covariance[np.ix_(at, at)])
            for m in (queries, keys)
        ]
        single = map_of(reduced(alone[0], alone[1], np.zeros(3, np.intp), 2))
        np.testing.assert_allclose(both[np.ix_(at, at)], single, atol=1e-8)


def test_what_all_keys_have_in_common_does_not_count() -> None:
    """It adds one number to all scores of a query, which the softmax does not see."""
    queries, keys = factor(6, 0), factor(6, 1)
    far = replace(keys, mean=keys.mean + 100.0)
    first, second = (reduced(queries, k, ONE, 3) for k in (keys, far))
    np.testing.assert_array_equal(map_of(first), map_of(second))
    np.testing.assert_array_equal(first.kept, second.kept)


def test_what_all_queries_have_in_common_does() -> None:
    """A mean of the queries that is far larger than their spread is the one channel to keep."""
    keys = factor(6, 1)
    mean = np.asarray([0.0, 0.0, 1000.0, 0.0, 0.0, 0.0])
    queries = replace(factor(6, 0), mean=mean)
    assert reduced(queries, keys, ONE, 1).lost < 1e-3
    assert reduced(replace(queries, mean=np.zeros(6)), keys, ONE, 1).lost > 1e-2


@pytest.mark.parametrize("blocks", [[0] * 6, [0, 0, 0, 1, 1, 1]])
def test_losses_are_those_of_each_count(blocks: list[int]) -> None:
    numbers, size = np.asarray(blocks, np.intp), len(set(blocks))
    queries, keys = factor(6, 0), factor(6, 1)
    lost = losses(queries, keys, numbers)
    assert lost is not None
    assert lost.shape == (7,)
    assert lost[0] == 0.0
    assert lost[-1] == pytest.approx(1.0)
    for count in range(size, 7, size):
        at = reduced(queries, keys, numbers, count).lost
        assert lost[6 - count] == pytest.approx(at, abs=1e-12)


def test_mixtures_stand_in_the_places_of_the_strongest_channels_ascending() -> None:
    variances = np.asarray([1.0, 9.0, 2.0, 8.0, 3.0, 7.0])
    queries = Moments(np.zeros(6), np.diag(variances), 1000)
    assert reduced(queries, queries, ONE, 3).kept.tolist() == [1, 3, 5]


def test_moments_that_are_no_numbers_are_refused() -> None:
    bad = replace(factor(6, 0), covariance=np.full((6, 6), np.nan))
    assert reduce_bilinear(bad, factor(6, 1), ONE, 3) is None
    assert losses(factor(6, 1), bad, ONE) is None


def test_channels_that_are_all_zero_lose_nothing() -> None:
    silent = Moments(np.zeros(6), np.zeros((6, 6)), 1000)
    reduction = reduced(silent, factor(6, 1), ONE, 3)
    assert np.all(np.isfinite(map_of(reduction)))
