"""ONNX Runtime: which provider really works, what a model gives on which inputs."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
from onnx import TensorProto, helper

from lbyl_onnx.errors import ModelError, OptionError
from lbyl_onnx.facts import Array
from lbyl_onnx.input_shapes import Given, Shapes, runnable_shapes
from lbyl_onnx.model_io import load_model
from lbyl_onnx.needed_sizes import needed_sizes
from lbyl_onnx.onnx_runtime import ort
from lbyl_onnx.proof_sizes import elements, kinds
from lbyl_onnx.sessions import (
    CPU,
    RUN_ERRORS,
    Feeds,
    Session,
    Signature,
    as_needed,
    as_written,
    options,
)

Provider = Literal["auto", "cpu", "cuda"]

# Inputs at the first shapes, beside one batch at the second ones.
SAMPLES = 8
# Seconds for finding other shapes, and the most that a run at a larger one is expected to take.
OTHERS_SECONDS, SLOWEST = 10.0, 2.0
# Elements that one input may have: an image of 4,700 x 4,700 pixels. Ten such inputs are made.
LARGEST_INPUT = 1 << 26
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}


@dataclass(frozen=True)
class Record:
    """What a model gave: the outputs of each batch of inputs, in the order of its outputs."""

    signature: Signature
    outputs: tuple[tuple[Array, ...], ...]


@dataclass(frozen=True)
class Probe:
    """A model as it is before compression, seen from outside.

    Parameters
    ----------
    provider
        Name of the execution provider that runs it.
    first, second
        Two sets of input shapes that it runs on; they differ in the dynamic dimensions.
    feeds
        Random inputs: `SAMPLES` at the first shapes, one at the second, one at each of the others.
    record
        What it gave on them.
    optimise
        Whether ONNX Runtime optimised its graph.
    others
        More shapes that it runs on: small, odd and large ones.
    """

    provider: str
    first: Shapes
    second: Shapes
    feeds: tuple[Feeds, ...]
    record: Record
    optimise: bool = True
    others: tuple[Shapes, ...] = ()

    @property
    def shapes(self) -> int:
        """How many different input shapes there are."""
        found = [self.first, self.second, *self.others]
        return len({tuple(sorted(shapes.items())) for shapes in found})


def provider_name(wanted: Provider) -> str:
    """Return the execution provider to use: CUDA only where a session really runs on it.

    Raises
    ------
    OptionError
        When CUDA is asked for and does not initialise.
    """
    cuda = "CUDAExecutionProvider"
    if wanted == "cpu":
        return CPU
    works = cuda in ort.get_available_providers() and cuda in _initialised(cuda)
    if wanted == "cuda" and not works:
        raise OptionError("CUDA does not initialise in ONNX Runtime here; use --provider cpu")
    return cuda if works else CPU


def _initialised(provider: str) -> list[str]:
    """Providers of a session on a model of one node."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    ort.set_default_logger_severity(4)  # that CUDA is not there is an answer, not an error
    try:
        session = ort.InferenceSession(model.SerializeToString(), options(), [provider, CPU])
    except RUN_ERRORS:
        return []
    finally:
        ort.set_default_logger_severity(2)  # ONNX Runtime's own default
    return list(session.get_providers())


def both_distributions() -> bool:
    """Whether onnxruntime and onnxruntime-gpu are both installed: one overwrites the other."""
    names = {d.metadata["Name"].lower().replace("_", "-") for d in metadata.distributions()}
    return {"onnxruntime", "onnxruntime-gpu"} <= names


def probe(path: Path, provider: str, seed: int, optimise: bool = True, given: Given = ()) -> Probe:
    """Run a model as it came: find input shapes it accepts, record what it gives.

    Parameters
    ----------
    path
        The model's file.
    provider
        An execution provider's name.
    seed
        Of the random inputs.
    optimise
        Whether ONNX Runtime may optimise the graph, for which it copies the weights.
    given
        Input shapes that the user gave, for the first set.

    Returns
    -------
    Probe
        Its outputs on normally distributed inputs; uniform ones where those overflow.

    Raises
    ------
    ModelError
        When ONNX Runtime does not load it or runs it on no input that could be made.
    OptionError
        When a given shape does not fit the model.
    """
    session = Session.of(path, provider, None if optimise else as_written())
    signature = session.signature
    first, second = _runnable_shapes(session, given)
    for uniform in (False, True):
        feeds = _feeds(signature, first, second, np.random.default_rng(seed), uniform)
        outputs = tuple(session.run(batch) for batch in feeds)
        if all(_finite(array) for batch in outputs for array in batch):
            break
    others = _others(session, first, second, seed, uniform)
    record = Record(signature, (*outputs, *(o for _, _, o in others)))
    feeds = (*feeds, *(batch for _, batch, _ in others))
    more = tuple(shapes for shapes, _, _ in others)
    return Probe(provider, first, second, feeds, record, optimise, more)


def input_shapes(path: Path, provider: str, given: Given = ()) -> tuple[Shapes, Shapes]:
    """Two sets of input shapes that a model accepts; they differ in the dynamic dimensions.

    The first has the shapes that are given.

    Raises
    ------
    ModelError, OptionError
        As `probe` does.
    """
    session = Session.of(path, provider, as_written())
    return _runnable_shapes(session, given)


def signature(path: Path, provider: str) -> Signature:
    """Return what a model takes and gives.

    Raises
    ------
    ModelError
        When ONNX Runtime does not load it, or an input is no tensor of numbers.
    """
    return _fed(Session.of(path, provider, as_written()).signature)


def dtype_of(kind: str) -> np.dtype[np.generic]:
    """Return the NumPy type of an input, by ONNX Runtime's name of it.

    Raises
    ------
    ModelError
        For what is no tensor of numbers.
    """
    if kind not in _DTYPES:
        raise ModelError(f"an input is a {kind}; only tensors of numbers can be fed")
    return np.dtype(_DTYPES[kind])


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

    Raises
    ------
    ModelError
        When ONNX Runtime does not load it or does not run it.
    """
    session = Session.of(path, provider, as_written())
    outputs = tuple(session.run(batch) for batch in feeds)
    return Record(session.signature, outputs)


def run_batches(
    path: Path, provider: str, batches: Iterable[Feeds], optimise: bool = True
) -> Generator[Mapping[str, Array]]:
    """Run a model on batch after batch; give its outputs by name. Its file is open until the end.

    Raises
    ------
    ModelError
        When ONNX Runtime does not load it or does not run it.
    """
    session = Session.of(path, provider, as_needed() if optimise else as_written())
    names = [name for name, _, _ in session.signature.outputs]
    for feeds in batches:
        samples = max((len(value) for value in feeds.values() if value.ndim), default=1)
        yield dict(zip(names, session.run(feeds, samples), strict=True))


def _others(
    session: Session, first: Shapes, second: Shapes, seed: int, uniform: bool
) -> list[tuple[Shapes, Feeds, tuple[Array, ...]]]:
    """Shapes of each kind that the model runs at soon enough, inputs of them, and its outputs.

    A size at which it fails, gives nothing, or what is not finite, is none to verify at.
    """
    signature, found = session.signature, list[tuple[Shapes, Feeds, tuple[Array, ...]]]()
    begun = time.monotonic()
    session.run(_batch(signature, first, np.random.default_rng(seed), uniform))
    each = (time.monotonic() - begun) / max(1, elements(first))  # seconds for an element
    end = time.monotonic() + OTHERS_SECONDS
    for number, kind in enumerate(kinds(signature.inputs, first, second)):
        for shapes in kind:
            size = elements(shapes)
            if (each * size > SLOWEST and size > elements(first)) or size > LARGEST_INPUT:
                continue
            if time.monotonic() > end:
                break
            batch = _batch(signature, shapes, np.random.default_rng([seed, number]), uniform)
            try:
                outputs = session.run(batch)
            except ModelError:  # it may declare more sizes than it takes, or take too long
                continue
            if all(array.size and _finite(array) for array in outputs):
                found.append((shapes, batch, outputs))
                break
    return found


def _finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.all(np.isfinite(array)))


def _runnable_shapes(session: Session, given: Given) -> tuple[Shapes, Shapes]:
    signature = _fed(session.signature)
    return runnable_shapes(
        signature,
        lambda shapes: session.run(_batch(signature, shapes, np.random.default_rng(0), False)),
        session.seconds,
        lambda: needed_sizes(load_model(session.path)[0]),
        given,
    )


def _fed(signature: Signature) -> Signature:
    """The signature itself, once each input is a tensor of numbers."""
    for name, kind, _ in signature.inputs:
        if kind not in _DTYPES:
            raise ModelError(f"input {name} is {kind}; only tensors of numbers can be fed")
    return signature


def _feeds(
    signature: Signature,
    first: Shapes,
    second: Shapes,
    rng: np.random.Generator,
    uniform: bool,
) -> tuple[Feeds, ...]:
    shapes = [*[first] * SAMPLES, second]
    return tuple(_batch(signature, s, rng, uniform) for s in shapes)


def _batch(
    signature: Signature,
    shapes: Shapes,
    rng: np.random.Generator,
    uniform: bool,
) -> dict[str, Array]:
    """One random value for each input: normal or uniform floats, 0 and 1 for the others."""
    batch: dict[str, Array] = {}
    for name, kind, _ in signature.inputs:
        if math.prod(shapes[name]) > LARGEST_INPUT:
            raise ModelError(
                f"input {name} of shape {shapes[name]} is larger than the {LARGEST_INPUT:,} values "
                "that it may have; export the model with a smaller one"
            )
        dtype: np.dtype[np.generic] = np.dtype(_DTYPES[kind])
        if dtype.kind != "f":
            batch[name] = rng.integers(0, 2, shapes[name]).astype(dtype)
        elif uniform:
            batch[name] = rng.random(shapes[name]).astype(dtype)
        else:
            batch[name] = rng.standard_normal(shapes[name]).astype(dtype)
    return batch
