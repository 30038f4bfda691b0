"""Images that are brought to given statistics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lbyl_onnx.data.image_statistics import KNOTS, ImageStatistics, colour_axes, knot_weights
from lbyl_onnx.data.input_kind import InputKind, InputRange, InputSpec
from lbyl_onnx.data.synthetic.feeds import synthetic_input
from lbyl_onnx.data.synthetic.images import Floats
from lbyl_onnx.data.synthetic.images import images as synthetic_images
from lbyl_onnx.data.synthetic.recolour import recoloured

GAINS = ((4.0, 2.0, 1.0, 0.25), (0.5, 0.3, 0.1, 0.0), (1.0, 1.0, 2.0, 3.0))
MEAN = (0.5, -0.25, 2.0)


def statistics(
    gains: tuple[tuple[float, ...], ...] = GAINS, mean: tuple[float, ...] = MEAN, axis: int = 1
) -> ImageStatistics:
    covariance = tuple(map(tuple, np.eye(len(mean)).tolist()))
    return ImageStatistics(mean, covariance, gains, axis, 0.5, 0.95, 32, ("conv",))


def images(count: int = 6, side: tuple[int, int] = (32, 32), channels: int = 3) -> Floats:
    return synthetic_images(count, (channels, *side), np.random.default_rng(1), "photo")


@pytest.mark.parametrize(("side", "knot"), [((32, 32), 2), ((32, 32), 4), ((32, 32), 8)])
def test_a_wave_of_one_colour_gets_the_gain_at_its_frequency(
    side: tuple[int, int], knot: int
) -> None:
    """A wave of a frequency that is a knot: all the power that it has is multiplied by one gain."""
    wave = np.cos(2 * np.pi * knot * np.arange(32) / 32)
    for axis, colour in enumerate(
        (np.array([1, 1, 1]) / 3**0.5, np.array([1, 0, -1]) / 2**0.5, np.array([1, -2, 1]) / 6**0.5)
    ):
        x = (colour[:, None, None] * wave[None, :, None] * np.ones((1, 1, 32)))[None]
        y = recoloured(x.astype(np.float32), statistics()) - np.reshape(MEAN, (1, 3, 1, 1))
        expected = np.sqrt(GAINS[axis][KNOTS.index(knot / 32)]) * x
        np.testing.assert_allclose(y, expected, atol=1e-5)


def test_covariance_is_that_of_the_gains_where_they_are_the_same_at_all_frequencies() -> None:
    x = images(400, (16, 16)).astype(np.float64)
    gains = tuple((gain,) * 4 for gain in (4.0, 0.25, 9.0))
    y = recoloured(x.astype(np.float32), statistics(gains)).astype(np.float64)
    turn = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3.0], [2.0], [6.0]])
    matrix = turn.T @ np.diag([2.0, 0.5, 3.0]) @ turn
    before, after = (np.cov(np.moveaxis(v, 1, 0).reshape(3, -1)) for v in (x, y))
    np.testing.assert_allclose(after, matrix @ before @ matrix.T, rtol=1e-4, atol=1e-5)
    expected = matrix @ x.mean(axis=(0, 2, 3)) + MEAN
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), expected, atol=1e-5)


@pytest.mark.parametrize("side", [(32, 32), (7, 9), (33, 20), (5, 64)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_gains_of_one_change_nothing(side: tuple[int, int], channels: int) -> None:
    x = images(3, side, channels)
    plain = statistics(((1.0,) * 4,) * channels, (0.0,) * channels)
    y = recoloured(x, plain)
    assert y.dtype == np.float32
    assert y.shape == x.shape
    np.testing.assert_allclose(y, x, atol=1e-5)


def test_each_image_is_brought_alone() -> None:
    """However many are given: they are transformed in blocks."""
    x = images(40, (160, 160))
    together = recoloured(x, statistics())
    np.testing.assert_allclose(recoloured(x[33:35], statistics()), together[33:35], atol=1e-5)
    np.testing.assert_array_equal(recoloured(x, statistics()), together)


def test_weights_of_knots_are_a_partition() -> None:
    weights = knot_weights(20, 31)
    assert weights.shape == (len(KNOTS), 20, 16)
    assert weights.min() >= 0.0
    np.testing.assert_allclose(weights.sum(axis=0), 1.0)
    assert weights[0, 0, 0] == 1.0


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_colour_axes_are_orthonormal(channels: int) -> None:
    axes = colour_axes(channels)
    np.testing.assert_allclose(axes.T @ axes, np.eye(channels), atol=1e-12)
    np.testing.assert_allclose(axes[:, 0], channels**-0.5)


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 3, 8), (2, 3, 8, 8, 8)])
def test_images_of_other_channels_or_axes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="for statistics of 3 channels"):
        recoloured(np.zeros(shape, np.float32), statistics())


def test_an_input_gets_images_of_its_statistics_in_its_range() -> None:
    gains = ((60.0**2,) * 4,) * 3
    told = statistics(gains, (100.0, 110.0, 120.0), axis=3)
    shape = (300, 12, 12, 3)
    kind = InputKind("photo", statistics=told)
    spec = InputSpec(np.dtype(np.float32), shape, kind)
    x = np.asarray(synthetic_input(spec, np.random.default_rng(0)), np.float32)
    assert x.dtype == np.float32
    assert x.shape == shape
    assert x.min() < 0.0
    np.testing.assert_allclose(x.mean(axis=(0, 1, 2)), (100.0, 110.0, 120.0), atol=10.0)
    np.testing.assert_allclose(x.std(), 60.0, rtol=0.1)
    known = replace(kind, pixels=InputRange(20.0, 200.0, (0.0,) * 3, (1.0,) * 3, 3))
    clipped = synthetic_input(
        InputSpec(np.dtype(np.float32), shape, known), np.random.default_rng(0)
    )
    np.testing.assert_array_equal(clipped, np.clip(x, 20.0, 200.0))
    whole = synthetic_input(InputSpec(np.dtype(np.uint8), shape, kind), np.random.default_rng(0))
    assert whole.dtype == np.uint8
    np.testing.assert_array_equal(whole, np.rint(np.clip(x, 0.0, 255.0)))
