"""Constants of a normalisation that loses channels, against sums over fourth moments."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from lbyl_onnx.methods.normalised import kept_norm

Array = NDArray[Any]


def fourth(mean: Array, covariance: Array) -> Array:
    """E[x_i x_j x_k x_l] of Gaussian rows, by Isserlis' theorem for each quadruple."""
    n = len(mean)
    moment = np.zeros((n,) * 4)
    for at in product(range(n), repeat=4):
        pairs = [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
        value = np.prod(mean[list(at)])
        for first, second in pairs:
            c = [covariance[at[i], at[j]] for i, j in (first, second)]
            m = [mean[at[i]] * mean[at[j]] for i, j in (first, second)]
            value += c[0] * c[1] + c[0] * m[1] + m[0] * c[1]
        moment[at] = value
    return moment


def oracle(
    mean: Array, second: Array, kept: Array, eps: float, centred: bool, constant: bool
) -> tuple[float, ...]:
    """Bounded least squares of s on (t, 1) by E[t t], E[t], E[s t], E[s]."""
    n, k = len(mean), len(kept)
    pick = np.eye(n)[:, kept]
    on_all = np.eye(n) - centred * np.full((n, n), 1 / n)
    on_kept = pick @ (np.eye(k) - centred * np.full((k, k), 1 / k)) @ pick.T
    moment = fourth(mean, second - np.outer(mean, mean))
    tt, st = (np.einsum("ij,kl,ijkl->", form, on_kept, moment) for form in (on_kept, on_all))
    t, s = np.sum(on_kept * second), np.sum(on_all * second)
    root = np.linalg.cholesky(np.asarray([[tt, t], [t, 1.0]])).T
    right = np.linalg.solve(root.T, [st, s])
    if constant:
        a, b = lsq_linear(root, right, ([1.0, 0.0], np.inf), tol=1e-14).x
    else:
        (a,), b = lsq_linear(root[:, :1], right, (1.0, np.inf), tol=1e-14).x, np.float64(0.0)
    share = a * k / n
    return 1 / np.sqrt(share), (eps + b / n) / share


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_it_equals_bounded_least_squares(seed: int, constant: bool, centred: bool) -> None:
    rng = np.random.default_rng(seed)
    n = 5
    root = rng.normal(size=(n, 2 if seed % 3 == 0 else n)) * rng.uniform(0.1, 3, size=(n, 1))
    mean = rng.normal(size=n) * (seed % 4)
    second = root @ root.T + np.outer(mean, mean)
    kept = np.sort(rng.choice(n, 3, replace=False))
    found = kept_norm(mean, second, kept, 0.01, centred=centred, constant=constant)
    expected = oracle(mean, second, kept, 0.01, centred, constant)
    np.testing.assert_allclose((found.scale, found.epsilon), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("centred", [False, True])
def test_repeated_channels_leave_nothing_to_lose(centred: bool) -> None:
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(1000, 3)), 2, axis=1)
    kept = np.asarray([0, 2, 4])
    new = kept_norm(x.mean(axis=0), x.T @ x / len(x), kept, 0.1, centred=centred)

    def normalised(y: Array, eps: float) -> Array:
        y = y - centred * y.mean(axis=1, keepdims=True)
        return np.asarray(y / np.sqrt(np.mean(y * y, axis=1, keepdims=True) + eps))

    cut = new.scale * normalised(x[:, kept], new.epsilon)
    np.testing.assert_allclose(cut, normalised(x, 0.1)[:, kept], rtol=1e-12)


def test_constants_stay_where_all_channels_do_or_the_kept_are_zero() -> None:
    second = np.diag([1.0, 0.0, 2.0])
    for kept in ([0, 1, 2], [1]):
        new = kept_norm(np.zeros(3), second, np.asarray(kept), 0.5)
        assert (new.scale, new.epsilon) == (1.0, 0.5)


def test_kept_channels_must_be_in_order() -> None:
    with pytest.raises(ValueError, match="ascending"):
        kept_norm(np.zeros(2), np.eye(2), np.asarray([1, 0]), 0.0)
