"""Dead leaves: which of many opaque shapes, strewn at random, is seen at each pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.intp]
# Leaves over a pixel on average: exp(-4), 2 in 100, of the pixels show the ground behind them all.
COVER = 4.0
# Largest and smallest radius of a leaf, in sides of the image; no leaf is smaller than a pixel.
LARGEST, SMALLEST = 1 / 2, 1 / 96


@dataclass(frozen=True)
class Leaves:
    """Leaves of b images, n each; a later one lies over an earlier one.

    Parameters
    ----------
    centre, axes : (b, n, d)
        Where each is, and half its length along its own axes, in pixels.
    angle : (b, n)
        By which its last two axes are turned.
    boxy : (b, n)
        Whether it is a box; else it is an ellipse.
    """

    centre: NDArray[np.float64]
    axes: NDArray[np.float64]
    angle: NDArray[np.float64]
    boxy: NDArray[np.bool_]


def scattered(b: int, plane: tuple[int, ...], rng: np.random.Generator) -> Leaves:
    """Draw leaves that cover the plane COVER times, with radii by the law r^-(d+1).

    Only leaves that can touch the plane are drawn: of radius r those whose centre is at most r
    from it, so that the law of the radii gets the factor prod(side + 2 r).
    """
    d, sides = len(plane), np.array(plane, float)
    wide = sides[sides > 1]
    scale = float(np.exp(np.mean(np.log(wide)))) if len(wide) else 1.0
    smallest = max(1.0, SMALLEST * scale)
    radii = np.geomspace(smallest, max(LARGEST * scale, 1.5 * smallest), 256)
    room = np.prod(sides + 2.0 * radii[:, None], axis=1)
    chance = radii ** -float(d) * room  # on a geometric grid r^-(d+1) dr is r^-d
    chance /= chance.sum()
    ball = math.pi ** (d / 2) / math.gamma(d / 2 + 1)
    n = math.ceil(COVER / float(np.sum(chance * ball * radii**d / room)))
    radius = rng.choice(radii, (b, n), p=chance)
    kind = rng.integers(0, 3, (b, n))  # disc, ellipse, box
    stretch = 0.35 * rng.standard_normal((b, n, d)) * (kind > 0)[:, :, None]
    stretch -= stretch.mean(axis=2, keepdims=True)
    centre = rng.random((b, n, d)) * (sides + 2.0 * radius[:, :, None]) - radius[:, :, None]
    # Half of them stand upright, as most things do.
    angle = rng.uniform(0.0, np.pi, (b, n)) * rng.integers(0, 2, (b, n))
    return Leaves(centre, radius[:, :, None] * np.exp(stretch), angle, kind == 2)


def painted(leaves: Leaves, plane: tuple[int, ...]) -> Ints:
    """Return (b, pixels): the number, from 1, of the last leaf over each pixel, or 0.

    Leaves of about the same size go together, all images at once; a pixel takes a leaf only over
    one of a lower number, so that the order among sizes does not matter.
    """
    b, n, d = leaves.axes.shape
    reach = np.where(leaves.boxy, np.linalg.norm(leaves.axes, axis=2), leaves.axes.max(axis=2))
    reach = reach.ravel()
    step = math.log(1.25)
    size = np.ceil(np.log(2.0 * reach + 1.0) / step).astype(np.intp)
    turn = _turns(leaves).reshape(b * n, d, d)
    centre = leaves.centre.reshape(b * n, d)
    shown = np.zeros(b * math.prod(plane), np.intp)
    strides = np.cumprod([1, *plane[:0:-1]])[::-1]
    kinds = 2 * size + leaves.boxy.ravel()
    leading = np.array(plane[:-1], np.intp)
    for kind in np.unique(kinds):
        which = np.flatnonzero(kinds == kind)
        box = np.minimum(math.ceil(math.exp(step * (kind // 2))), leading)
        start = np.floor(centre[which, :-1] - reach[which, None]).astype(np.intp)
        start = np.clip(start, 0, leading - box)
        # Rows of pixels along the last axis, by where they lie on the others: (d - 1, rows).
        rows = np.indices(tuple(box)).reshape(d - 1, math.prod(box))
        first, count = _spans(turn[which], start, rows, centre[which], plane[-1], bool(kind % 2))
        base = (which // n) * math.prod(plane) + start @ strides[:-1]
        base = base[:, None] + strides[:-1] @ rows + first  # (leaves, rows)
        before = np.cumsum(count) - count.ravel()
        target = np.repeat(base.ravel() - before, count.ravel())
        target += np.arange(len(target))
        number = np.repeat(which % n + 1, count.sum(axis=1))
        over = shown[target] < number
        shown[target[over]] = number[over]  # of equal targets the last counts: the highest number
    return shown.reshape(b, -1)


def _turns(leaves: Leaves) -> NDArray[np.float64]:
    """Return (b, n, d, d): from an offset in pixels to one in half-lengths on the leaf's axes."""
    b, n, d = leaves.axes.shape
    turn = np.zeros((b, n, d, d))
    turn[:, :, range(d), range(d)] = 1.0
    if d > 1:
        cos, sin = np.cos(leaves.angle), np.sin(leaves.angle)
        turn[:, :, -2, -2], turn[:, :, -2, -1] = cos, sin
        turn[:, :, -1, -2], turn[:, :, -1, -1] = -sin, cos
    return turn / leaves.axes[:, :, :, None]


def _spans(
    turn: NDArray[np.float64],
    start: Ints,
    rows: Ints,
    centre: NDArray[np.float64],
    side: int,
    boxy: bool,
) -> tuple[Ints, Ints]:
    """Where m leaves lie on rows of pixels along the last axis: (m, rows), first pixel and count.

    `rows` are (d - 1, rows), counted on the other axes from starts (m, d - 1).
    """
    others = (start + 0.5 - centre[:, :-1])[:, :, None] + rows  # (m, d - 1, rows)
    across, along = turn[:, :, :-1] @ others, turn[:, :, -1:]  # (m, d, rows), (m, d, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        if boxy:
            # |across + t along| < 1 on each of the leaf's axes; one may lie along the rows.
            middle, half = -across / along, np.broadcast_to(1.0 / np.abs(along), across.shape)
            level = np.where(np.abs(across) < 1.0, np.inf, -np.inf)
            upright = along == 0.0
            low = np.where(upright, -level, middle - half).max(axis=1)
            high = np.where(upright, level, middle + half).min(axis=1)
        else:
            square = np.sum(along * along, axis=1)  # (m, 1)
            middle = -np.sum(across * along, axis=1) / square  # (m, rows)
            half = np.sqrt(middle**2 - (np.sum(across * across, axis=1) - 1.0) / square)
            half = np.where(np.isnan(half), -np.inf, half)
            low, high = middle - half, middle + half
    low, high = (np.clip(t + centre[:, -1:] - 0.5, -1.0, side) for t in (low, high))
    first = np.maximum(np.ceil(low), 0.0).astype(np.intp)
    last = np.minimum(np.floor(high), side - 1.0).astype(np.intp)
    return first, np.maximum(last - first + 1, 0)
