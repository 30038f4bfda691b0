"""Ranges of activations that whole numbers of eight bits hold, by least squared error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lbyl_onnx.types import Floats

LEVELS = 256
# Bins of a histogram, an even number; their edges lie symmetrically around zero.
BINS = 4096
# Shares of the lowest and of the highest value at which a range may be cut.
SHARES = np.concatenate([np.arange(1.0, 0.5, -0.05), np.arange(0.5, 0.04, -0.05)])


@dataclass(frozen=True, eq=False)
class Histogram:
    """Values in bins, and the least and the largest of all.

    Parameters
    ----------
    reach
        The bins lie between -`reach` and `reach`; 0 before the first values.
    counts
        Shape (BINS,); zeros are left out.
    zeros
        How many values are zero, which whole numbers hold exactly.
    lowest, highest
        Of all values, those among them that were not counted.
    """

    reach: float
    counts: Floats
    zeros: int
    lowest: float
    highest: float

    @staticmethod
    def empty() -> Histogram:
        """Return a histogram of no values."""
        return Histogram(0.0, np.zeros(BINS), 0, 0.0, 0.0)

    def having(self, values: Floats, lowest: float, highest: float) -> Histogram:
        """Return a histogram that holds more values.

        Parameters
        ----------
        values
            Some of them, finite, of any shape.
        lowest, highest
            Of all.
        """
        largest = max(-lowest, highest, abs(float(np.max(np.abs(values), initial=0.0))))
        reach, counts = self.reach, self.counts
        if reach == 0.0:
            reach = largest
        while 0.0 < reach < largest:
            reach, counts = 2.0 * reach, _halved(counts)
        some = values[values != 0.0]  # -> (values,)
        if reach > 0.0:
            where = (some / reach + 1.0) * (BINS / 2)
            bins = np.clip(where.astype(np.int64), 0, BINS - 1)
            counts = counts + np.bincount(bins, minlength=BINS)
        zeros = self.zeros + values.size - some.size
        return Histogram(reach, counts, zeros, min(self.lowest, lowest), max(self.highest, highest))


def _halved(counts: Floats) -> Floats:
    """Counts of bins twice as wide, which reach twice as far."""
    pairs = counts.reshape(-1, 2).sum(axis=1)  # (BINS,) -> (BINS / 2,)
    return np.pad(pairs, BINS // 4)


def least_error_range(histogram: Histogram, symmetric: bool = False) -> tuple[float, float]:
    """Return the range whose whole numbers lose least of the values' squares.

    Rounding loses a twelfth of the step's square where a value is not zero, values outside lose
    what they are cut by.

    Parameters
    ----------
    histogram
        Of the values.
    symmetric
        Whether zero must lie in the middle.

    Returns
    -------
    tuple
        Least and largest value, which zero lies between.
    """
    low, high = min(0.0, histogram.lowest), max(0.0, histogram.highest)
    if symmetric:
        high = max(-low, high)
        low = -high
    rounded = float(np.sum(histogram.counts))
    total = rounded + histogram.zeros
    if rounded == 0.0 or high == low:
        return low, high
    centres = (np.arange(BINS) + 0.5) * (2.0 * histogram.reach / BINS) - histogram.reach
    lows, highs = low * SHARES, high * SHARES
    cut_low = np.maximum(lows[:, None] - centres, 0.0) ** 2 @ histogram.counts / total
    cut_high = np.maximum(centres - highs[:, None], 0.0) ** 2 @ histogram.counts / total
    steps = (highs[None, :] - lows[:, None]) / (LEVELS - 1)
    lost = cut_low[:, None] + cut_high[None, :] + rounded / total * steps**2 / 12.0
    if symmetric:
        best = int(np.argmin(np.diag(lost)))
        return float(lows[best]), float(highs[best])
    first, second = np.unravel_index(int(np.argmin(lost)), lost.shape)
    return float(lows[first]), float(highs[second])
