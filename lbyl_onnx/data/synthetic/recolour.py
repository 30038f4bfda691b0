"""Images brought to given statistics: means, covariance of the channels, spectra of the colours."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from lbyl_onnx.data.image_statistics import ImageStatistics, colour_axes, knot_weights

Images = NDArray[np.float32]

# Values that are transformed at a time.
BLOCK = 1 << 21


def recoloured(images: Images, statistics: ImageStatistics) -> Images:
    """Bring images of mean 0 and deviation 1 to other statistics.

    The power of each colour axis at each frequency is multiplied by the gain that the statistics
    tell there, and the means are added. Edges stay where they are, since phases do.

    Parameters
    ----------
    images
        (count, c, h, w).
    statistics
        Of c channels.

    Returns
    -------
    (count, c, h, w) float32

    Raises
    ------
    ValueError
        For images of another number of channels, or of other axes.
    """
    channels = len(statistics.mean)
    if images.ndim != 4 or images.shape[1] != channels:
        raise ValueError(f"images of shape {images.shape} for statistics of {channels} channels")
    plane = images.shape[2:]
    axes = colour_axes(channels).astype(np.float32)
    power = np.tensordot(np.asarray(statistics.gains), knot_weights(*plane), axes=1)
    amplitude = np.sqrt(power).astype(np.float32)  # (c, h, w // 2 + 1)
    mean = np.asarray(statistics.mean, np.float32)[:, None, None]
    result = np.empty(images.shape, np.float32)
    step = max(1, BLOCK // math.prod(images.shape[1:]))
    for start in range(0, len(images), step):
        fields = np.einsum("nchw,ca->nahw", images[start : start + step], axes)
        spectrum = fft.rfft2(fields)
        spectrum *= amplitude
        filtered = fft.irfft2(spectrum, s=plane)
        result[start : start + step] = np.einsum("nahw,ca->nchw", filtered, axes) + mean
    return result
