"""Small seeded models for the operators that move, split, pad and mix channels, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from onnx import ModelProto

from tests.support.net import Net

IMAGE = ("N", 3, 6, 6)


def finish(net: Net, x: str, channels: int) -> ModelProto:
    """One more block, so that what came before has a Conv to read it, then classes."""
    return net.model(net.head(net.block(x, (channels, 6), (1, 1)), 6))


def norm_relu(net: Net, x: str, channels: int) -> str:
    return net.relu(net.batch_norm(x, channels))


def grouped_conv(net: Net, x: str, channels: tuple[int, int], group: int, kernel: int = 3) -> str:
    """Conv with groups and a bias; channels are (in, out)."""
    number = len(net.nodes)
    weight = net.weight(f"w{number}", channels[1], channels[0] // group, kernel, kernel)
    bias = net.constant(f"b{number}", net.cast(net.rng.normal(size=channels[1])))
    return net.node("Conv", [x, weight, bias], {"group": group, "pads": [kernel // 2] * 4})


# --- convolutions with groups -------------------------------------------------------------------


def depthwise(multiplier: int) -> ModelProto:
    """MobileNet: pointwise, depthwise, pointwise; `multiplier` outputs for each channel."""
    net = Net(IMAGE)
    wide = 8 * multiplier
    x = grouped_conv(net, net.block("x", (3, 8)), (8, wide), 8)
    return finish(net, norm_relu(net, x, wide), wide)


def grouped() -> ModelProto:
    """ResNeXt: a Conv in two groups between two plain ones."""
    net = Net(IMAGE)
    x = grouped_conv(net, net.block("x", (3, 8)), (8, 12), 2)
    return finish(net, norm_relu(net, x, 12), 12)


def conv_transpose() -> ModelProto:
    net = Net(IMAGE)
    x = net.block("x", (3, 8))
    bias = net.constant("b", net.cast(net.rng.normal(size=5)))
    x = net.node("ConvTranspose", [x, net.weight("w", 8, 5, 2, 2), bias], {"strides": [2, 2]})
    return finish(net, net.relu(x), 5)


def conv_transpose_depthwise(multiplier: int = 1) -> ModelProto:
    """Each channel by itself; `multiplier` outputs for each."""
    net = Net(IMAGE)
    x, attributes = net.block("x", (3, 8)), {"strides": [2, 2], "group": 8}
    x = net.node("ConvTranspose", [x, net.weight("w", 8, multiplier, 2, 2)], attributes)
    return finish(net, norm_relu(net, x, 8 * multiplier), 8 * multiplier)


def conv_transpose_grouped(group: int, behind: int, bias: bool = True) -> ModelProto:
    """A decoder: a ConvTranspose in groups behind a Conv, before a Conv in `behind` groups."""
    net = Net(IMAGE)
    inputs = [net.block("x", (3, 12)), net.weight("w", 12, 16 // group, 2, 3)]
    if bias:
        inputs.append(net.constant("b", net.cast(net.rng.normal(size=16))))
    x = net.node("ConvTranspose", inputs, {"strides": [2, 1], "group": group})
    x = grouped_conv(net, norm_relu(net, x, 16), (16, 8), behind)
    return finish(net, net.relu(x), 8)


def shuffle_unit() -> ModelProto:
    """ShuffleNet: group Conv, shuffle, depthwise, group Conv, added to the trunk."""
    net = Net(IMAGE)
    trunk = net.block("x", (3, 12))
    x = norm_relu(net, grouped_conv(net, trunk, (12, 6), 3, 1), 6)
    x = net.node("Reshape", [x, net.ints(0, 3, 2, 6, 6)])
    x = net.node("Transpose", [x], {"perm": [0, 2, 1, 3, 4]})
    x = net.node("Reshape", [x, net.ints(0, 6, 6, 6)])
    x = net.batch_norm(grouped_conv(net, x, (6, 6), 6), 6)
    x = net.batch_norm(grouped_conv(net, x, (6, 12), 3, 1), 12)
    return finish(net, net.relu(net.node("Add", [trunk, x])), 12)


def shuffle_beside_input() -> ModelProto:
    """A shuffle in which some channels change places with those of the input, which stay."""
    net = Net(IMAGE)
    x = net.node("Concat", [net.conv("x", (3, 7)), "x"], {"axis": 1})
    x = net.node("Reshape", [x, net.ints(0, 2, 5, 6, 6)])
    x = net.node("Transpose", [x], {"perm": [0, 2, 1, 3, 4]})
    return finish(net, net.node("Reshape", [x, net.ints(0, 10, 6, 6)]), 10)


# --- cutting and joining ------------------------------------------------------------------------


def split(opset: int, *parts: int) -> ModelProto:
    """Two parts of one layer, each with a branch of its own: sizes where the opset has them."""
    net = Net(IMAGE, opset=opset)
    x = net.block("x", (3, 12))
    inputs, attributes = [x], {"axis": 1}
    if not parts:
        attributes["num_outputs"] = 2
    elif opset >= 13:
        inputs.append(net.ints(*parts))
    net.node("Split", inputs, attributes | ({"split": parts} if opset < 13 else {}))
    net.nodes[-1].output[:] = ["left", "right"]
    first, second = parts or (6, 6)
    branches = [net.block("left", (first, 4)), net.block("right", (second, 5), (1, 1))]
    return finish(net, net.node("Concat", branches, {"axis": 1}), 9)


def split_pooled() -> ModelProto:
    """The second part alone is pooled before a layer reads it."""
    net = Net(IMAGE)
    net.node("Split", [net.block("x", (3, 12)), net.ints(6, 6)], {"axis": 1})
    net.nodes[-1].output[:] = ["left", "right"]
    right = net.node("MaxPool", ["right"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]})
    return finish(net, net.node("Add", [net.conv("left", (6, 4)), net.conv(right, (6, 4))]), 4)


def slice_channels(opset: int) -> ModelProto:
    """Both ends of a layer's channels, the middle twice."""
    net = Net(IMAGE, opset=opset)
    x = net.block("x", (3, 12))
    parts = []
    for start, end in ((0, 7), (-7, 2**31)):
        if opset < 10:
            bounds = {"starts": [start], "ends": [end], "axes": [1]}
            parts.append(net.node("Slice", [x], bounds))
        else:
            parts.append(net.node("Slice", [x, net.ints(start), net.ints(end), net.ints(1)]))
    branches = [net.block(parts[0], (7, 4)), net.block(parts[1], (7, 4))]
    return finish(net, net.node("Add", branches), 4)


def slice_from_end() -> ModelProto:
    """Five channels, by bounds from the end; no layer reads the others, which stay."""
    net = Net(IMAGE)
    x = net.block("x", (3, 12))
    tail = net.node("Slice", [x, net.ints(-7), net.ints(-2), net.ints(1)])
    return finish(net, net.block(tail, (5, 4)), 4)


def slice_spatial() -> ModelProto:
    """Every other row, all columns but the first."""
    net = Net(IMAGE)
    x = net.block("x", (3, 8))
    bounds = [net.ints(0, 1), net.ints(6, 2**31), net.ints(2, 3), net.ints(2, 1)]
    return finish(net, net.node("Slice", [x, *bounds]), 8)


def gather_permutation() -> ModelProto:
    """A channel shuffle as one Gather."""
    net = Net(IMAGE)
    x = net.block("x", (3, 8))
    indices = net.ints(3, 0, 5, 2, -1, 1, 6, 4)
    return finish(net, net.node("Gather", [x, indices], {"axis": 1}), 8)


def pad_shortcut() -> ModelProto:
    """ResNet for CIFAR, option A: the shortcut is cut to half the size and padded with zeros."""
    net = Net(IMAGE)
    trunk = net.block("x", (3, 8))
    x = net.node("MaxPool", [net.block(trunk, (8, 12))], {"kernel_shape": [2, 2]} | STRIDES)
    x = net.batch_norm(net.conv(x, (12, 12), bias=False), 12)
    bounds = [net.ints(0, 0), net.ints(6, 6), net.ints(2, 3), net.ints(2, 2)]
    shortcut = net.node("Slice", [trunk, *bounds])
    shortcut = net.node("Pad", [shortcut, net.ints(0, 2, 0, 0, 0, 2, 0, 0)])
    return finish(net, net.relu(net.node("Add", [x, shortcut])), 12)


STRIDES = {"strides": [2, 2]}


def pad_spatial(mode: str) -> ModelProto:
    net = Net(IMAGE)
    pads = net.ints(0, 0, 1, 2, 0, 0, 1, 2)
    return finish(net, net.node("Pad", [net.block("x", (3, 8)), pads], {"mode": mode}), 8)


def dense_block() -> ModelProto:
    """DenseNet: norm, activation and a bottleneck before each layer that is appended."""
    net = Net(IMAGE)
    x, channels = net.block("x", (3, 8)), 8
    for _ in range(2):
        inner = norm_relu(net, net.conv(norm_relu(net, x, channels), (channels, 6), (1, 1)), 6)
        x = net.node("Concat", [x, net.conv(inner, (6, 4), bias=False)], {"axis": 1})
        channels += 4
    return finish(net, norm_relu(net, x, channels), channels)


def u_net() -> ModelProto:
    """Down, up, and beside what was there before."""
    net = Net(("N", 3, 8, 8))
    skip = net.block("x", (3, 8))
    x = net.block(net.node("MaxPool", [skip], {"kernel_shape": [2, 2]} | STRIDES), (8, 12))
    scales = net.constant("scales", np.array([1, 1, 2, 2], np.float32))
    x = net.node("Concat", [net.node("Resize", [x, "", scales]), skip], {"axis": 1})
    return net.model(net.conv(net.block(x, (20, 6)), (6, 2), (1, 1)))


# --- sizes --------------------------------------------------------------------------------------


def resize(by: str) -> ModelProto:
    net = Net((2, 3, 6, 6))
    x = net.block("x", (3, 8))
    extra = [net.constant("scales", np.array([1, 1, 2, 2], np.float32))]
    if by == "sizes":
        extra = ["", net.ints(2, 8, 12, 9)]
    return finish(net, net.node("Resize", [x, "", *extra]), 8)


def upsample() -> ModelProto:
    """Upsample of opset 9, as older YOLO exports have it."""
    net = Net(IMAGE, opset=9)
    scales = net.constant("scales", np.array([1, 1, 2, 2], np.float32))
    return finish(net, net.node("Upsample", [net.block("x", (3, 8)), scales]), 8)


def expand() -> ModelProto:
    """The pooled image spread over the plane again, as DeepLab does."""
    net = Net(IMAGE)
    x = net.block("x", (3, 8))
    pooled = net.block(net.node("GlobalAveragePool", [x]), (8, 6), (1, 1))
    spread = net.node("Expand", [pooled, net.ints(1, 6, 6, 6)])
    return finish(net, net.node("Concat", [x, spread], {"axis": 1}), 14)


def tile() -> ModelProto:
    """Channels twice over, and each at nine places."""
    net = Net(IMAGE)
    pooled = net.node("GlobalAveragePool", [net.block("x", (3, 8))])
    return finish(net, net.node("Tile", [pooled, net.ints(1, 2, 3, 3)]), 16)


def depth_to_space(mode: str) -> ModelProto:
    net = Net(IMAGE)
    x = net.block("x", (3, 16))
    return finish(net, net.node("DepthToSpace", [x], {"blocksize": 2, "mode": mode}), 4)


def space_to_depth() -> ModelProto:
    net = Net(IMAGE)
    return finish(net, net.node("SpaceToDepth", [net.block("x", (3, 4))], {"blocksize": 2}), 16)


# --- means and norms ----------------------------------------------------------------------------


def squeeze_mean(opset: int, keepdims: int) -> ModelProto:
    """Squeeze and excite by ReduceMean: axes as attribute until opset 18, then as input."""
    net = Net(IMAGE, opset=opset)
    x = net.block("x", (3, 8))
    if opset < 18:
        gate = net.node("ReduceMean", [x], {"axes": [-2, -1], "keepdims": keepdims})
    else:
        gate = net.node("ReduceMean", [x, net.ints(2, 3)], {"keepdims": keepdims})
    if keepdims:
        gate = net.relu(net.conv(gate, (8, 4), (1, 1)))
        gate = net.node("Sigmoid", [net.conv(gate, (4, 8), (1, 1))])
    else:
        gate = net.node("Sigmoid", [net.gemm(net.relu(net.gemm(gate, 8, 4)), 4, 8)])
        gate = net.node("Unsqueeze", [gate, net.ints(2, 3)])
    return finish(net, net.node("Mul", [x, gate]), 8)


def instance_norm() -> ModelProto:
    net = Net(IMAGE)
    vectors = [net.constant(k, net.cast(net.rng.normal(size=8))) for k in ("scale", "bias")]
    x = net.node("InstanceNormalization", [net.conv("x", (3, 8)), *vectors])
    return finish(net, net.relu(x), 8)


def prelu(*shape: int) -> ModelProto:
    net = Net(IMAGE)
    slope = net.constant("slope", net.cast(net.rng.random(shape)))
    return finish(net, net.node("PRelu", [net.conv("x", (3, 8)), slope]), 8)


# --- transformers -------------------------------------------------------------------------------

TOKENS, WIDTH, HEADS = 5, 8, 2


def linear(net: Net, x: str, channels: tuple[int, int]) -> str:
    """MatMul and Add, as PyTorch exports Linear over tokens."""
    number = len(net.nodes)
    x = net.node("MatMul", [x, net.weight(f"w{number}", *channels)])
    bias = net.constant(f"b{number}", net.cast(net.rng.normal(size=channels[1])))
    return net.node("Add", [bias, x])


def layer_norm(net: Net, x: str) -> str:
    number = len(net.nodes)
    vectors = [
        net.constant(f"{k}{number}", net.cast(1.0 + 0.1 * net.rng.normal(size=WIDTH)))
        for k in ("scale", "bias")
    ]
    return net.node("LayerNormalization", [x, *vectors], {"axis": -1})


def gelu(net: Net, x: str, decomposed: bool) -> str:
    """GELU in one operator, or as x * (erf(x / sqrt 2) + 1) / 2."""
    if not decomposed:
        return net.node("Gelu", [x])
    number = len(net.nodes)
    root, one, half = (
        net.constant(f"c{number}_{i}", np.float32(v)) for i, v in enumerate((2**0.5, 1.0, 0.5))
    )
    gate = net.node("Add", [net.node("Erf", [net.node("Div", [x, root])]), one])
    return net.node("Mul", [net.node("Mul", [x, gate]), half])


def feed_forward(decomposed: bool) -> ModelProto:
    """Two pre-norm feed-forward blocks of a transformer."""
    net, x = Net(("N", TOKENS, WIDTH), opset=20), "x"
    for _ in range(2):
        hidden = gelu(net, linear(net, layer_norm(net, x), (WIDTH, 12)), decomposed)
        x = net.node("Add", [x, linear(net, hidden, (12, WIDTH))])
    return net.model(linear(net, layer_norm(net, x), (WIDTH, 3)))


def attention(cut: str) -> ModelProto:
    """Self-attention of two heads; queries, keys and values are cut by Split or by Gather."""
    net, each = Net(("N", TOKENS, WIDTH)), WIDTH // HEADS
    qkv = linear(net, layer_norm(net, "x"), (WIDTH, 3 * WIDTH))
    if cut == "split":
        net.node("Split", [qkv, net.ints(WIDTH, WIDTH, WIDTH)], {"axis": -1})
        net.nodes[-1].output[:] = ["q", "k", "v"]
        shape = net.ints(0, TOKENS, HEADS, each)
        wide = [net.node("Reshape", [name, shape]) for name in "qkv"]
        q, k, v = (net.node("Transpose", [name], {"perm": [0, 2, 1, 3]}) for name in wide)
    else:
        stacked = net.node("Reshape", [qkv, net.ints(0, TOKENS, 3, HEADS, each)])
        stacked = net.node("Transpose", [stacked], {"perm": [2, 0, 3, 1, 4]})
        indices = [net.constant(f"i{i}", np.asarray(i, np.int64)) for i in range(3)]
        q, k, v = (net.node("Gather", [stacked, i], {"axis": 0}) for i in indices)
    keys = net.node("Transpose", [k], {"perm": [0, 1, 3, 2]})
    scale = net.constant("scale", np.float32(each**-0.5))
    weights = net.node("Mul", [net.node("MatMul", [q, keys]), scale])
    x = net.node("MatMul", [net.node("Softmax", [weights], {"axis": -1}), v])
    x = net.node(
        "Reshape", [net.node("Transpose", [x], {"perm": [0, 2, 1, 3]}), net.ints(0, TOKENS, WIDTH)]
    )
    x = net.node("Add", ["x", linear(net, x, (WIDTH, WIDTH))])
    return net.model(linear(net, net.relu(linear(net, x, (WIDTH, 6))), (6, 3)))


# --- gates --------------------------------------------------------------------------------------


def scalar(net: Net, value: float) -> str:
    """A number that all channels share."""
    return net.constant(f"c{len(net.initializers)}", np.float32(value))


def silu(net: Net, x: str) -> str:
    return net.node("Mul", [x, net.node("Sigmoid", [x])])


def gelu_tanh(net: Net, x: str) -> str:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), as T5 and GPT-2 are exported."""
    cube = net.node("Mul", [net.node("Pow", [x, scalar(net, 3.0)]), scalar(net, 0.044715)])
    inner = net.node("Mul", [net.node("Add", [x, cube]), scalar(net, (2.0 / np.pi) ** 0.5)])
    gate = net.node("Add", [net.node("Tanh", [inner]), scalar(net, 1.0)])
    return net.node("Mul", [net.node("Mul", [x, scalar(net, 0.5)]), gate])


def gated_feed_forward(activation: Callable[[Net, str], str]) -> ModelProto:
    """Two blocks of a transformer whose hidden channels are the products of two layers' outputs."""
    net, x = Net(("N", TOKENS, WIDTH), opset=20), "x"
    for _ in range(2):
        inner = layer_norm(net, x)
        hidden = activation(net, linear(net, inner, (WIDTH, 12)))
        hidden = net.node("Mul", [hidden, linear(net, inner, (WIDTH, 12))])
        x = net.node("Add", [x, linear(net, hidden, (12, WIDTH))])
    return net.model(linear(net, layer_norm(net, x), (WIDTH, 3)))


def excite(net: Net, x: str, channels: int) -> str:
    """Squeeze and excite with a hard sigmoid in single operators, as MobileNetV3 has it."""
    pooled = net.node("GlobalAveragePool", [x])
    gate = net.conv(net.relu(net.conv(pooled, (channels, 4), (1, 1))), (4, channels), (1, 1))
    shifted = net.node("Add", [gate, scalar(net, 3.0)])
    clipped = net.node("Clip", [shifted, scalar(net, 0.0), scalar(net, 6.0)])
    return net.node("Mul", [x, net.node("Div", [clipped, scalar(net, 6.0)])])


def excited_residual(where: str) -> ModelProto:
    """An inverted residual block; the gate inside of it, behind it or on the stream itself."""
    net = Net(IMAGE)
    stream = net.block("x", (3, 8))
    x = net.block(stream, (8, 12), (1, 1))
    x = norm_relu(net, grouped_conv(net, x, (12, 12), 12), 12)
    x = excite(net, x, 12) if where == "inside" else x
    x = net.conv(x, (12, 8), (1, 1))
    x = excite(net, x, 8) if where == "behind" else x
    stream = net.node("Add", [stream, x])
    return finish(net, excite(net, stream, 8) if where == "on" else stream, 8)


def gated_conv() -> ModelProto:
    """WaveNet: one layer's outputs open the other's."""
    net = Net(IMAGE)
    x = net.block("x", (3, 8))
    filtered = net.node("Tanh", [net.conv(x, (8, 10))])
    gate = net.node("Sigmoid", [net.conv(x, (8, 10))])
    return finish(net, net.node("Mul", [filtered, gate]), 10)


def gated_parts(joined: str) -> ModelProto:
    """x, a gate for each of its channels computed from it, and how the two come together."""
    net = Net(IMAGE)
    x = net.block("x", (3, 8))
    gate = net.node("Sigmoid", [net.conv(net.block(x, (8, 4), (1, 1)), (4, 8), (1, 1))])
    if joined == "x + x g":
        out = net.node("Add", [x, net.node("Mul", [x, gate])])
    elif joined == "x (1 + g)":
        out = net.node("Mul", [x, net.node("Add", [gate, scalar(net, 1.0)])])
    elif joined == "x g + g":
        out = net.node("Sum", [net.node("Mul", [x, gate]), gate])
    elif joined == "where":
        opened = net.node("Greater", [gate, scalar(net, 0.5)])
        out = net.node("Where", [opened, x, scalar(net, 0.0)])
    elif joined == "max":
        out = net.node("Max", [x, gate])
    elif joined == "x (x + g)":
        out = net.node("Mul", [x, net.node("Add", [x, gate])])
    else:  # highway: x is carried on where the gate lets nothing new in
        new = net.node("Mul", [net.conv(x, (8, 8)), gate])
        kept = net.node("Mul", [x, net.node("Sub", [scalar(net, 1.0), gate])])
        out = net.node("Add", [new, kept])
    return finish(net, out, 8)


def attention_gate() -> ModelProto:
    """Attention U-Net: where to look is computed from both scales; what is seen stays beside it."""
    net = Net(("N", 3, 8, 8))
    skip = net.block("x", (3, 8))
    deep = net.block(net.node("MaxPool", [skip], {"kernel_shape": [2, 2]} | STRIDES), (8, 12))
    scales = net.constant("scales", np.array([1, 1, 2, 2], np.float32))
    deep = net.node("Resize", [deep, "", scales])
    seen = net.relu(net.node("Mul", [net.conv(deep, (12, 6), (1, 1)), net.conv(skip, (8, 6))]))
    where = net.node("Sigmoid", [net.conv(seen, (6, 1), (1, 1))])  # one for all channels
    opened = net.node("Add", [skip, net.node("Mul", [skip, where])])
    x = net.node("Concat", [opened, deep], {"axis": 1})
    return net.model(net.conv(net.block(x, (20, 6)), (6, 2), (1, 1)))


def stacked() -> ModelProto:
    """Two layers' outputs side by side on an axis of their own, not joined by arithmetic."""
    net = Net(IMAGE)
    x = net.block("x", (3, 8))
    both = [net.node("Unsqueeze", [net.conv(x, (8, 10)), net.ints(2)]) for _ in range(2)]
    x = net.node("Concat", both, {"axis": 2})  # (N, C, 2, H, W)
    x = net.node("Reshape", [net.relu(x), net.ints(0, 10, 12, 6)])
    return finish(net, x, 10)


def lstm() -> ModelProto:
    """A recurrent layer behind a Conv: what it reads must stay, what lies before it need not."""
    net = Net(IMAGE)
    x = net.conv(net.block("x", (3, 8)), (8, 4))
    x = net.node("Transpose", [net.node("Reshape", [x, net.ints(0, 4, 36)])], {"perm": [2, 0, 1]})
    weights = [net.weight("w", 1, 20, 4), net.weight("r", 1, 20, 5)]
    x = net.node("LSTM", [x, *weights], {"hidden_size": 5})  # (steps, 1, N, 5)
    x = net.node("ReduceMean", [x], {"axes": [0, 1], "keepdims": 0})
    return net.model(net.gemm(net.relu(net.gemm(x, 5, 6)), 6, 3))


# Builder, and how many channels can be pruned at scope inner and at scope all.
TOPOLOGIES: dict[str, tuple[Callable[[], ModelProto], int, int]] = {
    "depthwise": (partial(depthwise, 1), 14, 14),
    "depthwise_twice": (partial(depthwise, 2), 14, 14),
    "grouped": (grouped, 16, 16),
    "conv_transpose": (conv_transpose, 19, 19),
    "conv_transpose_depthwise": (conv_transpose_depthwise, 14, 14),
    "conv_transpose_depthwise_twice": (partial(conv_transpose_depthwise, 2), 14, 14),
    "conv_transpose_grouped": (partial(conv_transpose_grouped, 2, 1), 28, 28),
    "conv_transpose_in_four": (partial(conv_transpose_grouped, 4, 2), 17, 17),
    "conv_transpose_no_bias": (partial(conv_transpose_grouped, 4, 1, False), 21, 21),
    "shuffle_unit": (shuffle_unit, 6, 10),
    "shuffle_beside_input": (shuffle_beside_input, 8, 8),
    "split_pooled": (split_pooled, 18, 22),
    "split_attribute": (partial(split, 11, 4, 8), 27, 27),
    "split_input": (partial(split, 13, 4, 8), 27, 27),
    "split_num_outputs": (partial(split, 18), 27, 27),
    "slice_attributes": (partial(slice_channels, 9), 18, 22),
    "slice_inputs": (partial(slice_channels, 13), 18, 22),
    "slice_from_end": (slice_from_end, 15, 15),
    "slice_spatial": (slice_spatial, 14, 14),
    "gather_permutation": (gather_permutation, 14, 14),
    "pad_shortcut": (pad_shortcut, 22, 30),
    "pad_constant": (partial(pad_spatial, "constant"), 14, 14),
    "pad_reflect": (partial(pad_spatial, "reflect"), 14, 14),
    "dense_block": (dense_block, 34, 34),
    "u_net": (u_net, 26, 26),
    "resize_scales": (partial(resize, "scales"), 14, 14),
    "resize_sizes": (partial(resize, "sizes"), 14, 14),
    "upsample": (upsample, 14, 14),
    "expand": (expand, 20, 20),
    "tile": (tile, 14, 14),
    "depth_to_space": (partial(depth_to_space, "DCR"), 10, 10),
    "depth_to_space_columns": (partial(depth_to_space, "CRD"), 10, 10),
    "space_to_depth": (space_to_depth, 10, 10),
    "squeeze_attribute": (partial(squeeze_mean, 13, 1), 18, 18),
    "squeeze_attribute_flat": (partial(squeeze_mean, 13, 0), 18, 18),
    "squeeze_input": (partial(squeeze_mean, 18, 1), 18, 18),
    "squeeze_input_flat": (partial(squeeze_mean, 18, 0), 18, 18),
    "instance_norm": (instance_norm, 14, 14),
    "prelu_shared": (partial(prelu, 1), 14, 14),
    "prelu_per_channel": (partial(prelu, 8, 1, 1), 14, 14),
    "feed_forward": (partial(feed_forward, False), 24, 24),
    "feed_forward_erf": (partial(feed_forward, True), 24, 24),
    "attention_split": (partial(attention, "split"), 22, 22),
    "attention_gather": (partial(attention, "gather"), 22, 22),
    "swiglu": (partial(gated_feed_forward, silu), 24, 24),
    "geglu": (partial(gated_feed_forward, partial(gelu, decomposed=True)), 24, 24),
    "gated_gelu_tanh": (partial(gated_feed_forward, gelu_tanh), 24, 24),
    "excited_inside": (partial(excited_residual, "inside"), 22, 30),
    "excited_behind": (partial(excited_residual, "behind"), 22, 30),
    "excited_stream": (partial(excited_residual, "on"), 22, 30),
    "gated_conv": (gated_conv, 24, 24),
    "gate_added": (partial(gated_parts, "x + x g"), 18, 18),
    "gate_of_one_and_more": (partial(gated_parts, "x (1 + g)"), 18, 18),
    "gate_as_shift": (partial(gated_parts, "x g + g"), 18, 18),
    "gate_as_condition": (partial(gated_parts, "where"), 18, 18),
    "gate_or_more": (partial(gated_parts, "max"), 10, 18),
    "gate_times_sum": (partial(gated_parts, "x (x + g)"), 10, 18),
    "highway": (partial(gated_parts, "highway"), 10, 18),
    "attention_gate": (attention_gate, 32, 32),
    "stacked": (stacked, 14, 24),
    "lstm": (lstm, 14, 14),
}
