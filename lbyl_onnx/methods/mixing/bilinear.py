"""Fewer channels of two factors that are multiplied and summed, as queries and keys are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from lbyl_onnx.methods.types import Moments
from lbyl_onnx.types import Floats


@dataclass(frozen=True, eq=False)
class BilinearRank:
    """k mixtures of n channels for each of two factors, block by block.

    Attributes
    ----------
    kept : (k,) intp
        The channels in whose places the mixtures stand, ascending.
    first, second : (k, n) float64
        What each kept channel becomes of all channels as they were.
    lost : float
        Squared error of the product, as a share of its mean square.
    """

    kept: NDArray[np.intp]
    first: Floats
    second: Floats
    lost: float


def reduce_bilinear(
    first: Moments, second: Moments, blocks: NDArray[np.intp], count: int
) -> BilinearRank | None:
    """Find mixtures that leave the products of two factors with the least squared error.

    Parameters
    ----------
    first, second
        Moments of the n channels of each factor, one tap each; finite.
    blocks
        (n,): number of the block of each channel. Products are summed over a block.
    count
        How many channels are left, of each block as many.

    Returns
    -------
    BilinearRank or None
        None where the moments are degenerate.

    Notes
    -----
    With q and k the factors of one block, q^T k becomes q^T A k with A of rank r. For independent
    q and k of second moments ``L_q L_q^T`` and ``L_k L_k^T`` the error is ``|L_q^T (I - A) L_k|``,
    least for ``A = L_q^-T U_r S_r V_r^T L_k^-1`` with U S V^T the singular value decomposition of
    ``L_q^T L_k`` (Eckart and Young, Psychometrika 1, 1936). Of the second factor the second moment
    is central: what all keys have in common adds one number to all scores of a query, which the
    softmax behind them does not see.
    """
    n, size = len(blocks), len(np.unique(blocks))
    kept_each = count // size
    mixed = np.zeros((count, n)), np.zeros((count, n))
    kept: list[NDArray[np.intp]] = []
    lost = whole = 0.0
    for block in np.unique(blocks):
        at = np.flatnonzero(blocks == block)
        parts = _decomposed(first, second, at)
        if parts is None:
            return None
        one, other, values = parts
        lost += float(np.sum(values[kept_each:] ** 2))
        whole += float(np.sum(values**2))
        rows = slice(len(kept) * kept_each, (len(kept) + 1) * kept_each)
        root = np.sqrt(values[:kept_each])[:, None]
        mixed[0][rows, at] = one[:, :kept_each].T * root
        mixed[1][rows, at] = other[:, :kept_each].T * root
        power = first.covariance[at, at] * second.covariance[at, at]
        kept.append(at[np.sort(np.argsort(-power, kind="stable")[:kept_each])])
    joined = np.concatenate(kept)
    order = np.argsort(joined)
    share = lost / whole if whole > 0.0 else 0.0
    return BilinearRank(joined[order], mixed[0][order], mixed[1][order], share)


def losses(first: Moments, second: Moments, blocks: NDArray[np.intp]) -> Floats | None:
    """Squared error of the products for each number of channels that go, (n + 1,).

    As for `reduce_bilinear`, as a share of their mean square; what goes is of each block as many.
    """
    size = len(np.unique(blocks))
    tails = np.zeros(len(blocks) // size + 1)
    for block in np.unique(blocks):
        parts = _decomposed(first, second, np.flatnonzero(blocks == block))
        if parts is None:
            return None
        tails[1:] += np.cumsum(parts[2][::-1] ** 2)
    gone = np.arange(len(blocks) + 1) // size
    shares: Floats = tails[gone] / (tails[-1] or 1.0)
    return shares


def _decomposed(
    first: Moments, second: Moments, at: NDArray[np.intp]
) -> tuple[Floats, Floats, Floats] | None:
    """Return L_q^-T U, L_k^-T V, each (d, d), and S, (d,), of one block."""
    block = np.ix_(at, at)
    mean = first.mean[at]
    moments = first.covariance[block] + np.outer(mean, mean), second.covariance[block]
    if not all(np.all(np.isfinite(moment)) for moment in moments):
        return None
    shares = (m.ridge_share + m.ridge_per_row * len(at) / max(1, m.rows) for m in (first, second))
    try:
        factors = [
            np.linalg.cholesky(c + (share * np.mean(np.diag(c)) or 1.0) * np.eye(len(at)))
            for c, share in zip(moments, shares, strict=True)
        ]
        left, values, right = np.linalg.svd(factors[0].T @ factors[1])
    except np.linalg.LinAlgError:
        return None
    turned = [
        scipy.linalg.solve_triangular(factor, basis, lower=True, trans="T")
        for factor, basis in zip(factors, (left, right.T), strict=True)
    ]
    return turned[0], turned[1], values
