"""Arrays that are read from their file when they are needed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from lbyl_onnx.types import Array

Reader = Callable[[TensorProto], Array]


@dataclass(frozen=True, eq=False)
class Deferred:
    """A large constant that is computed only while it is written.

    Parameters
    ----------
    shape, dtype
        Of the value.
    compute
        Gives the value; called as often as it is needed, so that it need not be kept.
    identity
        Equal for equal values.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    compute: Callable[[], Array]
    identity: str

    @property
    def nbytes(self) -> int:
        """Bytes that the value takes."""
        return math.prod(self.shape) * self.dtype.itemsize


Value = Array | Deferred


def load(value: Value) -> Array:
    """Return a value, computing it where it was deferred."""
    return value.compute() if isinstance(value, Deferred) else value


def identity(value: Value) -> str:
    """Return a text that is equal for equal values."""
    if isinstance(value, Deferred):
        return value.identity
    head = f"{value.dtype}{value.shape}".encode()
    return hashlib.sha256(head + value.tobytes()).hexdigest()
