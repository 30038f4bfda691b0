"""Signals such as speech gives: waveforms, and spectrograms with the statistics of log-mel ones."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# Fundamental frequencies of voices in cycles a sample, at 16,000 samples a second.
PITCHES = (80 / 16000, 300 / 16000)
# Harmonics of a voice, and samples of a syllable.
HARMONICS, SYLLABLE = 16, 3200
# Median of the root mean square of a waveform in [-1, 1], and deviation of its logarithm.
LOUDNESS, LOUDNESS_SPREAD = 0.08, 0.6
# Share of a spectrogram's variance: of the fall towards high frequencies, of loudness in time, of
# harmonics, of noise.
TILT, ENVELOPE, RIDGES, NOISE = 0.3, 0.3, 0.2, 0.2
# Frames of a syllable in a spectrogram.
FRAMES = 12


def waveforms(count: int, length: int, rng: np.random.Generator) -> Floats:
    """Make voiced sounds with pauses and noise, as speech has.

    Returns
    -------
    (count, length) float32
        In [-1, 1], mean near 0.
    """
    pitch = np.exp(_smooth(count, length, SYLLABLE, rng) * 0.2)
    pitch *= np.exp(rng.uniform(math.log(PITCHES[0]), math.log(PITCHES[1]), (count, 1))).astype(
        np.float32
    )
    phase = 2.0 * math.pi * np.cumsum(pitch, axis=1, dtype=np.float64)
    voice = np.zeros((count, length), np.float32)
    for harmonic in range(1, HARMONICS + 1):
        formant = np.exp(0.7 * rng.standard_normal((count, 1))) / harmonic
        heard = formant * (harmonic * pitch < 0.5)  # none beyond half the sampling rate
        voice += (heard * np.sin(harmonic * phase)).astype(np.float32)
    syllables = np.maximum(_smooth(count, length, SYLLABLE // 2, rng), -0.5) + 0.5
    hiss = np.maximum(_smooth(count, length, SYLLABLE // 2, rng) - 0.5, 0.02)
    sound = syllables * voice + hiss * rng.standard_normal((count, length), dtype=np.float32)
    root = np.sqrt(np.mean(sound**2, axis=1, keepdims=True) + 1e-12)
    loud = LOUDNESS * np.exp(LOUDNESS_SPREAD * rng.standard_normal((count, 1)))
    made: Floats = np.clip(sound * (loud / root), -1.0, 1.0).astype(np.float32)
    return made


def spectrograms(count: int, bins: int, frames: int, rng: np.random.Generator) -> Floats:
    """Make planes such as logarithms of mel spectrograms, normalised.

    Returns
    -------
    (count, bins, frames) float32
        Mean 0 and standard deviation 1 over all, nearly.
    """
    frequency = np.linspace(-1.0, 1.0, bins, dtype=np.float32)[None, :, None]
    tilt = -math.sqrt(3.0) * frequency * np.abs(1.0 + 0.3 * rng.standard_normal((count, 1, 1)))
    loud = _smooth(count, frames, FRAMES, rng)[:, None]
    spacing = rng.uniform(0.05, 0.25, (count, 1, 1)) * np.exp(
        0.2 * _smooth(count, frames, 2 * FRAMES, rng)[:, None]
    )
    ridges = math.sqrt(2.0) * np.cos(2.0 * math.pi * (frequency + 1.0) / (2.0 * spacing))
    noise = rng.standard_normal((count, bins, frames), dtype=np.float32)
    plane = (
        math.sqrt(TILT) * tilt
        + math.sqrt(ENVELOPE) * loud
        + math.sqrt(RIDGES) * ridges
        + math.sqrt(NOISE) * noise
    )
    return np.asarray(plane, np.float32)


def _smooth(count: int, length: int, period: int, rng: np.random.Generator) -> Floats:
    """Return (count, length) random curves with a knot every `period` samples, of variance 1."""
    knots = 2 + math.ceil(length / period)
    values = rng.standard_normal((count, knots))
    position = np.arange(length) / period + rng.random((count, 1))
    left = position.astype(np.intp)
    right = np.minimum(left + 1, knots - 1)
    share = 0.5 - 0.5 * np.cos(math.pi * (position - left))
    rows = np.arange(count)[:, None]
    curve = (1.0 - share) * values[rows, left] + share * values[rows, right]
    curve /= np.sqrt(share**2 + (1.0 - share) ** 2)
    return curve.astype(np.float32)
