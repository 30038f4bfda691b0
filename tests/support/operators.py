"""Small seeded models for operators that newer exporters write, and for what must stay."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from onnx import ModelProto, TensorProto, helper

from tests.support.net import Net
from tests.support.topologies import IMAGE, TOKENS, finish, linear


def sequence(*parts: int, axis: int = 1) -> ModelProto:
    """Two parts of one layer taken from a sequence, as PyTorch's chunk is traced.

    Sizes are one number for all parts, or one for each.
    """
    net = Net(IMAGE)
    x = net.block("x", (3, 12))
    sizes = net.constant("sizes", np.asarray(parts if len(parts) > 1 else parts[0], np.int64))
    cut = net.node("SplitToSequence", [x, sizes], {"axis": axis})
    positions = [net.constant(f"at_{i}", np.asarray(i, np.int64)) for i in (0, -1)]
    first, last = (net.node("SequenceAt", [cut, position]) for position in positions)
    wide = [12, 12] if axis != 1 else [parts[0], parts[-1]]
    branches = [net.block(x, (c, 4)) for x, c in zip((first, last), wide, strict=True)]
    return finish(net, net.node("Add", branches), 4)


# --- sizes that the graph computes --------------------------------------------------------------


def leading(net: Net, x: str, *rest: int) -> str:
    """The first two sizes of a tensor, then others, as interpolation to a size is exported."""
    sizes = net.node("Shape", [x])
    return net.node(
        "Concat",
        [net.node("Slice", [sizes, net.ints(0), net.ints(2)]), net.ints(*rest)],
        {"axis": 0},
    )


def resize_computed() -> ModelProto:
    """Sizes with a dynamic batch and the channels of what is resized."""
    net = Net(IMAGE)
    x = net.block("x", (3, 8))
    return finish(net, net.node("Resize", [x, "", "", leading(net, x, 12, 9)]), 8)


def normalised_over_tokens() -> ModelProto:
    """Means over tokens, reshaped and expanded to a shape with the batch, as JAX exports them."""
    net = Net(("N", TOKENS, 6))
    x = linear(net, "x", (6, 8))
    batch = net.node("Slice", [net.node("Shape", ["x"]), net.ints(0), net.ints(1)])
    target = net.node("Concat", [batch, net.ints(1, 8)], {"axis": 0})
    mean = net.node("ReduceMean", [x], {"axes": [1], "keepdims": 0})
    mean = net.node("Expand", [net.node("Reshape", [mean, target]), target])
    x = net.relu(net.node("Sub", [x, mean]))
    return net.model(linear(net, x, (8, 3)))


def flatten_and_back() -> ModelProto:
    """Flattened over dynamic height and width, and given its own shape again."""
    net = Net(("N", 3, "H", "W"))
    x = net.block("x", (3, 8))
    flat = net.relu(net.node("Reshape", [x, net.ints(0, 8, -1)]))
    return finish(net, net.node("Reshape", [flat, net.node("Shape", [x])]), 8)


def shaped_as_another() -> ModelProto:
    """A target that counts the channels of another layer: it can be rewritten."""
    net = Net(IMAGE)
    first, second = (net.block("x", (3, 8)) for _ in range(2))
    flat = net.node("Reshape", [second, leading(net, first, -1)])
    back = net.node("Reshape", [flat, net.ints(0, 0, 6, 6)])
    return finish(net, net.node("Concat", [first, back], {"axis": 1}), 16)


def shaped_as_another_of_its_kind(coupled: bool) -> ModelProto:
    """The same with dynamic height and width: it is right only where both lose the same."""
    net = Net(("N", 3, "H", "W"))
    first, second = (net.block("x", (3, 8)) for _ in range(2))
    flat = net.node("Reshape", [second, net.ints(0, 8, -1)])
    back = net.node("Reshape", [net.relu(flat), net.node("Shape", [first])])
    if coupled:
        return finish(net, net.node("Add", [first, back]), 8)
    return finish(net, net.node("Concat", [first, back], {"axis": 1}), 16)


def input_shaped_as_a_layer() -> ModelProto:
    """What has no channels of its own is given the shape of a layer."""
    net = Net(("N", 8, "H", "W"))
    x = net.block("x", (8, 8))
    image = net.node("Reshape", ["x", net.node("Shape", [x])])
    return finish(net, net.node("Concat", [x, image], {"axis": 1}), 16)


def number_in_a_body() -> ModelProto:
    """The body of If multiplies by a number of channels."""
    net = Net(IMAGE)
    x = net.block("x", (3, 8))
    number = net.node("Gather", [net.node("Shape", [x]), net.ints(1)])
    number = net.node("Cast", [number], {"to": TensorProto.FLOAT})
    logits = net.head(net.block(x, (8, 6)), 6)
    condition = net.constant("condition", np.asarray(True))
    bodies = {
        f"{branch}_branch": helper.make_graph(
            [helper.make_node("Mul", [logits, number], [f"{branch}_out"])],
            branch,
            [],
            [helper.make_tensor_value_info(f"{branch}_out", TensorProto.FLOAT, ["N", 10])],
        )
        for branch in ("then", "else")
    }
    return net.model(net.relu(net.node("If", [condition], bodies)))


def number_as_output() -> ModelProto:
    """The shape of a layer is an output of the model."""
    net = Net(IMAGE)
    x = net.block("x", (3, 8))
    y = net.head(net.block(x, (8, 6)), 6)
    return net.model(y, net.node("Cast", [net.node("Shape", [x])], {"to": TensorProto.FLOAT}))


# --- norms --------------------------------------------------------------------------------------


def group_norm(groups: int, opset: int = 21, dtype: int = TensorProto.FLOAT) -> ModelProto:
    """GroupNormalization over groups of channels; its scale is of groups before opset 21."""
    net = Net(IMAGE, opset=opset, dtype=dtype)
    x = grouped_norm(net, net.conv("x", (3, 8)), 8, groups)
    return declared(finish(net, net.relu(x), 8), "N", 10)


def grouped_norm(net: Net, x: str, channels: int, groups: int) -> str:
    number, length = len(net.nodes), channels if net.opset > 20 else groups
    scale = net.constant(f"scale{number}", net.cast(net.rng.uniform(0.5, 1.5, length)))
    bias = net.constant(f"bias{number}", net.cast(net.rng.normal(size=length)))
    return net.node("GroupNormalization", [x, scale, bias], {"num_groups": groups})


def group_norm_decomposed(groups: int, computed: bool = False, opset: int = 17) -> ModelProto:
    """GroupNorm as PyTorch exports it; the shape to go back to is stored, or that of the layer."""
    net = Net(IMAGE, opset=opset)
    layer = net.conv("x", (3, 8))
    vectors = [net.constant(k, net.cast(net.rng.normal(size=8))) for k in ("scale", "bias")]
    ones = [
        net.constant(k, net.cast(np.full(groups, v))) for k, v in (("ones", 1.0), ("zeros", 0.0))
    ]
    x = net.node("Reshape", [layer, net.ints(0, groups, -1)])
    x = net.node("InstanceNormalization", [x, *ones])
    back = net.node("Shape", [layer]) if computed else net.ints(0, 8, 6, 6)
    x = net.node("Reshape", [x, back])
    for op_type, vector in zip(("Mul", "Add"), vectors, strict=True):
        x = net.node(op_type, [x, net.node("Unsqueeze", [vector, net.ints(1, 2)])])
    return finish(net, net.relu(x), 8)


def group_norm_block() -> ModelProto:
    """The block of a diffusion model: norm, SiLU, Conv, twice, added to the trunk."""
    net = Net(IMAGE, opset=21)
    x = trunk = net.conv("x", (3, 12))
    for _ in range(2):
        x = grouped_norm(net, x, 12, 3)
        x = net.conv(net.node("Mul", [x, net.node("Sigmoid", [x])]), (12, 12))
    x = grouped_norm(net, net.node("Add", [x, trunk]), 12, 3)
    return declared(finish(net, net.relu(x), 12), "N", 10)


def group_norm_concat() -> ModelProto:
    """A norm whose middle group holds channels of both the layers behind a Concat."""
    net = Net(IMAGE, opset=21)
    both = [net.conv("x", (3, 6)), net.conv("x", (3, 6))]
    x = grouped_norm(net, net.node("Concat", both, {"axis": 1}), 12, 3)
    return declared(finish(net, net.relu(x), 12), "N", 10)


def mean_variance(*axes: int) -> ModelProto:
    """Over some axes; over the batch, height and width where none is named."""
    net = Net(IMAGE)
    attributes = {"axes": axes} if axes else {}
    x = net.node("MeanVarianceNormalization", [net.conv("x", (3, 8))], attributes)
    return declared(finish(net, x, 8), "N", 10)


def declared(model: ModelProto, *shape: int | str) -> ModelProto:
    """Declare the shape of an output that onnx does not infer."""
    info = model.graph.output[0]
    dtype = info.type.tensor_type.elem_type or TensorProto.FLOAT
    info.CopyFrom(helper.make_tensor_value_info(info.name, dtype, shape))
    return model


def across_channels(op_type: str, **attributes: int | list[int]) -> ModelProto:
    """An operator that sums over channels, or picks one of them, between two blocks."""
    net = Net(IMAGE)
    x = net.node(op_type, [net.conv("x", (3, 8))], attributes)
    if op_type.startswith(("Arg", "Reduce")):
        x = net.node("Cast", [x], {"to": TensorProto.FLOAT})
        return finish(net, x, 1)
    return finish(net, x, 8)


def decomposed_norm(centred: bool = True, square: str = "Pow", divide: str = "Div") -> ModelProto:
    """Means over channels, subtracted and divided by: as opset 11 has LayerNorm."""
    net = Net(("N", TOKENS, 6))
    x = linear(net, "x", (6, 8))
    if centred:
        x = net.node("Sub", [x, net.node("ReduceMean", [x], {"axes": [-1]})])
    other = x if square == "Mul" else net.constant("two", np.float32(2.0))
    variance = net.node("ReduceMean", [net.node(square, [x, other])], {"axes": [-1]})
    total = net.node("Add", [variance, net.constant("eps", np.float32(1e-5))])
    if divide == "Pow":
        root = net.node("Pow", [total, net.constant("half", np.float32(-0.5))])
    else:
        root = net.node("Cast", [net.node("Sqrt", [total])], {"to": TensorProto.FLOAT})
    if divide == "Reciprocal":
        root = net.node("Reciprocal", [root])
    x = net.node("Div" if divide == "Div" else "Mul", [x, root])
    return net.model(linear(net, net.relu(linear(net, x, (8, 6))), (6, 3)))


# --- elementwise and pooled ---------------------------------------------------------------------


def where(operand: str) -> ModelProto:
    """Where by a mask of the channels, by an activation, or by a constant for each channel."""
    net = Net(IMAGE)
    x, low = net.conv("x", (3, 8)), net.constant("low", np.float32(0.1))
    if operand == "self":
        mask = net.node("Greater", [x, low])
    elif operand == "constant":
        mask = net.constant("mask", net.rng.random((1, 8, 1, 1)) > 0.5)
    else:
        mask = net.node("Greater", [net.node("ReduceMean", ["x"], {"axes": [1]}), low])
    return finish(net, net.node("Where", [mask, x, low]), 8)


def many(op_type: str) -> ModelProto:
    """Three branches in one Sum, Mean, Max or Min."""
    net = Net(IMAGE)
    branches = [net.conv("x", (3, 8)) for _ in range(3)]
    return finish(net, net.relu(net.node(op_type, branches)), 8)


def between(*op_types: str, opset: int = 17) -> ModelProto:
    """Unary operators, one after the other, between two layers."""
    net = Net(IMAGE, opset=opset)
    x = net.block("x", (3, 8))
    for op_type in op_types:
        x = net.node(op_type, [x])
    return finish(net, x, 8)


def clip_attributes() -> ModelProto:
    """Clip before opset 11."""
    net = Net(IMAGE, opset=9)
    return finish(net, net.node("Clip", [net.conv("x", (3, 8))], {"min": 0.0, "max": 6.0}), 8)


def cast_half() -> ModelProto:
    """Activations that go through float16."""
    net = Net(IMAGE)
    x = net.node("Cast", [net.block("x", (3, 8))], {"to": TensorProto.FLOAT16})
    return finish(net, net.node("Cast", [net.node("Relu", [x])], {"to": TensorProto.FLOAT}), 8)


def reduced(op_type: str) -> ModelProto:
    """Reduced over height and width."""
    net = Net(IMAGE)
    x = net.block("x", (3, 8))
    if op_type == "ReduceSum":
        return finish(net, net.node(op_type, [x, net.ints(2, 3)]), 8)
    return finish(net, net.node(op_type, [x], {"axes": [2, 3]}), 8)


def pooled(op_type: str) -> ModelProto:
    """A pool over windows, with its attributes."""
    net = Net(IMAGE)
    x = net.block("x", (3, 8))
    attributes = {} if op_type.startswith("Global") else {"kernel_shape": [2, 2]}
    return finish(net, net.node(op_type, [x], attributes), 8)


def gelu_tanh() -> ModelProto:
    """GELU by tanh, written out, as GPT-2 exports have it."""
    net = Net(("N", TOKENS, 6))
    x = linear(net, "x", (6, 12))
    cubic, scale, one, half = (
        net.constant(k, np.float32(v))
        for k, v in (("cubic", 0.044715), ("scale", 0.79788), ("one", 1.0), ("half", 0.5))
    )
    cube = net.node("Pow", [x, net.constant("three", np.float32(3.0))])
    inner = net.node("Add", [x, net.node("Mul", [cube, cubic])])
    gate = net.node("Add", [net.node("Tanh", [net.node("Mul", [inner, scale])]), one])
    x = net.node("Mul", [net.node("Mul", [x, half]), gate])
    return net.model(linear(net, x, (12, 3)))


# --- attention, recurrence, bodies --------------------------------------------------------------


def fused_attention(rank: int, heads: tuple[int, int] = (2, 2)) -> ModelProto:
    """Attention in one operator, opset 23: heads of queries, and of keys and values."""
    net, each = Net(("N", TOKENS, 8), opset=23), 4
    widths = [each * heads[0], each * heads[1], each * heads[1]]
    q, k, v = (linear(net, "x", (8, width)) for width in widths)
    if rank == 4:
        split = [
            net.node("Reshape", [y, net.ints(0, TOKENS, n, each)])
            for y, n in zip((q, k, v), (heads[0], heads[1], heads[1]), strict=True)
        ]
        q, k, v = (net.node("Transpose", [y], {"perm": [0, 2, 1, 3]}) for y in split)
        x = net.node("Transpose", [net.node("Attention", [q, k, v])], {"perm": [0, 2, 1, 3]})
        x = net.node("Reshape", [x, net.ints(0, TOKENS, widths[0])])
    else:
        numbers = {"q_num_heads": heads[0], "kv_num_heads": heads[1]}
        x = net.node("Attention", [q, k, v], numbers)
    x = linear(net, x, (widths[0], 8))
    return net.model(linear(net, net.relu(linear(net, x, (8, 6))), (6, 3)))


def gru() -> ModelProto:
    """A recurrent layer behind a Conv of one dimension: what it reads must stay."""
    net = Net(("N", 3, 9))
    x = net.conv(net.block("x", (3, 8), (3,)), (8, 4), (3,))
    x = net.node("Transpose", [x], {"perm": [2, 0, 1]})
    weights = [net.weight("w", 1, 15, 4), net.weight("r", 1, 15, 5)]
    x = net.node("GRU", [x, *weights], {"hidden_size": 5})  # (steps, 1, N, 5)
    x = net.node("ReduceMean", [x], {"axes": [0, 1], "keepdims": 0})
    return net.model(net.gemm(net.relu(net.gemm(x, 5, 6)), 6, 3))


def loop() -> ModelProto:
    """A Loop that adds what it captures: the captured and the carried channels must stay."""
    net = Net(IMAGE)
    stem = net.block("x", (3, 6))
    captured, carried = (net.block(stem, (6, 8)) for _ in range(2))
    shape: list[int | str] = ["N", 8, 6, 6]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["again"]),
            helper.make_node("Add", ["state", captured], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, shape),
        ],
    )
    times = net.constant("times", np.asarray(2, np.int64))
    always = net.constant("always", np.asarray(True))
    x = net.node("Loop", [times, always, carried], {"body": body})
    return declared(net.model(net.relu(x)), "N", 8, 6, 6)


# Builder, and how many channels can be pruned at scope inner and at scope all.
OPERATORS: dict[str, tuple[Callable[[], ModelProto], int, int]] = {
    "sequence_even": (partial(sequence, 6), 18, 22),
    "sequence_sizes": (partial(sequence, 4, 8), 18, 22),
    "sequence_spatial": (partial(sequence, 3, axis=2), 18, 22),
    "resize_computed": (resize_computed, 14, 14),
    "normalised_over_tokens": (normalised_over_tokens, 8, 8),
    "flatten_and_back": (flatten_and_back, 14, 14),
    "shaped_as_another": (shaped_as_another, 22, 22),
    "shaped_as_another_coupled": (partial(shaped_as_another_of_its_kind, True), 6, 14),
    "shaped_as_another_alone": (partial(shaped_as_another_of_its_kind, False), 6, 6),
    "input_shaped_as_a_layer": (input_shaped_as_a_layer, 6, 6),
    "number_in_a_body": (number_in_a_body, 6, 6),
    "number_as_output": (number_as_output, 6, 6),
    "group_norm": (partial(group_norm, 2), 10, 10),
    "group_norm_old": (partial(group_norm, 2, 18), 10, 10),
    "group_norm_half": (partial(group_norm, 2, dtype=TensorProto.FLOAT16), 10, 10),
    "group_norm_whole": (partial(group_norm, 1), 14, 14),
    "group_norm_of_one": (partial(group_norm, 8), 14, 14),
    "group_norm_block": (group_norm_block, 10, 14),
    "group_norm_concat": (group_norm_concat, 6, 10),
    "group_norm_decomposed": (partial(group_norm_decomposed, 2), 10, 10),
    "group_norm_decomposed_18": (partial(group_norm_decomposed, 4, opset=18), 8, 8),
    "group_norm_decomposed_computed": (partial(group_norm_decomposed, 2, True), 10, 10),
    "mean_variance_spatial": (partial(mean_variance, 2, 3), 14, 14),
    "mean_variance_default": (mean_variance, 14, 14),
    "mean_variance_channels": (partial(mean_variance, 1), 6, 6),
    "lrn": (partial(across_channels, "LRN", size=3), 6, 6),
    "softmax": (partial(across_channels, "Softmax", axis=1), 6, 6),
    "lp_normalization": (partial(across_channels, "LpNormalization", axis=1), 6, 6),
    "arg_max": (partial(across_channels, "ArgMax", axis=1), 6, 6),
    "reduce_mean_channels": (partial(across_channels, "ReduceMean", axes=[1]), 6, 6),
    "layer_norm_decomposed": (decomposed_norm, 6, 6),
    "layer_norm_by_power": (lambda: decomposed_norm(square="Mul", divide="Pow"), 6, 6),
    "rms_norm_decomposed": (lambda: decomposed_norm(False, divide="Reciprocal"), 6, 6),
    "where_self": (partial(where, "self"), 14, 14),
    "where_constant": (partial(where, "constant"), 14, 14),
    "where_other": (partial(where, "other"), 14, 14),
    **{op.lower(): (partial(many, op), 6, 14) for op in ("Sum", "Mean", "Max", "Min")},
    "unary": (partial(between, "Abs", "Sqrt", "Exp", "Neg", "Sigmoid", "Floor"), 14, 14),
    "activations": (partial(between, "Elu", "Selu", "Softplus", "HardSwish"), 14, 14),
    "activations_new": (partial(between, "Mish", "Gelu", "Celu", opset=20), 14, 14),
    "clip_attributes": (clip_attributes, 14, 14),
    "cast_half": (cast_half, 14, 14),
    **{
        f"{op.lower()}_spatial": (partial(reduced, op), 14, 14)
        for op in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceLogSumExp")
    },
    **{
        op.lower(): (partial(pooled, op), 14, 14)
        for op in ("AveragePool", "LpPool", "GlobalMaxPool", "GlobalLpPool")
    },
    "gelu_tanh": (gelu_tanh, 12, 12),
    "attention_fused": (partial(fused_attention, 3), 30, 30),
    "attention_fused_heads": (partial(fused_attention, 4), 30, 30),
    "attention_grouped_queries": (partial(fused_attention, 3, (4, 2)), 30, 30),
    "gru": (gru, 14, 14),
    "loop": (loop, 6, 6),
}
