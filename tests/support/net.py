"""A small ONNX graph in the making, with seeded weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = NDArray[Any]
Attributes = Mapping[str, Any]
Dims = Sequence[int | str]
IR_VERSION = 8  # of all models, whatever their opset: every ONNX Runtime in support reads it


class Net:
    """A graph in the making: each method appends nodes and returns the name of the result."""

    def __init__(
        self, shape: Dims, seed: int = 0, dtype: int = TensorProto.FLOAT, opset: int = 17
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype, self.opset = dtype, opset
        self.inputs = [helper.make_tensor_value_info("x", dtype, shape)]
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def constant(self, name: str, value: Array | np.generic) -> str:
        """Store an initializer as it is."""
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def ints(self, *values: int) -> str:
        """Store a vector of integers, as a shape or axes."""
        return self.constant(f"ints_{len(self.initializers)}", np.asarray(values, np.int64))

    def cast(self, value: Array) -> Array:
        """Give an array the model's own type."""
        return value.astype(helper.tensor_dtype_to_np_dtype(self.dtype))

    def weight(self, name: str, *shape: int) -> str:
        """Store normal numbers, scaled so that a layer keeps the size of its input."""
        fan_in = max(1, int(np.prod(shape[1:])))
        return self.constant(name, self.cast(self.rng.standard_normal(shape) / np.sqrt(fan_in)))

    def node(
        self, op_type: str, inputs: Sequence[str], attributes: Attributes | None = None
    ) -> str:
        """Append a node with one output."""
        name = f"{op_type.lower()}_{len(self.nodes)}"
        made = helper.make_node(op_type, inputs, [f"{name}_out"], name=name, **(attributes or {}))
        self.nodes.append(made)
        return f"{name}_out"

    def conv(
        self, x: str, channels: tuple[int, int], kernel: Sequence[int] = (3, 3), bias: bool = True
    ) -> str:
        """Conv that keeps the spatial size; channels are (in, out)."""
        number = len(self.nodes)
        inputs = [x, self.weight(f"w{number}", channels[1], channels[0], *kernel)]
        if bias:
            inputs.append(self.constant(f"b{number}", self.cast(self.rng.normal(size=channels[1]))))
        return self.node("Conv", inputs, {"pads": [k // 2 for k in kernel] * 2})

    def batch_norm(self, x: str, channels: int) -> str:
        """BatchNormalization with scales of both signs."""
        number, rng = len(self.nodes), self.rng
        values = {
            "gamma": rng.uniform(0.5, 1.5, channels) * rng.choice([-1.0, 1.0], channels),
            "beta": rng.normal(size=channels),
            "mean": 0.1 * rng.normal(size=channels),
            "var": rng.uniform(0.5, 1.5, channels),
        }
        names = [self.constant(f"{k}{number}", self.cast(v)) for k, v in values.items()]
        return self.node("BatchNormalization", [x, *names])

    def relu(self, x: str) -> str:
        """Relu."""
        return self.node("Relu", [x])

    def block(self, x: str, channels: tuple[int, int], kernel: Sequence[int] = (3, 3)) -> str:
        """Conv without bias, BatchNormalization, Relu."""
        return self.relu(self.batch_norm(self.conv(x, channels, kernel, False), channels[1]))

    def head(self, x: str, channels: int) -> str:
        """Pool over space, then ten classes."""
        return self.gemm(self.node("Flatten", [self.node("GlobalAveragePool", [x])]), channels, 10)

    def gemm(self, x: str, count_in: int, count_out: int) -> str:
        """Gemm as PyTorch exports Linear."""
        number = len(self.nodes)
        inputs = [x, self.weight(f"w{number}", count_out, count_in)]
        inputs.append(self.constant(f"b{number}", self.cast(self.rng.normal(size=count_out))))
        return self.node("Gemm", inputs, {"transB": 1})

    def model(self, *outputs: str) -> ModelProto:
        """Finish: the outputs take the names y, y2 ..; their shapes are left to inference."""
        names = ["y" if i == 0 else f"y{i + 1}" for i in range(len(outputs))]
        for node in self.nodes:
            node.input[:] = [_renamed(n, outputs, names) for n in node.input]
            node.output[:] = [_renamed(n, outputs, names) for n in node.output]
        values = [helper.make_tensor_value_info(name, self.dtype, None) for name in names]
        graph = helper.make_graph(self.nodes, "net", self.inputs, values, self.initializers)
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        inferred = {v.name: v for v in onnx.shape_inference.infer_shapes(model).graph.output}
        del model.graph.output[:]
        model.graph.output.extend(inferred[name] for name in names)
        return model

    def declared(self, output: str, *shape: int | str) -> ModelProto:
        """Finish a model of which onnx infers nothing: its output keeps its name."""
        info = helper.make_tensor_value_info(output, self.dtype, shape)
        graph = helper.make_graph(self.nodes, "net", self.inputs, [info], self.initializers)
        domains = sorted({"", *(node.domain for node in self.nodes)})
        opsets = [helper.make_opsetid(d, 1 if d else self.opset) for d in domains]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _renamed(name: str, old: Sequence[str], new: Sequence[str]) -> str:
    return new[list(old).index(name)] if name in old else name
