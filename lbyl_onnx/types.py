"""Types that all packages share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Array = NDArray[np.generic]
DEFAULT_DOMAINS = ("", "ai.onnx")
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""
OperatorKey = tuple[str, str]
"""Domain and name of an operator; the domain of ONNX's own is ""."""


def operator_key(domain: str, op_type: str) -> OperatorKey:
    """Return the key of an operator in the tables."""
    return ("" if domain in DEFAULT_DOMAINS else domain, op_type)
