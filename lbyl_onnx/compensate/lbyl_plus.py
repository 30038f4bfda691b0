"""lbyl+: the delivery that minimises the true expected error, from the channels' own moments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from lbyl_onnx.compensate.types import Delivery, checked_kept, removed_channels

Floats = NDArray[np.float64]
# The ridge on C: this share of its mean diagonal, and this much more for each column per sample,
# as the error of an estimated covariance grows with their ratio.
RIDGE, RIDGE_PER_SAMPLE = 1e-3, 0.01


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of the D values that a consumer sees, D = n channels * taps.

    Attributes
    ----------
    mean : (D,) float64
    covariance : (D, D) float64
        Centred, divided by `rows`.
    rows : int
        Samples that they were taken from.
    taps : int
        Values per channel, which follow each other.
    """

    mean: Floats
    covariance: Floats
    rows: int
    taps: int = 1

    @property
    def finite(self) -> bool:
        """Whether every moment is a number."""
        return bool(np.all(np.isfinite(self.mean)) and np.all(np.isfinite(self.covariance)))

    @property
    def ridge(self) -> float:
        """What is added to the diagonal of the covariance: rho in METHODS' notation."""
        share = RIDGE + RIDGE_PER_SAMPLE * len(self.mean) / max(1, self.rows)
        return float(share * np.mean(np.diag(self.covariance))) or 1.0

    def per_channel(self) -> Moments:
        """Return the moments of the channels with their taps taken for samples of one value."""
        if self.taps == 1:
            return self
        n = len(self.mean) // self.taps
        mean = self.mean.reshape(n, self.taps)
        covariance = np.einsum("itjt->ij", self.covariance.reshape(n, self.taps, n, self.taps))
        # The taps' own means differ at padded borders only; that is within a channel's variance.
        return Moments(mean.mean(axis=1), covariance / self.taps, self.rows * self.taps)


def deliver(moments: Moments, kept: ArrayLike) -> tuple[Delivery, bool]:
    """Deliver removed channels by the least expected squared error at the consumer.

    Parameters
    ----------
    moments : Moments
        Of all channels at the consumer's input.
    kept : (k,) array_like of int
        Kept channels, ascending.

    Returns
    -------
    delivery : Delivery
        ``S[P] = C_PK (C_KK + rho I)^-1`` and ``c = m_P - S m_K``.
    regular : bool
        False when ``C_KK + rho I`` was singular and the least-squares solution was taken.

    Raises
    ------
    ValueError
        If a moment is not finite or ``kept`` names no channels of the group.

    Notes
    -----
    LBYL (Lee, Kim, Choi, arXiv 2502.08474) bounds ``E[(a_j - s a_K - c_j)^2]`` by quantities of the
    weights alone, as if the input were white. This is its minimiser for the given mean and
    covariance. With taps, the values that a window of the consumer sees are told apart, so
    that a removed channel is also restored from its neighbours in the plane.
    """
    taps = moments.taps
    n = len(moments.mean) // taps
    kept = checked_kept(n, kept)
    k = _columns(kept, taps)
    p = _columns(removed_channels(n, kept), taps)
    c = moments.covariance
    if not moments.finite:
        raise ValueError("the moments hold NaN or infinity; every value must be finite")
    system = c[np.ix_(k, k)] + moments.ridge * np.eye(len(k))
    regular = True
    try:
        factor = scipy.linalg.cho_factor(system, lower=True)
        rows = scipy.linalg.cho_solve(factor, c[np.ix_(k, p)]).T
    except scipy.linalg.LinAlgError:
        regular = False
        rows = np.asarray(scipy.linalg.lstsq(system, c[np.ix_(k, p)])[0], dtype=np.float64).T
    shift = moments.mean[p] - rows @ moments.mean[k]
    return Delivery(kept, np.ascontiguousarray(rows), shift, taps), regular


def _columns(channels: NDArray[np.intp], taps: int) -> NDArray[np.intp]:
    columns = channels[:, None] * taps + np.arange(taps)  # (channels, taps)
    return columns.reshape(-1)
