"""Second-order statistics of images: means, covariance of the channels, spectrum of each colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lbyl_onnx.types import Floats

# Frequencies, in cycles per pixel, between which gains are linear in the logarithm of frequency;
# beyond the first and the last they are as there.
KNOTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)


@dataclass(frozen=True)
class ImageStatistics:
    """What images are like, as against those of mean 0 and deviation 1 in `data.synthetic`.

    Parameters
    ----------
    mean
        Of each channel, (c,).
    covariance
        Of the channels, (c, c).
    gains
        Power of each colour axis at each of `KNOTS`, as a multiple of that of the synthetic
        images, (c, knots).
    axis
        The axis of an input along which the channels lie.
    flat, fitted
        The share of the variance of the first layers' log-variances that synthetic images of one
        scale explain, and that these gains do where a filter is predicted from the others.
    filters
        How many filters told it.
    nodes
        Names of the layers that told it.
    """

    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    gains: tuple[tuple[float, ...], ...]
    axis: int
    flat: float
    fitted: float
    filters: int
    nodes: tuple[str, ...]

    @property
    def description(self) -> str:
        """Mean, deviation and how well the filters tell them, in a few words."""
        mean = sum(self.mean) / len(self.mean)
        spread = (sum(row[i] for i, row in enumerate(self.covariance)) / len(self.mean)) ** 0.5
        return (
            f"mean {mean:.2g}, deviation {spread:.2g} (the BatchNormalization behind "
            f"{self.filters} filters tells it, R2 {max(self.flat, self.fitted):.2f})"
        )


def colour_axes(channels: int) -> Floats:
    """Return the directions that synthetic images are mixed from, orthonormal columns (c, c).

    They are those of a cosine transform along the channels: brightness, red against blue, green
    against magenta.
    """
    order = np.arange(channels)
    cosines = np.cos(np.pi * (order[:, None] + 0.5) * order / channels)
    return np.asarray(cosines / np.linalg.norm(cosines, axis=0))


def knot_weights(height: int, width: int) -> Floats:
    """Return what each knot counts at each frequency of a real transform of images.

    Returns
    -------
    (knots, height, width // 2 + 1) float64
        Not negative; their sum is 1 everywhere.
    """
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    octave = np.log2(np.maximum(np.hypot(rows, columns), KNOTS[0]))
    knots = np.log2(KNOTS)
    return np.stack([np.interp(octave, knots, row) for row in np.eye(len(KNOTS))])
