"""`LinearLayer`: its views of a weight against the operator itself."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from lbyl_onnx.graph.layers import linear_layer
from lbyl_onnx.graph.layers.linear_layer import LinearLayer
from tests.support.einsums import einsum
from tests.support.net import Net
from tests.support.oracle import Array, interpret, run, values


def conv(op_type: str, groups: int) -> ModelProto:
    """A layer whose every output place sees its whole window, or is written by one place."""
    net = Net((2, 8, 3, 3))
    shape = (6, 8 // groups, 3, 3) if op_type == "Conv" else (8, 6 // groups, 1, 1)
    return net.model(net.node(op_type, ["x", net.weight("w", *shape)], {"group": groups}))


def gemm(transposed: int) -> ModelProto:
    net = Net((3, 8))
    weight = net.weight("w", *((5, 8) if transposed else (8, 5)))
    return net.model(net.node("Gemm", ["x", weight], {"transB": transposed, "alpha": 0.5}))


def matmul(data: tuple[int, ...] = (2, 3, 8), stack: tuple[int, ...] = ()) -> ModelProto:
    net = Net(data)
    return net.model(net.node("MatMul", ["x", net.weight("w", *stack, data[-1], 5)]))


def of_letters(equation: str, data: tuple[int, ...], weight: tuple[int, ...]) -> ModelProto:
    net = Net(data)
    output = equation.partition("->")[2]
    return net.declared(einsum(net, equation, "x", weight), *output)


MODELS = {
    "Conv": conv("Conv", 1),
    "Conv in groups": conv("Conv", 2),
    "ConvTranspose": conv("ConvTranspose", 1),
    "ConvTranspose in groups": conv("ConvTranspose", 2),
    "Gemm": gemm(0),
    "Gemm, transposed": gemm(1),
    "MatMul": matmul(),
    "MatMul of a stack": matmul((2, 3, 4, 8), (3,)),
    "MatMul of stacks": matmul((2, 3, 4, 8), (2, 3)),
    "MatMul into a stack": matmul((4, 8), (2, 3)),
    "MatMul of a stack, one long at first": matmul((2, 3, 4, 8), (1, 3)),
    "MatMul of a stack that is one long": matmul((2, 4, 8), (1,)),
    "Einsum": of_letters("bsd,ed->bse", (2, 3, 4), (5, 4)),
    "Einsum of heads": of_letters("bhsd,hed->behs", (2, 3, 4, 5), (3, 6, 5)),
    "Einsum of two letters": of_letters("bshd,khd->bsk", (2, 3, 4, 5), (6, 4, 5)),
    "Einsum into two letters": of_letters("bd,kdh->bhk", (2, 4), (3, 4, 5)),
}


def parts(name: str) -> tuple[LinearLayer, Array, ModelProto]:
    model = MODELS[name]
    layer = linear_layer(interpret(model).tensor_info, model.graph.node[0])
    assert layer is not None
    return layer, values(model)[layer.weight_name], model


@pytest.mark.parametrize("name", MODELS)
def test_what_is_seen_is_undone(name: str) -> None:
    layer, weight, _ = parts(name)
    logical = layer.logical(weight)
    assert logical.shape[:2] == (layer.shape[layer.in_axis], layer.outputs)
    np.testing.assert_array_equal(layer.stored(logical), weight)


@pytest.mark.parametrize("name", MODELS)
def test_one_input_channel_reaches_the_outputs_that_its_row_says(name: str) -> None:
    """An input that is 1 along one channel, and 0 along the others."""
    layer, weight, model = parts(name)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    for channel in range(layer.shape[layer.in_axis]):
        x = np.zeros(shape, np.float32)
        places = channel + np.arange(layer.groups) * layer.shape[layer.in_axis]
        np.moveaxis(x, layer.data_axis, 0)[places] = 1.0
        rows = layer.logical(weight)[channel].astype(np.float64).sum(axis=1) * layer.alpha
        (y,) = run(model, {"x": x})
        np.testing.assert_allclose(y, np.broadcast_to(layer.spread(rows), y.shape), atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_macs_are_single_products(name: str) -> None:
    layer, weight, model = parts(name)
    (y,) = run(
        model,
        {
            "x": np.zeros(
                [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim], np.float32
            )
        },
    )
    summed = weight.size // layer.outputs
    if layer.scattered and layer.groups > 1:
        summed = layer.shape[layer.in_axis]  # stored (in, out / groups, 1, 1)
    assert layer.macs(interpret(model).tensor_info) == y.size * summed  # fmt: skip
