"""How sure a measured share is, and whether two models' shares differ."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Normal quantile of an interval that holds the truth in 95 of 100 cases.
_Z = 1.959963984540054


@dataclass(frozen=True)
class PairedAccuracy:
    """Two models' accuracies on the same samples.

    Parameters
    ----------
    original, compressed
        Least and largest accuracy that the samples leave likely (Wilson's 95 % intervals).
    only_original, only_compressed
        Samples that one alone classifies right.
    p_value
        Probability of a difference at least as large where none is (McNemar's exact test).
    """

    original: tuple[float, float]
    compressed: tuple[float, float]
    only_original: int
    only_compressed: int
    p_value: float

    @staticmethod
    def of(original: NDArray[np.bool_], compressed: NDArray[np.bool_]) -> PairedAccuracy:
        """Return the accuracies of two models by which samples each classifies right.

        Parameters
        ----------
        original, compressed
            For each sample whether it is right; of one shape.
        """
        one = int(np.sum(original & ~compressed))
        other = int(np.sum(compressed & ~original))
        return PairedAccuracy(
            wilson(int(np.sum(original)), original.size),
            wilson(int(np.sum(compressed)), compressed.size),
            one,
            other,
            mcnemar(one, other),
        )


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, by Wilson's score (JASA 1927).

    Parameters
    ----------
    hits, total
        So many of so many.
    """
    if total == 0:
        return 0.0, 1.0
    share, z2 = hits / total, _Z**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    # At the ends rounding would leave a little.
    return 0.0 if hits == 0 else middle - half, 1.0 if hits == total else middle + half


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided exact p-value of McNemar's test (Psychometrika 1947).

    Parameters
    ----------
    only_first, only_second
        Samples that one model alone gets right: each as likely where the models are equally good.
    """
    total, least = only_first + only_second, min(only_first, only_second)
    # Logarithms: binomials of thousands of samples overflow a float.
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1)
        for k in range(least + 1)
    ]
    tail = sum(math.exp(value - total * math.log(2.0)) for value in logs)
    return min(1.0, 2.0 * tail)
