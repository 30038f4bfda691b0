"""Random graphs: whatever is drawn, dropping channels is what the zero-masked original computes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from lbyl_onnx import Config, NothingToPruneError, compress
from lbyl_onnx.channels.groups import Selection
from lbyl_onnx.option_types import Scope
from tests.support.net import Net
from tests.support.oracle import assert_same, interpret, make_feeds, masked, run

Image = tuple[str, int]  # a tensor of shape (N, channels, 4, 4), and its channels


def activation(draw: st.DrawFn, net: Net, x: str) -> str:
    return net.node(draw(st.sampled_from(["Relu", "Sigmoid", "Tanh", "Elu"])), [x])


def plain(draw: st.DrawFn, net: Net, x: Image) -> Image:
    """Conv, with or without BatchNormalization, with or without activation."""
    channels, kernel = draw(st.integers(1, 6)), draw(st.sampled_from([1, 3]))
    out = net.conv(x[0], (x[1], channels), (kernel, kernel), draw(st.booleans()))
    out = net.batch_norm(out, channels) if draw(st.booleans()) else out
    return (activation(draw, net, out) if draw(st.booleans()) else out), channels


def skip(draw: st.DrawFn, net: Net, x: Image) -> Image:
    """Add or multiply a branch of the same width."""
    inner, channels = plain(draw, net, x)
    out = net.conv(inner, (channels, x[1]), (1, 1))
    return net.node(draw(st.sampled_from(["Add", "Mul", "Sub"])), [x[0], out]), x[1]


def excite(draw: st.DrawFn, net: Net, x: Image) -> Image:
    """Squeeze and excite."""
    pooled = net.node("GlobalAveragePool", [x[0]])
    inner, channels = plain(draw, net, (pooled, x[1]))
    weight = net.node("Sigmoid", [net.conv(inner, (channels, x[1]), (1, 1))])
    return net.node("Mul", [x[0], weight]), x[1]


def gate(draw: st.DrawFn, net: Net, x: Image) -> Image:
    """Two layers multiplied, as in SwiGLU; sometimes with one of them, or the trunk, added."""
    channels = draw(st.integers(1, 6))
    value = net.conv(x[0], (x[1], channels), (1, 1))
    opened = net.node("Sigmoid", [net.conv(x[0], (x[1], channels), (1, 1))])
    if draw(st.booleans()):  # SiLU in single operators
        value = net.node("Mul", [value, net.node("Sigmoid", [value])])
    out = net.node("Mul", [value, opened])
    if draw(st.booleans()):
        out = net.node("Add", [out, draw(st.sampled_from([value, opened]))])
    if channels == x[1] and draw(st.booleans()):
        out = net.node("Add", [out, x[0]])
    return out, channels


def fork(draw: st.DrawFn, net: Net, x: Image) -> Image:
    """Concatenate a branch with another, or with the trunk itself."""
    left = plain(draw, net, x)
    right = plain(draw, net, x) if draw(st.booleans()) else x
    return net.node("Concat", [left[0], right[0]], {"axis": 1}), left[1] + right[1]


def turn(draw: st.DrawFn, net: Net, x: Image) -> Image:
    """To NHWC, through a matrix or a bias, and back."""
    out = net.node("Transpose", [x[0]], {"perm": [0, 2, 3, 1]})
    channels = x[1]
    if draw(st.booleans()):
        channels = draw(st.integers(2, 5))
        name = f"m{len(net.nodes)}"
        out = net.node("MatMul", [out, net.weight(name, x[1], channels)])
    vector = net.cast(net.rng.normal(size=channels))
    out = net.node("Add", [out, net.constant(f"v{len(net.nodes)}", vector)])
    return net.node("Transpose", [out], {"perm": [0, 3, 1, 2]}), channels


def reshape(draw: st.DrawFn, net: Net, x: Image) -> Image:
    """Fold the pixels and unfold them; sometimes split the channels in two, as a shuffle does."""
    shapes = [[0, x[1], 16], [-1, x[1], 2, 8], [0, 0, -1]]
    if x[1] % 2 == 0:
        shapes.append([0, 2, x[1] // 2, 4, 4])
    target = draw(st.sampled_from(shapes))
    out = net.node("Reshape", [x[0], net.ints(*target)])
    if len(target) == 5 and draw(st.booleans()):
        out = net.node("Transpose", [out], {"perm": [0, 2, 1, 3, 4]})
    return net.node("Reshape", [out, net.ints(-1, x[1], 4, 4)]), x[1]


def affine(draw: st.DrawFn, net: Net, x: Image) -> Image:
    """A scale or shift per channel, or one for all."""
    shape = draw(st.sampled_from([(x[1], 1, 1), (1, x[1], 1, 1), (1,)]))
    vector = net.constant(f"a{len(net.nodes)}", net.cast(1.0 + net.rng.random(shape)))
    operator = draw(st.sampled_from(["Mul", "Add", "Div"]))
    return net.node(operator, [x[0], vector]), x[1]


def depthwise(draw: st.DrawFn, net: Net, x: Image) -> Image:
    """A Conv with groups: one for each channel, with one or two outputs, or two in all."""
    group, multiplier = x[1], draw(st.integers(1, 2))
    if x[1] % 2 == 0 and draw(st.booleans()):
        group = 2
    channels, number = x[1] * multiplier, len(net.nodes)
    weight = net.weight(f"w{number}", channels, x[1] // group, 3, 3)
    inputs = [x[0], weight]
    if draw(st.booleans()):
        inputs.append(net.constant(f"b{number}", net.cast(net.rng.normal(size=channels))))
    return net.node("Conv", inputs, {"group": group, "pads": [1, 1, 1, 1]}), channels


def split(draw: st.DrawFn, net: Net, x: Image) -> Image:
    """Cut in two, work on one part or leave it, join in either order."""
    if x[1] < 2:
        return x
    first, number = draw(st.integers(1, x[1] - 1)), len(net.nodes)
    net.node("Split", [x[0], net.ints(first, x[1] - first)], {"axis": 1})
    names = [f"left_{number}", f"right_{number}"]
    net.nodes[-1].output[:] = names
    left, right = (names[0], first), (names[1], x[1] - first)
    left = plain(draw, net, left) if draw(st.booleans()) else left
    parts = [left, right] if draw(st.booleans()) else [right, left]
    joined = net.node("Concat", [name for name, _ in parts], {"axis": 1})
    return joined, left[1] + right[1]


def cut(draw: st.DrawFn, net: Net, x: Image) -> Image:
    """Slice some channels out, counted from either end, or repeat the first of them by Gather."""
    start = draw(st.integers(0, x[1] - 1))
    if draw(st.booleans()):
        order = [*range(start, x[1]), *range(start + 1)]
        return net.node("Gather", [x[0], net.ints(*order)], {"axis": 1}), x[1] + 1
    end = draw(st.integers(start + 1, x[1]))
    bounds = (start - x[1], end) if draw(st.booleans()) else (start, end)
    inputs = [x[0], net.ints(bounds[0]), net.ints(bounds[1]), net.ints(1)]
    return net.node("Slice", inputs), end - start


def pad(draw: st.DrawFn, net: Net, x: Image) -> Image:
    """Pad with channels of zeros; sometimes a shortcut that meets a wider branch."""
    before, after = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    wide = before + x[1] + after
    padded = net.node("Pad", [x[0], net.ints(0, before, 0, 0, 0, after, 0, 0)])
    if draw(st.booleans()):
        return padded, wide
    branch = net.conv(x[0], (x[1], wide), (1, 1))
    return net.node("Add", [padded, branch]), wide


STEPS = (plain, skip, gate, excite, fork, turn, reshape, affine, depthwise, split, cut, pad)


@st.composite
def graphs(draw: st.DrawFn) -> ModelProto:
    """A stem, one to four steps, then classes by a Gemm or a MatMul over all or pooled pixels."""
    net = Net(("N", 3, 4, 4), seed=draw(st.integers(0, 9)))
    x = plain(draw, net, ("x", 3))
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=4)):
        x = step(draw, net, x)
    name, features = x
    if draw(st.booleans()):
        name = net.node("GlobalAveragePool", [name])
    else:
        features *= 16
    flat = net.node("Flatten", [name])
    if draw(st.booleans()):
        flat, features = net.relu(net.gemm(flat, features, 6)), 6
    if draw(st.booleans()):
        return net.model(net.gemm(flat, features, 3))
    return net.model(net.node("MatMul", [flat, net.weight("last", features, 3)]))


methods = st.sampled_from(["nm", "lbyl"])
scopes = st.sampled_from(["inner", "all"])


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(model=graphs(), ratio=st.sampled_from([0.25, 0.5]), scope=scopes)
def test_dropping_equals_the_zero_masked_original(
    model: ModelProto, ratio: float, scope: Scope
) -> None:
    analysis = interpret(model, Selection(scope=scope))
    plans = analysis.plan(ratio)
    config = Config(round_to=1, ratio=ratio, method="none", scope=scope, provider="cpu")
    if not plans:
        with pytest.raises(NothingToPruneError, match="nothing could be pruned"):
            compress(model, config=config)
        return
    result = compress(model, config=config)
    assert result.model is not None
    assert result.after.parameters < result.before.parameters
    assert result.after.macs < result.before.macs
    feeds = make_feeds(model)
    outputs = run(result.model, feeds)
    assert_same(outputs, run(masked(model, plans, analysis), feeds))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(model=graphs(), method=methods, scope=scopes)
def test_restoring_verifies_on_whatever_is_drawn(
    model: ModelProto, method: str, scope: Scope
) -> None:
    if not interpret(model, Selection(scope=scope)).plan(0.5):
        return
    result = compress(
        model, config=Config(round_to=1, method=method, scope=scope, provider="cpu", ratio=0.3)
    )
    assert result.verification.values > 0
    near = result.verification.fidelity
    assert near.relative_error is None or np.isfinite(near.relative_error)
