"""Which terms of a product stay, and how much each of them is to count.

Queries and keys behind a filter of their own, a normalisation or a rotation, cannot be mixed. Each
unit of their channels, one or a rotated pair, adds a term to the score, and terms can be scaled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.methods.lbyl_plus import deliver
from lbyl_onnx.methods.obs import eliminate
from lbyl_onnx.methods.types import ConsumerLoss, Moments, Ranking
from lbyl_onnx.types import Floats


def term_moments(
    first: Moments,
    second: Moments,
    at: tuple[NDArray[np.intp], NDArray[np.intp]],
    units: NDArray[np.intp],
) -> Moments:
    """Moments of the n terms of a product, summed over its sums (heads).

    Parameters
    ----------
    first, second
        Moments of the columns of both factors.
    at
        For each place of each sum, (sums, d), the column of the first factor and of the second.
    units
        (sums, d): the unit that each place belongs to.

    Notes
    -----
    The term of unit u is ``sum of q_i k_i over i in u``. For independent q and k that of u and that
    of v have ``E = sum over i in u, j in v of E[q_i q_j] Cov(k_i, k_j)``: what all keys have in
    common adds one number to all scores of a query, which the softmax behind does not see.
    """
    squares = first.covariance + np.outer(first.mean, first.mean)
    n = int(units.max()) + 1
    gram = np.zeros((n, n))
    for one, other, unit in zip(*at, units, strict=True):
        products = squares[np.ix_(one, one)] * second.covariance[np.ix_(other, other)]
        np.add.at(gram, np.ix_(unit, unit), products)
    return Moments(np.zeros(n), gram, min(first.rows, second.rows))


def rank_terms(products: Sequence[Moments], count: int, blocks: NDArray[np.intp] | None) -> Ranking:
    """Rank units down to a count, of each block as many, by the error of each product's terms.

    Those that are left make up for what goes by their gains.
    """
    losses = [ConsumerLoss(terms, np.ones((len(terms.mean), 1))) for terms in products]
    return eliminate(losses, count, blocks=blocks)


def gains(terms: Moments, kept: NDArray[np.intp]) -> Floats:
    """Return what the kept terms, (k,), are to be multiplied by for the least squared error."""
    return np.asarray(1.0 + deliver(terms, kept)[0].rows.sum(axis=0))
