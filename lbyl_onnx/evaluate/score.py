"""How good a model is on the user's samples, or how near to the original on synthetic ones."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from lbyl_onnx.data.arrays import open_arrays
from lbyl_onnx.data.calibration import read_calibration
from lbyl_onnx.data.samples import Input, Samples
from lbyl_onnx.errors import CalibrationError, OptionError, VerificationError, first_line
from lbyl_onnx.evaluate.doubt import PairedAccuracy
from lbyl_onnx.evaluate.metrics import fidelity, top1
from lbyl_onnx.evaluate.randomness import same_randomness
from lbyl_onnx.evaluate.synthetic import input_kinds, synthetic_samples
from lbyl_onnx.graph import source
from lbyl_onnx.input_options.kinds import Choices
from lbyl_onnx.input_options.shapes import Shapes, SuppliedShapes
from lbyl_onnx.inputs.choices import stated_sizes
from lbyl_onnx.option_types import shown
from lbyl_onnx.runtime import baseline, execute
from lbyl_onnx.runtime.session import Feeds
from lbyl_onnx.text import listed, short
from lbyl_onnx.types import Array

# Synthetic samples on which two models are compared, and samples in a mini-batch of the user's.
SYNTHETIC, BATCH = 200, 64


@dataclass(frozen=True)
class ScoringData:
    """What models are scored on.

    Parameters
    ----------
    inputs
        A .npz or .npy of what the model is fed, or None for synthetic samples.
    labels
        The name of an array in `inputs`, or a .npy file; None for the agreement with the original.
    seed
        Of the synthetic samples.
    input_shape
        Shapes that the user gave for inputs, by name.
    choices
        What the user says that inputs take.
    own
        A function of the user's own that scores the path of a model, as `own_score` takes it, in
        place of all this.
    """

    inputs: Path | None = None
    labels: str | None = None
    seed: int = 0
    input_shape: SuppliedShapes = ()
    choices: Choices = ()
    own: str | None = None


@dataclass(frozen=True)
class Score:
    """What a model scores, and the original.

    Parameters
    ----------
    metric
        `accuracy`: share of samples (or of their positions) classified right; `agreement`: share
        on which both choose the same class or whole number; `cosine`: mean cosine of the outputs,
        where there are no classes. Of several outputs the least counts. `score`: what the user's
        own function returns.
    before, after
        The original's and the compressed model's.
    samples
        How many; 0 where the user's own function has its own.
    p_value
        Probability of an accuracy's difference by chance, by McNemar's test; None for others.
    """

    metric: str
    before: float
    after: float
    samples: int
    p_value: float | None = None


def score(original: Path, compressed: Path, data: ScoringData, provider: str) -> Score:
    """Score a compressed model.

    Parameters
    ----------
    original, compressed
        The files.
    data
        What on.
    provider
        An execution provider's name.

    Raises
    ------
    CalibrationError
        When the samples or labels do not fit the model.
    ModelError
        When a model does not run on them.
    OptionError
        When the user's own function does not work.
    """
    if data.own is not None:
        return Score("score", own_score(data.own, original), own_score(data.own, compressed), 0)
    stated = partial(stated_sizes, data.choices, "auto")
    shapes = baseline.input_shapes(original, provider, data.input_shape, stated)
    model, _ = source.load_model(original)
    inputs = _inputs(model, *shapes)
    if data.inputs is None:
        kinds = input_kinds(original, model, shapes, data.choices)
        feeds = list(synthetic_samples(model, kinds, shapes, (SYNTHETIC, 0), data.seed))
        return _nearness(original, compressed, feeds, feeds, provider)
    samples = read_calibration(data.inputs, inputs, limit=_ALL)
    batch = max((i.shape[0] for i in inputs if i.shape and i.shape[0]), default=BATCH)
    if data.labels is None:
        return _nearness(
            original, compressed, samples.batches(batch), samples.batches(batch), provider
        )
    if samples.shapes is not None and len(samples.shapes.each) > 1:
        raise CalibrationError(
            f"{data.inputs} holds samples of several sizes, which take no labels; leave them out"
        )
    labels = read_labels(data.inputs, data.labels, samples.count)
    before, after = (
        _hits(path, samples, labels, batch, provider) for path in (original, compressed)
    )
    p_value = PairedAccuracy.of(before, after).p_value
    return Score("accuracy", float(np.mean(before)), float(np.mean(after)), samples.count, p_value)


_ALL = 1 << 40


def read_labels(inputs: Path, labels: str, samples: int) -> Array:
    """Return the labels of so many samples: an array of their .npz file, or a .npy file.

    Raises
    ------
    CalibrationError
        When there are none, they are no whole numbers, or not one for each sample.
    """
    path = Path(labels) if labels.endswith(".npy") else inputs
    file = open_arrays(path)
    name = "" if path.suffix == ".npy" else labels
    if name not in file.names:
        raise CalibrationError(f"{path} holds {listed(file.names)}, but no array {short(labels)}")
    header = file.header(name)
    if header.dtype.kind not in "iu" or not header.shape:
        raise CalibrationError(f"the labels in {path} are {header.dtype}; give whole numbers")
    if header.shape[0] != samples:
        raise CalibrationError(
            f"{labels} holds {header.shape[0]} labels for {samples} samples of {inputs} in whole "
            "batches; give one for each"
        )
    return file.read([name])[name]


def _hits(
    path: Path, samples: Samples, labels: Array, batch: int, provider: str
) -> NDArray[np.bool_]:
    """For each label, in one row, whether a model finds it."""
    start, hits = 0, list[NDArray[np.bool_]]()
    for outputs in execute.run_batches(path, provider, samples.batches(batch)):
        chosen = next((c for c in map(top1, outputs.values()) if c is not None), None)
        if chosen is None:
            raise CalibrationError(
                f"{path} gives no classes; leave --labels out to compare outputs"
            )
        truth = labels[start : start + len(chosen)]
        if chosen.shape != truth.shape:
            raise CalibrationError(
                f"the labels of a batch have shape {truth.shape}, the classes that {path} gives "
                f"{chosen.shape}; score a classifier on its own labels"
            )
        start += len(chosen)
        hits.append(np.asarray(chosen == truth).reshape(-1))  # (N, ..) -> (labels,)
    return np.concatenate(hits)


def _nearness(
    original: Path, compressed: Path, feeds: Iterable[Feeds], again: Iterable[Feeds], provider: str
) -> Score:
    """Mean agreement over the samples of both runs, the least of the outputs."""
    names = [name for name, _, _ in execute.signature(original, provider).outputs]
    with same_randomness(original, compressed) as (paths, _):
        runs = (
            execute.run_batches(p, provider, f) for p, f in zip(paths, (feeds, again), strict=True)
        )
        near = [
            fidelity(names, [tuple(a.values())], [tuple(b.values())])
            for a, b in zip(*runs, strict=True)
        ]
    samples = sum(n.samples for n in near)
    classes = all(n.top1_agreement is not None or n.cosine is None for n in near)
    values = [n.agreement if classes else n.nearness for n in near]
    if any(value is None for value in values):
        raise VerificationError("no output value could be compared")
    weighted = sum(n.samples * (v or 0.0) for n, v in zip(near, values, strict=True))
    return Score("agreement" if classes else "cosine", 1.0, weighted / samples, samples)


def _inputs(model: onnx.ModelProto, first: Shapes, second: Shapes) -> list[Input]:
    kinds = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
    return [
        Input(
            name,
            onnx.helper.tensor_dtype_to_np_dtype(kinds[name]),
            tuple(a if a == b else None for a, b in zip(shape, second[name], strict=True)),
        )
        for name, shape in first.items()
    ]


Metric = Callable[[Path], object]


def own_score(named: str, model: Path) -> float:
    """Score a model.

    Parameters
    ----------
    named
        The function: `module:function` or `file.py:function`. Modules are looked for in the
        current folder, too.
    model
        Path of the model.

    Raises
    ------
    OptionError
        When there is no such function, it raises an error, or what it returns is no finite number.
    """
    function = _loaded(named)
    try:
        value = function(model)
    except Exception as error:  # whatever the user's own code raises
        raise OptionError(
            f"score {shown(named)} raised {type(error).__name__} on {model.name}: "
            f"{first_line(error)}"
        ) from error
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(float(value)):
        raise OptionError(f"score {shown(named)} returned {shown(value)}; return a finite number")
    return float(value)


def _loaded(named: str) -> Metric:
    """Import a function."""
    where, _, name = named.rpartition(":")
    if not where or not name:
        raise OptionError(f"score is {shown(named)}; give module:function or file.py:function")
    try:
        module = _from_file(Path(where)) if where.endswith(".py") else _from_module(where)
        function = getattr(module, name)
    except Exception as error:  # an import runs the user's own code
        raise OptionError(
            f"score {shown(named)} cannot be imported: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not callable(function):
        raise OptionError(f"score {shown(named)} is no function; name one that takes a path")
    loaded: Metric = function
    return loaded


def _from_file(path: Path) -> object:
    name = f"lbyl_onnx_score_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _from_module(name: str) -> object:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)
