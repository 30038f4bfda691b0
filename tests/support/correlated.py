"""Correlated samples and their moments."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.methods.types import Moments

Floats = NDArray[np.float64]


def correlated(rows: int, columns: int, seed: int = 0) -> Floats:
    """Draw samples, (rows, columns), whose columns are correlated and have means of their own."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((columns, columns)) + 2.0 * np.eye(columns)
    return np.asarray(rng.standard_normal((rows, columns)) @ mix + rng.normal(size=columns))


def moments_of(samples: Floats, taps: int = 1) -> Moments:
    """Mean and covariance as the formulas have them."""
    centred = samples - samples.mean(axis=0)
    return Moments(samples.mean(axis=0), centred.T @ centred / len(samples), len(samples), taps)
