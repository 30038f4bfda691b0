"""Compare two models on inputs of the user's own, or on synthetic samples."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.data.arrays import open_arrays
from lbyl_onnx.data.input_kind import InputKind
from lbyl_onnx.errors import CalibrationError, OptionError, VerificationError
from lbyl_onnx.evaluate.doubt import PairedAccuracy
from lbyl_onnx.evaluate.metrics import Fidelity, fidelity, top1
from lbyl_onnx.evaluate.prediction.predict import Prediction, prediction
from lbyl_onnx.evaluate.randomness import same_randomness
from lbyl_onnx.evaluate.score import own_score
from lbyl_onnx.evaluate.synthetic import input_kinds, synthetic_samples
from lbyl_onnx.graph import source as graph_source
from lbyl_onnx.guard.bounds import bounded, seconds_for
from lbyl_onnx.guard.effort import LARGE
from lbyl_onnx.input_options.shapes import SuppliedShapes, checked_shapes
from lbyl_onnx.io.locate import find_model
from lbyl_onnx.option_types import Provider
from lbyl_onnx.runtime import baseline, execute, providers, timing
from lbyl_onnx.runtime.session import Feeds, Signature
from lbyl_onnx.text import listed, milliseconds, printable, short
from lbyl_onnx.types import Array

# Synthetic samples at the first input shapes, and at others.
COMPARED = (32, 1)
# The same, of another family, to predict how near they are on real inputs.
PREDICTED = (64, 0)
# Samples that are run at once where a model takes as many as it is given.
BATCH = 64


@dataclass(frozen=True)
class Comparison:
    """Two models on the same inputs.

    Parameters
    ----------
    provider
        Execution provider that ran them.
    fidelity
        Nearness of the second's outputs to the first's.
    agreement
        What a bound is held against, the least of all outputs: the share of equal classes or whole
        numbers, or where there are neither the cosine.
    original_top1, compressed_top1
        Share of labels that are the largest value of the first output; None without labels.
    latency
        Times of both, measured in turns.
    inputs
        Where the inputs are from: a file, or None for synthetic samples.
    random
        Nodes that draw random numbers, for which both models were given the same.
    accuracy
        How sure the shares of labels are, and whether they differ; None without labels.
    scores
        Of both, by the user's own function; None without one.
    prediction
        How near they are on real inputs, predicted where the inputs are synthetic samples.
    """

    provider: str
    fidelity: Fidelity
    agreement: float
    original_top1: float | None
    compressed_top1: float | None
    latency: timing.PairedLatency
    inputs: str | None
    random: tuple[str, ...] = ()
    accuracy: PairedAccuracy | None = None
    scores: tuple[float, float] | None = None
    prediction: Prediction | None = None

    def __str__(self) -> str:
        """Return at most five lines: how near the outputs are, how right, and how fast."""
        times, near = self.latency, self.fidelity
        inputs = "synthetic samples" if self.inputs is None else printable(self.inputs)
        lines = [f"outputs on {near.samples} {inputs}: {self.agreement:.4f}, the least of all"]
        if self.original_top1 is not None and self.compressed_top1 is not None:
            lines.append(f"top-1 {self.original_top1:.2%} -> {self.compressed_top1:.2%}")
        if self.scores is not None:
            lines.append(f"score {self.scores[0]:.6g} -> {self.scores[1]:.6g}")
        sides = milliseconds(times.before.median), milliseconds(times.after.median)
        lines.append(f"time {sides[0]} -> {sides[1]} ({times})")
        return "\n".join(lines if self.prediction is None else [*lines, str(self.prediction)])


def compare_models(
    original: str | os.PathLike[str],
    compressed: str | os.PathLike[str],
    *,
    inputs: str | os.PathLike[str] | None = None,
    labels: str | None = None,
    provider: Provider = "auto",
    seed: int = 0,
    input_shape: SuppliedShapes = (),
    score: str | None = None,
) -> Comparison:
    """Run two models on the same inputs.

    Parameters
    ----------
    original, compressed
        Files of models with the same inputs and outputs.
    inputs
        An .npz with an array for each input of the model, samples first; None for
        synthetic samples, such as `compress` takes.
    labels
        Name of the array of class numbers, one for each sample, in that file.
    provider
        Where ONNX Runtime runs them.
    seed
        Of synthetic samples.
    input_shape
        Their shapes, by the names of the inputs; the name may be empty where there is one.
    score
        A function of your own that scores the path of a model: `module:function` or
        `file.py:function`.

    Returns
    -------
    Comparison
        How near the outputs are, and how long each takes.

    Raises
    ------
    CalibrationError
        When the inputs cannot be read or do not fit.
    OptionError
        When a shape does not fit the models, or is given beside inputs; when the score's function
        cannot be had.
    ModelError
        When a model does not run.
    VerificationError
        When the models' inputs or outputs differ, or nothing could be compared.
    """
    supplied_shapes = checked_shapes(input_shape)
    if inputs is not None and supplied_shapes:
        raise OptionError("input shapes are of synthetic samples; leave them out beside a file")
    one, two = find_model(Path(original)), find_model(Path(compressed))
    name = providers.provider_name(provider)
    sources = [graph_source.check_source(path) for path in (one, two)]
    first, second = (execute.signature(path, name) for path in (one, two))
    if _kinds(first) != _kinds(second):
        raise VerificationError(f"inputs or outputs differ: {first} and {second}")
    if inputs is None:
        if labels is not None:
            raise CalibrationError("labels need inputs; give --inputs DATA.npz")
        samples = _Synthetic.drawn(one, name, seed, supplied_shapes)
        feeds, true_labels = samples.feeds, None
    else:
        file = Path(inputs)
        with bounded(f"reading {file.name}", seconds_for(0)):
            arrays, true_labels = _read(file, first, labels)
        feeds = list(_batches(arrays, first))
    outputs = [output for output, _, _ in first.outputs]
    described = None if inputs is None else str(inputs)
    comparison = _compared((one, two), name, outputs, (feeds, true_labels), described)
    if inputs is None:
        comparison = replace(comparison, prediction=samples.prediction((one, two), name))
    if score is not None:
        scores = own_score(score, one), own_score(score, two)
        comparison = replace(comparison, scores=scores)
    for source in sources:
        source.check_unchanged()
    return comparison


def _compared(
    paths: tuple[Path, Path],
    provider: str,
    outputs: list[str],
    samples: tuple[list[Feeds], NDArray[np.int64] | None],
    inputs: str | None,
) -> Comparison:
    """Run both models on samples with labels or none; `inputs` is the file that they are from."""
    feeds, true_labels = samples
    with same_randomness(*paths) as (files, random):
        before, after = (_outputs(path, provider, feeds, _copied(paths)) for path in files)
    described = "synthetic samples" if inputs is None else f"inputs of {inputs}"
    near = fidelity(outputs, before, after, described)
    _check(outputs, before, after)
    if near.agreement is None:
        raise VerificationError("no output value could be compared")
    hits = [] if true_labels is None else [_hits(x, true_labels) for x in (before, after)]
    first, second = (float(np.mean(x)) for x in hits) if hits else (None, None)
    return Comparison(
        provider,
        near,
        near.agreement,
        first,
        second,
        timing.paired(*paths, provider, feeds[0], _copied(paths)),
        inputs,
        random,
        PairedAccuracy.of(*hits) if hits else None,
    )


@dataclass(frozen=True, eq=False)
class _Synthetic:
    """Synthetic samples as of the statistics, others, and what the inputs take.

    Where the model gives no numbers on them, random values and no others.
    """

    feeds: list[Feeds]
    unseen: list[Feeds]
    kinds: Mapping[str, InputKind]

    @staticmethod
    def drawn(path: Path, provider: str, seed: int, supplied_shapes: SuppliedShapes) -> _Synthetic:
        shapes = baseline.input_shapes(path, provider, supplied_shapes)
        model, _ = graph_source.load_model(path)
        kinds = input_kinds(path, model, shapes)
        feeds = list(synthetic_samples(model, kinds, shapes, COMPARED, seed))
        (outputs,) = execute.run_batches(path, provider, feeds[:1], _copied([path]))
        if all(map(execute.is_finite, outputs.values())):
            others = synthetic_samples(model, kinds, shapes, PREDICTED, seed, "unseen")
            return _Synthetic(feeds, list(others), kinds)
        ran = baseline.run_baseline(path, provider, seed, supplied_shapes=supplied_shapes)
        return _Synthetic(list(ran.feeds), [], kinds)

    def prediction(self, paths: tuple[Path, Path], provider: str) -> Prediction | None:
        """Predict how near two models are on real inputs."""
        with same_randomness(*paths) as (files, _):
            runs = (_outputs(path, provider, self.unseen, _copied(paths)) for path in files)
            before, after = runs
        return prediction(zip(before, after, strict=True), self.kinds)


def _kinds(signature: Signature) -> list[list[tuple[str, str]]]:
    """Names and types of what a model takes and gives; its own shapes may be more or less exact."""
    sides = (signature.inputs, signature.outputs, signature.overridable)
    return [[(name, kind) for name, kind, _ in side] for side in sides]


def _read(
    path: Path, signature: Signature, labels: str | None
) -> tuple[dict[str, Array], NDArray[np.int64] | None]:
    """Arrays for each input, in its type, and the labels."""
    file = open_arrays(path)
    names = [name for name, _, _ in signature.inputs]
    used = [*names, *([labels] if labels else [])]
    missing = [name for name in used if name not in file.names]
    if missing:
        held = "one array without a name" if file.mapped else listed(file.names) or "nothing"
        raise CalibrationError(
            f"{path} holds {held}, but not {listed(missing)}; give an .npz with an array for each "
            "input, by its name"
        )
    headers = {name: file.header(name) for name in used}
    lengths = {header.shape[0] if header.shape else 0 for header in headers.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise CalibrationError(f"{path}: {listed(used)} must have the same number of samples")
    if labels and (len(headers[labels].shape) != 1 or headers[labels].dtype.kind not in "iu"):
        raise CalibrationError(f"{path}: {labels} must be one whole number for each sample")
    stored = file.read(used)
    arrays = {
        name: _cast(path, name, stored[name], execute.dtype_of(kind))
        for name, kind, _ in signature.inputs
    }
    if labels is None:
        return arrays, None
    return arrays, stored[labels].astype(np.int64)


def _cast(path: Path, name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """Return an array in an input's type, which must hold its values."""
    if array.dtype.kind not in "biuf":
        raise CalibrationError(f"{path}: {short(name)} holds {array.dtype}; give numbers")
    with np.errstate(all="ignore"):  # what does not fit is refused
        cast = array.astype(dtype)
        fits = np.isfinite(cast) | ~np.isfinite(array) if dtype.kind == "f" else cast == array
    if not np.all(fits):
        raise CalibrationError(
            f"{path}: {short(name)} holds values that do not fit {dtype}, which the model takes; "
            "leave these samples out"
        )
    return cast


def _batches(arrays: Mapping[str, Array], signature: Signature) -> Iterator[Mapping[str, Array]]:
    """Parts of the samples: of the models' own size where that is fixed."""
    fixed = [dims[0] for _, _, dims in signature.inputs if dims]
    size = next((d for d in fixed if isinstance(d, int) and d > 0), BATCH)
    count = len(next(iter(arrays.values())))
    exact = any(isinstance(d, int) and d > 0 for d in fixed)
    if exact and count % size:
        raise CalibrationError(f"the model takes {size} samples at once; {count} are no multiple")
    for start in range(0, count, size):
        yield {name: array[start : start + size] for name, array in arrays.items()}


def _copied(paths: Iterable[Path]) -> bool:
    """Whether models are small enough for ONNX Runtime to copy their weights as it optimises."""
    return all(graph_source.stored_bytes(path) <= LARGE for path in paths)


def _outputs(
    path: Path, provider: str, feeds: list[Feeds], optimise: bool
) -> tuple[tuple[Array, ...], ...]:
    runs = execute.run_batches(path, provider, feeds, optimise)
    return tuple(tuple(outputs.values()) for outputs in runs)


def _check(
    names: list[str], before: tuple[tuple[Array, ...], ...], after: tuple[tuple[Array, ...], ...]
) -> None:
    """Raise unless all outputs are of the same types and ranks, and finite where they were."""
    for olds, news in zip(before, after, strict=True):
        for name, old, new in zip(names, olds, news, strict=True):
            if old.dtype != new.dtype or old.ndim != new.ndim:
                raise VerificationError(
                    f"output {name} is {new.dtype} of shape {new.shape}, "
                    f"not {old.dtype} of shape {old.shape}"
                )
            if new.dtype.kind == "f" and not np.all(np.isfinite(new)):
                raise VerificationError(f"output {name} of the compressed model is not finite")


def _hits(outputs: tuple[tuple[Array, ...], ...], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each sample whether the largest value of the first output is at its label."""
    scores = np.concatenate([batch[0] for batch in outputs])
    chosen = top1(scores)
    if chosen is None or chosen.shape != labels.shape:
        raise VerificationError(
            f"the first output has shape {scores.shape}; labels need ({len(labels)}, classes)"
        )
    return np.asarray(chosen == labels)
