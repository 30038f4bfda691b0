"""Models in which one constant is read by several nodes: name -> builder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.support.exact import combined
from tests.support.net import Net


def pyramid(norms: bool = False, biases: str = "none") -> ModelProto:
    """A head of two layers on three levels; norms and biases may be each level's own."""
    net = Net(("N", 3, 8, 8))
    level = net.relu(net.conv("x", (3, 6)))
    net.weight("w", 10, 6, 3, 3)
    net.weight("v", 4, 10, 1, 1)
    if biases == "one":
        net.weight("c", 4)
    pooled = []
    for number in range(3):
        x = net.node("Conv", [level, "w"], {"pads": [1, 1, 1, 1]})
        x = net.relu(net.batch_norm(x, 10) if norms else x)
        own = {"none": [], "one": ["c"], "own": [f"c{number}"]}[biases]
        if biases == "own":
            net.constant(f"c{number}", net.cast(number + net.rng.normal(size=4)))
        x = net.node("Conv", [x, "v", *own])
        pooled.append(net.node("GlobalAveragePool", [x]))
        level = net.node("MaxPool", [level], {"kernel_shape": [2, 2], "strides": [2, 2]})
    x = net.node("Flatten", [net.node("Concat", pooled, {"axis": 1})])
    return net.model(net.gemm(x, 12, 3))


def repeated_block(count: int = 4) -> ModelProto:
    """One feed-forward block of a transformer, applied several times."""
    net = Net(("N", 5, 12))
    net.constant("up", net.cast(net.rng.normal(size=(12, 40)) / 3))
    net.constant("up_bias", net.cast(net.rng.normal(size=40)))
    net.constant("down", net.cast(net.rng.normal(size=(40, 12)) / 6))
    net.constant("gamma", net.cast(net.rng.uniform(0.5, 1.5, 12)))
    x = "x"
    for _ in range(count):
        hidden = net.relu(net.node("Add", [net.node("MatMul", [x, "up"]), "up_bias"]))
        x = net.node("Add", [x, net.node("MatMul", [hidden, "down"])])
        x = net.node("LayerNormalization", [x, "gamma"], {"axis": -1})
    return net.model(x)


def repeated_conv(stem: bool) -> ModelProto:
    """One square layer applied three times, on the input or behind another layer."""
    net = Net(("N", 6, 6, 6))
    x = net.relu(net.conv("x", (6, 6))) if stem else "x"
    net.weight("w", 6, 6, 3, 3)
    net.constant("b", net.cast(net.rng.normal(size=6)))
    for _ in range(3):
        x = net.relu(net.node("Conv", [x, "w", "b"], {"pads": [1, 1, 1, 1]}))
    return net.model(net.head(x, 6))


def recurrence() -> ModelProto:
    """A recurrent layer written out over four steps, with a readout of the last state."""
    net = Net(("N", 4, 5))
    net.weight("input", 12, 5)
    net.constant("bias", net.cast(net.rng.normal(size=12)))
    net.weight("state", 12, 12)
    state = ""
    for step in range(4):
        x = net.node("Gather", ["x", net.constant(f"t{step}", np.int64(step))], {"axis": 1})
        x = net.node("Gemm", [x, "input", "bias"], {"transB": 1})
        if state:
            x = net.node("Add", [x, net.node("Gemm", [state, "state"], {"transB": 1})])
        state = net.relu(x)
    return net.model(net.gemm(state, 12, 3))


def siamese() -> ModelProto:
    """Two towers with one set of weights and parameters; their difference is classified."""
    net = Net(("N", 6, 6, 6))
    net.nodes.append(helper.make_node("Split", ["x"], ["left", "right"], name="split", axis=1))
    net.weight("w0", 8, 3, 3, 3)
    net.weight("w1", 9, 8, 3, 3)
    net.constant("b1", net.cast(net.rng.normal(size=9)))
    net.constant("slope", net.cast(net.rng.uniform(0.1, 0.4, (8, 1, 1))))
    norm = [
        net.constant(name, net.cast(net.rng.uniform(0.5, 1.5, 8)))
        for name in ("gamma", "beta", "mean", "var")
    ]
    ends = []
    for x in ("left", "right"):
        y = net.node("Conv", [x, "w0"], {"pads": [1, 1, 1, 1]})
        y = net.node("PRelu", [net.node("BatchNormalization", [y, *norm]), "slope"])
        ends.append(net.relu(net.node("Conv", [y, "w1", "b1"])))
    x = net.node("Abs", [net.node("Sub", ends)])
    return net.model(net.head(x, 9))


def twins(how: str) -> ModelProto:
    """Two MLPs with the same matrices; one of them reads each through another node.

    The halves of the input are their inputs.
    """
    net = Net(("N", 12))
    net.nodes.append(helper.make_node("Split", ["x"], ["left", "right"], name="split", axis=1))
    shapes = {"w0": (6, 16), "w1": (16, 7)}
    for name, shape in shapes.items():
        value = net.cast(net.rng.normal(size=shape) / 2)
        net.constant(name, value[None] if how == "Reshape" else value)
    ends = []
    for tower, x in enumerate(("left", "right")):
        for name, shape in shapes.items():
            read = name
            if how == "Transpose" and tower == 1:
                read = net.node("Transpose", [name])
            if how == "Reshape":
                read = net.node("Reshape", [name, net.ints(*shape)])
            if how == "Identity":
                read = net.node("Identity", [name])
            if how == "Transpose" and tower == 1:
                x = net.node("Gemm", [x, read], {"transB": 1})
            else:
                x = net.node("MatMul", [x, read])
            x = net.relu(x)
        ends.append(x)
    return net.model(net.gemm(net.node("Concat", ends, {"axis": 1}), 14, 3))


def tied_embedding() -> ModelProto:
    """The output layer is the transposed table of the embedding."""
    net = Net(("N", 4))
    net.inputs = [helper.make_tensor_value_info("x", TensorProto.INT64, ["N", 4])]
    net.constant("table", net.cast(net.rng.normal(size=(40, 8))))
    x = net.node("Flatten", [net.node("Gather", ["table", "x"])])
    x = net.relu(net.gemm(x, 32, 16))
    x = net.relu(net.gemm(x, 16, 8))
    return net.model(net.node("MatMul", [x, net.node("Transpose", ["table"])]))


def tied_autoencoder() -> ModelProto:
    """A decoder with the encoder's own weight, behind a layer that can go."""
    net = Net(("N", 6))
    x = net.relu(net.gemm(net.relu(net.gemm("x", 6, 16)), 16, 12))
    net.weight("w", 8, 12)
    x = net.relu(net.node("Gemm", [x, "w"], {"transB": 1}))
    return net.model(net.node("Gemm", [x, "w"]))


def read_whole(how: str) -> ModelProto:
    """A chain of four; the weight of the second layer is wanted as it is, too."""
    net = Net(("N", 6))
    x = net.relu(net.gemm("x", 6, 12))
    second = f"w{len(net.nodes)}"
    x = net.relu(net.gemm(x, 12, 10))
    x = net.gemm(net.relu(net.gemm(x, 10, 9)), 9, 4)
    if how == "computed":
        x = net.node("Mul", [x, net.node("ReduceMax", [second], {"keepdims": 0})])
    model = net.model(x)
    if how == "output":
        info = helper.make_tensor_value_info(second, TensorProto.FLOAT, (10, 12))
        model.graph.output.append(info)
    return model


def stored_as(dtype: int, build: Callable[[], ModelProto], one_cast: bool = True) -> ModelProto:
    """All floats of a model stored in another type; each is cast once, or for each reader."""
    model = build()
    floats = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    casts = []
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    for tensor in floats:
        value, name = numpy_helper.to_array(tensor).astype(kind), tensor.name
        tensor.CopyFrom(numpy_helper.from_array(value, f"{name}_stored"))
        readers = [(n, i) for n in model.graph.node for i, x in enumerate(n.input) if x == name]
        for number, (node, operand) in enumerate(readers):
            cast = name if one_cast else f"{name}_{number}"
            node.input[operand] = cast
            if number == 0 or not one_cast:
                casts.append(
                    helper.make_node("Cast", [tensor.name], [cast], cast, to=TensorProto.FLOAT)
                )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def combined_pyramid() -> ModelProto:
    """A pyramid without a bend, half of whose shared filters are combinations of the others."""
    net = Net(("N", 3, 8, 8))
    net.weight("w", 8, 3, 3, 3)
    combined(net, 8, 4)
    net.weight("v", 4, 8, 3, 3)
    level, pooled = "x", []
    for _ in range(3):
        x = net.node("Conv", [level, "w"], {"pads": [1, 1, 1, 1]})
        pooled.append(
            net.node("GlobalAveragePool", [net.node("Conv", [x, "v"], {"pads": [1] * 4})])
        )
        level = net.node("AveragePool", [level], {"kernel_shape": [2, 2], "strides": [2, 2]})
    return net.model(net.node("Concat", pooled, {"axis": 1}))


SHARED: dict[str, Callable[[], ModelProto]] = {
    "pyramid": pyramid,
    "pyramid_norms": partial(pyramid, norms=True),
    "pyramid_one_bias": partial(pyramid, biases="one"),
    "pyramid_own_biases": partial(pyramid, biases="own"),
    "repeated_block": repeated_block,
    "repeated_conv": partial(repeated_conv, True),
    "recurrence": recurrence,
    "siamese": siamese,
    "twins_identity": partial(twins, "Identity"),
    "twins_reshape": partial(twins, "Reshape"),
    "twins_transpose": partial(twins, "Transpose"),
    "tied_embedding": tied_embedding,
    "tied_autoencoder": tied_autoencoder,
    "read_by_a_node": partial(read_whole, "computed"),
    "read_as_output": partial(read_whole, "output"),
    "half_pyramid": partial(stored_as, TensorProto.FLOAT16, pyramid),
    "bfloat16_pyramid": partial(stored_as, TensorProto.BFLOAT16, pyramid, False),
    "double_siamese": partial(stored_as, TensorProto.DOUBLE, siamese),
}
