"""Inputs of which only the shape and type are known."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from lbyl_onnx.data.input_kind import InputSpec, kind_by_shape


def plain_spec(dtype: DTypeLike, shape: tuple[int, ...]) -> InputSpec:
    """Return the spec of an input that takes what its shape and type say."""
    return InputSpec(np.dtype(dtype), shape, kind_by_shape(shape, dtype))
