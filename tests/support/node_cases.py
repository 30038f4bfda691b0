"""onnx's own backend models: one for each operator and attribute, and old exports of PyTorch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

Array = NDArray[Any]
DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
FOLDERS = ("simple", "pytorch-converted", "pytorch-operator")
# Larger tensors are left out of what stands between layers.
LARGEST = 1 << 16


@dataclass(frozen=True, eq=False)
class NodeCase:
    """A model, and the inputs and outputs that it is tested on where it has such."""

    name: str
    model: ModelProto
    inputs: Sequence[object] = ()
    outputs: Sequence[object] = ()


@cache
def node_cases() -> tuple[NodeCase, ...]:
    """Return all models that the installed onnx holds, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of operators that overflow on purpose
        collected = collect_testcases()
    cases = [_of(case) for case in collected if case.model is not None]
    for folder in FOLDERS:
        for path in (DATA / folder).glob("*/model.onnx"):
            cases.append(NodeCase(f"{folder}/{path.parent.name}", onnx.load(path)))
    return tuple(sorted(cases, key=lambda case: case.name))


def _of(case: Any) -> NodeCase:
    inputs, outputs = case.data_sets[0] if case.data_sets else ((), ())
    return NodeCase(case.name, case.model, inputs, outputs)


def between_layers(case: NodeCase) -> ModelProto | None:
    """Put an operator between two layers; None where what it takes or gives does not fit there.

    Its first input comes from a layer, its others are stored. A layer reads its first output.
    """
    graph, version = case.model.graph, onnx.defs.onnx_opset_version()
    versions = [entry.version for entry in case.model.opset_import if entry.domain == ""]
    if len(graph.node) != 1 or not versions or versions[0] > version or case.model.functions:
        return None
    if not case.inputs or not case.outputs or len(case.inputs) != len(graph.input):
        return None
    if not all(isinstance(value, np.ndarray) for value in (*case.inputs, *case.outputs)):
        return None
    first, result = np.asarray(case.inputs[0]), np.asarray(case.outputs[0])
    if not _is_plain(first) or not _is_plain(result):
        return None
    rng = np.random.default_rng(0)
    before, x = _layer(rng, "before", "x", first.shape)
    after, y = _layer(rng, "after", graph.output[0].name, result.shape)
    node = onnx.NodeProto()
    node.CopyFrom(graph.node[0])
    node.input[:] = [x if name == graph.input[0].name else name for name in node.input]
    stored = [
        numpy_helper.from_array(np.asarray(value), info.name)
        for info, value in zip(graph.input[1:], case.inputs[1:], strict=True)
    ]
    made = helper.make_graph(
        [*before.node, node, *after.node],
        case.name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, first.shape)],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, result.shape)],
        [*before.initializer, *stored, *after.initializer],
    )
    return helper.make_model(
        made, opset_imports=case.model.opset_import, ir_version=case.model.ir_version
    )


def _is_plain(value: Array) -> bool:
    wide = value.ndim > 1 and value.shape[1 if value.ndim > 2 else -1] > 1
    return value.dtype == np.float32 and wide and math.prod(value.shape) <= LARGEST


def _layer(
    rng: np.random.Generator, name: str, x: str, shape: Sequence[int]
) -> tuple[onnx.GraphProto, str]:
    """A layer that keeps a shape: over axis 1 of images and volumes, over the last of a matrix."""
    axis = 1 if len(shape) > 2 else len(shape) - 1
    channels = shape[axis]
    size = (channels, channels, *(1,) * (len(shape) - 2)) if len(shape) > 2 else (channels,) * 2
    weight = rng.standard_normal(size).astype(np.float32) / np.float32(np.sqrt(channels))
    op_type = "Conv" if len(shape) > 2 else "MatMul"
    node = helper.make_node(op_type, [x, f"{name}_w"], [f"{name}_out"], name=name)
    stored = [numpy_helper.from_array(weight, f"{name}_w")]
    return helper.make_graph([node], name, [], [], stored), f"{name}_out"
