"""Models whose removed channels can be restored exactly: combinations, and constants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, numpy_helper

from tests.support.net import Net


def combined(net: Net, count: int, shared: int) -> None:
    """Make the later rows of a net's first weight small combinations of the first `shared`."""
    weight = numpy_helper.to_array(net.initializers[0]).copy()
    mix = 0.1 * net.rng.standard_normal((count - shared, shared))
    weight[shared:] = np.tensordot(mix, weight[:shared], axes=1)
    net.initializers[0].CopyFrom(numpy_helper.from_array(weight, net.initializers[0].name))


def linear_conv() -> ModelProto:
    """Conv, average pooling, Conv: eight channels that span four dimensions."""
    net = Net(("N", 3, 6, 6))
    x = net.conv("x", (3, 8), bias=False)
    combined(net, 8, 4)
    x = net.node("AveragePool", [x], {"kernel_shape": [2, 2]})
    return net.model(net.head(net.conv(x, (8, 5)), 5))


def linear_conv_bn() -> ModelProto:
    """Conv, BatchNormalization that only scales, Identity, Conv without padding."""
    net = Net(("N", 3, 6, 6))
    x = net.conv("x", (3, 8), bias=False)
    combined(net, 8, 4)
    x = net.node("Identity", [net.batch_norm(x, 8)])
    for tensor in net.initializers[1:5]:
        if tensor.name.startswith(("beta", "mean")):
            zeros = np.zeros(8, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    return net.model(net.head(net.conv(x, (8, 5), (1, 1)), 5))


def linear_flatten() -> ModelProto:
    """Conv, scale and shift behind the pooling, Flatten, Gemm."""
    net = Net(("N", 3, 6, 6))
    x = net.conv("x", (3, 8), bias=False)
    combined(net, 8, 4)
    x = net.node("AveragePool", [x], {"kernel_shape": [3, 3], "strides": [3, 3]})
    x = net.node("Mul", [x, net.constant("scale", net.cast(1.0 + net.rng.random((8, 1, 1))))])
    x = net.node("Add", [x, net.constant("shift", net.cast(net.rng.random((8, 1, 1))))])
    return net.model(net.gemm(net.node("Flatten", [x]), 32, 5))


def linear_gemm() -> ModelProto:
    """Two Gemms with nothing between them."""
    net = Net(("N", 6))
    weight = net.weight("w", 8, 6)
    combined(net, 8, 4)
    x = net.node("Gemm", ["x", weight], {"transB": 1, "alpha": 0.5})
    return net.model(net.gemm(x, 8, 5))


def linear_concat() -> ModelProto:
    """Two halves of a Concat that scale one layer differently, all channels of a half alike."""
    net = Net(("N", 3, 6, 6))
    x = net.conv("x", (3, 8), bias=False)
    combined(net, 8, 4)
    halves = [net.node("Mul", [x, net.constant(f"s{i}", np.float32(2 + i))]) for i in range(2)]
    return net.model(net.head(net.node("Concat", halves, {"axis": 1}), 16))


def silent(op_type: str = "Relu", behind: bool = False) -> ModelProto:
    """Half of the filters are zero: their channels emit what their bias makes of it."""
    net = Net(("N", 3, 6, 6), opset=20)
    x = net.conv("x", (3, 8))
    weight = numpy_helper.to_array(net.initializers[0]).copy()
    weight[4:] = 0.0
    net.initializers[0].CopyFrom(numpy_helper.from_array(weight, "w0"))
    x = net.node(op_type, [x])
    x = net.batch_norm(x, 8) if behind else x
    return net.model(net.head(net.conv(x, (8, 5), (1, 1)), 5))


def silent_batch_norm() -> ModelProto:
    """Half of the channels have gamma zero and emit Relu(beta); the consumer has no bias."""
    net = Net(("N", 3, 6, 6))
    x = net.block("x", (3, 8))
    order = np.arange(8) >= 4
    for tensor in net.initializers:
        value = numpy_helper.to_array(tensor).copy()
        if tensor.name.startswith("gamma"):
            value[order] = 0.0
        if tensor.name.startswith("w"):
            value[order] *= 0.01
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return net.model(net.head(net.conv(x, (8, 5), (1, 1), bias=False), 5))


def silent_into_matmul() -> ModelProto:
    """Constant channels into a MatMul, which has no bias to take them."""
    net = Net(("N", 4, 6))
    x = net.node("MatMul", ["x", net.weight("w", 6, 8)])
    weight = numpy_helper.to_array(net.initializers[0]).copy()
    weight[:, 4:] = 0.0
    net.initializers[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    x = net.node("Add", [x, net.constant("b", net.cast(net.rng.normal(size=8)))])
    return net.model(net.node("MatMul", [net.node("Tanh", [x]), net.weight("w1", 8, 5)]))


def silent_into_computed_bias() -> ModelProto:
    """Constant channels into a Conv, as wide as its output, whose bias is computed."""
    net = Net((1, 3, 5, 3))
    x = net.conv("x", (3, 8))
    weight = numpy_helper.to_array(net.initializers[0]).copy()
    weight[4:] = 0.0
    net.initializers[0].CopyFrom(numpy_helper.from_array(weight, "w0"))
    pooled = net.node("GlobalAveragePool", ["x"])
    bias = net.node("Squeeze", [pooled, net.ints(0, 2, 3)])
    x = net.node("Conv", [net.node("Elu", [x]), net.weight("w1", 3, 8, 1, 1), bias])
    return net.model(net.head(x, 3))


def silent_into_gemm(shape: tuple[int, ...]) -> ModelProto:
    """Constant channels into a Gemm of batch 4 and 4 outputs, its bias in any shape."""
    net = Net((4, 6))
    x = net.gemm("x", 6, 8)
    weight = numpy_helper.to_array(net.initializers[0]).copy()
    weight[4:] = 0.0
    net.initializers[0].CopyFrom(numpy_helper.from_array(weight, "w0"))
    # A Gemm's score has its bias appended: large rows keep the first four in front.
    scaled = numpy_helper.to_array(net.initializers[0]) * 10.0
    net.initializers[0].CopyFrom(numpy_helper.from_array(scaled, "w0"))
    bias = net.constant("bias", net.cast(net.rng.normal(size=shape)))
    inputs = [net.node("Elu", [x]), net.weight("w1", 8, 4), bias]
    return net.model(net.node("Gemm", inputs, {"alpha": 2.0, "beta": 0.5}))


LINEAR: dict[str, Callable[[], ModelProto]] = {
    "conv": linear_conv,
    "conv_bn": linear_conv_bn,
    "flatten": linear_flatten,
    "gemm": linear_gemm,
    "concat": linear_concat,
}
SILENT: dict[str, Callable[[], ModelProto]] = {
    "relu": silent,
    "gelu": lambda: silent("Gelu"),
    "mish": lambda: silent("Mish"),
    "bn_behind": lambda: silent(behind=True),
    "gamma_zero": silent_batch_norm,
    "matmul": silent_into_matmul,
    "computed_bias": silent_into_computed_bias,
    "gemm_row_bias": lambda: silent_into_gemm((1, 4)),
    "gemm_column_bias": lambda: silent_into_gemm((4, 1)),
    "gemm_full_bias": lambda: silent_into_gemm((4, 4)),
}
