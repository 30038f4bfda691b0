"""Moments of channels behind an activation, from those before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lbyl_onnx.methods.types import Moments
from lbyl_onnx.types import Floats

# Terms of the Hermite expansion; what the further ones add to a channel's own variance is kept.
TERMS = 24
# The grid on which the activation is evaluated, in standard deviations: its error at a kink is
# the square of its step.
_REACH, _POINTS = 8.0, 2001


def behind(before: Moments, activation: Callable[[Floats], Floats]) -> Moments:
    """Push Gaussian channels through an elementwise activation.

    The n channels have one tap; `activation` takes and gives (points, n), channel i in column i.

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
    correlation = np.clip(before.covariance / np.outer(scale, scale), -1.0, 1.0)
    covariance = np.zeros_like(before.covariance)
    power = np.ones_like(correlation)
    last, polynomial = np.zeros_like(u), np.ones_like(u)  # He_{q-1} and He_q over sqrt(q!)
    for q in range(1, TERMS + 1):
        following = (u * polynomial - np.sqrt(q - 1) * last) / np.sqrt(q)
        last, polynomial = polynomial, following
        power *= correlation
        c = (density * polynomial) @ centred
        covariance += np.outer(c, c) * power
    np.fill_diagonal(covariance, variance)
    return replace(before, mean=mean, covariance=covariance)
