"""Sounds as calibration samples: one waveform, mono, at the model's rate, whole or in windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.data.files.decoding import decoding_explained
from lbyl_onnx.data.samples import Input, Samples, SampleShapes, choose
from lbyl_onnx.errors import CalibrationError
from lbyl_onnx.guard.bounds import bounded, seconds_for
from lbyl_onnx.io.files import open_regular
from lbyl_onnx.types import Array

if TYPE_CHECKING:
    from soundfile import SoundFile

Wave = NDArray[np.float32]
# Samples for a second that models are fed with where nothing else is said: that of speech.
RATE = 16_000
# Those that a file may have: the filter that changes one into another grows with them.
LOWEST_RATE, HIGHEST_RATE = 1_000, 384_000
# Values of one file, before its channels are one and after its rate is changed: 70 minutes.
MOST_VALUES = 1 << 26
# Seconds that are taken as a whole, where a model takes any length.
MOST_SECONDS = 30
# What is shorter is no waveform, but a vector of features.
LEAST_LENGTH = 256
# Floats are in [-1, 1]; what was packed with loss goes beyond by less than this.
PEAK = 2.0


@dataclass(frozen=True)
class _Window:
    """A part of a file: values `start` to `stop` at the model's rate; beyond its end are zeros."""

    file: Path
    start: int
    stop: int


@dataclass(frozen=True)
class _Sounds:
    """Windows of files, which are decoded when they are read."""

    windows: Sequence[_Window]
    inputs: Sequence[Input]
    wave: str
    decoded: Callable[[Path], Wave]

    def read(self, rows: NDArray[np.intp]) -> dict[str, Array]:
        each = np.stack([self._one(self.windows[row]) for row in rows])  # (n, length)
        return {
            i.name: (
                each.reshape(len(each), *(1,) * (len(i.shape) - 2), -1)
                if i.name == self.wave
                else np.ones_like(each)
            ).astype(i.dtype)
            for i in self.inputs
        }

    def _one(self, window: _Window) -> Wave:
        values = self.decoded(window.file)[window.start : window.stop]
        return np.pad(values, (0, window.stop - window.start - len(values)))


def open_sounds(
    files: Sequence[Path],
    name: str,
    inputs: Sequence[Input],
    rate: int,
    limit: int,
    seed: int,
    most_values: int = MOST_VALUES,
    most_seconds: int = MOST_SECONDS,
) -> Samples:
    """Open sounds for a model that takes a waveform, (samples, length) or (samples, 1, length).

    The channels of a file are averaged, floats are in [-1, 1], and `scipy.signal.resample_poly`
    brings them to the rate. A model of a fixed length gets consecutive windows of it, of a shorter
    file one that zeros fill; what is left at the end of a longer one is left out. A model of any
    length gets each file as a whole, in windows of `most_seconds` where it is longer.

    Parameters
    ----------
    files
        WAV, FLAC or Ogg.
    name
        What errors call them together.
    inputs
        What the model takes: the waveform, and if it likes a mask of its length, which is 1.
    rate
        Values for a second that it takes.
    limit, seed
        As for `read_calibration`.
    most_values, most_seconds
        Values that a file may have, and how long a window is at most.

    Raises
    ------
    CalibrationError
        When the model takes no waveform, soundfile is missing, or a file cannot be decoded.
    """
    wave = _waveform_input(name, inputs)
    length = next((d for d in (wave.shape[-1], *wave.stated_shape[-1:]) if d is not None), None)
    windows = [
        w
        for file in files
        for w in _windows(file, length or most_seconds * rate, rate, most_values, length is None)
    ]
    rows = choose(name, len(windows), inputs, limit, seed)
    chosen = [windows[row] for row in rows]
    decoded = lru_cache(maxsize=1)(partial(_decoded, rate=rate))
    shapes = [
        {i.name: (*(1,) * (len(i.shape) - 2), w.stop - w.start) for i in inputs} for w in chosen
    ]
    sounds = _Sounds(chosen, inputs, wave.name, decoded)
    return Samples(np.arange(len(chosen)), sounds, SampleShapes.of(shapes))


def _waveform_input(name: str, inputs: Sequence[Input]) -> Input:
    """The input that takes the waveform; any other has to be its mask."""
    waves = [i for i in inputs if "mask" not in i.name.lower()]
    others = [i for i in inputs if i not in waves]
    wave = waves[0] if len(waves) == 1 else None
    if wave is not None and wave.dtype.kind == "f" and len(wave.shape) in (2, 3):
        length = wave.shape[-1]
        mono = len(wave.shape) == 2 or wave.shape[1] in (1, None)
        alike = all(len(i.shape) == 2 and i.shape[1] == length for i in others)
        if mono and alike and (length is None or length >= LEAST_LENGTH):
            return wave
    taken = ", ".join(
        f"{i.name} takes {i.dtype} of shape "
        f"({', '.join('any' if d is None else str(d) for d in i.shape)})"
        for i in inputs
    )
    raise CalibrationError(
        f"{name} holds sounds, for models of one waveform of floats, (samples, length) or "
        f"(samples, 1, length) with {LEAST_LENGTH} values or more, but {taken}; give an .npz of "
        "what the model is fed"
    )


def _windows(
    file: Path, length: int, rate: int, most_values: int, open_end: bool
) -> Iterator[_Window]:
    """Cut a file into windows of a length; where that is open, a shorter file is one."""
    with _opened(file) as sound:
        frames, own = sound.frames, sound.samplerate
        if not LOWEST_RATE <= own <= HIGHEST_RATE:
            raise CalibrationError(
                f"{file} has {own:,} samples a second, of {LOWEST_RATE:,} to {HIGHEST_RATE:,}; "
                "save it with another rate"
            )
        whole = _resampled_length(frames, own, rate)
        values = max(frames * sound.channels, whole)
    if frames < 1:
        raise CalibrationError(f"{file} holds no sound; leave it out")
    if values > most_values:
        raise CalibrationError(
            f"{file} has {values:,} values, of {most_values:,} at most; cut it into shorter files"
        )
    step = min(whole, length) if open_end else length
    for start in range(0, max(1, whole - step + 1), step):
        yield _Window(file, start, start + step)


def _resampled_length(frames: int, own: int, rate: int) -> int:
    return -(-frames * rate // own)


def _decoded(file: Path, rate: int) -> Wave:
    """Return a file as one waveform at the rate."""
    with _opened(file) as sound:
        own = sound.samplerate
        values = sound.read(dtype="float32", always_2d=True)  # (frames, channels)
        if len(values) != sound.frames:
            raise CalibrationError(
                f"{file} ends after {len(values):,} of {sound.frames:,} samples; mend it or leave "
                "it out"
            )
        peak = float(np.max(np.abs(values)))
        if not math.isfinite(peak):
            raise CalibrationError(f"{file} holds NaN or infinity; mend it or leave it out")
        if peak > PEAK:
            raise CalibrationError(
                f"{file} holds floats up to {peak:g}, but sound is in [-1, 1]; divide it by its "
                "scale"
            )
        mono = values.mean(axis=1)
        if own != rate:
            from scipy.signal import resample_poly  # takes long to import, for few

            shared = math.gcd(own, rate)
            mono = resample_poly(mono, rate // shared, own // shared)
    waveform: Wave = np.clip(mono, -1.0, 1.0).astype(np.float32)
    return waveform


@contextmanager
def _opened(file: Path) -> Iterator[SoundFile]:
    """Open a sound; what its decoder raises while it is open becomes one clear error."""
    try:
        from soundfile import SoundFile
    except (ImportError, OSError) as error:  # OSError where its own library is missing
        raise CalibrationError(
            "soundfile, which reads sounds, is not installed; pip install 'lbyl-onnx[audio]'"
        ) from error
    with (
        decoding_explained(file),
        bounded(f"decoding {file.name}", seconds_for(file.stat().st_size)),
        open_regular(file) as stream,
        SoundFile(stream) as sound,
    ):
        yield sound
