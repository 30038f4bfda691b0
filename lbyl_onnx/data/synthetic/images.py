"""Seeded synthetic images: with the statistics of photographs, and such as documents have."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from lbyl_onnx.data.synthetic.dead_leaves import painted, scattered
from lbyl_onnx.data.synthetic.documents import colours, inked, shading
from lbyl_onnx.data.synthetic.mosaics import mosaics
from lbyl_onnx.option_types import Layout

Floats = NDArray[np.float32]
Subject = Literal["image", "photo", "document", "mosaic"]

# Values made at a time, so that what a block needs stays in the processor's cache; and how many
# blocks at a time at most: each takes memory.
BLOCK, THREADS = 1 << 19, 4
# Share of the variance that lies between the means of images. Photographs have about half as much;
# models keep more of their accuracy with this one.
BRIGHTNESS_SHARE = 0.5
# Standard deviation of the logarithm of an image's contrast.
CONTRAST_SPREAD = 0.3
# Exponents of the amplitude spectrum of the noise; photographs scatter about 1.
EXPONENTS = (0.8, 1.4)
# Standard deviations on a leaf, where that of colours is 1: linear shading, fine texture (at most).
SHADING, TEXTURE = 0.2, 0.3
# Largest weight of each neighbour in the blur.
BLUR = 0.2
# Channels of what is taken for an image, and its least height and width.
IMAGE_CHANNELS, LEAST_SIDE = (1, 3, 4), 5


def images(
    count: int,
    shape: Sequence[int],
    rng: np.random.Generator,
    subject: Subject = "image",
    block: int = BLOCK,
    threads: int = THREADS,
) -> Floats:
    """Make photographs, documents, or both in turns.

    Of the photographs the even ones are dead leaves: opaque discs, ellipses and boxes whose radii
    r follow r^-(d+1), the law that makes an image look alike at all scales. The odd ones are noise
    whose amplitude spectrum is 1/f^a. Documents are strokes, as of text and of drawings, on plain
    and shaded grounds. Mosaics are soft-edged polygons, of which no statistics are taken. Channels
    are mixed from one strong brightness and weak colour differences.

    Parameters
    ----------
    count
        How many.
    shape
        Of one: channels, then one, two (height, width) or more axes of the plane.
    rng
        The same state gives the same bytes, for the same `block`.
    subject
        What is seen: photographs, documents, either ("image"), or mosaics. Planes with other than
        two axes have no documents and no mosaics.
    block, threads
        Values made at a time, and how many times at once at most.

    Returns
    -------
    (count, *shape) float32
        Over all images each channel has mean 0 and standard deviation 1 in expectation; one image
        alone has its own brightness and contrast.

    Raises
    ------
    ValueError
        For a shape without a plane or with an empty axis.

    References
    ----------
    Lee, Mumford, Huang, "Occlusion models for natural images", IJCV 2001. Field, "Relations between
    the statistics of natural images and the response properties of cortical cells", JOSA A 1987.
    """
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"shape is {tuple(shape)}; give channels, then the sides of the plane")
    made = np.empty((count, *shape), np.float32)
    at_once = max(1, block // math.prod(shape))
    makers = _MAKERS[subject if len(shape) == 3 else "photo"]
    blocks = [
        (make, mine[start : start + at_once])
        for turn, make in enumerate(makers)
        for mine in [made[turn :: len(makers)]]
        for start in range(0, len(mine), at_once)
    ]

    def fill(part: Floats, make: _Maker, own: np.random.Generator) -> None:
        part[...] = make(len(part), shape[0], tuple(shape[1:]), own).reshape(part.shape)

    # Each block has random numbers of its own, so that threads do not change the images.
    with ThreadPoolExecutor(min(threads, os.cpu_count() or 1)) as pool:
        filled = [
            pool.submit(fill, part, make, own)
            for (make, part), own in zip(blocks, rng.spawn(len(blocks)), strict=True)
        ]
        for future in filled:
            future.result()
    return made


def image_layout(shape: Sequence[int | None], layout: Layout = "auto") -> Layout | None:
    """Tell where the channels of an input are, if its shape is that of images.

    Parameters
    ----------
    shape
        Of the input, its batch first; None for a dynamic dimension.
    layout
        What is known of it; "auto" for nothing.

    Returns
    -------
    {"nchw", "nhwc"} or None
        None for what is no image: the channels, 1, 3 or 4 of them, must be known, and each other
        side dynamic or at least 5. More than two sides are a volume, one is a signal.
    """
    if len(shape) < 3:
        return None
    candidates: tuple[Layout, ...] = ("nchw", "nhwc") if layout == "auto" else (layout,)
    for candidate in candidates:
        channels, plane = split_channels(shape, candidate)
        if channels in IMAGE_CHANNELS and all(s is None or s >= LEAST_SIDE for s in plane):
            return candidate
    return None


def split_channels(shape: Sequence[Any], layout: Layout) -> tuple[Any, tuple[Any, ...]]:
    """Channels and plane of a shape that begins with the batch."""
    if layout == "nhwc":
        return shape[-1], tuple(shape[1:-1])
    return shape[1], tuple(shape[2:])


def _photographed(images: Floats, rng: np.random.Generator) -> Floats:
    """Give each image (b, channels, pixels) its own contrast and brightness; the moments stay."""
    b, channels, _ = images.shape
    # E[contrast^2] = 1 for a log-normal contrast with this median.
    contrast = np.exp(CONTRAST_SPREAD * rng.standard_normal(b) - CONTRAST_SPREAD**2)
    light = _mixed(rng.standard_normal((b, channels, 1), dtype=np.float32), rng)
    images *= (math.sqrt(1.0 - BRIGHTNESS_SHARE) * contrast).astype(np.float32)[:, None, None]
    images += math.sqrt(BRIGHTNESS_SHARE) * light
    return images


def _mixed(fields: Floats, rng: np.random.Generator) -> Floats:
    """Mix independent fields (b, channels, ...) into channels that go together; variances stay.

    The directions are those of a cosine transform along the channels, which for three of them are
    brightness, red against blue and green against magenta (Ohta, Kanade, Sakai, "Color information
    for region segmentation", 1980), with deviations 1, 0.25 and 0.11, a little different in each
    image.
    """
    b, channels = fields.shape[:2]
    order = np.arange(channels)
    cosines = np.cos(np.pi * (order[:, None] + 0.5) * order / channels)
    strength = np.where(order == 0, 1.0, 0.35 / np.maximum(order, 1) ** 1.2)
    scatter = 1.0 + 0.3 * rng.standard_normal((b, channels, channels))
    mix = cosines * strength * scatter
    mix /= np.linalg.norm(mix, axis=2, keepdims=True)
    mix *= np.sign(mix[:, :, :1])  # a negative sample of the scatter would turn a channel round
    flat = fields.reshape(b, channels, -1)
    mixed: Floats = mix.astype(np.float32) @ flat
    return mixed.reshape(fields.shape)


def _noise(b: int, channels: int, plane: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Noise (b, channels, pixels) with an amplitude spectrum 1/f^a, unit variance, mean 0."""
    return _photographed(_mixed(_power_law(b, channels, plane, rng), rng), rng)


def _document(b: int, channels: int, plane: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Strokes on a ground (b, channels, pixels): unit variance, mean 0, all in expectation."""
    height, width = plane
    ink = inked(b, (height, width), rng).reshape(b, 1, -1)
    pair = _mixed(colours(b, channels, rng), rng)  # (b, channels, 2)
    page: Floats = pair[:, :, :1] + ink * (pair[:, :, 1:] - pair[:, :, :1])
    page += shading(b, (height, width), rng).reshape(b, 1, -1)
    return _blurred(page.reshape(b, channels, *plane), rng).reshape(b, channels, -1)


def _mosaic(b: int, channels: int, plane: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Mosaics (b, channels, pixels): unit variance, mean 0, all in expectation."""
    height, width = plane
    return _photographed(_mixed(mosaics(b, channels, (height, width), rng), rng), rng)


def _power_law(b: int, fields: int, plane: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Independent fields (b, fields, pixels) of 1/f^a noise with unit variance, one a per b."""
    white = rng.standard_normal((b, fields, *plane), dtype=np.float32)
    exponents = rng.uniform(*EXPONENTS, size=b)
    if math.prod(plane) == 1:
        return white.reshape(b, fields, 1)
    d = len(plane)
    axes = tuple(range(2, 2 + d))
    steps = [np.fft.fftfreq(side) for side in plane[:-1]] + [np.fft.rfftfreq(plane[-1])]
    frequency = np.sqrt(sum(g**2 for g in np.meshgrid(*steps, indexing="ij")))
    frequency.flat[0] = 1.0
    # In float32 exp is several times as fast as a power, and true to a part in a million.
    logs = np.log(frequency).astype(np.float32)
    gain = np.exp(-exponents.astype(np.float32).reshape(b, *[1] * d) * logs)
    gain.reshape(b, -1)[:, 0] = 0.0  # brightness is drawn apart
    # The real transform leaves out the mirror image of all columns but the first and, for an even
    # side, the last.
    twice = np.full(len(steps[-1]), 2.0)
    twice[0] = 1.0
    if plane[-1] % 2 == 0:
        twice[-1] = 1.0
    power = np.sum(gain**2 * twice, axis=tuple(range(1, 1 + d)), keepdims=True) / math.prod(plane)
    gain = (gain / np.sqrt(power)).astype(np.float32)
    spectrum = fft.rfftn(white, axes=axes)
    spectrum *= gain[:, None]
    field: Floats = fft.irfftn(spectrum, s=plane, axes=axes)
    return field.reshape(b, fields, -1)


def _dead_leaves(b: int, channels: int, plane: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Dead leaves (b, channels, pixels): unit variance, mean 0, all in expectation."""
    leaves = scattered(b, plane, rng)
    n, d = leaves.axes.shape[1] + 1, len(plane)
    # (b, pixels): the number of the leaf that is seen, 0 for the ground; then among those of all b.
    shown = painted(leaves, plane) + n * np.arange(b)[:, None]
    # Uniform with unit variance, as reflectances are bounded; (b, channels, n).
    colours = _mixed(rng.uniform(-1.0, 1.0, (b, channels, n)).astype(np.float32), rng)
    colours *= math.sqrt(3.0)
    image = np.stack([colours[:, c].ravel()[shown] for c in range(channels)], axis=1)
    # Shading is linear in the position relative to the leaf: in a ball of radius 1 a coordinate
    # has the variance 1 / (d + 2).
    middle = np.array(plane) / 2.0
    centre = np.concatenate([np.tile(middle, (b, 1, 1)), leaves.centre], axis=1)
    size = np.concatenate([np.full((b, 1), max(plane)), leaves.axes.max(axis=2)], axis=1)
    slope = rng.standard_normal((b, n, d))
    slope *= (SHADING * math.sqrt((d + 2) / d) / size)[:, :, None]
    offset = -np.sum(slope * centre, axis=2)
    light = offset.astype(np.float32).ravel()[shown]
    for axis, position in enumerate(np.indices(plane, np.float32).reshape(d, -1)):
        light += slope[:, :, axis].astype(np.float32).ravel()[shown] * (position + 0.5)
    rough = (TEXTURE * rng.random(b * n)).astype(np.float32)
    light += rough[shown] * _power_law(b, 1, plane, rng)[:, 0]
    image += light[:, None]
    # E[rough^2] is TEXTURE^2 / 3.
    image /= math.sqrt(1.0 + SHADING**2 + TEXTURE**2 / 3.0)
    image = _blurred(image.reshape(b, channels, *plane), rng).reshape(b, channels, -1)
    return _photographed(image, rng)


def _blurred(images: Floats, rng: np.random.Generator) -> Floats:
    """Blur each image (b, channels, *plane) a little, its own variance kept."""
    b, ones = len(images), [1] * (images.ndim - 1)
    weight = rng.uniform(0.0, BLUR, (b, *ones)).astype(np.float32)
    axes = tuple(range(1, images.ndim))
    before = images.var(axis=axes, keepdims=True)
    for axis in range(2, images.ndim):
        along = np.moveaxis(images, axis, 2)
        side = along.shape[2]
        left = along.take(np.maximum(np.arange(side) - 1, 0), axis=2)
        left += along.take(np.minimum(np.arange(side) + 1, side - 1), axis=2)
        left -= 2.0 * along
        along += weight * left
    after = images.var(axis=axes, keepdims=True)
    # An image of one colour has nothing to blur.
    images *= np.sqrt(np.divide(before, after, out=np.ones_like(after), where=after > 0.0))
    return images


_Maker = Callable[[int, int, tuple[int, ...], np.random.Generator], Floats]
# What makes images of each subject, in turns.
_MAKERS: Mapping[Subject, tuple[_Maker, ...]] = {
    "photo": (_dead_leaves, _noise),
    "document": (_document,),
    "image": (_dead_leaves, _document, _noise, _document),
    "mosaic": (_mosaic,),
}
