"""What a picture of a compression needs beyond its result: layers, outputs, files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from lbyl_onnx.graph import source as graph_source
from lbyl_onnx.graph.costs import node_macs
from lbyl_onnx.graph.layers import is_layer, linear_layer
from lbyl_onnx.graph.source import FileHash, file_hashes
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.io.external_data import TensorReader
from lbyl_onnx.runtime.baseline import Baseline
from lbyl_onnx.runtime.execute import run_batches
from lbyl_onnx.runtime.profiling import kernel_times, layer_times
from lbyl_onnx.types import Array

# Pairs of output values that are kept for the scatter.
POINTS = 1500


@dataclass(frozen=True)
class LayerComparison:
    """One node with weights, before and after.

    Parameters
    ----------
    name, op_type
        Of the node.
    channels_before, channels_after
        Channels of its output.
    macs_before, macs_after
        Multiply-accumulates of one run at the first input shapes.
    ms_before, ms_after
        Milliseconds of one run in ONNX Runtime, with what it joins to the node; None where its
        profile does not tell the node from others.
    """

    name: str
    op_type: str
    channels_before: int
    channels_after: int
    macs_before: int
    macs_after: int
    ms_before: float | None
    ms_after: float | None


@dataclass(frozen=True)
class Details:
    """What is known of the model before and after, layer by layer.

    Parameters
    ----------
    layers
        In the order of the graph.
    others_before, others_after
        Milliseconds of all that is no layer.
    points
        Values of the outputs on the same random inputs, before and after.
    files_before, files_after
        The models' files; those of external data too.
    """

    layers: tuple[LayerComparison, ...]
    others_before: float
    others_after: float
    points: tuple[tuple[float, float], ...]
    files_before: tuple[FileHash, ...]
    files_after: tuple[FileHash, ...]


@dataclass(frozen=True)
class _Side:
    channels: dict[str, int]
    macs: dict[str, int]
    times: dict[str, float]
    others: float
    names: dict[str, tuple[str, str]]


def examine(source: Path, compressed: Path, baseline: Baseline) -> Details:
    """Look at a model before and after, at the inputs that verify.

    Parameters
    ----------
    source, compressed
        The files.
    baseline
        The original's inputs and outputs.
    """
    before, after = _side(source, baseline), _side(compressed, baseline)
    layers = tuple(
        LayerComparison(
            *before.names[key],
            channels,
            after.channels.get(key, 0),
            before.macs[key],
            after.macs.get(key, 0),
            before.times.get(key),
            after.times.get(key),
        )
        for key, channels in before.channels.items()
    )
    points = _points(compressed, baseline)
    hashes = file_hashes(source), file_hashes(compressed)
    return Details(layers, before.others, after.others, points, *hashes)


def _side(path: Path, baseline: Baseline) -> _Side:
    """Describe the layers by the name of their output, which is the same before and after."""
    model, _ = graph_source.load_model(path)
    tensor_info = TensorInfo(model, baseline.first, baseline.first, TensorReader(path))
    nodes = model.graph.node
    indices = [i for i, n in enumerate(nodes) if is_layer(n) and _has_weights(n, tensor_info)]
    kernels = kernel_times(path, baseline.provider, baseline.feeds[0], baseline.optimise)
    times, others = layer_times(model, indices, kernels)
    keys = {index: nodes[index].output[0] for index in indices}
    return _Side(
        {keys[i]: _channels(nodes[i], tensor_info) for i in indices},
        {keys[i]: node_macs(nodes[i], tensor_info) for i in indices},
        {keys[i]: time for i, time in times.items()},
        others,
        {keys[i]: (nodes[i].name or f"{nodes[i].op_type}({keys[i]})", nodes[i].op_type)
         for i in indices},
    )  # fmt: skip


def _has_weights(node: onnx.NodeProto, tensor_info: TensorInfo) -> bool:
    return any(tensor_info.is_constant(name) for name in node.input[:2])


def _channels(node: onnx.NodeProto, tensor_info: TensorInfo) -> int:
    shape = tensor_info.shape(node.output[0]) or ()
    layer = linear_layer(tensor_info, node)
    axis = -1 if layer is None else layer.output_axis
    return (shape[axis] or 0) if len(shape) > 1 else 0


def _points(compressed: Path, baseline: Baseline) -> tuple[tuple[float, float], ...]:
    """Pairs of output values, evenly taken from all of them."""
    names = [name for name, _, _ in baseline.record.signature.outputs]
    batches = run_batches(compressed, baseline.provider, baseline.feeds, baseline.optimise)
    pairs = [
        np.stack([_flat(old), _flat(new[name])])  # -> (2, values)
        for olds, new in zip(baseline.record.outputs, batches, strict=True)
        for name, old in zip(names, olds, strict=True)
        if old.dtype.kind == "f" and old.shape == new[name].shape
    ]
    values = np.concatenate([np.zeros((2, 0)), *pairs], axis=1)
    chosen = np.linspace(0, values.shape[1] - 1, min(POINTS, values.shape[1])).astype(np.intp)
    return tuple((float(old), float(new)) for old, new in values[:, chosen].T)


def _flat(array: Array) -> NDArray[np.float64]:
    return array.astype(np.float64).reshape(-1)
