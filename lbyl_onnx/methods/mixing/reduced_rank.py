"""Fewer channels that are mixtures of all of them, where consumers read the channels linearly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from lbyl_onnx.methods.types import Delivery, Moments
from lbyl_onnx.types import Floats

# A basis of the kept channels worse conditioned than this is not taken.
WORST_CONDITION = 1e6


@dataclass(frozen=True, eq=False)
class ReducedRank:
    """k mixtures of n channels, and how they stand in for all n at the consumers."""

    mixing: Floats  # (k, n), what each kept channel becomes of all channels as they were
    shift: Floats  # (k,), what is added to it
    std: Floats  # (k,), standard deviation of the mixtures
    delivery: Delivery  # from the mixtures, in the places of the kept channels, to the removed ones
    lost: float  # squared error of the consumers' outputs, in the units of B


def reduce_rank(moments: Moments, gram: Floats, count: int) -> ReducedRank | None:
    """Find the mixtures that leave the consumers' outputs with the least squared error.

    Parameters
    ----------
    moments
        Finite, of n channels of one tap at the consumers' input.
    gram
        (n, n), the inner products ``B^T B`` of the consumers' weights over their outputs.
    count
        The number k of channels that are left.

    Returns
    -------
    ReducedRank or None
        None where the moments are degenerate.

    Notes
    -----
    Reduced-rank regression (Izenman, Journal of Multivariate Analysis 5, 1975): with
    ``C + rho I = L L^T`` and U the k leading eigenvectors of ``L^T B^T B L``, the best k mixtures
    are ``U^T L^-1 a``, from which a is restored by ``L U``. No choice of k channels can do better.
    The basis is then changed so that the kept channels, chosen by a pivoted QR, are restored by
    1: their mixtures stand in their own places, ``a_K ~ b`` and ``a_P ~ S b + c``.
    """
    c = moments.covariance
    try:
        factor = np.linalg.cholesky(c + moments.ridge * np.eye(len(c)))
        values, vectors = np.linalg.eigh(factor.T @ gram @ factor)
    except np.linalg.LinAlgError:
        return None
    leading = vectors[:, -count:]
    restored = factor @ leading  # (n, k)
    _, _, order = scipy.linalg.qr(restored.T, mode="economic", pivoting=True)
    kept = np.sort(order[:count]).astype(np.intp)
    basis = restored[kept]
    if not np.linalg.cond(basis) < WORST_CONDITION:
        return None
    mixing = basis @ scipy.linalg.solve_triangular(factor, leading, lower=True, trans="T").T
    rows = np.linalg.solve(basis.T, np.delete(restored, kept, axis=0).T).T
    mean = moments.mean
    shift = np.delete(mean, kept) - rows @ mean[kept]
    variance = np.einsum("kn,kn->k", mixing @ c, mixing)
    return ReducedRank(
        mixing,
        mean[kept] - mixing @ mean,
        np.sqrt(np.maximum(variance, 0.0)),
        Delivery(kept, np.ascontiguousarray(rows), shift),
        float(np.sum(np.maximum(values[:-count], 0.0))),
    )


def losses(moments: Moments, gram: Floats, blocks: NDArray[np.intp] | None = None) -> Floats | None:
    """Squared error of the consumers' outputs for each number of channels that go.

    As for `reduce_rank`; the result is (n + 1,), sums of the least eigenvalues of ``L^T B^T B L``,
    from none of them, of each block as many.
    """
    n = len(moments.mean)
    numbers = np.zeros(n, np.intp) if blocks is None else blocks
    size = len(np.unique(numbers))
    total, gone = np.zeros(n // size + 1), np.arange(n + 1) // size
    try:
        for block in np.unique(numbers):
            inside = np.ix_(*(np.flatnonzero(numbers == block),) * 2)
            system = moments.covariance[inside] + moments.ridge * np.eye(n // size)
            factor = np.linalg.cholesky(system)
            values = np.linalg.eigvalsh(factor.T @ gram[inside] @ factor)
            total[1:] += np.cumsum(np.maximum(values, 0.0))
    except np.linalg.LinAlgError:
        return None
    return total[gone]
