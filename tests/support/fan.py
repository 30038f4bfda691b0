"""A model of many layers with long names."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.support.net import IR_VERSION


def fan(width: int, readers: int, name: str) -> ModelProto:
    """`width` layers read through one concatenation by `readers` layers with names of this end."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def conv(source: str, target: str, into: int, named: str) -> None:
        value = rng.normal(size=(2, into, 1, 1)).astype(np.float32)
        weights.append(numpy_helper.from_array(value, f"w_{target}"))
        nodes.append(helper.make_node("Conv", [source, f"w_{target}"], [target], name=named))

    for number in range(width):
        conv("x", f"o{number}", 3, f"p{number}")
    nodes.append(helper.make_node("Concat", [f"o{n}" for n in range(width)], ["all"], axis=1))
    for number in range(readers):
        conv("all", f"y{number}", 2 * width, f"r{number}{name}")
    nodes.append(helper.make_node("Sum", [f"y{n}" for n in range(readers)], ["y"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2, 4, 4])
    graph = helper.make_graph(nodes, "fan", [x], [y], weights)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
