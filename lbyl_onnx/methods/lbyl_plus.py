"""lbyl+: the delivery that minimises the true expected error, from the channels' own moments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from lbyl_onnx.methods.registry import Method, register_method
from lbyl_onnx.methods.types import Delivery, Moments, checked_kept, columns_of, removed_channels
from lbyl_onnx.types import Floats


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
    regular = True
    try:
        # Symmetric: by rows and by columns it is the same, and LAPACK need not turn it round.
        factor = scipy.linalg.cho_factor(
            _system(moments, k).T, lower=True, overwrite_a=True, check_finite=False
        )
        right = c[np.ix_(p, k)].T  # (k, p), by columns
        rows = scipy.linalg.cho_solve(factor, right, overwrite_b=True, check_finite=False).T
    except scipy.linalg.LinAlgError:
        regular = False
        solved = scipy.linalg.lstsq(_system(moments, k), c[np.ix_(k, p)])[0]
        rows = np.asarray(solved, dtype=np.float64).T
    rows = np.ascontiguousarray(rows)
    shift = moments.mean[p] - rows @ moments.mean[k]
    return Delivery(kept, rows, shift, taps), regular


def _system(moments: Moments, k: NDArray[np.intp]) -> Floats:
    """C_KK + rho I, (k, k)."""
    system: Floats = moments.covariance[np.ix_(k, k)]
    system.flat[:: len(k) + 1] += moments.ridge
    return system


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
