"""Strokes, as of text and of drawings, on plain and shaded grounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# Signs in an alphabet, and the strokes of each, at most.
SIGNS, STROKES = 48, 4
# Height and width in pixels in which signs are drawn, and how often they are halved.
DRAWN, HALVINGS = (48, 32), 3
# Half the width of a stroke, as a share of the sign's height: least and largest.
HALF_WIDTHS = (0.03, 0.10)
# Height of a line, with the gap below: least in pixels, least and largest as shares of the side.
LEAST_LINE, LINES = 6.0, (1 / 16, 1.5)
# Share of a line's height that signs fill, and their width as a share of their height.
FILLED, WIDTHS = (0.6, 0.9), (0.45, 0.8)
# Share of the places that are blank, and of the lines.
BLANK, BLANK_LINES = 0.18, 0.12
# Standard deviations: of the angle in radians, of the shading and of the grain.
TILT, SHADING, GRAIN = 0.03, 0.15, 0.05
# Least distance of the two colours, as a share of their range.
CONTRAST = 0.3
# Lines and places in a line before the text repeats.
ROWS, COLUMNS = 24, 48


@dataclass(frozen=True)
class Alphabet:
    """Signs at several sizes.

    Parameters
    ----------
    levels
        (signs + 1, height, width) float32 each, the largest first: 1 where there is ink. The last
        sign is blank.
    """

    levels: tuple[Floats, ...]

    def at_height(self, pixels: float) -> Floats:
        """Return the signs at the least size that is no smaller than they are shown at."""
        fine = [level for level in self.levels if level.shape[1] >= pixels]
        return fine[-1] if fine else self.levels[0]


def alphabet(rng: np.random.Generator) -> Alphabet:
    """Draw an alphabet: signs of a few strokes between the points of a grid."""
    height, width = DRAWN
    grid = np.array([(y, x) for y in np.linspace(0.1, 0.9, 4) for x in np.linspace(0.1, 0.9, 3)])
    # Ends of the strokes: (signs, strokes, 2 ends, 2 coordinates), widths in shares of the height.
    ends = grid[rng.integers(0, len(grid), (SIGNS, STROKES, 2))] * [1.0, width / height]
    there = np.arange(STROKES) < rng.integers(2, STROKES + 1, (SIGNS, 1))
    # One coordinate at a time, rows and columns apart: (signs, strokes, height or 1, 1 or width).
    y = ((np.arange(height) + 0.5) / height)[:, None] - ends[:, :, 0, 0, None, None]
    x = (np.arange(width) + 0.5) / width * (width / height) - ends[:, :, 0, 1, None, None]
    down, across = (ends[:, :, 1, i, None, None] - ends[:, :, 0, i, None, None] for i in (0, 1))
    square = np.maximum(down**2 + across**2, 1e-9)
    part = np.clip((y * down + x * across) / square, 0.0, 1.0)  # (signs, strokes, height, width)
    distance = np.sqrt((y - part * down) ** 2 + (x - part * across) ** 2)
    half = rng.uniform(*HALF_WIDTHS, (SIGNS, 1, 1, 1))
    ink = np.clip((half - distance) * height + 0.5, 0.0, 1.0) * there[:, :, None, None]
    signs = np.concatenate([ink.max(axis=1), np.zeros((1, height, width))]).astype(np.float32)
    levels = [signs]
    for _ in range(HALVINGS):
        n, h, w = levels[-1].shape
        halves = levels[-1].reshape(n, h // 2, 2, w // 2, 2)  # (n, h, w) -> pairs on both axes
        levels.append(halves.mean(axis=(2, 4)))
    return Alphabet(tuple(levels))


def inked(b: int, plane: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return (b, height, width): the share of ink in each pixel of b pages of text.

    The lines of some are as small as can be read, of others larger than the page, so that a few
    strokes are all that is seen.
    """
    signs, (height, width) = alphabet(rng), plane
    side = min(plane)
    lines = np.exp(
        rng.uniform(
            math.log(max(LEAST_LINE, LINES[0] * side)),
            math.log(max(LEAST_LINE + 1.0, LINES[1] * side)),
            b,
        )
    )
    angle = TILT * rng.standard_normal(b)
    shift = rng.random((b, 2))
    filled, wide = rng.uniform(*FILLED, b), rng.uniform(*WIDTHS, b)
    text = rng.integers(0, SIGNS, (b, ROWS, COLUMNS))
    text[rng.random(text.shape) < BLANK] = SIGNS
    text[rng.random((b, ROWS)) < BLANK_LINES] = SIGNS
    y, x = np.meshgrid(
        np.arange(height, dtype=np.float32) + 0.5,
        np.arange(width, dtype=np.float32) + 0.5,
        indexing="ij",
    )
    pages = np.empty((b, height, width), np.float32)
    for i in range(b):
        cos, sin = math.cos(angle[i]), math.sin(angle[i])
        down = (cos * y - sin * x) / lines[i] + shift[i, 0] * ROWS
        right = (sin * y + cos * x) / (lines[i] * filled[i] * wide[i]) + shift[i, 1] * COLUMNS
        row, place = np.floor(down).astype(np.intp), np.floor(right).astype(np.intp)
        level = signs.at_height(lines[i] * filled[i])
        inside = (down - row) / filled[i]
        sign = text[i, row % ROWS, place % COLUMNS]
        sign = np.where(inside < 1.0, sign, SIGNS)
        at = np.minimum((inside * level.shape[1]).astype(np.intp), level.shape[1] - 1)
        across = ((right - place) * level.shape[2]).astype(np.intp)
        pages[i] = level[sign, at, np.minimum(across, level.shape[2] - 1)]
    return pages


def colours(b: int, channels: int, rng: np.random.Generator) -> Floats:
    """Return (b, channels, 2): colours of ground and ink, before channels are mixed.

    Each alone is uniform with mean 0 and variance 1; the two are never near each other.
    """
    whole = 2.0 * math.sqrt(3.0)
    ground = rng.uniform(0.0, whole, (b, channels))
    apart = rng.uniform(CONTRAST, 1.0 - CONTRAST, (b, channels)) * whole
    pair = np.stack([ground, (ground + apart) % whole], axis=2) - whole / 2.0
    return pair.astype(np.float32)


def shading(b: int, plane: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return (b, height, width) linear shading with grain, of deviations SHADING and GRAIN."""
    height, width = plane
    y = np.linspace(-1.0, 1.0, height, dtype=np.float32)[None, :, None]
    x = np.linspace(-1.0, 1.0, width, dtype=np.float32)[None, None, :]
    slope = rng.standard_normal((2, b, 1, 1)).astype(np.float32)
    grain = rng.standard_normal((b, height, width), dtype=np.float32)
    # A coordinate in [-1, 1] has variance 1/3, and there are two.
    shade: Floats = np.float32(SHADING * math.sqrt(1.5)) * (slope[0] * y + slope[1] * x)
    return shade + rng.uniform(0.0, GRAIN, (b, 1, 1)).astype(np.float32) * grain
