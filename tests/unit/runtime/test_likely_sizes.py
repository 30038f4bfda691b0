"""Sizes that are likely for dynamic dimensions, from what reads the input."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from lbyl_onnx import register_operator
from lbyl_onnx.graph.layers.standard import conv
from lbyl_onnx.runtime.baseline import input_shapes
from lbyl_onnx.runtime.session import CPU
from lbyl_onnx.runtime.sizes.likely import likely_sizes
from tests.support.net import Dims, Net
from tests.support.registered import tables_restored


def line_reader(shape: Dims, *strides: tuple[int, int]) -> ModelProto:
    """Convolutions of these strides, then the mean over the plane."""
    net = Net(shape)
    x, channels = "x", 3
    for down_right in strides:
        weight = net.weight(f"w{len(net.nodes)}", 8, channels, 3, 3)
        attributes = {"strides": down_right, "pads": [1, 1, 1, 1]}
        x = net.relu(net.node("Conv", [x, weight], attributes))
        channels = 8
    return net.model(net.head(x, 8))


def signal(shape: Dims, channels: int) -> ModelProto:
    net = Net(shape)
    x = "x" if len(shape) == 3 else net.node("Unsqueeze", ["x", net.ints(1)])
    return net.model(net.node("GlobalAveragePool", [net.conv(x, (channels, 4), (5,))]))


def text(dtype: int = TensorProto.INT64) -> ModelProto:
    net = Net(("N", "T"))
    net.inputs = [helper.make_tensor_value_info("x", dtype, ("N", "T"))]
    return net.declared(net.node("Gather", [net.weight("table", 9, 4), "x"]), "N", "T", 4)


WIDE = ((2, 2), (2, 1), (2, 1))
TALL = ((2, 2), (1, 2), (1, 2))


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (line_reader(("N", 3, "H", "W"), *WIDE), {2: 48, 3: 192}),
        (line_reader(("N", 3, 32, "W"), *WIDE), {3: 128}),
        (line_reader(("N", 3, "H", "W"), *TALL), {2: 192, 3: 48}),
        (line_reader(("N", 3, "H", "W"), (2, 2), (2, 2)), {}),
        (line_reader(("N", 3, 32, 32), *WIDE), {}),
        (line_reader(("N", 3, "H", "W"), (2, 1)), {}),  # one layer says little
        (line_reader(("N", 3, "H", "W"), *[(2, 1)] * 5), {2: 48, 3: 192}),
        (signal(("N", "T"), 1), {1: 16000}),
        (signal(("N", 1, "T"), 1), {2: 16000}),
        (signal(("N", 40, "T"), 40), {2: 100}),
        (signal(("N", 40, 60), 40), {}),
        (text(), {1: 64}),
        (text(TensorProto.INT32), {1: 64}),
    ],
)
def test_likely_sizes(model: ModelProto, sizes: dict[int, int]) -> None:
    assert likely_sizes(model) == {("x", axis): size for axis, size in sizes.items()}


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (line_reader(("N", 3, "H", "W"), *WIDE), (1, 3, 48, 192)),
        (text(), (1, 64)),
        (signal(("N", "T"), 1), (1, 16000)),
    ],
)
def test_the_model_is_measured_at_them(
    model: ModelProto, shape: tuple[int, ...], tmp_path: Path
) -> None:
    onnx.save(model, tmp_path / "m.onnx")
    first, second = input_shapes(tmp_path / "m.onnx", CPU)
    assert first["x"] == shape
    # The second shapes differ wherever a dimension is dynamic.
    assert all(a != b for a, b in zip(first["x"], second["x"], strict=True) if a not in (3,))


def test_a_size_that_does_not_run_is_not_taken(tmp_path: Path) -> None:
    """A table of positions has fewer rows than texts are likely to be long."""
    net = Net(("N", "T"))
    net.inputs = [helper.make_tensor_value_info("x", TensorProto.INT64, ("N", "T"))]
    length = net.node("Gather", [net.node("Shape", ["x"]), net.ints(1)], {"axis": 0})
    places = net.node("Slice", [net.weight("places", 20, 4), net.ints(0), length, net.ints(0)])
    tokens = net.node("Gather", [net.weight("table", 9, 4), "x"])
    model = net.declared(net.node("Add", [tokens, places]), "N", "T", 4)
    onnx.save(model, tmp_path / "m.onnx")
    first, _ = input_shapes(tmp_path / "m.onnx", CPU)
    assert first["x"][1] <= 20


@pytest.mark.parametrize(("channels", "length"), [(1, 16000), (40, 100)])
def test_a_registered_layer_tells_a_signal_by_its_row(channels: int, length: int) -> None:
    model = signal(("N", channels, "T"), channels)
    (node,) = (node for node in model.graph.node if node.op_type == "Conv")
    node.op_type, node.domain = "Convolution", "somewhere.else"
    assert likely_sizes(model) == {}
    with tables_restored():
        register_operator("Convolution", domain="somewhere.else", layer=conv)
        assert likely_sizes(model) == {("x", 2): length}
