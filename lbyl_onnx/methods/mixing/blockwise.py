"""Mixtures of the channels of each block alone, which stand in for the channels of all blocks."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from lbyl_onnx.methods.mixing.reduced_rank import WORST_CONDITION, ReducedRank
from lbyl_onnx.methods.types import Delivery, Moments, removed_channels
from lbyl_onnx.types import Floats

# Rounds in which each block's mixtures are fitted to what those of the others leave.
ROUNDS = 2
# Channels up to which they are: a round takes a factorisation of all mixtures for each block.
LARGEST = 2048


def reduce_blocks(
    moments: Moments, gram: Floats, count: int, blocks: NDArray[np.intp]
) -> ReducedRank | None:
    """Find mixtures within blocks that leave the consumers' outputs with the least squared error.

    Parameters
    ----------
    moments
        Finite, of n channels of one tap at the consumers' input.
    gram
        (n, n), the inner products ``B^T B`` of the consumers' weights over their outputs.
    count
        The number k of channels that are left, of each block as many.
    blocks
        (n,): number of each channel's block; only channels of one are mixed.

    Returns
    -------
    ReducedRank or None
        Its delivery restores every channel, kept ones too, from the mixtures of all blocks. None
        where the moments are degenerate.

    Notes
    -----
    Attention's probabilities act on tokens, differently for each head, so values of two heads
    cannot be mixed in front of them. Behind them the output projection sees all heads, which know
    of one another. So one block at a time takes the mixtures that explain most of what those of the
    others leave: with C the covariance once b of the others is known, ``C + rho I = L L^T`` on the
    block, they are ``U^T L^-1 a`` with U the leading eigenvectors of ``L^-1 C_h B^T B C_h^T L^-T``
    (reduced-rank regression, block coordinate descent). In the end all channels are regressed on
    all mixtures.
    """
    c = moments.covariance + moments.ridge * np.eye(len(moments.mean))
    members = [np.flatnonzero(blocks == block) for block in np.unique(blocks)]
    each = count // len(members)
    mixing = np.zeros((count, len(c)))
    shared = np.zeros((len(c), count))  # covariance of the channels with the mixtures
    rows = [np.arange(i * each, (i + 1) * each) for i in range(len(members))]
    try:
        for round_ in range(ROUNDS if len(c) <= LARGEST else 1):
            for at, own in zip(members, rows, strict=True):
                others = np.setdiff1d(np.arange(count), own) if round_ else own[:0]
                left = _conditional(c[at], shared[:, others], mixing[others], at)
                mixing[np.ix_(own, at)] = leading = _leading(left, gram, at, each)
                shared[:, own] = c[:, at] @ leading.T
    except np.linalg.LinAlgError:
        return None
    return _restoring(moments, c, gram, mixing, members)


def _conditional(c: Floats, shared: Floats, mixing: Floats, at: NDArray[np.intp]) -> Floats:
    """Covariance (d, n) of some channels with all that some mixtures do not explain.

    Parameters
    ----------
    c
        (d, n): their covariance with all.
    shared, mixing
        Covariance of all with the mixtures, (n, mixtures), and these, (mixtures, n).
    at
        (d,): which channels they are.
    """
    if not len(mixing):
        return c
    factor = scipy.linalg.cho_factor(_firm(mixing @ shared), lower=True)
    return np.asarray(c - scipy.linalg.cho_solve(factor, shared[at].T).T @ shared.T)


def _firm(c: Floats) -> Floats:
    """Add what rounding may have taken from a covariance of mixtures."""
    return c + 1e-9 * float(np.mean(np.diag(c))) * np.eye(len(c))


def _regressed(mixing: Floats, shared: Floats) -> Floats:
    """Regress d channels on k mixtures of them, with which they have the covariance `shared`."""
    return np.asarray(np.linalg.solve(_firm(mixing @ shared), shared.T).T, dtype=np.float64)


def _leading(c: Floats, gram: Floats, at: NDArray[np.intp], count: int) -> Floats:
    """Mixtures (count, d) of one block that explain most of the consumers' outputs.

    `c` is the covariance (d, n) of its channels, at these places, with all.
    """
    own = c[:, at]
    factor = np.linalg.cholesky(_firm((own + own.T) / 2.0))
    shared = scipy.linalg.solve_triangular(factor, c, lower=True)  # (d, n)
    vectors = np.linalg.eigh(shared @ gram @ shared.T)[1][:, -count:]
    return np.asarray(scipy.linalg.solve_triangular(factor, vectors, lower=True, trans="T").T)


def _restoring(
    moments: Moments, c: Floats, gram: Floats, mixing: Floats, members: list[NDArray[np.intp]]
) -> ReducedRank | None:
    """Put mixtures in the places of kept channels, and restore all channels from them."""
    each = len(mixing) // len(members)
    kept, placed = list[NDArray[np.intp]](), np.zeros_like(mixing)
    for number, at in enumerate(members):
        rows = slice(number * each, (number + 1) * each)
        own = mixing[rows][:, at]
        shared = c[np.ix_(at, at)] @ own.T
        restored = _regressed(own, shared)  # (d, k)
        order = scipy.linalg.qr(restored.T, mode="economic", pivoting=True)[2][:each]
        basis = restored[order]
        if not np.linalg.cond(basis) < WORST_CONDITION:
            return None
        kept.append(at[order])
        placed[rows, at] = basis @ own
    joined = np.concatenate(kept)
    order = np.argsort(joined)
    chosen, placed = joined[order], placed[order]
    shared = c @ placed.T
    whole = _regressed(placed, shared)  # (n, k)
    error = c - whole @ shared.T
    mean, plain = moments.mean, moments.covariance
    removed = removed_channels(len(c), chosen)
    shift = mean - whole @ mean[chosen]
    variance = np.einsum("kn,kn->k", placed @ plain, placed)
    return ReducedRank(
        placed,
        mean[chosen] - placed @ mean,
        np.sqrt(np.maximum(variance, 0.0)),
        Delivery(chosen, whole[removed], shift[removed], own=(whole[chosen], shift[chosen])),
        float(max(0.0, np.einsum("ij,ij->", gram, error))),
    )
