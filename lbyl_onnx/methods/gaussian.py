"""Moments of channels behind an activation, from those before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy.special

from lbyl_onnx.methods.types import Moments
from lbyl_onnx.types import Floats

# Terms of the Hermite expansion; what the further ones add to a channel's own variance is kept.
TERMS = 24
# The grid on which the activation is evaluated, in standard deviations: its error at a kink is
# the square of its step.
_REACH, _POINTS = 8.0, 2001
# Values of the covariance that are worked out at a time, so that what they need lies in the cache.
_BLOCK = 1 << 15


def erf(x: Floats) -> Floats:
    """Return the error function of each value."""
    return np.asarray(scipy.special.erf(x), np.float64)


def behind(
    before: Moments, activation: Callable[[Floats], Floats], largest: int = _BLOCK
) -> Moments:
    """Push Gaussian channels through an elementwise activation.

    The n channels have one tap; `activation` takes and gives (points, n), channel i in column i.
    At most about `largest` values of the covariance are worked out at a time.

    Notes
    -----
    With z_i = mu_i + sigma_i u_i and R the correlation of u, Mehler's formula gives
    ``Cov(f(z_i), f(z_j)) = sum_{q >= 1} c_q(i) c_q(j) R_ij^q`` with
    ``c_q(i) = E[f(mu_i + sigma_i u) He_q(u)] / sqrt(q!)``. It is positive semidefinite by Schur's
    product theorem.
    """
    sigma = np.sqrt(np.maximum(np.diag(before.covariance), 0.0))
    u = np.linspace(-_REACH, _REACH, _POINTS)
    density = np.exp(-0.5 * u * u)
    density /= density.sum()
    values = activation(before.mean + sigma * u[:, None])  # (points, n)
    mean = density @ values
    centred = values - mean
    variance = density @ centred**2
    scale = np.where(sigma > 0.0, sigma, 1.0)
    covariance = np.empty_like(before.covariance)
    coefficients = _coefficients(u, density, centred)  # (terms, n)
    block = max(1, largest // len(sigma))
    for start in range(0, len(sigma), block):
        rows, rest = slice(start, start + block), slice(start, None)
        correlation = before.covariance[rows, rest] / np.outer(scale[rows], scale[rest])
        part = _series(np.clip(correlation, -1.0, 1.0), coefficients[:, rest])
        covariance[rows, rest] = part
        covariance[rest, rows] = part.T
    np.fill_diagonal(covariance, variance)
    return replace(before, mean=mean, covariance=covariance)


def _coefficients(u: Floats, density: Floats, centred: Floats) -> Floats:
    """c_q of each channel for q from 1 on, (terms, n), of values (points, n) without their mean."""
    last, polynomial = np.zeros_like(u), np.ones_like(u)  # He_{q-1} and He_q over sqrt(q!)
    rows = []
    for q in range(1, TERMS + 1):
        following = (u * polynomial - np.sqrt(q - 1) * last) / np.sqrt(q)
        last, polynomial = polynomial, following
        rows.append(density * polynomial)
    return np.asarray(np.stack(rows) @ centred, dtype=np.float64)


def _series(correlation: Floats, coefficients: Floats) -> Floats:
    """Sum the terms at correlations (m, n) of the first m channels with all, (terms, n)."""
    total, power, term = (np.zeros_like(correlation) for _ in range(3))
    power += 1.0
    for c in coefficients:
        power *= correlation
        np.multiply.outer(c[: len(total)], c, out=term)
        term *= power
        total += term
    return total
