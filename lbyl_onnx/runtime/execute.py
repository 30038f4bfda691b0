"""Run a model on given inputs: as it is written, on random numbers, or batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lbyl_onnx.errors import ModelError
from lbyl_onnx.input_options.shapes import Shapes
from lbyl_onnx.runtime.session import Feeds, Session, Signature, as_needed, as_written
from lbyl_onnx.types import Array

# Elements that one input may have: an image of 4,700 x 4,700 pixels. Ten such inputs are made.
LARGEST_INPUT = 1 << 26
_SAME_NAME = "float16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split()
_DTYPES: dict[str, np.dtype[np.generic]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    **{f"tensor({name})": np.dtype(name) for name in _SAME_NAME},
}


@dataclass(frozen=True)
class Record:
    """What a model gave: the outputs of each batch of inputs, in the order of its outputs."""

    signature: Signature
    outputs: tuple[tuple[Array, ...], ...]


def signature(path: Path, provider: str) -> Signature:
    """Return what a model takes and gives.

    Raises
    ------
    ModelError
        When ONNX Runtime does not load it, or an input is no tensor of numbers.
    """
    return checked_signature(Session.of(path, provider, as_written()).signature)


def dtype_of(kind: str) -> np.dtype[np.generic]:
    """Return the NumPy type of an input, by ONNX Runtime's name of it.

    Raises
    ------
    ModelError
        For what is no tensor of numbers.
    """
    if kind not in _DTYPES:
        raise ModelError(f"an input is a {kind}; only tensors of numbers can be fed")
    return _DTYPES[kind]


def run_model(path: Path, provider: str, feeds: Sequence[Feeds], optimise: bool = True) -> Record:
    """Run a model on given inputs, as it would be deployed where `optimise` is True.

    Raises
    ------
    ModelError
        When ONNX Runtime does not load it or does not run it.
    """
    session = Session.of(path, provider, None if optimise else as_written())
    outputs = tuple(session.run(batch) for batch in feeds)
    return Record(session.signature, outputs)


def run_as_written(path: Path, provider: str, feeds: Sequence[Feeds]) -> Record:
    """Run a model on given inputs node by node, without graph optimisations.

    It needs less than half the memory, and what the optimisations do is checked along with it.
    Raises what `run_model` does.
    """
    return run_model(path, provider, feeds, optimise=False)


def run_batches(
    path: Path, provider: str, batches: Iterable[Feeds], optimise: bool = True
) -> Iterator[dict[str, Array]]:
    """Run a model on batch after batch; give its outputs by name. Its file is open until the end.

    Raises
    ------
    ModelError
        When ONNX Runtime does not load it or does not run it.
    """
    for outputs in lent_batches(path, provider, batches, optimise):
        own = {name: np.array(output) for name, output in outputs.items()}
        outputs.clear()
        yield own


def lent_batches(
    path: Path, provider: str, batches: Iterable[Feeds], optimise: bool = True
) -> Iterator[dict[str, Array]]:
    """Run a model as `run_batches` does, for outputs of which none is kept.

    They lie in ONNX Runtime's own memory: who clears a batch's outputs lets go of them before the
    next batch is run.

    Raises
    ------
    ModelError
        When ONNX Runtime does not load it or does not run it.
    """
    session = Session.of(path, provider, as_needed() if optimise else as_written())
    names = [name for name, _, _ in session.signature.outputs]
    for feeds in batches:
        samples = max((len(value) for value in feeds.values() if value.ndim), default=1)
        yield dict(zip(names, session.lend(feeds, samples), strict=True))


def is_finite(array: Array) -> bool:
    """Whether an array has no NaN and no infinity; of other types than floats each has none."""
    return array.dtype.kind != "f" or bool(np.all(np.isfinite(array)))


def checked_signature(signature: Signature) -> Signature:
    """The signature itself, once each input is a tensor of numbers."""
    for name, kind, _ in signature.inputs:
        if kind not in _DTYPES:
            raise ModelError(f"input {name} is {kind}; only tensors of numbers can be fed")
    return signature


def random_feeds(
    signature: Signature,
    shapes: tuple[Shapes, Shapes],
    count: int,
    rng: np.random.Generator,
    uniform: bool,
) -> tuple[Feeds, ...]:
    """Random values for each input: `count` times at the first shapes, then at the second."""
    first, second = shapes
    return tuple(random_batch(signature, s, rng, uniform) for s in (*[first] * count, second))


def random_batch(
    signature: Signature, shapes: Shapes, rng: np.random.Generator, uniform: bool
) -> dict[str, Array]:
    """One random value for each input: normal or uniform floats, 0 and 1 for the others."""
    batch: dict[str, Array] = {}
    for name, kind, _ in signature.inputs:
        if math.prod(shapes[name]) > LARGEST_INPUT:
            raise ModelError(
                f"input {name} of shape {shapes[name]} is larger than the {LARGEST_INPUT:,} values "
                "that it may have; export the model with a smaller one"
            )
        dtype = _DTYPES[kind]
        if dtype.kind != "f":
            batch[name] = rng.integers(0, 2, shapes[name]).astype(dtype)
        elif uniform:
            batch[name] = rng.random(shapes[name]).astype(dtype)
        else:
            batch[name] = rng.standard_normal(shapes[name]).astype(dtype)
    return batch
