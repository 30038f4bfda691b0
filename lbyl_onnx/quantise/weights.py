"""Weights of a model in whole numbers, and the biases that make up for what rounding shifts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from lbyl_onnx.channels.groups import GroupBinding
from lbyl_onnx.channels.labels import AxisBinding, Role
from lbyl_onnx.graph.layers import linear_layer
from lbyl_onnx.graph.layers.linear_layer import LinearLayer
from lbyl_onnx.graph.model_graph import Graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.methods.integers.rounding import (
    Integers,
    most_of,
    nearest,
    round_in_metric,
    steps,
)
from lbyl_onnx.observe.accumulate import SampleMoments
from lbyl_onnx.observe.planning import input_spec
from lbyl_onnx.observe.spec import MomentSpec
from lbyl_onnx.runtime.quantisation import Steps
from lbyl_onnx.types import Floats

# Layers whose weights the library takes with a step for each output, as they are rounded here.
ROUNDED = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, eq=False)
class WeightView:
    """A layer, and what of its input is measured.

    Parameters
    ----------
    index
        Of its node.
    layer
        The layer.
    moments
        Of what each input of an output multiplies; None where they cannot be measured.
    means
        Of each channel of the input; None likewise.
    """

    index: int
    layer: LinearLayer
    moments: MomentSpec | None
    means: MomentSpec | None

    @property
    def asked(self) -> dict[str, MomentSpec]:
        """What is measured, by a key."""
        views = {f"{self.index}/moments": self.moments, f"{self.index}/means": self.means}
        return {key: view for key, view in views.items() if view is not None}


def weight_views(graph: Graph, tensor_info: TensorInfo, samples: int) -> Iterator[WeightView]:
    """Yield each layer whose weight is rounded, once for each weight.

    Parameters
    ----------
    graph, tensor_info
        The model.
    samples
        How many there are to measure on.
    """
    visited: set[str] = set()
    for index, node in enumerate(graph.nodes):
        layer = linear_layer(tensor_info, node) if node.op in ROUNDED else None
        if layer is None or layer.operand != 1 or not layer.plain or node.domain:
            continue
        name = layer.weight_name
        stored = tensor_info.is_stored(name) and tensor_info.dtype(name) == TensorProto.FLOAT
        if name in visited or not stored:
            continue
        visited.add(name)
        count = layer.shape[layer.in_axis]
        binding = AxisBinding(index, 1, layer.in_axis, np.zeros(count, np.int64), Role.CONSUMER)
        place = GroupBinding(binding, np.arange(count)[:, None])  # (in,) -> (in, 1)
        view = input_spec(graph, tensor_info, place, samples)
        means = None
        if view is not None:
            channels = np.arange(count * layer.groups)[:, None]
            means = replace(view, positions=channels, window=None, strides=(), cross=False)
        yield WeightView(index, layer, view if count > 1 else None, means)


@dataclass(frozen=True, eq=False)
class RoundedLayer:
    """A layer in whole numbers.

    Parameters
    ----------
    node
        Index of the node.
    weight
        Name of the weight.
    values
        Of the weight, each a whole number of steps.
    steps
        Of each output, and the axis of the weight along which they lie.
    shift
        What rounding takes from the mean of each output, (outputs,).
    error
        Share of the outputs' second moment that rounding loses; None where nothing tells it.
    """

    node: int
    weight: str
    values: Floats
    steps: Steps
    shift: Floats
    error: float | None


def rounded(
    view: WeightView,
    tensor_info: TensorInfo,
    measured: Mapping[str, SampleMoments],
    bits: int,
    pinned: bool,
) -> RoundedLayer:
    """Round a layer's weight to so many bits, by what was measured of its input.

    Where `pinned`, each output's largest weight is the largest whole number, so that whoever works
    out the steps anew finds the same.
    """
    layer, most = view.layer, most_of(bits)
    stored = tensor_info.value(layer.weight_name)
    weight = layer.logical(stored).astype(np.float64)  # (in / groups, outputs, window)
    step = steps(np.moveaxis(weight, 1, 0).reshape(weight.shape[1], -1), most)
    if view.moments is None:
        each = np.repeat(step, weight.shape[2])
        whole = _out_of_rows(nearest(_rows(weight, 1), each, most), weight, 1)
        error = None
    else:
        own, taps = measured[f"{view.index}/moments"], view.moments.taps
        moments = own.second + np.outer(own.mean, own.mean)
        each = step if taps > 1 else np.repeat(step, weight.shape[2])
        rows = _rows(weight, taps)
        numbers = round_in_metric(rows, each, most, moments)
        if pinned:
            largest = np.argmax(np.abs(rows), axis=1)[:, None]
            ends = np.sign(np.take_along_axis(rows, largest, axis=1)) * most
            np.put_along_axis(numbers, largest, ends.astype(np.int8), axis=1)
        error = _share_lost(rows, rows - numbers * each[:, None], moments)
        whole = _out_of_rows(numbers, weight, taps)
    values = whole * step[:, None]  # (in, outputs, window)
    shift = np.zeros(weight.shape[1])
    if view.means is not None:
        shift = _lost_mean(layer, weight - values, measured[f"{view.index}/means"].mean)
    at = Steps(layer.out_axis, step)
    made = layer.stored(values).astype(np.float64)
    return RoundedLayer(view.index, layer.weight_name, made, at, shift, error)


def _rows(weight: Floats, taps: int) -> Floats:
    """A weight (in, outputs, window) as rows of what is rounded together.

    They are (outputs, in * window) where moments tell the taps of the window apart; elsewhere each
    tap of each output is a row, (outputs * window, in).
    """
    if taps > 1:
        return np.moveaxis(weight, 1, 0).reshape(weight.shape[1], -1)
    return np.transpose(weight, (1, 2, 0)).reshape(-1, len(weight))


def _out_of_rows(rows: Integers, like: Floats, taps: int) -> Floats:
    """Undo `_rows`, in the shape of another weight."""
    inputs, outputs, window = like.shape
    if taps > 1:
        return np.moveaxis(rows.reshape(outputs, inputs, window), 0, 1).astype(np.float64)
    return np.transpose(rows.reshape(outputs, window, inputs), (2, 0, 1)).astype(np.float64)


def _share_lost(rows: Floats, lost: Floats, moments: Floats) -> float | None:
    """Share of the second moment of the rows' outputs that is in what they lose."""
    whole, part = (float(np.sum((x @ moments) * x)) for x in (rows, lost))
    return part / whole if np.isfinite(whole) and whole > 0.0 else None


def _lost_mean(layer: LinearLayer, lost: Floats, mean: Floats) -> Floats:
    """What a weight (in / groups, outputs, window) makes of means (in,), (outputs,)."""
    by_group = mean.reshape(layer.groups, -1)  # (in,) -> (groups, in / groups)
    taps = lost.sum(axis=2).reshape(len(lost), layer.groups, -1)  # -> (in / g, g, out / g)
    sums: Floats = np.einsum("gi,igo->go", by_group, taps).reshape(-1)  # (g, out / g) -> (out,)
    return sums * layer.alpha


def with_rounded(model: ModelProto, layers: Mapping[int, RoundedLayer]) -> ModelProto:
    """Return a model with rounded weights, and biases that bring the means back.

    Parameters
    ----------
    model
        It is not changed.
    layers
        Rounded layers by the index of their node.
    """
    changed = ModelProto()
    changed.CopyFrom(model)
    stored = {tensor.name: tensor for tensor in changed.graph.initializer}
    for index, layer in layers.items():
        old = numpy_helper.to_array(stored[layer.weight])
        values = layer.values.astype(old.dtype)
        stored[layer.weight].CopyFrom(numpy_helper.from_array(values, layer.weight))
        _shift_bias(changed, changed.graph.node[index], layer.shift, stored)
    return changed


def _shift_bias(
    model: ModelProto, node: NodeProto, shift: Floats, stored: dict[str, TensorProto]
) -> None:
    """Give a layer a bias that is larger by a shift; a MatMul takes none."""
    if node.op_type == "MatMul" or not np.any(shift):
        return
    name = node.input[2] if len(node.input) > 2 else ""
    if not name:
        while len(node.input) < 3:
            node.input.append("")
        before = np.zeros(len(shift))
    elif name in stored:
        before = numpy_helper.to_array(stored[name]).astype(np.float64)
        if before.size != len(shift):
            return
        before = before.reshape(-1)  # (1, N) -> (N,)
    else:
        return
    made = f"{node.output[0]}_bias_of_whole_numbers"
    value = (before + shift).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(value, made))
    node.input[2] = made
