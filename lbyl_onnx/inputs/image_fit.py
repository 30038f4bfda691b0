"""The statistics of images, fitted to the means and variances of filters that have seen them.

For stationary images the variance of a filter's output is a sum over pairs of its taps, each with
the covariance of the image at the distance between the two. The synthetic images of
`data.synthetic` are parted by colour and by frequency; the power of each part in the images that a
model has seen is the unknown, and each filter is one linear equation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.optimize import nnls

from lbyl_onnx.data.image_statistics import KNOTS, colour_axes, knot_weights
from lbyl_onnx.data.synthetic.images import Subject, images
from lbyl_onnx.types import Floats

# Values of the synthetic images that the fit compares with, how many images at least and at most,
# and the largest side.
VALUES, FEWEST_IMAGES, MOST_IMAGES, SIDE = 1 << 21, 32, 512, 256
# A filter whose variance is below this share of the median has nothing to tell.
DEAD = 1e-3
# Filters that are needed.
FEWEST_FILTERS = 12
# Weight of the difference between neighbouring knots, and of that from one scale, as against the
# relative errors of the variances.
SMOOTH, TOWARDS_FLAT = 0.02, 0.01
# Least and largest gain, as a multiple of one scale for all.
GAINS = (0.01, 10.0)
# Parts in which filters are left out, each predicted from the others.
FOLDS = 8
# Largest error of the means, in standard deviations of the filters.
MEAN_ERROR = 0.1
# Errors of the log-variances, root mean square: the largest of one scale for all, the largest of
# the gains for filters left out, and what part of the former's square the latter's may be.
FLAT_ERROR, FITTED_ERROR, LEFT = 0.5, 0.3, 0.5


@dataclass(frozen=True, eq=False)
class Filters:
    """Filters that read images, and the statistics of their outputs.

    Parameters
    ----------
    weight
        (filters, c, kh, kw).
    mean, var
        Of the outputs without a bias, (filters,).
    rows, columns
        Whether a tap lies inside of the image, (kh, places) and (kw, places): 1 or 0.
    dilations
        Pixels from one tap to the next, along rows and along columns.
    """

    weight: Floats
    mean: Floats
    var: Floats
    rows: Floats
    columns: Floats
    dilations: tuple[int, int]

    @property
    def inside(self) -> Floats:
        """Share of the places at which each tap lies inside of the image, (kh * kw,)."""
        return np.outer(self.rows.mean(axis=1), self.columns.mean(axis=1)).reshape(-1)

    @property
    def both_inside(self) -> Floats:
        """Share of the places at which two taps do, (kh * kw, kh * kw)."""
        pairs = [axis @ axis.T / axis.shape[1] for axis in (self.rows, self.columns)]
        return np.kron(*pairs)

    def part(self, chosen: NDArray[np.bool_]) -> Filters:
        """Return some of the filters."""
        return Filters(
            self.weight[chosen],
            self.mean[chosen],
            self.var[chosen],
            self.rows,
            self.columns,
            self.dilations,
        )


@dataclass(frozen=True, eq=False)
class ImageFit:
    """What filters tell of images: means (c,), gains (c, knots), parts of the covariance.

    `powers` (c, knots) is the variance of each part of the synthetic images.
    """

    mean: Floats
    gains: Floats
    powers: Floats
    flat: float
    fitted: float
    filters: int

    @property
    def covariance(self) -> Floats:
        """Of the channels, (c, c)."""
        axes = colour_axes(len(self.mean))
        return np.asarray((axes * np.sum(self.gains * self.powers, axis=1)) @ axes.T)


def fit_images(
    layers: Sequence[Filters],
    scale: Floats,
    shift: Floats,
    plane: tuple[int, int],
    subject: Subject = "image",
) -> ImageFit | None:
    """Fit the statistics of images x where filters read scale x + shift, and zeros beyond.

    Parameters
    ----------
    layers
        The filters, by layer.
    scale, shift
        (c,).
    plane
        Height and width of the images.
    subject
        What the synthetic images show that are brought to the statistics.

    Returns
    -------
    ImageFit or None
        None where the filters are too few or do not agree. Gains of one value where those of
        several do not explain much more.
    """
    layers = [layer.part(_living(layer.var)) for layer in layers]
    if sum(len(layer.var) for layer in layers) < FEWEST_FILTERS:
        return None
    mean, error = _channel_means(layers)
    if error > MEAN_ERROR:
        return None
    var = np.concatenate([layer.var - _border_variance(layer, mean) for layer in layers])
    largest = max(max(layer.weight.shape[2:]) * max(layer.dilations) for layer in layers)
    lags, powers = _part_covariances(len(scale), plane, largest, subject)
    parts = np.concatenate([_part_variances(layer, lags, scale) for layer in layers])
    if np.any(var <= 0.0) or np.any(parts.sum(axis=1) <= 0.0):
        return None
    gains, flat, fitted = _gains(parts, var, len(scale))
    if gains is None:
        return None
    return ImageFit((mean - shift) / scale, gains, powers, flat, fitted, len(var))


def _living(var: Floats) -> NDArray[np.bool_]:
    positive = var > 0.0
    if not np.any(positive):
        return positive
    return np.asarray(var > DEAD * np.median(var[positive]))


def _channel_means(layers: Sequence[Filters]) -> tuple[Floats, float]:
    """Means (c,) of what the filters read, and the error of the filters' own in deviations."""
    deviation = np.sqrt(np.concatenate([layer.var for layer in layers]))
    sums = [layer.weight.reshape(*layer.weight.shape[:2], -1) @ layer.inside for layer in layers]
    matrix = np.concatenate(sums) / deviation[:, None]
    target = np.concatenate([layer.mean for layer in layers]) / deviation
    mean = np.linalg.lstsq(matrix, target, rcond=None)[0]
    return mean, float(np.sqrt(np.mean((target - matrix @ mean) ** 2)))


def _border_variance(layer: Filters, mean: Floats) -> Floats:
    """Return how much the zeros around images of these means add to the variances, (filters,)."""
    constant = np.einsum("ocyx,c->oyx", layer.weight, mean).reshape(len(layer.var), -1)
    spread = layer.both_inside - np.outer(layer.inside, layer.inside)
    return np.asarray(np.einsum("ot,ts,os->o", constant, spread, constant))


def _part_covariances(
    channels: int, plane: tuple[int, int], largest: int, subject: Subject
) -> tuple[Floats, Floats]:
    """Autocovariances of the synthetic images' parts at distances below `largest`.

    Returns
    -------
    (c, knots, 2 largest - 1, 2 largest - 1) and (c, knots) float64
        By row and column; the distance 0 in the middle, and again as the variances.
    """
    height, width = (min(side, SIDE) for side in plane)
    fits = VALUES // (channels * height * width)
    count = min(MOST_IMAGES, max(FEWEST_IMAGES, fits))
    made = images(count, (channels, height, width), np.random.default_rng(0), subject)
    fields = np.einsum("nchw,ca->anhw", made, colour_axes(channels).astype(np.float32))
    amplitude = np.sqrt(knot_weights(height, width)).astype(np.float32)
    steps = np.arange(1 - largest, largest)
    padded = [fft.next_fast_len(side + largest - 1, real=True) for side in (height, width)]
    overlap = np.outer(height - np.abs(steps), width - np.abs(steps))
    lags = np.zeros((channels, len(KNOTS), len(steps), len(steps)))
    for axis, field in enumerate(fields):
        spectrum = fft.rfft2(field)
        for knot, gain in enumerate(amplitude):
            part = fft.irfft2(spectrum * gain, s=(height, width))
            # The transform of zeros beyond the image: a covariance that does not wrap around.
            power = np.mean(np.abs(fft.rfft2(part, s=padded)) ** 2, axis=0, dtype=np.float64)
            around = fft.irfft2(power, s=padded)
            lags[axis, knot] = around[steps[:, None], steps[None, :]] / overlap
    return lags, lags[:, :, largest - 1, largest - 1]


def _part_variances(layer: Filters, lags: Floats, scale: Floats) -> Floats:
    """Variance that each part of the images gives each filter, (filters, c * knots)."""
    axes = colour_axes(len(scale))
    along = np.einsum("ocyx,c,ca->oayx", layer.weight, scale, axes)
    height, width = along.shape[2:]
    rows, columns = (
        np.subtract.outer(np.arange(size), np.arange(size)) * dilation + lags.shape[-1] // 2
        for size, dilation in zip((height, width), layer.dilations, strict=True)
    )
    # (c, knots, kh, kw, kh, kw): the covariance of one tap with another.
    between = lags[:, :, rows[:, None, :, None], columns[None, :, None, :]]
    taps = height * width
    pairs = between.reshape(*lags.shape[:2], taps, taps) * layer.both_inside
    flat = along.reshape(*along.shape[:2], taps)
    variances = np.einsum("oat,abts,oas->oab", flat, pairs, flat, optimize=True)
    return np.asarray(variances.reshape(len(variances), -1))


def _gains(parts: Floats, var: Floats, channels: int) -> tuple[Floats | None, float, float]:
    """Gains (c, knots) or None, and what one scale and these explain of the log-variances."""
    relative = parts / var[:, None]
    whole = relative.sum(axis=1)
    scale = float(np.sum(whole) / np.sum(whole**2))
    relative *= scale
    flat = _error(whole * scale)
    predicted = np.empty(len(var))
    fold = np.arange(len(var)) % FOLDS
    for number in range(FOLDS):
        out = fold == number
        predicted[out] = relative[out] @ _solved(relative[~out], channels)
    fitted = _error(predicted)
    total = max(float(np.var(np.log(var))), 1e-12)
    explained = 1.0 - flat**2 / total, 1.0 - fitted**2 / total
    if fitted <= FITTED_ERROR and fitted**2 <= LEFT * flat**2:
        gains = scale * _solved(relative, channels)
    elif flat <= FLAT_ERROR:
        gains = np.full(parts.shape[1], scale)
    else:
        return None, *explained
    return gains.reshape(channels, -1), *explained


def _error(ratio: Floats) -> float:
    """Root mean square of the log-errors of predictions, given as multiples of what is."""
    return float(np.sqrt(np.mean(np.log(np.maximum(ratio, 1e-12)) ** 2)))


def _solved(relative: Floats, channels: int) -> Floats:
    """Gains (c * knots,), as multiples of one scale, that make each filter's sum 1."""
    knots = relative.shape[1] // channels
    differences = np.kron(np.eye(channels), np.diff(np.eye(knots), axis=0))
    weight = np.sqrt(len(relative))
    towards = TOWARDS_FLAT * weight * np.eye(relative.shape[1])
    matrix = np.concatenate([relative, SMOOTH * weight * differences, towards])
    target = np.concatenate(
        [np.ones(len(relative)), np.zeros(len(differences)), towards.sum(axis=1)]
    )
    return np.clip(nnls(matrix, target)[0], *GAINS)
