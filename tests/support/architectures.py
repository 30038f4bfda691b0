"""Small seeded models, one for each way in which channels cross a graph."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from onnx import ModelProto, TensorProto

from tests.support.net import Net

# --- chains -----------------------------------------------------------------------------------


def chain(rank: int = 2, dtype: int = TensorProto.FLOAT, opset: int = 17) -> ModelProto:
    """Conv-BN-Relu twice, then classes."""
    net = Net(("N", 3, *(6,) * rank), dtype=dtype, opset=opset)
    kernel = (3,) * rank
    return net.model(net.head(net.block(net.block("x", (3, 8), kernel), (8, 12), kernel), 12))


def folded() -> ModelProto:
    """Convs with bias and no BatchNormalization, pooled on the way."""
    net = Net(("N", 3, 8, 8))
    x = net.relu(net.conv("x", (3, 8)))
    x = net.node("MaxPool", [x], {"kernel_shape": [2, 2], "strides": [2, 2]})
    x = net.node("LeakyRelu", [net.conv(x, (8, 10), (5, 5))])
    return net.model(net.head(net.node("Sigmoid", [net.conv(x, (10, 6), (1, 1))]), 6))


def fully_convolutional() -> ModelProto:
    """Dynamic batch, height and width, an image in and an image out."""
    net = Net(("N", 3, "H", "W"))
    x = net.node("AveragePool", ["x"], {"kernel_shape": [8, 8], "strides": [8, 8]})
    x = net.block(net.block(x, (3, 8)), (8, 6))
    return net.model(net.conv(x, (6, 4), (1, 1)))


def bn_after_activation() -> ModelProto:
    """Conv, Relu, BatchNormalization: no padding, so that a shift reaches every pixel alike."""
    net = Net(("N", 3, 6, 6))
    x = net.batch_norm(net.relu(net.conv("x", (3, 8))), 8)
    x = net.batch_norm(net.relu(net.conv(x, (8, 12), (1, 1))), 12)
    return net.model(net.head(x, 12))


def caffe_scale() -> ModelProto:
    """BatchNormalization without scale, then Mul and Add of unsqueezed vectors."""
    net = Net(("N", 3, 6, 6))
    x = net.batch_norm(net.conv("x", (3, 8), bias=False), 8)
    axes = net.ints(1, 2)
    for op_type in ("Mul", "Add"):
        vector = net.constant(f"{op_type}_8", net.cast(net.rng.uniform(0.5, 1.5, 8)))
        x = net.node(op_type, [x, net.node("Unsqueeze", [vector, axes])])
    return net.model(net.head(net.block(net.relu(x), (8, 6)), 6))


def parametric_activations() -> ModelProto:
    """PRelu with a slope per channel, Clip, Mul by a full map, Div and Sub by vectors."""
    net = Net(("N", 3, 6, 6))
    x = net.conv("x", (3, 8))
    x = net.node("PRelu", [x, net.constant("slope", net.cast(net.rng.random((8, 1, 1))))])
    x = net.node("Sub", [x, net.constant("minus", net.cast(net.rng.random((1, 8, 1, 1))))])
    x = net.node("Div", [x, net.constant("over", net.cast(1.0 + net.rng.random((8, 1, 1))))])
    x = net.conv(x, (8, 6))
    low, high = net.constant("low", np.float32(0.0)), net.constant("high", np.float32(6.0))
    x = net.node("Clip", [x, low, high])
    x = net.node("Mul", [x, net.constant("map", net.cast(net.rng.random((6, 6, 6))))])
    return net.model(net.head(x, 6))


# --- branches ---------------------------------------------------------------------------------


def residual() -> ModelProto:
    """Two residual blocks: only their inner channels are free."""
    net = Net(("N", 3, 6, 6))
    x = net.block("x", (3, 8))
    for _ in range(2):
        inner = net.batch_norm(net.conv(net.block(x, (8, 6)), (6, 8), bias=False), 8)
        x = net.relu(net.node("Add", [x, inner]))
    return net.model(net.head(x, 8))


def squeeze_excite() -> ModelProto:
    """Channels scaled by a gate that is computed from them; the squeeze itself is free."""
    net = Net(("N", 3, 6, 6))
    x = net.block("x", (3, 8))
    gate = net.relu(net.conv(net.node("GlobalAveragePool", [x]), (8, 4), (1, 1)))
    gate = net.node("Sigmoid", [net.conv(gate, (4, 8), (1, 1))])
    return net.model(net.head(net.node("Mul", [x, gate]), 8))


def inception() -> ModelProto:
    """Two branches side by side in one Concat."""
    net = Net(("N", 3, 6, 6))
    stem = net.block("x", (3, 8))
    branches = [net.block(stem, (8, 5), (1, 1)), net.block(stem, (8, 7))]
    return net.model(net.head(net.block(net.node("Concat", branches, {"axis": 1}), (12, 6)), 6))


def dense() -> ModelProto:
    """Each layer reads all before it, through BatchNormalization and Relu of the whole."""
    net = Net(("N", 3, 6, 6))
    x, channels = net.conv("x", (3, 6), bias=False), 6
    for _ in range(2):
        grown = net.conv(net.relu(net.batch_norm(x, channels)), (channels, 4), bias=False)
        x, channels = net.node("Concat", [x, grown], {"axis": -3}), channels + 4
    return net.model(net.head(net.relu(net.batch_norm(x, channels)), channels))


def forked_scales() -> ModelProto:
    """One layer in two halves of a Concat, scaled differently in each."""
    net = Net(("N", 3, 6, 6))
    x = net.relu(net.conv("x", (3, 8)))
    halves = [
        net.node("Mul", [x, net.constant(f"s{i}", net.cast(net.rng.random((8, 1, 1))))])
        for i in range(2)
    ]
    return net.model(net.head(net.node("Concat", halves, {"axis": 1}), 16))


def two_outputs() -> ModelProto:
    """A trunk with two heads; the second output is also the input of a layer."""
    net = Net(("N", 3, 6, 6))
    trunk = net.block("x", (3, 8))
    mask = net.conv(net.block(trunk, (8, 6)), (6, 2), (1, 1))
    return net.model(net.head(net.block(trunk, (8, 7)), 7), mask)


# --- shapes -----------------------------------------------------------------------------------


def flatten_spatial() -> ModelProto:
    """Flatten with 3 x 4 positions a channel, then a hidden layer."""
    net = Net(("N", 3, 3, 4))
    x = net.node("Flatten", [net.block("x", (3, 8))])
    return net.model(net.gemm(net.relu(net.gemm(x, 96, 20)), 20, 10))


def bn_after_flatten() -> ModelProto:
    """BatchNormalization with a scale for each position of each channel."""
    net = Net(("N", 3, 2, 2))
    x = net.batch_norm(net.node("Flatten", [net.conv("x", (3, 8))]), 32)
    return net.model(net.gemm(net.relu(x), 32, 10))


def reshape_static() -> ModelProto:
    """A stored target that holds the channel count twice: whole and times the positions."""
    net = Net((2, 3, 2, 2))
    x = net.node("Reshape", [net.block("x", (3, 8)), net.ints(2, 8, 4)])
    x = net.node("Reshape", [x, net.ints(2, 32)])
    return net.model(net.gemm(x, 32, 10))


def reshape_from_shape() -> ModelProto:
    """PyTorch's x.view(x.size(0), x.size(1), -1): every size taken from Shape."""
    net = Net(("N", 3, 4, 4))
    x = net.block("x", (3, 8))
    sizes = [net.node("Unsqueeze", [_size(net, x, axis), net.ints(0)], None) for axis in range(2)]
    target = net.node("Concat", [*sizes, net.ints(-1)], {"axis": 0})
    x = net.relu(net.node("Reshape", [x, target]))
    batch = net.node("Unsqueeze", [_size(net, x, 0), net.ints(0)])
    x = net.node("Reshape", [x, net.node("Concat", [batch, net.ints(-1)], {"axis": 0})])
    return net.model(net.gemm(x, 128, 10))


def _size(net: Net, x: str, axis: int) -> str:
    index = net.constant(f"axis_{len(net.nodes)}", np.asarray(axis, np.int64))
    return net.node("Gather", [net.node("Shape", [x]), index])


def shape_scaled() -> ModelProto:
    """Activations divided by the root of their channel count, as attention does: it must stay."""
    net = Net(("N", 3, 4, 4))
    x = net.block("x", (3, 8))
    root = net.node("Sqrt", [net.node("Cast", [_size(net, x, 1)], {"to": TensorProto.FLOAT})])
    return net.model(net.head(net.node("Div", [x, root]), 8))


def nhwc() -> ModelProto:
    """A TensorFlow export: NHWC outside, Conv between transposes, bias added on the last axis."""
    net = Net(("N", 6, 6, 3))
    x = "x"
    for channels in ((3, 8), (8, 6)):
        x = net.node("Transpose", [x], {"perm": [0, 3, 1, 2]})
        x = net.node("Transpose", [net.conv(x, channels, bias=False)], {"perm": [0, 2, 3, 1]})
        bias = net.constant(f"bias_{channels[1]}", net.cast(net.rng.normal(size=channels[1])))
        x = net.relu(net.node("Add", [x, bias]))
    return net.model(net.head(net.node("Transpose", [x], {"perm": [0, 3, 1, 2]}), 6))


# --- matrices ---------------------------------------------------------------------------------


def mlp(
    trans_b: int = 1,
    alpha: float = 1.0,
    beta: float = 1.0,
    bias: str = "(N,)",
    dtype: int = TensorProto.FLOAT,
) -> ModelProto:
    """Three Gemms; bias is "none", "(N,)" or "(1,N)"."""
    net = Net(("N", 6), dtype=dtype)
    x, sizes = "x", (6, 12, 9, 5)
    attributes = {"transB": trans_b, "alpha": alpha, "beta": beta}
    for layer, (rows, columns) in enumerate(pairwise(sizes)):
        shape = (columns, rows) if trans_b else (rows, columns)
        inputs = [x, net.weight(f"w{layer}", *shape)]
        if bias != "none":
            size = (columns,) if bias == "(N,)" else (1, columns)
            inputs.append(net.constant(f"b{layer}", net.cast(net.rng.normal(size=size))))
        x = net.node("Gemm", inputs, attributes)
        x = net.relu(x) if layer < 2 else x
    return net.model(x)


def matmul_chain(bias: bool = True) -> ModelProto:
    """Tokens of rank 3 through MatMul, Add, Relu."""
    net = Net(("N", 5, 6))
    x, sizes = "x", (6, 12, 9, 5)
    for layer, (rows, columns) in enumerate(pairwise(sizes)):
        x = net.node("MatMul", [x, net.weight(f"w{layer}", rows, columns)])
        if bias:
            vector = net.constant(f"b{layer}", net.cast(net.rng.normal(size=columns)))
            x = net.node("Add", [vector, x])
        x = net.relu(x) if layer < 2 else x
    return net.model(x)


def token_mixing() -> ModelProto:
    """MLP-Mixer: one MatMul over channels, one over tokens behind a transpose."""
    net = Net(("N", 5, 6))
    x = net.relu(net.node("MatMul", ["x", net.weight("w0", 6, 12)]))
    x = net.node("Transpose", [x], {"perm": [0, 2, 1]})
    x = net.relu(net.node("MatMul", [x, net.weight("w1", 5, 7)]))
    x = net.node("Transpose", [x], {"perm": [0, 2, 1]})
    return net.model(net.node("MatMul", [x, net.weight("w2", 12, 4)]))
