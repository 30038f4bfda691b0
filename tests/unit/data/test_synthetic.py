"""Synthetic inputs: reproducible, of the asked shape and type, with the statistics of photographs.

The tolerances are those of the sample: a fixed seed, and figures of photographs that scatter too.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lbyl_onnx.data.synthetic.images import (
    Floats,
    image_layout,
)
from lbyl_onnx.data.synthetic.images import images as synthetic_images
from lbyl_onnx.option_types import Layout

KINDS = {"leaves": 0, "noise": 1}
PLANES = [
    *itertools.product((1, 2, 3, 5), repeat=2),
    (1, 40),
    (16, 100),
    (1,),
    (2,),
    (7,),
    (300,),
    (1, 1, 1),
    (2, 1, 3),
    (6, 8, 10),
]


def make(count: int, *shape: int, seed: int = 0) -> Floats:
    return synthetic_images(count, shape, np.random.default_rng(seed), "photo")


@pytest.fixture(scope="module")
def colour() -> Floats:
    return make(256, 3, 48, 48)


@pytest.mark.parametrize("shape", [(3, 20, 24), (1, 50), (1, 6, 7, 8)])
def test_the_same_state_gives_the_same_bytes(shape: tuple[int, ...]) -> None:
    assert make(5, *shape).tobytes() == make(5, *shape).tobytes()
    assert not np.array_equal(make(5, *shape), make(5, *shape, seed=1))


def test_threads_do_not_change_them() -> None:
    block = 3 * 20 * 24  # every image is a block of its own
    one, four = (
        synthetic_images(9, (3, 20, 24), np.random.default_rng(0), "photo", block, threads)
        for threads in (1, 4)
    )
    assert one.tobytes() == four.tobytes()


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(("count", "channels"), [(1, 3), (4, 1), (3, 7)])
def test_every_plane_gets_finite_images(plane: tuple[int, ...], count: int, channels: int) -> None:
    images = make(count, channels, *plane)
    assert images.shape == (count, channels, *plane)
    assert images.dtype == np.float32
    assert np.all(np.isfinite(images))
    assert len(np.unique(images)) > 1


def test_none_is_an_empty_batch() -> None:
    assert make(0, 3, 8, 8).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("shape", [(), (3,), (3, 0, 4), (0, 4, 4)])
def test_a_shape_without_pixels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="give channels"):
        make(1, *shape)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(
    ("count", "shape"),
    [
        (800, (3, 16, 16)),
        (2000, (1, 1, 1)),
        (1200, (4, 3, 5)),
        (1200, (1, 64)),
        (400, (1, 8, 8, 8)),
    ],
)
def test_channels_are_standard_in_expectation(
    count: int, shape: tuple[int, ...], kind: int
) -> None:
    images = make(count, *shape)[kind::2]
    axes = (0, *range(2, images.ndim))
    # The means of 200 images or more, each with a deviation below 1, stay within 4 of their own.
    assert images.mean(axis=axes) == pytest.approx(np.zeros(shape[0]), abs=4 / len(images) ** 0.5)
    assert images.std(axis=axes) == pytest.approx(np.ones(shape[0]), abs=0.12)


def test_images_differ_in_brightness_and_contrast(colour: Floats) -> None:
    assert colour.mean(axis=(1, 2, 3)).std() > 0.3
    contrast = colour.std(axis=(1, 2, 3))
    assert np.quantile(contrast, 0.9) > 1.5 * np.quantile(contrast, 0.1)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_power_falls_as_the_square_of_frequency(kind: int) -> None:
    images = make(96, 1, 64, 64)[kind::2, 0]
    images = images - images.mean(axis=(1, 2), keepdims=True)
    hann = np.hanning(64)[:, None] * np.hanning(64)  # the leaves do not end at the border
    power = np.mean(np.abs(np.fft.fft2(images * hann)) ** 2, axis=0)
    step = np.fft.fftfreq(64, 1 / 64)
    radius = np.rint(np.hypot(step[:, None], step)).astype(int)
    rings = np.arange(2, 29)
    radial = [power[radius == ring].mean() for ring in rings]
    slope = np.polyfit(np.log(rings), np.log(radial), 1)[0]
    assert slope == pytest.approx(-2.0, abs=0.6)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_neighbouring_pixels_go_together(colour: Floats, kind: int) -> None:
    images = colour[kind::2]
    for near, far in (
        (images[..., 1:], images[..., :-1]),
        (images[:, :, 1:], images[:, :, :-1]),
    ):
        assert np.corrcoef(near.ravel(), far.ravel())[0, 1] > 0.8


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_channels_go_together_but_are_not_the_same(colour: Floats, kind: int) -> None:
    between = np.atleast_2d(np.corrcoef(colour[kind::2].transpose(1, 0, 2, 3).reshape(3, -1)))
    pairs = between[np.triu_indices(3, 1)]
    assert np.all(pairs > 0.7)
    assert np.all(pairs < 0.98)


def test_every_pair_holds_both_kinds() -> None:
    images = make(32, 1, 64, 64)[:, 0]
    # Edges between even interiors give the steps of leaves heavy tails; those of noise are normal.
    steps = np.diff(images, axis=2).reshape(32, -1)
    steps -= steps.mean(axis=1, keepdims=True)
    kurtosis = np.mean(steps**4, axis=1) / np.mean(steps**2, axis=1) ** 2
    assert np.all(kurtosis[0::2] > 5.0)
    assert np.all(kurtosis[1::2] < 4.0)


def test_blocks_do_not_show() -> None:
    images = synthetic_images(9, (3, 12, 12), np.random.default_rng(0), "photo", block=1)
    assert len({image.tobytes() for image in images}) == 9


@pytest.mark.parametrize(
    ("shape", "layout", "order"),
    [
        ((None, 3, 224, 224), "auto", "nchw"),
        ((1, 3, None, None), "auto", "nchw"),
        ((8, 1, 28, 28), "auto", "nchw"),
        ((8, 224, 224, 3), "auto", "nhwc"),
        ((8, None, None, 3), "auto", "nhwc"),
        ((8, 3, 224, 3), "nhwc", None),
        ((8, 3, 32, 3), "auto", None),
        ((8, 64, 56, 56), "auto", None),
        ((8, 3, 16, 32, 32), "auto", "nchw"),
        ((8, 1, 16000), "auto", "nchw"),
        ((8, None, 32, 32), "auto", None),
        ((8, 10), "auto", None),
        ((8,), "auto", None),
        ((), "auto", None),
    ],
)
def test_the_shape_tells_where_channels_are(
    shape: tuple[int | None, ...], layout: Layout, order: Layout | None
) -> None:
    assert image_layout(shape, layout) == order
