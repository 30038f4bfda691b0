"""Which channels of a group to keep by the producer's rows alone, and how many."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform

from lbyl_onnx.methods.registry import Criterion, Rank, register_criterion
from lbyl_onnx.methods.types import Evidence, Ranking

# What n * (1 - ratio) may lack of a whole number by rounding: 10 * (1 - 0.9) is below 1.
_COUNT_SLACK = 1e-9


def l2(weight: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the Euclidean norm of each row, (n,): `weight` is (n, d), rows as stored.

    Raises
    ------
    ValueError
        For a wrong shape or a value that is not finite.
    """
    return np.asarray(np.linalg.norm(_rows(weight), axis=1), dtype=np.float64)


def l1(weight: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the sum of absolute values of each row, as `l2` does its norm.

    References
    ----------
    Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017.
    """
    return np.asarray(np.abs(_rows(weight)).sum(axis=1), dtype=np.float64)


def distance_sums(weight: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the sum of Euclidean distances from each row to all the others, as `l2` does its norm.

    Notes
    -----
    The rows are subtracted pair by pair instead of going through their inner products: the
    cancellation there would give nearly equal filters, the very ones to remove, a false distance.
    It takes O(n^2 d) time and O(n^2) memory (50 MB at n = 2048).

    References
    ----------
    He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
    Acceleration", CVPR 2019.
    """
    rows = _rows(weight)
    if rows.shape[0] == 1:
        return np.zeros(1)  # pdist of a single row is empty, which squareform reads as one row
    pairs = np.asarray(pdist(rows, metric="euclidean"), dtype=np.float64)
    return np.asarray(squareform(pairs, checks=False).sum(axis=1), dtype=np.float64)


def kept_count(n: int, ratio: float) -> int:
    """Return how many of n channels stay when the share ``ratio`` is removed, at least one.

    That is ``floor(n * (1 - ratio))``, an exact product not lost to rounding.

    Raises
    ------
    ValueError
        If ``n`` or ``ratio`` is out of its range.
    """
    if n < 1:
        raise ValueError(f"n is {n}; a channel group has at least one channel")
    if not 0.0 <= ratio < 1.0:
        raise ValueError(f"ratio is {ratio}; choose the share to remove in [0, 1)")
    return max(1, math.floor(n * (1.0 - ratio) + _COUNT_SLACK))


def _rows(weight: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the rows in float64, once they are checked."""
    if weight.ndim != 2 or weight.shape[0] == 0:
        raise ValueError(f"weight has shape {weight.shape}; give one flattened row per channel")
    rows = weight.astype(np.float64, copy=False)
    if not np.all(np.isfinite(rows)):
        raise ValueError("weight holds NaN or infinity; every value must be finite")
    return rows


def _by_score(score: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Rank:
    """Rank the channels by a score of their rows alone."""

    def rank(evidence: Evidence, keep: int, rng: np.random.Generator) -> Ranking:
        return Ranking.of_scores(score(evidence.weight), keep)

    return rank


def _at_random(evidence: Evidence, keep: int, rng: np.random.Generator) -> Ranking:
    return Ranking.of_scores(rng.random((len(evidence.weight),)), keep)


register_criterion(Criterion("l2", "the largest by Euclidean norm", "weights", _by_score(l2)))
register_criterion(Criterion("l1", "the largest by absolute values", "weights", _by_score(l1)))
register_criterion(
    Criterion("gm", "the furthest from the others", "weights", _by_score(distance_sums))
)
register_criterion(Criterion("random", "any", "weights", _at_random))
