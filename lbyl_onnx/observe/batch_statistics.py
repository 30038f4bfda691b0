"""BatchNormalization by the statistics of the batch, in an instrumented model.

What it computes, and what it emits.

The operator that takes its batch's mean and variance gives them, too, so that a tensor that goes
through it need not be read again to be measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from lbyl_onnx.graph.model_graph import captured
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.observe.graph_builder import PREFIX, Writer
from lbyl_onnx.observe.spec import Centring, MomentSpec, Renormalization, Target

# Added to the variance of what is brought to a given one; far below that of any activation.
_EPSILON = 1e-10


def can_take_batch(node: NodeProto, tensor_info: TensorInfo) -> bool:
    """Whether a node is a BatchNormalization that can take the statistics of its batch."""
    return node.op_type == "BatchNormalization" and tensor_info.shape(node.input[0]) is not None


def unsettled(
    model: onnx.ModelProto, tensor_info: TensorInfo, targets: Mapping[str, Target]
) -> dict[str, Target]:
    """The targets that matter: what only batch statistics read comes to the same without one."""
    otherwise = {info.name for info in model.graph.output}
    for node in model.graph.node:
        read = node.input[1:] if can_take_batch(node, tensor_info) else node.input
        otherwise |= {*read} | captured(node)
    return {name: target for name, target in targets.items() if name in otherwise}


def normalised(
    model: onnx.ModelProto,
    tensor_info: TensorInfo,
    targets: Mapping[str, Target],
    batch_statistics: bool,
) -> dict[str, str]:
    """Tensors that batch statistics will be taken of, and the names that they are read by."""
    raw_names = dict[str, str]()
    for node in model.graph.node:
        if batch_statistics and can_take_batch(node, tensor_info):
            raw_names.setdefault(node.input[0], node.input[0])
    raw_names |= {
        name: raw_name(name)
        for name, target in targets.items()
        if target.axis == 1 and isinstance(target, Renormalization)
    }
    return {
        name: read
        for name, read in raw_names.items()
        if tensor_info.dtype(name) == TensorProto.FLOAT
    }


def each_alone(view: MomentSpec) -> bool:
    """Whether a view is of all channels on axis 1, in their order, each alone."""
    in_order = np.array_equal(view.positions, np.arange(len(view.positions))[:, None])
    whole = view.window is None and max(view.strides, default=1) == 1
    return view.axis == 1 and in_order and whole and not view.cross


def raw_name(name: str) -> str:
    """Return the name of a tensor before it is brought to its target."""
    return f"{PREFIX}raw/{name}"


def normalise(
    writer: Writer, x: str, parameters: tuple[str, str], eps: float, rank: int, output: str
) -> None:
    """BatchNormalization by the batch's own mean and variance, channels on axis 1."""
    if writer.trains:
        # The running statistics do not matter, but ONNX Runtime writes them over the inputs they
        # come from: no others may read these.
        private = [writer.op("Sub", [name, name]) for name in parameters]
        # Without momentum the new running statistics are those of the batch.
        attributes: dict[str, Any] = {"epsilon": eps, "training_mode": 1, "momentum": 0.0}
        outputs = [output, f"{PREFIX}mean/{output}", f"{PREFIX}var/{output}"]
        node = helper.make_node(
            "BatchNormalization", [x, *parameters, *private], outputs, **attributes
        )
        writer.nodes.append(node)
        for names, columns in writer.awaited.pop(x, []):
            _emit_moments(writer, names, columns, x, outputs[1:])
        return
    axes = [0, *range(2, rank)]
    kept = writer.mean(x, axes, True)  # (1, C, 1, ..)
    centred = writer.op("Sub", [x, kept])
    var = writer.mean(writer.op("Mul", [centred, centred]), axes, False)
    mean = writer.op("Reshape", [kept, writer.ints(-1)])  # (1, C, 1, ..) -> (C,)
    writer.op("BatchNormalization", [x, *parameters, mean, var], {"epsilon": eps}, output)


def _emit_moments(
    writer: Writer, names: Mapping[str, str], columns: int, x: str, moments: Sequence[str]
) -> None:
    """Emit moments (columns,) of a tensor with the channels on axis 1 as those of a view."""
    mean, var = moments
    writer.op("Reshape", [mean, writer.ints(-1, 1)], output=names["mean"])
    writer.op("Identity", [var], output=names["0"])
    size = writer.op("Reshape", [writer.op("Size", [x]), writer.ints(1)])
    rows = writer.op("Div", [size, writer.ints(columns)])
    writer.op("Concat", [writer.ints(columns), rows], {"axis": 0}, names["shape"])


def bring(writer: Writer, output: str, target: Target, dtype: int) -> None:
    """Bring a tensor to its target on this batch, in float32 whatever its type."""
    if dtype == TensorProto.FLOAT:
        _bring_floats(writer, raw_name(output), target, output)
        return
    brought = f"{PREFIX}brought/{output}"
    floats = writer.op("Cast", [raw_name(output)], {"to": TensorProto.FLOAT})
    _bring_floats(writer, floats, target, brought)
    writer.op("Cast", [brought], {"to": dtype}, output)


def _bring_floats(writer: Writer, raw: str, target: Target, output: str) -> None:
    if isinstance(target, Centring):
        others = [axis for axis in range(target.rank) if axis != target.axis]
        writer.op("Sub", [raw, writer.mean(raw, others, True)], output=output)
        return
    parameters = (
        writer.constant(target.std.astype(np.float32)),
        writer.constant(target.mean.astype(np.float32)),
    )
    if target.axis == 1:
        normalise(writer, raw, parameters, _EPSILON, target.rank, output)
        return
    flat = writer.op("Reshape", [raw, writer.ints(-1, len(target.mean))])  # (.., C) -> (rows, C)
    normal = f"{PREFIX}normal/{output}"
    normalise(writer, flat, parameters, _EPSILON, 2, normal)
    writer.op("Reshape", [normal, writer.op("Shape", [raw])], output=output)  # -> (.., C)
