"""Random rows of channels, and their comparison."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lbyl_onnx.methods.types import FoldedRows

Array = NDArray[np.float64]


def make_rows(n: int, d: int, *, normalized: bool = True, seed: int = 0) -> FoldedRows:
    """Random rows: gammas of both signs, shifts of either."""
    rng = np.random.default_rng(seed)
    sign = rng.choice([-1.0, 1.0], n)
    shift = rng.standard_normal(n)
    return FoldedRows(
        weight=rng.standard_normal((n, d)) / np.sqrt(d),
        scale=sign * rng.uniform(0.3, 2.0, n) if normalized else np.ones(n),
        shift=shift,
        normalized=normalized,
        constant_output=np.maximum(shift, 0.0),
    )


def changed(array: Array, index: int | list[int], value: float | Array) -> Array:
    """Return a copy with some of its values replaced."""
    copy: Array = array.copy()
    copy[index] = value
    return copy


def assert_close(actual: ArrayLike, expected: ArrayLike) -> None:
    """Allow what float64 loses in well-conditioned systems of at most some tens of unknowns."""
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=1e-9, atol=1e-12)
