"""Synthetic samples for the inputs of a model, of what each takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.data.image_statistics import ImageStatistics
from lbyl_onnx.data.input_kind import IMAGES, InputSpec, Vocabulary, as_pixels, subject_of
from lbyl_onnx.data.synthetic.images import Floats, Subject, image_layout, images, split_channels
from lbyl_onnx.data.synthetic.recolour import recoloured
from lbyl_onnx.data.synthetic.sounds import spectrograms, waveforms
from lbyl_onnx.option_types import Layout
from lbyl_onnx.types import Array

Family = Literal["usual", "unseen"]
"""Samples such as statistics are taken of, or others."""
# Share of the texts of a batch that end before it does.
PADDED = 0.25
# Least length of such a text, as a share of the others'.
SHORTEST = 0.4
# Share of the texts that have a second segment.
PAIRS = 0.25


def synthetic_feeds(
    inputs: Mapping[str, InputSpec],
    rng: np.random.Generator,
    layout: Layout = "auto",
    family: Family = "usual",
) -> dict[str, Array]:
    """Make a batch for all inputs of a model; what belongs together agrees.

    Parameters
    ----------
    inputs
        By name; their shapes are those of the batch.
    rng
        The same state gives the same bytes.
    layout
        Where images have their channels.
    family
        Samples such as statistics are taken of, or others that no fit has seen: mosaics for images,
        texts in which few tokens are frequent.

    Returns
    -------
    dict
        For each input an array of its shape and type. Tokens, mask, segments and positions of one
        batch are those of the same texts.
    """
    samples = max((spec.shape[0] for spec in inputs.values() if spec.shape), default=1)
    texts = _Texts.drawn(samples, rng.spawn(1)[0])
    makers = _MAKERS if family == "usual" else _UNSEEN
    return {
        name: makers[spec.kind.name](spec, rng, layout, texts).astype(spec.dtype, copy=False)
        for name, spec in inputs.items()
    }


def synthetic_input(spec: InputSpec, rng: np.random.Generator, layout: Layout = "auto") -> Array:
    """Make a batch for one input alone, as `synthetic_feeds` does."""
    return synthetic_feeds({"": spec}, rng, layout)[""]


@dataclass(frozen=True)
class _Texts:
    """Where the texts of a batch end and their second segments begin: shares (samples,) of it."""

    ends: NDArray[np.float64]
    seconds: NDArray[np.float64]

    @staticmethod
    def drawn(samples: int, rng: np.random.Generator) -> _Texts:
        shares = rng.random((4, samples))
        ends = np.where(shares[0] < PADDED, SHORTEST + (1.0 - SHORTEST) * shares[1], 1.0)
        seconds = np.where(shares[2] < PAIRS, 0.3 + 0.4 * shares[3], 1.0)
        return _Texts(ends, ends * seconds)

    def within(self, shares: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Whether each place on the last axis comes before a share of it; `shape` in all."""
        if len(shape) < 2 or shape[0] > len(shares):
            return np.ones(shape, np.bool_)
        before = np.ceil(shares[: shape[0]] * shape[-1]).reshape(-1, *[1] * (len(shape) - 1))
        return np.broadcast_to(np.arange(shape[-1]) < before, shape)


_Maker = Callable[[InputSpec, np.random.Generator, Layout, _Texts], Array]


def _pictures(spec: InputSpec, rng: np.random.Generator, layout: Layout, texts: _Texts) -> Array:
    return _pictured(spec, rng, layout, subject_of(spec.kind))


def _mosaics(spec: InputSpec, rng: np.random.Generator, layout: Layout, texts: _Texts) -> Array:
    return _pictured(spec, rng, layout, "mosaic")


def _pictured(spec: InputSpec, rng: np.random.Generator, layout: Layout, subject: Subject) -> Array:
    """Images, signals or volumes of mean 0 and deviation 1, or in the range of their pixels."""
    shape, kind = spec.shape, spec.kind
    where = image_layout(shape, layout)
    if 0 in shape or len(shape) < 2:
        return np.zeros(shape, spec.dtype)
    if where is None:  # a plane, or planes, without channels
        values: Floats = images(shape[0], (1, *shape[1:]), rng, subject)[:, 0]
    else:
        channels, plane = split_channels(shape, where)
        values = images(shape[0], (channels, *plane), rng, subject)
        if where == "nhwc":
            values = np.ascontiguousarray(np.moveaxis(values, 1, -1))
    if kind.statistics is not None:
        return _as_seen(values, kind.statistics, spec)
    return values if kind.pixels is None else kind.pixels.pictured(values, spec.dtype)


def _as_seen(values: Floats, statistics: ImageStatistics, spec: InputSpec) -> Array:
    """Images like those that the model has seen, within their range where that is known."""
    first = np.moveaxis(values, statistics.axis, 1)
    recolouring = np.moveaxis(recoloured(first, statistics), 1, statistics.axis)
    low, high = (0.0, 255.0) if spec.dtype.kind == "u" else (-np.inf, np.inf)
    if spec.kind.pixels is not None:
        low, high = spec.kind.pixels.low, spec.kind.pixels.high
    return as_pixels(recolouring, low, high, spec.dtype)


def _vectors(spec: InputSpec, rng: np.random.Generator, layout: Layout, texts: _Texts) -> Array:
    values = rng.standard_normal(spec.shape, dtype=np.float32)
    return _in_limits(spec, values)


def _waveforms(spec: InputSpec, rng: np.random.Generator, layout: Layout, texts: _Texts) -> Array:
    """Waveforms along the longest axis but the first."""
    return _along(spec, lambda count, length: waveforms(count, length, rng))


def _spectrograms(
    spec: InputSpec, rng: np.random.Generator, layout: Layout, texts: _Texts
) -> Array:
    """Spectrograms on two axes: time is the last of rank 3, else the longer."""
    shape = spec.shape
    axes = [axis for axis in range(1, len(shape)) if shape[axis] > 1][:2]
    if len(axes) < 2:
        return _vectors(spec, rng, layout, texts)
    bins, frames = axes if len(shape) == 3 or shape[axes[0]] <= shape[axes[1]] else axes[::-1]
    others = [axis for axis in range(len(shape)) if axis not in axes]
    count = math.prod(shape[axis] for axis in others)
    planes = spectrograms(count, shape[bins], shape[frames], rng)
    # A broader prior: every other one has textures that speech has not.
    pictured = planes[1::2]
    pictured[...] = images(len(pictured), (1, *planes.shape[1:]), rng)[:, 0]
    order = [*others, bins, frames]
    values = planes.reshape([shape[axis] for axis in order])  # (.., bins, frames)
    return _in_limits(spec, np.ascontiguousarray(np.transpose(values, np.argsort(order))))


def _along(spec: InputSpec, make: Callable[[int, int], Floats]) -> Array:
    """Fill the longest axis but the first with signals."""
    shape = spec.shape
    axis = max(range(1, len(shape)), key=lambda a: shape[a]) if len(shape) > 1 else 0
    rest = [d for a, d in enumerate(shape) if a != axis]
    values = make(math.prod(rest), shape[axis]).reshape(*rest, shape[axis])
    return _in_limits(spec, np.ascontiguousarray(np.moveaxis(values, -1, axis)))


def _in_limits(spec: InputSpec, values: Floats) -> Array:
    kind = spec.kind
    values = np.float32(kind.mean) + np.float32(kind.spread) * values
    if kind.low is not None or kind.high is not None:
        values = np.clip(values, kind.low, kind.high)
    return np.rint(values) if spec.dtype.kind in "iu" else values


def _tokens(spec: InputSpec, rng: np.random.Generator, layout: Layout, texts: _Texts) -> Array:
    """Tokens, each as often as the others; special ones only where they belong."""
    plain = _plain_tokens(spec)
    return _as_texts(rng.choice(plain, spec.shape), spec, texts)


def _frequent_tokens(
    spec: InputSpec, rng: np.random.Generator, layout: Layout, texts: _Texts
) -> Array:
    """Tokens of which some are frequent, the n-th in proportion to 1/n as words are (Zipf)."""
    plain = _plain_tokens(spec)
    ranks = np.exp(rng.uniform(0.0, math.log(len(plain) + 1), spec.shape)) - 1.0
    return _as_texts(rng.permutation(plain)[ranks.astype(np.intp)], spec, texts)


def _plain_tokens(spec: InputSpec) -> NDArray[np.intp]:
    """Tokens that stand for text; all where there are none."""
    vocabulary = spec.kind.vocabulary or Vocabulary(2)
    every = np.arange(vocabulary.size)
    plain = np.setdiff1d(every, vocabulary.special)
    return plain if len(plain) else every


def _as_texts(tokens: Array, spec: InputSpec, texts: _Texts) -> Array:
    """Begin, end and pad tokens as the texts of the batch do."""
    vocabulary = spec.kind.vocabulary or Vocabulary(2)
    if len(spec.shape) < 2 or spec.shape[-1] < 3:
        return tokens
    inside = texts.within(texts.ends, spec.shape)
    if vocabulary.first is not None:
        tokens[..., 0] = vocabulary.first
    if vocabulary.last is not None:
        ending = inside & ~np.concatenate([inside[..., 1:], np.zeros_like(inside[..., :1])], -1)
        tokens[ending] = vocabulary.last
    tokens[~inside] = vocabulary.padding
    return tokens


def _mask(spec: InputSpec, rng: np.random.Generator, layout: Layout, texts: _Texts) -> Array:
    return texts.within(texts.ends, spec.shape)


def _segments(spec: InputSpec, rng: np.random.Generator, layout: Layout, texts: _Texts) -> Array:
    """0 in the first segment of a text and behind its end, 1 in the second."""
    second = ~texts.within(texts.seconds, spec.shape) & texts.within(texts.ends, spec.shape)
    return np.asarray(second)


def _positions(spec: InputSpec, rng: np.random.Generator, layout: Layout, texts: _Texts) -> Array:
    length = spec.shape[-1] if spec.shape else 1
    most = spec.kind.vocabulary.size if spec.kind.vocabulary else length
    return np.broadcast_to(np.minimum(np.arange(length), most - 1), spec.shape)


def _flags(spec: InputSpec, rng: np.random.Generator, layout: Layout, texts: _Texts) -> Array:
    return rng.integers(0, 2, spec.shape)


def _constant(spec: InputSpec, rng: np.random.Generator, layout: Layout, texts: _Texts) -> Array:
    return np.full(spec.shape, spec.kind.mean)


_MAKERS: Mapping[str, _Maker] = {
    **dict.fromkeys((*IMAGES, "signal"), _pictures),
    "vector": _vectors,
    "waveform": _waveforms,
    "spectrogram": _spectrograms,
    "tokens": _tokens,
    "mask": _mask,
    "segments": _segments,
    "positions": _positions,
    "flags": _flags,
    "constant": _constant,
}
# Of what no statistics are taken, for the kinds of which there is another family.
_UNSEEN: Mapping[str, _Maker] = {
    **_MAKERS,
    **dict.fromkeys(IMAGES, _mosaics),
    "tokens": _frequent_tokens,
}
