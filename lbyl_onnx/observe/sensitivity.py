"""How much a model's outputs change when a layer's outputs are wrong by a given share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.io.external_data import TensorReader
from lbyl_onnx.io.writer import ModelDraft, write_draft
from lbyl_onnx.observe.graph_builder import PREFIX
from lbyl_onnx.observe.instrument import instrument
from lbyl_onnx.observe.run import ObservationRun, feeds_of, free_batch
from lbyl_onnx.observe.spec import MomentSpec
from lbyl_onnx.runtime import execute
from lbyl_onnx.types import Array, Floats

# Power of the error that is put into a layer's outputs, as a share of their variance.
POWER = 0.1
# Samples that tell it, at most.
SAMPLES = 16
# From this opset on operators broadcast by themselves.
BROADCAST_OPSET = 7
_OTHER = f"{PREFIX}another_sample"
# A layer's output that is lost beyond this share counts as lost by as much.
MOST_LOST = 0.999


def damage_of(shares: Floats | float) -> Floats:
    """Return the damage that a lost share of a layer's output does at sensitivity 1.

    Shares that are left multiply along the layers, so damages add as their logarithms.
    """
    return np.asarray(-np.log1p(-np.clip(shares, 0.0, MOST_LOST)), np.float64)


def layer_sensitivities(
    analyzed: AnalyzedModel,
    nodes: Iterable[int],
    run: ObservationRun,
    prior: ObservationRun | None,
) -> dict[int, float]:
    """Measure the sensitivities at the outputs of some nodes; those not known are left out.

    Parameters
    ----------
    analyzed, nodes
        The model, and indices of its nodes.
    run, prior
        Where and on what it is measured; `prior` on synthetic samples, where no two of the user's
        own have one shape.
    """
    tensor_info = analyzed.tensor_info
    points: dict[int, str] = {}
    batches = {(tensor_info.shape(name) or (None,))[0] for name in run.source.inputs}
    for node in sorted(set(nodes)):
        tensor = analyzed.graph.nodes[node].outputs[0].name
        shape = tensor_info.shape(tensor)
        floats = tensor_info.dtype(tensor) == TensorProto.FLOAT
        if floats and shape and shape[0] in batches:
            points[node] = tensor
    by_node = sensitivities(analyzed.model, tensor_info, analyzed.read, points, run)
    alone = run.source.supplied is not None and run.source.count > 1
    if not by_node and alone and prior is not None:
        by_node = sensitivities(analyzed.model, tensor_info, analyzed.read, points, prior)
    return {node: value for node, value in by_node.items() if value > 0 and np.isfinite(value)}


def sensitivities(
    model: onnx.ModelProto,
    tensor_info: TensorInfo,
    read: TensorReader,
    points: Mapping[int, str],
    run: ObservationRun,
) -> dict[int, float]:
    """Measure how errors in some tensors reach the model's outputs.

    Parameters
    ----------
    model, tensor_info, read
        The model, its facts, and what reads its tensors.
    points
        Names of these tensors, by a key; they are float32, their first axis is the batch.
    run
        Where and on what the model is measured.

    Returns
    -------
    dict
        By the same keys: squared error of the outputs, as a share of their variance over the
        samples, for each share of the tensor's variance that is wrong. Empty where it cannot be
        measured.

    Notes
    -----
    The error is the difference from another sample, so it has the channels' own variances and
    looks like what the tensor holds. All points are run through one session.
    """
    outputs = [o.name for o in model.graph.output if tensor_info.dtype(o.name) == TensorProto.FLOAT]
    views = {str(i): _view(tensor_info, name) for i, name in enumerate(outputs)}
    specs = {key: view for key, view in views.items() if view is not None}
    if not specs or not points or run.source.size < 2 or tensor_info.opset < BROADCAST_OPSET:
        return {}
    draft = instrument(
        ModelDraft.of(model),
        tensor_info,
        specs,
        run.with_centred({}),
        run.batch_statistics,
        run.noises,
        run.provider,
    )
    skeleton = draft.skeleton
    named = [view.tensor for view in specs.values()]
    del skeleton.graph.output[:]
    skeleton.graph.output.extend(onnx.ValueInfoProto(name=name) for name in named)
    batch = next(iter(feeds_of(run, {i.name for i in skeleton.graph.input})))
    # Of the user's own samples there may be fewer than a mini-batch holds.
    own = min((len(value) for value in batch.values() if value.ndim), default=0)
    there = run.source.size if run.source.supplied is None else own
    size = there if not run.batch_statistics else min(there, SAMPLES)
    if size < 2:
        return {}
    constants = _perturbed(skeleton.graph, points, size)
    for name in run.source.inputs:
        free_batch(skeleton, name)
    path = run.folder / "sensitivity.onnx"
    write_draft(ModelDraft(skeleton, (*draft.initializers, *constants)), path, read, "auto")
    feeds = {name: value[:size] for name, value in batch.items()}
    results = execute.run_batches(path, run.provider, _switched(feeds, points))
    clean = next(results)
    by_node: dict[int, float] = {}
    for number, (key, wrong) in enumerate(zip(points, results, strict=True), start=1):
        run.progress("measuring sensitivities", number, len(points))
        by_node[key] = _error(clean, wrong, named) / POWER
    for file in run.folder.glob("sensitivity.onnx*"):
        file.unlink()
    return by_node


def _view(tensor_info: TensorInfo, tensor: str) -> MomentSpec | None:
    """Any view of an output, so that the instrumented model holds what it needs."""
    shape = tensor_info.shape(tensor)
    if shape is None or len(shape) < 2 or shape[1] is None:
        return None
    return MomentSpec(tensor, 1, len(shape), np.arange(shape[1])[:, None], cross=False)


def _switched(feeds: Mapping[str, Array], points: Iterable[int]) -> Iterator[Mapping[str, Array]]:
    """The same samples without an error, then with one at each point in turn."""
    off = {_feed(key): np.zeros((), np.float32) for key in points}
    yield {**feeds, **off}
    for key in off:
        # The difference of two samples has twice the variance of one.
        yield {**feeds, **off, key: np.asarray(np.sqrt(POWER / 2), np.float32)}


def _feed(key: int) -> str:
    return f"{PREFIX}error/{key}"


def _perturbed(
    graph: onnx.GraphProto, points: Mapping[int, str], size: int
) -> list[onnx.TensorProto]:
    """Add an error behind each point, and a scalar input that scales it; return new constants."""
    by_tensor = {tensor: key for key, tensor in points.items()}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        graph.node.append(node)
        for position, name in enumerate(node.output):
            if name in by_tensor:
                key = by_tensor[name]
                graph.node[-1].output[position] = f"{PREFIX}right/{key}"
                graph.node.extend(_wrong(key, name))
                info = helper.make_tensor_value_info(_feed(key), TensorProto.FLOAT, [])
                graph.input.append(info)
    return [helper.make_tensor(_OTHER, TensorProto.INT64, [size], np.roll(np.arange(size), 1))]


def _wrong(key: int, tensor: str) -> Iterator[onnx.NodeProto]:
    """Nodes that add to each sample its difference from another, scaled."""
    right, start = f"{PREFIX}right/{key}", f"{PREFIX}wrong/{key}"
    yield helper.make_node("Gather", [right, _OTHER], [f"{start}/other"], axis=0)
    yield helper.make_node("Sub", [f"{start}/other", right], [f"{start}/difference"])
    yield helper.make_node("Mul", [f"{start}/difference", _feed(key)], [f"{start}/error"])
    yield helper.make_node("Add", [right, f"{start}/error"], [tensor])


def _error(clean: Mapping[str, Array], wrong: Mapping[str, Array], names: Iterable[str]) -> float:
    """Squared error of all outputs, each as a share of its own variance over the samples."""
    total = 0.0
    for name in names:
        old, new = clean[name].astype(np.float64), wrong[name].astype(np.float64)
        variance = float(np.sum((old - old.mean(axis=0)) ** 2))
        error = float(np.sum((new - old) ** 2))
        if variance > 0 and np.isfinite(error):
            total += error / variance
    return total
