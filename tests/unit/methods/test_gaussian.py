"""Moments behind an activation, against sampling and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from lbyl_onnx.channels.groups import Selection
from lbyl_onnx.channels.paths import activation_between
from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.methods.gaussian import behind
from lbyl_onnx.methods.types import Moments
from tests.support.models import MODELS
from tests.support.oracle import interpret

Array = NDArray[Any]


def moments(n: int, seed: int = 0) -> Moments:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n))
    return Moments(rng.normal(size=n), root @ root.T, 1000)


def relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


@pytest.mark.parametrize(
    "activation",
    [relu, np.tanh, lambda x: x / (1 + np.exp(-x)), lambda x: np.clip(x, 0.0, 6.0)],
    ids=["relu", "tanh", "silu", "relu6"],
)
def test_it_equals_sampling(activation: Callable[[Array], Array]) -> None:
    before = moments(4)
    actual = behind(before, activation)
    rng = np.random.default_rng(1)
    drawn = activation(rng.multivariate_normal(before.mean, before.covariance, size=400_000))
    covariance = np.cov(drawn.T)
    # The standard error of a covariance of so many is below a hundredth of the largest one.
    np.testing.assert_allclose(actual.covariance, covariance, atol=0.02 * np.max(covariance))
    np.testing.assert_allclose(actual.mean, drawn.mean(axis=0), atol=0.01 * drawn.std())


def test_relu_has_its_closed_form() -> None:
    before = moments(6)
    actual = behind(before, relu)
    sigma = np.sqrt(np.diag(before.covariance))
    t = before.mean / sigma
    mean = before.mean * norm.cdf(t) + sigma * norm.pdf(t)
    square = (before.mean**2 + sigma**2) * norm.cdf(t) + before.mean * sigma * norm.pdf(t)
    # The grid is right to the square of its step at the kink.
    np.testing.assert_allclose(actual.mean, mean, atol=1e-4)
    np.testing.assert_allclose(np.diag(actual.covariance), square - mean**2, atol=1e-4)


def test_a_linear_activation_scales() -> None:
    before = moments(5)
    actual = behind(before, lambda x: 2.0 * x + 1.0)
    np.testing.assert_allclose(actual.covariance, 4.0 * before.covariance, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(actual.mean, 2.0 * before.mean + 1.0, rtol=1e-9)


def test_it_is_positive_semidefinite_and_constant_channels_stay() -> None:
    before = moments(5)
    covariance = before.covariance.copy()
    covariance[2], covariance[:, 2] = 0.0, 0.0
    actual = behind(Moments(before.mean, covariance, 10), relu)
    assert np.linalg.eigvalsh(actual.covariance)[0] > -1e-9
    np.testing.assert_allclose(actual.covariance[2], 0.0, atol=1e-12)
    np.testing.assert_allclose(actual.mean[2], max(before.mean[2], 0.0), atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "matmul_chain"])
def test_the_activation_of_a_graph_is_found_and_evaluated(name: str) -> None:
    analysis = interpret(MODELS[name](), Selection())
    group = analysis.channels.groups[0]
    activation = activation_between(
        analysis.model,
        to_graph(analysis.model),
        analysis.tensor_info,
        analysis.channels,
        group,
        group.consumers[0],
    )
    assert activation is not None
    values = np.random.default_rng(0).normal(size=(7, group.size))
    np.testing.assert_allclose(activation(values), relu(values), atol=1e-6)


@pytest.mark.parametrize("largest", [1, 13, 26])
def test_blocks_change_no_bit(largest: int) -> None:
    before = moments(6)
    whole, parts = behind(before, relu), behind(before, relu, largest)
    np.testing.assert_array_equal(parts.covariance, whole.covariance)
    np.testing.assert_array_equal(parts.covariance, parts.covariance.T)
