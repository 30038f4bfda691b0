"""Scale and epsilon of a normalisation over channels of which some are gone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.methods.types import checked_kept
from lbyl_onnx.types import Floats


@dataclass(frozen=True)
class KeptNorm:
    """What a normalisation over the kept channels takes in place of its constants.

    Attributes
    ----------
    scale : float
        Factor of gamma; a bias behind it stays.
    epsilon : float
        The new epsilon, in the units of the old one: those of a mean square.
    """

    scale: float
    epsilon: float


def kept_norm(
    mean: Floats,
    second: Floats,
    kept: NDArray[np.intp],
    epsilon: float,
    *,
    centred: bool = False,
    constant: bool = True,
) -> KeptNorm:
    """Fit a normalisation over the kept channels to the one over all.

    Parameters
    ----------
    mean : (n,) float64
        Of what is normalised. Where several activations share the constants, of all their rows.
    second : (n, n) float64
        Its second moment E[x x^T], likewise.
    kept : (k,) intp
        Kept channels, ascending.
    epsilon : float
        The old epsilon, 0 or more.
    centred : bool
        Whether the mean over the channels is taken away first, as a layer normalisation does; the
        new one takes away that of the kept channels.
    constant
        Whether part of the sum of squares may become constant. Not where the pruned model gives
        less of it, as a stream to which compensated layers add: nothing would make up for that.

    Returns
    -------
    KeptNorm
        The old constants where all channels are kept, or where these are always zero.

    Raises
    ------
    ValueError
        If `kept` does not name channels in ascending order.

    Notes
    -----
    Let s be the sum of squares over all channels and t that over the kept ones, each around its own
    mean where `centred`. With s ~ a t + b, ``s / n + eps = (a k / n) (t / k + eps')`` for
    ``eps' = (eps + b / n) / (a k / n)``, and gamma is divided by ``sqrt(a k / n)``. (a, b) is the
    least-squares fit for Gaussian rows, for which the covariance of two quadratic forms is
    ``2 tr(A C B C) + 4 m^T A C B m``, within ``a >= 1, b >= 0``: kept channels are among all, so
    that t <= s where nothing is centred, and eps' must not be below zero. Without a constant b = 0.
    """
    n = len(mean)
    kept = checked_kept(n, kept)
    everything = np.arange(n)
    if len(kept) == n:
        return KeptNorm(1.0, float(epsilon))
    if centred:
        mean, second = mean - mean.mean(), _centred(second, rows=True)
    covariance = second - np.outer(mean, mean)
    total, part = (_mean_square(second, at, centred) for at in (everything, kept))
    shared = _covariance(mean, covariance, everything, kept, centred)
    variance = _covariance(mean, covariance, kept, kept, centred)
    if part <= 0.0:
        return KeptNorm(1.0, float(epsilon))
    sums = shared, variance, total, part
    a, b = _line(*sums) if constant else (_slope(*sums), 0.0)
    share = a * len(kept) / n
    return KeptNorm(float(1.0 / np.sqrt(share)), float((epsilon + b / n) / share))


def _line(shared: float, variance: float, total: float, part: float) -> tuple[float, float]:
    """Least squares of s on t with slope 1 or more and intercept 0 or more."""
    slope = shared / variance if variance > 0.0 else 1.0
    if slope < 1.0:
        return 1.0, max(0.0, total - part)
    if total - slope * part >= 0.0:
        return slope, total - slope * part
    return _slope(shared, variance, total, part), 0.0


def _slope(shared: float, variance: float, total: float, part: float) -> float:
    """Least squares of s on t with slope 1 or more and no intercept."""
    return max(1.0, (shared + total * part) / (variance + part * part))


def _centred(matrix: Floats, *, rows: bool) -> Floats:
    """Take the mean off each column, and off each row, too, where asked."""
    matrix = matrix - matrix.mean(axis=0, keepdims=True)
    return matrix - matrix.mean(axis=1, keepdims=True) if rows else matrix


def _mean_square(second: Floats, at: NDArray[np.intp], centred: bool) -> float:
    block = second[np.ix_(at, at)]
    return float(np.trace(block) - (block.mean(axis=0).sum() if centred else 0.0))


def _covariance(
    mean: Floats, covariance: Floats, at: NDArray[np.intp], other: NDArray[np.intp], centred: bool
) -> float:
    """Covariance of the sums of squares over two sets of channels, of Gaussian rows."""
    block, first, second = covariance[np.ix_(at, other)], mean[at], mean[other]
    if centred:
        block = _centred(block, rows=True)
        first, second = first - first.mean(), second - second.mean()
    return float(2.0 * np.sum(block * block) + 4.0 * first @ block @ second)
