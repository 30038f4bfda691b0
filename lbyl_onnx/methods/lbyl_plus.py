"""lbyl+: the delivery that minimises the true expected error, from the channels' own moments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike

from lbyl_onnx.methods.registry import Method, register_method
from lbyl_onnx.methods.types import Delivery, Moments, checked_kept, columns_of, removed_channels


def deliver(moments: Moments, kept: ArrayLike) -> tuple[Delivery, bool]:
    """Deliver removed channels by the least expected squared error at the consumer.

    The delivery is ``S[P] = C_PK (C_KK + rho I)^-1`` and ``c = m_P - S m_K``, `kept` being (k,),
    ascending; beside it stands False when ``C_KK + rho I`` was singular and the least-squares
    solution was taken.

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
    k = columns_of(kept, taps)
    p = columns_of(removed_channels(n, kept), taps)
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
    rows = np.ascontiguousarray(rows)
    shift = moments.mean[p] - rows @ moments.mean[k]
    return Delivery(kept, rows, shift, taps), regular


def _deliver(moments: Moments, kept: ArrayLike) -> Delivery:
    delivery, regular = deliver(moments, kept)
    return delivery if regular else replace(delivery, note="singular: least squares")


register_method(
    Method(
        "lbyl+",
        "LBYL by the channels' own statistics",
        "moments",
        _deliver,
        criterion="obs",
        fallback="lbyl",
        adds_bias=True,
        mixes=True,
    )
)
