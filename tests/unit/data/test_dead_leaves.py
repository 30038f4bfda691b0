"""Dead leaves against a test of each pixel by each leaf."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lbyl_onnx.data.synthetic.dead_leaves import Leaves, painted, scattered


def painted_one_by_one(leaves: Leaves, plane: tuple[int, ...]) -> NDArray[np.intp]:
    """(b, pixels): each leaf over all pixels that it holds, the later over the earlier."""
    b, n, d = leaves.axes.shape
    pixels = np.indices(plane).reshape(d, -1).T + 0.5  # (pixels, d)
    shown = np.zeros((b, len(pixels)), np.intp)
    for image in range(b):
        for leaf in range(n):
            offset = pixels - leaves.centre[image, leaf]
            if d > 1:
                cos, sin = (f(leaves.angle[image, leaf]) for f in (np.cos, np.sin))
                one, two = offset[:, -2].copy(), offset[:, -1].copy()
                offset[:, -2], offset[:, -1] = cos * one + sin * two, cos * two - sin * one
            offset /= leaves.axes[image, leaf]
            boxy = leaves.boxy[image, leaf]
            size = np.abs(offset).max(axis=1) if boxy else np.linalg.norm(offset, axis=1)
            shown[image, size < 1.0] = leaf + 1
    return shown


@pytest.mark.parametrize(
    "plane", [(40, 48), (17, 5), (1, 30), (30, 1), (64,), (1,), (7, 9, 11), (3, 1, 20)]
)
def test_each_pixel_shows_the_last_leaf_over_it(plane: tuple[int, ...]) -> None:
    leaves = scattered(3, plane, np.random.default_rng(0))
    np.testing.assert_array_equal(painted(leaves, plane), painted_one_by_one(leaves, plane))


def test_few_pixels_show_the_ground() -> None:
    """Four leaves over a pixel on average leave exp(-4) of them bare."""
    plane = (128, 128)
    shown = painted(scattered(24, plane, np.random.default_rng(0)), plane)
    assert np.mean(shown == 0) == pytest.approx(np.exp(-4.0), abs=0.008)
