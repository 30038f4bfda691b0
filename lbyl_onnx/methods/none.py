"""Drop only: the removed channels are taken for zero."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from lbyl_onnx.methods.registry import Method, register_method
from lbyl_onnx.methods.types import Delivery, checked_kept


def deliver(n: int, kept: ArrayLike) -> Delivery:
    """Return the delivery that stands nothing in for the removed channels.

    The matrix holds rows of the identity and of zeros; the offset is zero.

    Raises
    ------
    ValueError
        If ``kept`` does not name channels of the group.
    """
    kept = checked_kept(n, kept)
    removed = n - kept.size
    # Zeros that take no memory, however large the group.
    return Delivery(kept, np.broadcast_to(0.0, (removed, kept.size)), np.zeros(removed))


register_method(Method("none", "drop only", "nothing", deliver))
