"""Which channels of a group to keep: scores of the producer's rows, and the choice among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform

Criterion = Literal["l2", "l1", "gm", "random"]
CRITERIA: tuple[Criterion, ...] = ("l2", "l1", "gm", "random")
# What n * (1 - ratio) may lack of a whole number by rounding: 10 * (1 - 0.9) is below 1.
_COUNT_SLACK = 1e-9


def scores(
    weight: NDArray[np.floating[Any]],
    bias: NDArray[np.floating[Any]] | None,
    criterion: Criterion,
    seed: Sequence[int],
) -> NDArray[np.float64]:
    """Return the importance of each channel: the larger, the more worth keeping.

    Parameters
    ----------
    weight : (n, d) float
        The producer's rows as stored, flattened.
    bias : (n,) float or None
        Appended to the rows where given: the bias of a Gemm; None for a Conv.
    criterion : {"l2", "l1", "gm", "random"}
        Euclidean norm of the row (Li et al. 2017 use l1), sum of absolute values, sum of
        Euclidean distances to the other rows of the group (He et al. 2019), or uniform
        random numbers.
    seed : sequence of int
        Non-negative; seeds "random", for example the user's seed and the number of the group.
        The other criteria do not draw on it.

    Returns
    -------
    (n,) float64

    Raises
    ------
    ValueError
        For a wrong shape, a value that is not finite, a negative seed or an unknown criterion.

    Notes
    -----
    "gm" subtracts the rows pair by pair instead of going through their inner products: the
    cancellation there would give nearly equal filters, the very ones to remove, a false distance.
    It takes O(n^2 d) time and O(n^2) memory (50 MB at n = 2048).

    References
    ----------
    Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017. He et al., "Filter Pruning via
    Geometric Median for Deep Convolutional Neural Networks Acceleration", CVPR 2019.
    """
    rows = _rows(weight, bias)
    if criterion == "l2":
        return np.asarray(np.linalg.norm(rows, axis=1), dtype=np.float64)
    if criterion == "l1":
        return np.asarray(np.abs(rows).sum(axis=1), dtype=np.float64)
    if criterion == "gm":
        return _distance_sums(rows)
    if criterion == "random":
        return np.random.default_rng(list(seed)).random((rows.shape[0],))
    raise ValueError(f"unknown criterion {criterion!r}; choose one of {', '.join(CRITERIA)}")


def kept_count(n: int, ratio: float) -> int:
    """Return how many of n channels stay when the share ``ratio`` is removed, at least one.

    Parameters
    ----------
    n : int
        Channels in the group, at least 1.
    ratio : float
        Share to remove, in [0, 1).

    Returns
    -------
    int
        ``floor(n * (1 - ratio))``, an exact product not lost to rounding.

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


def select(scores: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Return the channels to keep: those of the largest scores, of equals the lower index.

    Parameters
    ----------
    scores : (n,) float
        Importance of each channel.
    count : int
        How many to keep, 1 to n.

    Returns
    -------
    (count,) intp
        Ascending.

    Raises
    ------
    ValueError
        If ``scores`` is not one-dimensional, holds NaN, or ``count`` is out of its range.
    """
    if scores.ndim != 1:
        raise ValueError(f"scores has shape {scores.shape}; give one score per channel: (n,)")
    if np.any(np.isnan(scores)):
        raise ValueError("scores holds NaN; every channel needs a score that can be compared")
    if not 1 <= count <= scores.size:
        raise ValueError(f"count is {count}; keep 1 to {scores.size} of {scores.size} channels")
    best_first = np.argsort(-scores, kind="stable")
    return np.sort(best_first[:count])


def _rows(
    weight: NDArray[np.floating[Any]], bias: NDArray[np.floating[Any]] | None
) -> NDArray[np.float64]:
    """Return the rows in float64, the bias appended where given, once they are checked."""
    if weight.ndim != 2 or weight.shape[0] == 0:
        raise ValueError(f"weight has shape {weight.shape}; give one flattened row per channel")
    rows = weight.astype(np.float64, copy=False)
    if bias is not None:
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"bias has shape {bias.shape}; expected {weight.shape[:1]}")
        rows = np.column_stack([rows, bias])
    if not np.all(np.isfinite(rows)):
        raise ValueError("weight or bias holds NaN or infinity; every value must be finite")
    return rows


def _distance_sums(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (n,) sums of Euclidean distances from each row to all the others."""
    if rows.shape[0] == 1:
        return np.zeros(1)  # pdist of a single row is empty, which squareform reads as one row
    pairs = np.asarray(pdist(rows, metric="euclidean"), dtype=np.float64)
    return np.asarray(squareform(pairs, checks=False).sum(axis=1), dtype=np.float64)
