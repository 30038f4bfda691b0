"""What an input of a model takes: an image, tokens, a mask, a waveform, and in which range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lbyl_onnx.data.image_statistics import ImageStatistics
from lbyl_onnx.data.synthetic.images import LEAST_SIDE, Subject, image_layout
from lbyl_onnx.option_types import Layout
from lbyl_onnx.types import Array

Sureness = Literal["stated", "clear", "likely", "guessed"]
"""How sure a kind is: the user said it, the graph says it, it seems so, or nothing tells."""
# What is told of each kind.
DESCRIPTIONS: Mapping[str, str] = {
    "image": "images (photographs and documents)",
    "photo": "photographs",
    "document": "documents",
    "spectrogram": "spectrograms",
    "waveform": "waveforms",
    "signal": "signals",
    "vector": "normally distributed numbers",
    "tokens": "tokens",
    "mask": "a mask",
    "segments": "segment numbers",
    "positions": "positions",
    "flags": "whole numbers, 0 and 1",
    "constant": "a constant",
}
IMAGES: tuple[Subject, ...] = ("image", "photo", "document")
# Bytes of images: mean and deviation, where nothing else is known.
BYTE_MEAN, BYTE_SPREAD = 127.0, 64.0
# Samples from which on one channel is a waveform; 20 ms at 16,000 a second are fewer.
LONG = 400
# Sides of which one is so many times the other are those of lines of text, or no image's.
ODD = 1.8
# Sides from which on images of three channels are taken for photographs alone.
LARGE = 64


@dataclass(frozen=True)
class InputRange:
    """In which range an image input takes its pixels.

    Parameters
    ----------
    low, high
        Least and largest value.
    mean, spread
        Mean and standard deviation of photographs in it, one for each channel.
    axis
        That of the channels.
    nodes
        Names of the nodes that tell it; empty where the user has.
    """

    low: float
    high: float
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    axis: int
    nodes: tuple[str, ...] = ()

    def pictured(self, images: NDArray[np.float32], dtype: DTypeLike) -> Array:
        """Return images of mean 0 and deviation 1 as the input takes them, clipped to its range."""
        shape = [-1 if axis == self.axis else 1 for axis in range(images.ndim)]
        mean, spread = (np.asarray(v, np.float32).reshape(shape) for v in (self.mean, self.spread))
        return as_pixels(mean + spread * images, self.low, self.high, dtype)


def as_pixels(values: NDArray[np.float32], low: float, high: float, dtype: DTypeLike) -> Array:
    """Return values clipped to a range, and rounded where the type is one of whole numbers."""
    values = np.clip(values, low, high)
    whole = np.dtype(dtype).kind != "f"
    return np.ascontiguousarray(np.rint(values) if whole else values).astype(dtype, copy=False)


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that an input takes.

    Parameters
    ----------
    size
        How many rows the embedding has.
    special
        Numbers of those that stand for no text.
    first, last
        Special tokens at the beginning and at the end of a text; None where there are none.
    padding
        The token behind the end of a text.
    """

    size: int
    special: tuple[int, ...] = ()
    first: int | None = None
    last: int | None = None
    padding: int = 0


@dataclass(frozen=True)
class InputKind:
    """What an input takes, and why that is believed.

    Parameters
    ----------
    name
        One of `DESCRIPTIONS`.
    reason
        What tells it.
    sure
        How sure it is.
    pixels
        The range of an image's pixels; None where nothing tells it: mean 0, deviation 1.
    vocabulary
        Of tokens, segments and positions.
    statistics
        Of the images that the model has seen; None where nothing tells them.
    mean, spread
        Of the values of what is no image.
    low, high
        Their limits; None without.
    """

    name: str
    reason: str = ""
    sure: Sureness = "guessed"
    pixels: InputRange | None = None
    vocabulary: Vocabulary | None = None
    statistics: ImageStatistics | None = None
    mean: float = 0.0
    spread: float = 1.0
    low: float | None = None
    high: float | None = None

    @property
    def description(self) -> str:
        """What it is, with its range or the size of its vocabulary."""
        text = DESCRIPTIONS[self.name]
        if self.pixels is not None:
            text += f" of {self.pixels.low:g} to {self.pixels.high:g}"
        if self.statistics is not None:
            text += f", {self.statistics.description}"
        if self.vocabulary is not None:
            text += f", {self.vocabulary.size:,} of them"
        if self.name == "constant":
            text += f", {self.mean:g}"
        return text


def subject_of(kind: InputKind) -> Subject:
    """Return what images show that an input takes; photographs where it takes none."""
    return next((subject for subject in IMAGES if subject == kind.name), "photo")


@dataclass(frozen=True)
class InputSpec:
    """One input of a model: type, shape with the batch first, and what it takes."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    kind: InputKind


def kind_by_shape(
    shape: Sequence[int | None], dtype: DTypeLike, layout: Layout = "auto"
) -> InputKind:
    """Guess what an input takes by its shape and type alone.

    Parameters
    ----------
    shape
        Its batch first; None for a dynamic dimension.
    dtype
        Of its elements.
    layout
        Where images have their channels.

    Returns
    -------
    InputKind
        Images, or a square plane without channels; signals and volumes; for other floats a vector,
        for other whole numbers flags: 0 and 1, since they may be indices into something small.
    """
    dtype = np.dtype(dtype)
    where = image_layout(shape, layout)
    square = len(shape) == 3 and shape[1] == shape[2] and (shape[1] or 0) >= LEAST_SIDE
    pictures = square or (where is not None and len(shape) == 4)
    if pictures and dtype == np.uint8:
        axis = 3 if where == "nhwc" else 1
        channels = 1 if square else shape[axis] or 1
        pixels = InputRange(0.0, 255.0, (BYTE_MEAN,) * channels, (BYTE_SPREAD,) * channels, axis)
        return InputKind(_images_by_shape(shape, where).name, "bytes", "likely", pixels)
    if pictures and dtype.kind == "f":
        return _images_by_shape(shape, where)
    if dtype.kind != "f":
        return InputKind("flags", "nothing tells what they are")
    if where is None:
        return InputKind("vector", "the shape of vectors", "likely")
    side = shape[-1] if where == "nchw" else shape[1]
    if len(shape) == 3 and 1 in shape[1:] and (side is None or side >= LONG):
        return InputKind("waveform", "one long channel", "likely")
    return InputKind("signal", "the shape of signals", "likely")


def _images_by_shape(shape: Sequence[int | None], where: Layout | None) -> InputKind:
    """Images of three channels and sides about alike are likely photographs; others may be all.

    Those of small images have flat areas and edges as documents have.
    """
    channels = 1 if where is None else shape[3 if where == "nhwc" else 1]
    sides = [d for d in (shape[1:3] if where == "nhwc" else shape[-2:]) if d is not None]
    odd = len(sides) == 2 and max(sides) > ODD * min(sides)
    if channels == 3 and not odd:
        small = len(sides) == 2 and min(sides) < LARGE
        name = "image" if small else "photo"
        return InputKind(name, "three channels, sides about alike", "likely")
    what = "sides are unlike" if odd else f"{channels} channel{'s' * (channels != 1)}"
    return InputKind("image", f"{what}, as spectrograms may have, too")
