"""A model that measures itself: nodes that emit the moments of its tensors, and nothing else.

What leaves ONNX Runtime are a few numbers per channel, or per pair of channels, whatever the
resolution and the number of samples. Of many channels the rows leave: BLAS knows that a matrix
times its own transpose is symmetric, and takes half as long for it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from lbyl_onnx.graph.model_graph import UNLISTED_FROM, captured
from lbyl_onnx.graph.tensor_info import TensorInfo, attribute
from lbyl_onnx.io.writer import ModelDraft, copy_field
from lbyl_onnx.observe.batch_statistics import (
    bring,
    can_take_batch,
    each_alone,
    normalise,
    normalised,
    raw_name,
    unsettled,
)
from lbyl_onnx.observe.graph_builder import PREFIX, Writer, outputs_of
from lbyl_onnx.observe.spec import MomentSpec, Noise, Target

# From this version on BatchNormalization may take its batch's statistics, with three outputs.
_TRAINS = 14


def instrument(
    draft: ModelDraft,
    tensor_info: TensorInfo,
    views: Mapping[str, MomentSpec],
    targets: Mapping[str, Target],
    batch_statistics: bool,
    noises: Mapping[str, Noise],
    provider: str,
) -> ModelDraft:
    """Build the model that emits the moments of some tensors of another.

    Parameters
    ----------
    draft
        The model; it is not changed.
    tensor_info
        Its facts.
    views
        What to measure, by a key; `outputs_of` names and describes what is emitted.
    targets
        Tensors that are brought to a given mean and deviation on every batch. Views of their
        columns alone tell how they were before, views of pairs what their readers get.
    batch_statistics
        Whether each BatchNormalization takes mean and variance from the batch, in place of the
        stored ones: its output then has the mean and the variance that training left it with,
        whatever the input.
    noises
        By the output of the layer that each is for.
    provider
        What the instrumented model will run on.

    Returns
    -------
    Draft
        A model with these outputs alone, and the nodes that they need.
    """
    model = draft.skeleton
    # Only the CPU provider has the operator that takes its batch's statistics.
    writer = Writer(
        tensor_info.opset, tensor_info.opset >= _TRAINS and provider == "CPUExecutionProvider"
    )
    targets = unsettled(model, tensor_info, targets) if batch_statistics else targets
    by_tensor: dict[str, list[str]] = {}
    raw_names = normalised(model, tensor_info, targets, batch_statistics) if writer.trains else {}
    for key, view in views.items():
        if view.tensor in raw_names and each_alone(view):
            writer.awaited.setdefault(raw_names[view.tensor], []).append(
                (outputs_of(key, view), view.columns)
            )
        else:
            by_tensor.setdefault(view.tensor, []).append(key)
    for info in model.graph.input:
        _measure(writer, info.name, info.name, views, by_tensor, tensor_info)
    for node in model.graph.node:
        noise = noises.get(node.output[0]) if node.output else None
        changed = node if noise is None else _noisy(writer, node, noise)
        _rewritten(writer, changed, tensor_info, targets, batch_statistics)
        for name in node.output:
            if name in targets:
                bring(writer, name, targets[name], tensor_info.dtype(name))
            raw = raw_name(name) if name in targets else name
            _measure(writer, name, raw, views, by_tensor, tensor_info)
    names = [name for key, view in views.items() for name in outputs_of(key, view).values()]
    return _assembled(draft, writer, names, [*noises.values()])


def _rewritten(
    writer: Writer,
    node: NodeProto,
    tensor_info: TensorInfo,
    targets: Collection[str],
    batch_statistics: bool,
) -> None:
    """Add a node as it was, but for what the instrumented model changes in it."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.output[:] = [raw_name(name) if name in targets else name for name in node.output]
    if not batch_statistics or not can_take_batch(node, tensor_info):
        writer.nodes.append(copy)
        return
    rank = len(tensor_info.shape(node.input[0]) or ())
    epsilon = attribute(node, "epsilon")
    eps = 1e-5 if epsilon is None else epsilon.f
    normalise(writer, node.input[0], (node.input[1], node.input[2]), eps, rank, copy.output[0])


def _measure(
    writer: Writer,
    name: str,
    raw: str,
    views: Mapping[str, MomentSpec],
    by_tensor: Mapping[str, Sequence[str]],
    tensor_info: TensorInfo,
) -> None:
    for key in by_tensor.get(name, ()):
        view = views[key]
        x, outputs = name if view.cross else raw, outputs_of(key, view)
        if tensor_info.dtype(name) != TensorProto.FLOAT:
            x = writer.op("Cast", [x], {"to": TensorProto.FLOAT})
        shape = tensor_info.shape(name)
        channels = None if shape is None else shape[view.axis]
        if view.among is not None and shape is not None:
            channels = math.prod(shape[axis] or 0 for axis in (*view.among, view.axis))
            x, view = _flattened(writer, x, view)
        columns = _columns(writer, x, view, channels)
        mean = writer.mean(columns, [0 if view.rows_first else 1], True)
        writer.op("Identity", [mean], output=outputs["mean"])
        centred = writer.op("Sub", [columns, mean], output=outputs.get("centred"))
        if not view.gives_rows:
            writer.op("Shape", [columns], output=outputs["shape"])
            _multiplied(writer, centred, view, outputs)


def _multiplied(writer: Writer, centred: str, view: MomentSpec, outputs: Mapping[str, str]) -> None:
    """Emit the variances of (columns, rows), or their products strip by strip."""
    if not view.cross:
        square = writer.op("Mul", [centred, centred])
        writer.op("Identity", [writer.mean(square, [1], False)], output=outputs["0"])
        return
    for number, strip in enumerate(view.strips):
        some, rest = (
            _gathered(writer, centred, np.arange(view.columns)[part], view.columns, 0)
            for part in (strip, slice(strip.start, None))
        )
        turned = writer.op("Transpose", [rest], {"perm": [1, 0]})
        writer.op("MatMul", [some, turned], output=outputs[str(number)])


def _flattened(writer: Writer, x: str, view: MomentSpec) -> tuple[str, MomentSpec]:
    """Bring all axes on which columns lie together: a matrix of rows, and the view of it."""
    own = (*(view.among or ()), view.axis)
    others = [a for a in range(view.rank) if a not in own]
    x = writer.op("Transpose", [x], {"perm": [*others, *own]})
    shape = writer.ints(*(0,) * len(others), -1)  # (.., heads, d) -> (.., heads * d)
    x = writer.op("Reshape", [x, shape])
    rank = len(others) + 1
    return x, replace(view, axis=rank - 1, rank=rank, among=None)


def _columns(writer: Writer, x: str, view: MomentSpec, channels: int | None) -> str:
    """The matrix of a view of a tensor with so many channels on its axis.

    (columns, rows), or (rows, columns) where they leave as they lie.
    """
    index = view.positions.reshape(-1)  # (n, positions) -> (n * positions,)
    spatial = view.is_spatial
    sparse = max(view.strides, default=1) > 1
    if spatial and view.window is None and sparse:
        ones = [1] * len(view.strides)
        x = writer.op("MaxPool", [x], {"kernel_shape": ones, "strides": [*view.strides]})
    x = _gathered(writer, x, index, channels, 1 if spatial else view.rank - 1)
    if not spatial:
        x = writer.op("Reshape", [x, writer.ints(-1, index.size)])  # (.., C) -> (rows, C)
        if sparse:
            x = writer.op("Reshape", [x, writer.ints(1, 1, -1, index.size)])  # -> (1, 1, rows, C)
            strides = [*view.strides, 1]
            x = writer.op("MaxPool", [x], {"kernel_shape": [1, 1], "strides": strides})
            x = writer.op("Reshape", [x, writer.ints(-1, index.size)])  # -> (rows, C)
    if view.window is not None:
        x = _windows(writer, x, view)
    if view.rows_first:
        return x
    others = range(2, view.rank) if spatial else ()
    x = writer.op("Transpose", [x], {"perm": [1, 0, *others]})  # -> (channels, ..)
    # (channels, ..) -> (columns, rows); positions that are not told apart are more rows
    return writer.op("Reshape", [x, writer.ints(view.columns, -1)])


def _gathered(
    writer: Writer, x: str, index: NDArray[np.intp], channels: int | None, axis: int
) -> str:
    """Take some channels; all of them in their order are there already."""
    if channels == index.size and np.array_equal(index, np.arange(index.size)):
        return x
    return writer.op("Gather", [x, writer.ints(*index.tolist())], {"axis": axis})


def _windows(writer: Writer, x: str, view: MomentSpec) -> str:
    """Unfold what a Conv sees: a depthwise Conv whose filters each pick one tap."""
    window = view.window
    assert window is not None
    n = len(view.positions)
    taps = int(np.prod(window.kernel))
    strides = view.strides or (1,) * len(window.kernel)
    once = (1,) * len(window.kernel) if window.auto else strides
    # (taps, taps) -> (n * taps, 1, *kernel): output i * taps + t is tap t of channel i
    picks = np.tile(np.eye(taps, dtype=np.float32), (n, 1)).reshape(-1, 1, *window.kernel)
    attributes: dict[str, Any] = {
        "kernel_shape": list(window.kernel),
        "strides": [a * b for a, b in zip(window.strides, once, strict=True)],
        "dilations": list(window.dilations),
        "group": n,
    }
    pads = {"auto_pad": window.auto} if window.auto else {"pads": list(window.pads)}
    windows = writer.op("Conv", [x, writer.constant(picks)], {**attributes, **pads})
    if strides == once:
        return windows
    # The pads follow from the layer's own strides: places are left out behind it.
    ones = [1] * len(strides)
    return writer.op("MaxPool", [windows], {"kernel_shape": ones, "strides": [*strides]})


def _noisy(writer: Writer, node: NodeProto, noise: Noise) -> NodeProto:
    """A layer that reads its input with noise of the same power along its weight's own rows."""
    x, weight = (node.input[operand] for operand in noise.operands)
    turned = writer.op("Transpose", [weight], {"perm": [1, 0]})
    by_output, by_input = (weight, turned) if noise.transposed else (turned, weight)
    shaped = writer.op("MatMul", [noise.feed, by_output])  # (samples, inputs)
    centred = writer.op("Sub", [x, writer.mean(x, [0], True)])
    added = _scaled(writer, shaped, _ratio(writer, _power(writer, centred), shaped))
    read = writer.op("Add", [x, added])
    if noise.power is not None:
        z = writer.op("MatMul", [writer.op("Add", [centred, added]), by_input])
        power = writer.constant(np.asarray(noise.power, np.float64))
        read = _scaled(writer, read, _ratio(writer, power, z))
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[noise.operands[0]] = read
    return copy


def _power(writer: Writer, x: str) -> str:
    """Mean square of a matrix, in float64: it may be beyond float32."""
    wide = writer.op("Cast", [x], {"to": TensorProto.DOUBLE})
    return writer.mean(writer.op("Mul", [wide, wide]), [0, 1], True)


def _ratio(writer: Writer, power: str, x: str) -> str:
    """What scales a matrix to a power; 0 power stays."""
    least = writer.constant(np.asarray(np.finfo(np.float64).tiny, np.float64))
    own = writer.op("Max", [_power(writer, x), least])
    return writer.op("Sqrt", [writer.op("Div", [power, own])])


def _scaled(writer: Writer, x: str, ratio: str) -> str:
    wide = writer.op("Cast", [x], {"to": TensorProto.DOUBLE})
    return writer.op("Cast", [writer.op("Mul", [wide, ratio])], {"to": TensorProto.FLOAT})


def _assembled(
    draft: ModelDraft, writer: Writer, outputs: Sequence[str], noises: Sequence[Noise]
) -> ModelDraft:
    """Put a model together of the nodes that the outputs need."""
    needed = set(outputs)
    kept: list[NodeProto] = []
    for node in reversed(writer.nodes):
        if needed.isdisjoint(node.output):
            continue
        kept.append(node)
        needed |= set(node.input)
        needed |= captured(node)
    result, model = onnx.ModelProto(), draft.skeleton
    for entry, value in model.ListFields():
        if entry.name != "graph":
            copy_field(result, entry.name, value)
    result.ir_version = max(result.ir_version, UNLISTED_FROM)
    result.graph.name = model.graph.name
    result.graph.input.extend(model.graph.input)
    result.graph.input.extend(
        helper.make_tensor_value_info(n.feed, TensorProto.FLOAT, [f"{PREFIX}batch", n.outputs])
        for n in noises
        if n.feed in needed
    )
    result.graph.node.extend(reversed(kept))
    result.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    stored = [tensor for tensor in draft.initializers if tensor.name in needed]
    names = {tensor.name for tensor in draft.initializers} - needed
    gone = [info for info in result.graph.input if info.name in names]
    for info in gone:
        result.graph.input.remove(info)
    return ModelDraft(result, (*stored, *writer.initializers))
