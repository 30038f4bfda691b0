"""What depends on a dynamic dimension is no constant, whatever it was in the walks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from lbyl_onnx import Config, NothingToPruneError, compress
from lbyl_onnx.channels.analysis import find_channels
from lbyl_onnx.channels.groups import Selection
from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from tests.support.net import Net
from tests.support.oracle import assert_same, compressed, run

IMAGE = (1, 3, "H", "W")
FIRST, SECOND = {"x": (1, 3, 224, 224)}, {"x": (1, 3, 256, 256)}
Sizes = Callable[[Net, str], str]


def element(net: Net, source: str, index: int) -> str:
    """Return one size of a tensor, shape (1,)."""
    return net.node("Gather", [net.node("Shape", [source]), net.ints(index)])


def remainder(net: Net, x: str) -> str:
    """(H mod 32) + 1: the same for 224 and 256."""
    left = net.node("Mod", [element(net, x, 2), net.ints(32)])
    return net.node("Add", [left, net.ints(1)])


def no_product(net: Net, x: str) -> str:
    """0 H + 1: the same for every H, but computed from it."""
    return net.node("Add", [net.node("Mul", [element(net, x, 2), net.ints(0)]), net.ints(1)])


def least(net: Net, x: str) -> str:
    """min(H, 1)."""
    return net.node("Min", [element(net, x, 2), net.ints(1)])


def even(net: Net, x: str) -> str:
    """(H * H + H) mod 2 + 1: always 1, which no rule of this package knows."""
    height = element(net, x, 2)
    both = net.node("Add", [net.node("Mul", [height, height]), height])
    return net.node("Add", [net.node("Mod", [both, net.ints(2)]), net.ints(1)])


def ratio(net: Net, x: str) -> str:
    """H / W: 1 for every square."""
    return net.node("Div", [element(net, x, 2), element(net, x, 3)])


COMPUTED = {f.__name__: f for f in (remainder, no_product, least, even, ratio)}


def tensor_facts(net: Net, output: str) -> TensorInfo:
    return TensorInfo(net.model(output), FIRST, SECOND)


@pytest.mark.parametrize("computed", COMPUTED.values(), ids=COMPUTED)
def test_arithmetic_on_a_dynamic_size_is_no_constant(computed: Sizes) -> None:
    net = Net(IMAGE)
    size = computed(net, "x")
    tensor_info = tensor_facts(net, net.node("Mul", ["x", net.node("Cast", [size], {"to": 1})]))
    assert not tensor_info.is_constant(size)
    assert tensor_info.is_known(size)


@pytest.mark.parametrize("computed", COMPUTED.values(), ids=COMPUTED)
def test_an_axis_of_such_a_size_is_dynamic_and_so_is_what_follows(computed: Sizes) -> None:
    net = Net(IMAGE)
    zeros = net.node("ConstantOfShape", [computed(net, "x")])
    wide = net.node("Expand", [zeros, computed(net, "x")])
    row = net.node("Unsqueeze", [wide, net.ints(0)])
    again = element(net, row, 1)
    static = element(net, row, 0)
    tensor_info = tensor_facts(net, net.node("Add", ["x", row]))
    assert tensor_info.static_shape(row) == (1, None)
    assert not tensor_info.is_constant(again)
    assert not tensor_info.is_constant(wide)
    assert tensor_info.is_constant(static)


def test_marks_follow_their_elements() -> None:
    net = Net((2, 3, "H", "W"))
    shape = net.node("Shape", ["x"])
    front = net.node("Slice", [shape, net.ints(0), net.ints(2)])
    parts = net.node("Concat", [front, net.ints(-1)], {"axis": 0})
    swapped = net.node("Gather", [parts, net.ints(1, 2)])
    scaled = net.node("Mul", [shape, net.ints(1, 1, 2, 2)])
    floats = net.node("Cast", [front], {"to": TensorProto.FLOAT})
    size = net.node("Size", [net.weight("w", 4, 5)])
    model = net.model(net.node("Reshape", ["x", parts]))
    first, second = {"x": (2, 3, 224, 224)}, {"x": (2, 3, 256, 256)}
    tensor_info = TensorInfo(model, first, second)
    for name in (front, parts, swapped, floats, size):
        assert tensor_info.is_constant(name)
    existing = tensor_info.traced_value(scaled)
    assert existing is not None
    assert existing[1].tolist() == [False, False, True, True]


def test_what_is_worked_out_of_static_sizes_stays_static() -> None:
    """[N, -1, H, W] of (N, 8, H, W): -1 is 8 at all sizes."""
    net = Net(IMAGE)
    x = net.conv("x", (3, 8))
    front, back = element(net, "x", 0), [element(net, "x", axis) for axis in (2, 3)]
    target = net.node("Concat", [front, net.ints(-1), *back], {"axis": 0})
    shaped = net.node("Reshape", [x, target])
    tensor_info = tensor_facts(net, net.relu(shaped))
    assert tensor_info.static_shape(shaped) == (1, 8, None, None)


def test_a_rank_that_depends_on_the_batch_is_unknown() -> None:
    net = Net(("N", 3))
    squeezed = net.node("Squeeze", ["x"])
    model = net.model(net.relu(squeezed))
    tensor_info = TensorInfo(model, {"x": (1, 3)}, {"x": (2, 3)})
    assert tensor_info.static_shape(squeezed) is None


def test_a_bound_beyond_the_probed_sizes_is_found_at_others() -> None:
    """The first 100 rows are all rows of a smaller input."""
    net = Net(IMAGE)
    top = net.node("Slice", ["x", net.ints(0), net.ints(100), net.ints(2)])
    model = net.model(net.relu(top))
    assert TensorInfo(model, FIRST, SECOND).static_shape(top) == (1, 3, 100, None)
    smaller = TensorInfo(model, FIRST, SECOND, others=[{"x": (1, 3, 32, 32)}])
    assert smaller.static_shape(top) == (1, 3, None, None)


def reshaped_by(computed: Sizes, channels: int = 8) -> ModelProto:
    """Conv, a Reshape to (a computed size, channels, what is left), a Conv, the maximum."""
    net = Net(IMAGE)
    x = net.relu(net.conv("x", (3, channels)))
    target = net.node("Concat", [computed(net, "x"), net.ints(channels, -1)], {"axis": 0})
    x = net.node("Reshape", [x, target])
    x = net.node("Conv", [x, net.weight("last", 6, channels, 1)])
    return net.model(net.node("ReduceMax", [x], {"axes": [0, 2], "keepdims": 0}))


@pytest.mark.parametrize("computed", COMPUTED.values(), ids=COMPUTED)
def test_channels_that_a_computed_size_orders_stay(computed: Sizes) -> None:
    config = Config(round_to=1, ratio=0.5, method="none", provider="cpu")
    with pytest.raises(NothingToPruneError, match="orders them by a dynamic dimension"):
        compress(reshaped_by(computed), config=config)


def test_a_scale_that_a_computed_size_gives_stays_computed() -> None:
    """The number of rows, as the average of what is summed over them, is never written out."""
    net = Net(IMAGE)
    x = net.relu(net.conv("x", (3, 8)))
    rows = net.node("Cast", [remainder(net, x)], {"to": TensorProto.FLOAT})
    x = net.node("Div", [x, rows])
    model = net.model(net.conv(x, (8, 4)))
    weights = {t.name: t for t in model.graph.initializer}
    for name in ("w0", "b0"):  # the half that goes is silent: nothing may change
        value = np.array(onnx.numpy_helper.to_array(weights[name]))
        value[4:] = 0.0
        weights[name].CopyFrom(onnx.numpy_helper.from_array(value, name))
    made = compressed(model)
    assert {t.name: tuple(t.dims) for t in made.graph.initializer}["w0"] == (4, 3, 3, 3)
    for size in (224, 256, 65, 100):
        image = np.random.default_rng(size).standard_normal((1, 3, size, 32)).astype(np.float32)
        assert_same(run(made, {"x": image}), run(model, {"x": image}))


def test_an_operand_that_broadcasts_only_at_some_sizes_keeps_the_channels() -> None:
    net = Net(IMAGE)
    x = net.relu(net.conv("x", (3, 8)))
    sizes = net.node("Concat", [net.ints(1), remainder(net, "x"), net.ints(1, 1)], {"axis": 0})
    x = net.node("Add", [x, net.node("ConstantOfShape", [sizes])])
    model = net.model(net.conv(x, (8, 4)))
    channels = find_channels(to_graph(model), TensorInfo(model, FIRST, SECOND), Selection())
    (refusal, *_) = channels.refusals
    assert "joins them to channels that stay" in refusal.reason
