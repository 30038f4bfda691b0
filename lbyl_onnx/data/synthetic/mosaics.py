"""Mosaics: soft-edged polygons at two scales, some ruled with waves; no fit sees their like."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# Sides of the tiles of the coarse and of the fine layer, as shares of the image's: least, largest.
SCALES = ((0.25, 0.9), (0.05, 0.2))
# Least side of a tile, and least length of a wave, in pixels.
LEAST_TILE, LEAST_WAVE = 2.0, 3.0
# Tiles that are drawn along each axis of a layer before they repeat.
TILES = 24
# Sharpness of the edges, in squares of a tile's side: from soft to all but hard.
SHARPNESS = (4.0, 120.0)
# Share of the layers that are ruled, their variance at most, and lengths as shares of a tile.
RULED, WAVES, WAVE_LENGTHS = 0.5, 0.35, (0.08, 1.0)
# Standard deviation of the logarithm of a tile's aspect.
ASPECT = 0.4


def mosaics(b: int, fields: int, plane: tuple[int, int], rng: Generator) -> Floats:
    """Make independent fields of mosaics, the fields of one image with the same edges.

    Parameters
    ----------
    b, fields, plane
        How many images, fields of each, and height and width.
    rng
        The same state gives the same bytes.

    Returns
    -------
    (b, fields, height * width) float32
        Of each image and field mean 0 and variance 1; all 0 where a field has one value.
    """
    share = rng.random((b, 1, 1), dtype=np.float32)
    made = np.sqrt(share) * _layer(b, fields, plane, SCALES[0], rng)
    made += np.sqrt(np.float32(1.0) - share) * _layer(b, fields, plane, SCALES[1], rng)
    made -= made.mean(axis=2, keepdims=True)
    spread = made.std(axis=2, keepdims=True)
    return np.asarray(np.divide(made, spread, out=np.zeros_like(made), where=spread > 0.0))


def _layer(
    b: int, fields: int, plane: tuple[int, int], scales: tuple[float, float], rng: Generator
) -> Floats:
    """One layer of each image, (b, fields, pixels): a colour for each tile, and waves over some.

    A pixel takes the mean of the four tiles around it, weighted by exp(-sharpness distance^2):
    where the sharpness is large that of the nearest point alone, a polygon of Voronoi's.
    """
    tile = np.maximum(LEAST_TILE, _log_uniform(scales, (b, 1), rng) * np.float32(max(plane)))
    down, right = _turned(plane, tile, rng)
    # Points lie in the middle half of their tiles, so that four of them are near.
    points = np.float32(0.25) + np.float32(0.5) * rng.random((2, b * TILES**2), dtype=np.float32)
    colours = rng.standard_normal((fields, b * TILES**2), dtype=np.float32)
    sharpness = _log_uniform(SHARPNESS, (b, 1), rng)
    row, column = np.floor(down - 0.5), np.floor(right - 0.5)
    own = TILES**2 * np.arange(b, dtype=np.int32)[:, None]  # where the tiles of each image begin
    square, tiles = np.empty((4, *down.shape), np.float32), np.empty((4, *down.shape), np.int32)
    for number, (i, j) in enumerate(product((0, 1), repeat=2)):
        at = (row.astype(np.int32) + i) % TILES * TILES + (column.astype(np.int32) + j) % TILES
        tiles[number] = at + own
        square[number] = (row + np.float32(i) + points[0].take(tiles[number]) - down) ** 2
        square[number] += (column + np.float32(j) + points[1].take(tiles[number]) - right) ** 2
    weights = np.exp(sharpness * (square.min(axis=0) - square))
    weights /= weights.sum(axis=0)
    values = np.zeros((fields, *down.shape), np.float32)
    for weight, tile_of in zip(weights, tiles, strict=True):
        for field, colour in zip(values, colours, strict=True):
            field += weight * colour.take(tile_of)
    nearest = np.take_along_axis(tiles, np.argmax(weights, axis=0)[None], axis=0)[0]
    strength = np.sqrt(2.0 * WAVES * rng.random((b, 1))) * (rng.random((b, 1)) < RULED)
    waves = strength.astype(np.float32) * np.sin(_phases(nearest, down, right, tile, rng))
    # Each wave has a colour of its own: that of another tile.
    for field, colour in zip(values, colours[:, ::-1], strict=True):
        field += waves * colour.take(nearest)
    return np.moveaxis(values, 0, 1)  # (fields, b, pixels) -> (b, fields, pixels)


def _log_uniform(ends: tuple[float, float], shape: tuple[int, ...], rng: Generator) -> Floats:
    return np.exp(rng.uniform(math.log(ends[0]), math.log(ends[1]), shape)).astype(np.float32)


def _turned(plane: tuple[int, int], tile: Floats, rng: Generator) -> tuple[Floats, Floats]:
    """Where each pixel lies on a grid of turned and stretched tiles, (b, pixels) each."""
    b = len(tile)
    angle = rng.uniform(0.0, 2.0 * math.pi, (b, 1))
    aspect = np.exp(ASPECT * rng.standard_normal((b, 1)))
    cos, sin = np.cos(angle) / tile, np.sin(angle) / tile
    y, x = (axis.reshape(1, -1) for axis in np.indices(plane, np.float32))
    start = rng.uniform(0.0, TILES, (2, b, 1))
    down = (cos * aspect).astype(np.float32) * y - (sin * aspect).astype(np.float32) * x
    right = (sin / aspect).astype(np.float32) * y + (cos / aspect).astype(np.float32) * x
    first, second = start.astype(np.float32)
    return down + first, right + second


def _phases(
    nearest: NDArray[np.intp], down: Floats, right: Floats, tile: Floats, rng: Generator
) -> Floats:
    """The phase of a wave at each pixel, (b, pixels), of the direction and length of its tile."""
    b = len(tile)
    length = _log_uniform(WAVE_LENGTHS, (b, TILES**2), rng)
    pace = 2.0 * math.pi / np.maximum(length, np.float32(LEAST_WAVE) / tile).ravel()
    turn, shift = rng.uniform(0.0, 2.0 * math.pi, (2, b * TILES**2))
    steps = np.stack([pace * np.cos(turn), pace * np.sin(turn), shift]).astype(np.float32)
    phases = steps[0].take(nearest) * down + steps[1].take(nearest) * right
    return np.asarray(phases + steps[2].take(nearest))
