"""Quantise a model's file: prepare, measure, round, cut ranges, write, and prove."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx

from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.config import Config
from lbyl_onnx.data.source import SampleSource
from lbyl_onnx.errors import OptionError, QuantisationError, VerificationError
from lbyl_onnx.evaluate.metrics import fidelity
from lbyl_onnx.graph import source as graph_source
from lbyl_onnx.graph.costs import node_macs
from lbyl_onnx.graph.layers import is_layer
from lbyl_onnx.graph.model_graph import Graph, node_name
from lbyl_onnx.guard.memory import release
from lbyl_onnx.observe.run import ObservationRun, measure
from lbyl_onnx.option_types import shown
from lbyl_onnx.quantise.activations import activation_ranges
from lbyl_onnx.quantise.weights import RoundedLayer, rounded, weight_views, with_rounded
from lbyl_onnx.runtime.baseline import Baseline
from lbyl_onnx.runtime.execute import run_batches
from lbyl_onnx.runtime.quantisation import (
    QuantisationPlan,
    drop_unread,
    preprocess,
    quantise,
    quantise_weights,
    weight_bits,
)
from lbyl_onnx.runtime.session import Feeds
from lbyl_onnx.types import Array

Outputs = list[tuple[Array, ...]]
"""Of each mini-batch, in the order of the model's outputs."""
# Bytes of a model up to which ONNX Runtime's tools take it.
LARGEST = 1 << 31
# Samples on which ranges are taken.
RANGED = 64
# Layers that are tried in floating point, those first whose rounding loses the largest share, and
# the share that has to be lost; what the outputs lose must fall to so much of it.
SUSPECTS, DOUBTED, WORTH_IT = 3, 1e-3, 0.75
# Loss of the outputs from which layers are tried in floating point.
NOTICED = 5e-3
# Kernels round where the reference does, but for values that lie between two whole numbers: their
# outputs may differ from the reference's by this share of what quantising changes.
ROUNDING = 0.5


@dataclass(frozen=True)
class Quantised:
    """How a model was quantised, and how near it stays.

    Parameters
    ----------
    kind
        `static`, with ranges of activations from samples, or `dynamic`, with ranges of each run.
    bits
        Of the weights: 7 in a byte on processors that would overflow with 8.
    layers
        How many layers take whole numbers.
    left
        Names of layers that stay in floating point, each with the reason.
    deviation
        Norm of the difference between the outputs of the kernels and those of the reference that
        rounds in floating point, over that of the reference.
    cosine
        The least cosine of an output with that of the model before; None where no output is of
        floats.
    """

    kind: str
    bits: int
    layers: int
    left: tuple[tuple[str, str], ...]
    deviation: float
    cosine: float | None


@dataclass(frozen=True, eq=False)
class QuantisationJob:
    """What is quantised, by what.

    Parameters
    ----------
    source, output
        The model's file, and where to write.
    folder
        For files that are gone afterwards.
    config, baseline
        The options, and the original as it runs.
    samples
        Of the statistics and the ranges.
    """

    source: Path
    output: Path
    folder: Path
    config: Config
    baseline: Baseline
    samples: SampleSource

    @property
    def symmetric(self) -> bool:
        """Whether TensorRT is to read it, which has zero in the middle of each range."""
        return self.config.hardware == "tensorrt-int8"

    @property
    def bits(self) -> int:
        """Bits of the weights."""
        return weight_bits(self.config.hardware, self.baseline.provider)

    @property
    def output_names(self) -> list[str]:
        """Names of the model's outputs."""
        return [name for name, _, _ in self.baseline.record.signature.outputs]

    def batches(self) -> Iterator[Feeds]:
        """Yield the samples on which ranges are taken and outputs compared."""
        some = max(1, RANGED // self.samples.size)
        return itertools.islice(self.samples.batches(self.folder), some)


def to_int8(job: QuantisationJob) -> Quantised:
    """Write a model in whole numbers of eight bits.

    Parameters
    ----------
    job
        What, by what.

    Raises
    ------
    QuantisationError
        Where ONNX Runtime's tools cannot take the model.
    VerificationError
        When the kernels compute something else than the reference that rounds in floating point.
    OptionError
        Where a glob of `keep_float` matches no layer.
    """
    size = graph_source.stored_bytes(job.source)
    if size > LARGEST:
        raise QuantisationError(
            f"{job.source.name} has {size >> 20} MiB; ONNX Runtime's quantisation takes models of "
            "up to 2 GiB; leave --quantize out"
        )
    prepared = job.folder / "prepared.onnx"
    preprocess(job.source, prepared)
    release()
    analyzed = AnalyzedModel.open(graph_source.check_source(prepared), job.baseline.shape_sets)
    named = _named(analyzed, job.config.keep_float)
    if _by_products(analyzed):
        return _dynamic(job, analyzed, prepared, named)
    return _static(job, analyzed, prepared, named)


def _named(analyzed: AnalyzedModel, globs: Sequence[str]) -> list[str]:
    """Names of the layers that the user wants in floating point."""
    names = [node_name(node) for node in analyzed.graph.nodes if is_layer(node)]
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            raise OptionError(f"keep_float has {shown(glob)}, which matches no layer")
    return [name for name in names if any(fnmatchcase(name, glob) for glob in globs)]


def _by_products(analyzed: AnalyzedModel) -> bool:
    """Whether matrix products of sequences do most of the work: ranges of each run serve them."""
    by_kind = {True: 0, False: 0}
    for node in analyzed.model.graph.node:
        shape = analyzed.tensor_info.shape(node.output[0]) if node.output else None
        sequence = node.op_type in ("MatMul", "Attention") and len(shape or ()) > 2
        by_kind[sequence] += node_macs(node, analyzed.tensor_info)
    return by_kind[True] > by_kind[False]


def _rounded(
    job: QuantisationJob, analyzed: AnalyzedModel, pinned: bool
) -> dict[int, RoundedLayer]:
    """Round the weight of each layer by its input's moments."""
    graph, tensor_info = analyzed.graph, analyzed.tensor_info
    views = list(weight_views(graph, tensor_info, job.samples.count))
    run = ObservationRun(
        job.folder, job.baseline.provider, job.samples, False, progress=job.baseline.progress
    )
    asked = {key: spec for view in views for key, spec in view.asked.items()}
    measured = measure(analyzed.draft, tensor_info, analyzed.read, asked, {}, run) if asked else {}
    return {view.index: rounded(view, tensor_info, measured, job.bits, pinned) for view in views}


def _static(
    job: QuantisationJob, analyzed: AnalyzedModel, prepared: Path, named: Sequence[str]
) -> Quantised:
    """Quantise weights and activations, with ranges from samples."""
    layers, ranges = _rounded(job, analyzed, pinned=False), _ranges(job, analyzed, prepared)
    file = job.folder / "rounded.onnx"
    tail, behind = behind_layers(analyzed.graph)
    left = dict.fromkeys(named, "named by --keep-float")
    for name in _without_range(analyzed, layers, ranges):
        left.setdefault(name, "its range is not finite on the samples")

    whole = tuple(name for name in ranges if name in behind)

    def write(more: Sequence[str]) -> None:
        some = _without(analyzed, layers, {*left, *more})
        _save_rounded(prepared, some, file)
        steps = {layer.weight: layer.steps for layer in some.values()}
        plan = QuantisationPlan(ranges, steps, [*left, *tail, *more], whole, job.symmetric)
        quantise(file, job.output, plan)

    write([])
    before = _outputs(job, job.source)
    _leave_suspects(job, before, _suspects(analyzed, layers), left, write)
    return _proven(job, before, "static", len(_without(analyzed, layers, left)), left)


def _leave_suspects(
    job: QuantisationJob,
    before: Outputs,
    suspects: Sequence[str],
    left: dict[str, str],
    write: Callable[[Sequence[str]], None],
) -> None:
    """Add to `left` the layers without which the outputs lose much less, and write without them.

    Parameters
    ----------
    job, before
        What is quantised, and its outputs.
    suspects
        Names of layers that are tried, one after the other.
    left
        Layers that stay in floating point.
    write
        Writes the model with those that are left, and more of them.
    """
    asked = [name for name in suspects if name not in left]
    lost = _loss(job, before) if asked else 0.0
    stale = False
    for name in asked if lost > NOTICED else []:
        write([name])
        without = _loss(job, before)
        stale = without >= WORTH_IT * lost
        if not stale:
            left[name] = f"the outputs lose {without:.3g} without it, {lost:.3g} with it"
            lost = without
    if stale:
        write([])


def _without(
    analyzed: AnalyzedModel, layers: Mapping[int, RoundedLayer], names: Collection[str]
) -> dict[int, RoundedLayer]:
    """Layers that do not stay in floating point: those that do keep the weights that they had."""
    nodes = analyzed.graph.nodes
    return {i: layer for i, layer in layers.items() if node_name(nodes[i]) not in names}


def _save_rounded(prepared: Path, layers: Mapping[int, RoundedLayer], file: Path) -> None:
    """Write a model with rounded weights, without what they stand in for."""
    model = with_rounded(onnx.load(prepared), layers)
    drop_unread(model)
    onnx.save(model, file)


def behind_layers(graph: Graph) -> tuple[list[str], set[str]]:
    """Return the nodes behind which there is no layer, and what these and the last layers give.

    It stays in floating point: the largest of some outputs are what a classifier tells, and cut
    at the ends of a range they would all be one.
    """
    reached = {id(node) for node in graph.nodes if is_layer(node)}
    for node in reversed(graph.nodes):
        readers = [reader for tensor in node.outputs for reader in tensor.outputs]
        if any(id(reader) in reached for reader in readers):
            reached.add(id(node))
    tail = [node for node in graph.nodes if id(node) not in reached]
    last = [
        node
        for node in graph.nodes
        if is_layer(node)
        and all(id(reader) not in reached for tensor in node.outputs for reader in tensor.outputs)
    ]
    names = {tensor.name for node in (*tail, *last) for tensor in node.outputs}
    return [node_name(node) for node in tail], names


def _ranges(
    job: QuantisationJob, analyzed: AnalyzedModel, prepared: Path
) -> dict[str, tuple[float, float]]:
    return activation_ranges(
        prepared,
        analyzed.tensor_info,
        job.baseline.provider,
        job.batches(),
        job.folder / "ranges.onnx",
        job.symmetric,
    )


def _without_range(
    analyzed: AnalyzedModel,
    layers: Mapping[int, RoundedLayer],
    ranges: Mapping[str, tuple[float, float]],
) -> Iterator[str]:
    """Names of layers whose input or output has no range."""
    for index in layers:
        node = analyzed.graph.nodes[index]
        if any(tensor.name not in ranges for tensor in (node.inputs[0], node.outputs[0])):
            yield node_name(node)


def _suspects(analyzed: AnalyzedModel, layers: Mapping[int, RoundedLayer]) -> list[str]:
    """Names of the layers whose rounding loses most, the worst first."""
    doubted = [(x.error, i) for i, x in layers.items() if x.error is not None and x.error > DOUBTED]
    worst = sorted(doubted, reverse=True)[:SUSPECTS]
    return [node_name(analyzed.graph.nodes[index]) for _, index in worst]


def _dynamic(
    job: QuantisationJob, analyzed: AnalyzedModel, prepared: Path, named: Sequence[str]
) -> Quantised:
    """Quantise the weights of matrix products; ranges of activations are those of each run."""
    layers = {
        index: layer
        for index, layer in _rounded(job, analyzed, pinned=True).items()
        if analyzed.graph.nodes[index].op == "MatMul"
    }
    file = job.folder / "rounded.onnx"
    left = dict.fromkeys(named, "named by --keep-float")
    layers = _without(analyzed, layers, left)
    _save_rounded(prepared, layers, file)
    quantise_weights(file, job.output, list(left), job.bits)
    return _proven(job, _outputs(job, job.source), "dynamic", len(layers), left)


def _outputs(job: QuantisationJob, path: Path, optimise: bool = True) -> Outputs:
    """Run a model on the samples, with ONNX Runtime's kernels or as it is written."""
    release()
    runs = run_batches(path, job.baseline.provider, job.batches(), optimise)
    return [tuple(outputs[name] for name in job.output_names) for outputs in runs]


def _loss(job: QuantisationJob, before: Outputs) -> float:
    """How far what was written is from the model before: 1 - cosine, or what is not equal."""
    near = fidelity(job.output_names, before, _outputs(job, job.output), "samples").nearness
    return 1.0 if near is None else 1.0 - near


def _proven(
    job: QuantisationJob, before: Outputs, kind: str, layers: int, left: Mapping[str, str]
) -> Quantised:
    """Check the kernels against the reference that rounds in floating point.

    The kernels of one machine need not be those of another: where `hardware` is not this one, they
    are not run.
    """
    names, reference = job.output_names, _outputs(job, job.output, optimise=False)
    near = fidelity(names, before, reference, "samples")
    apart = 0.0
    if job.config.hardware == "host":
        kernels = _outputs(job, job.output)
        apart = fidelity(names, kernels, reference, "samples").relative_error or 0.0
        changed = near.relative_error or 0.0
        if not np.isfinite(apart) or apart > max(1e-3, ROUNDING * changed):
            raise VerificationError(
                f"the kernels of this machine differ from the quantised model by {apart:.2g} of "
                f"its outputs, quantising changes {changed:.2g}; give --hardware avx2, or "
                "--keep-float for the last layers"
            )
    return Quantised(kind, job.bits, layers, tuple(left.items()), apart, near.cosine)
