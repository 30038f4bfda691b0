"""Two matrices of lower rank in place of one, against reduced-rank regression in full."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lbyl_onnx.methods.mixing.factors import Factors, OutputSpectrum, output_spectrum

Floats = NDArray[np.float64]
INPUTS, OUTPUTS = 9, 6


def case(seed: int) -> tuple[Floats, Floats, Floats]:
    """Correlated inputs (rows, inputs), a weight (inputs, outputs), a bias (outputs,)."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((200, INPUTS)) @ rng.standard_normal((INPUTS, INPUTS)) + 2.0
    return x, rng.standard_normal((INPUTS, OUTPUTS)), rng.standard_normal(OUTPUTS)


def decomposed(product: Floats) -> OutputSpectrum:
    """The spectrum of what a weight gives, (rows, outputs)."""
    spectrum = output_spectrum(np.cov(product.T, bias=True), product.mean(axis=0))
    assert spectrum is not None
    return spectrum


def restored(x: Floats, factors: Factors, bias: Floats) -> Floats:
    return np.asarray(x @ factors.first @ factors.second.T + bias + factors.offset)


def least_error(x: Floats, y: Floats, rank: int) -> float:
    """Error of reduced-rank regression by its textbook form: in the inputs' own metric."""
    centred, target = x - x.mean(axis=0), y - y.mean(axis=0)
    full = np.linalg.lstsq(centred, target, rcond=None)[0]
    _, _, directions = np.linalg.svd(centred @ full, full_matrices=False)
    projected = centred @ full @ directions[:rank].T @ directions[:rank]
    return float(np.sum((target - projected) ** 2))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_the_error_is_that_of_reduced_rank_regression(seed: int, rank: int) -> None:
    x, weight, bias = case(seed)
    y = x @ weight + bias
    spectrum = decomposed(x @ weight)
    made = restored(x, spectrum.factors(rank, weight), bias)
    error = float(np.sum((made - y) ** 2))
    assert error == pytest.approx(least_error(x, y, rank), rel=1e-9)
    variance = float(np.sum((y - y.mean(axis=0)) ** 2))
    assert spectrum.lost[rank] == pytest.approx(error / variance, rel=1e-9)


def test_the_mean_of_the_outputs_stays() -> None:
    x, weight, bias = case(4)
    y = x @ weight + bias
    made = restored(x, decomposed(x @ weight).factors(2, weight), bias)
    np.testing.assert_allclose(made.mean(axis=0), y.mean(axis=0), rtol=1e-9, atol=1e-9)


def test_what_a_rank_leaves_of_each_variance() -> None:
    x, weight, bias = case(5)
    y = x @ weight + bias
    spectrum = decomposed(y - bias)
    made = restored(x, spectrum.factors(2, weight), bias)
    np.testing.assert_allclose(spectrum.kept_variance(2), made.var(axis=0), rtol=1e-9)


def test_nothing_is_lost_at_full_rank_and_all_at_none() -> None:
    x, weight, bias = case(6)
    lost = decomposed(x @ weight + bias).lost
    assert lost[0] == pytest.approx(1.0)
    assert lost[OUTPUTS] == 0.0
    assert np.all(np.diff(lost) <= 0.0)


def test_without_a_bias_second_moments_are_kept() -> None:
    x, weight, _ = case(7)
    y = x @ weight
    spectrum = output_spectrum(y.T @ y / len(y), None)
    assert spectrum is not None
    factors = spectrum.factors(2, weight)
    assert not factors.offset.any()
    error = np.sum((x @ factors.first @ factors.second.T - y) ** 2)
    least = np.sum(np.linalg.svd(y, compute_uv=False)[2:] ** 2)
    assert error == pytest.approx(least, rel=1e-9)


@pytest.mark.parametrize("moments", [np.zeros((3, 3)), np.full((3, 3), np.nan)])
def test_moments_of_nothing(moments: Floats) -> None:
    assert output_spectrum(moments, np.zeros(3)) is None
    assert output_spectrum(np.eye(3), np.full(3, np.inf)) is None
