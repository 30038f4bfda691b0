"""What an image input takes, read off the arithmetic in front of the first layer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from lbyl_onnx import Config, compress
from lbyl_onnx.cli import main
from lbyl_onnx.data.input_kind import InputKind, InputRange, InputSpec
from lbyl_onnx.data.synthetic.feeds import synthetic_input
from lbyl_onnx.data.synthetic.images import images as synthetic_images
from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.inputs.pixel_range import input_ranges
from tests.support.net import Dims, Net
from tests.support.oracle import input_shapes

IMAGE: Dims = ("N", 3, 24, 24)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Step = tuple[str, float | Sequence[float]]
PIXELS: list[Step] = [("Sub", 127.0), ("Div", 128.0)]
NORMALISED: list[Step] = [("Sub", MEAN), ("Div", STD)]


def normalised(net: Net, x: str, steps: Sequence[Step], axis: int = 1, first: bool = True) -> str:
    """Constants, scalar or one for each channel, subtracted, added, multiplied, divided by."""
    for number, (op_type, value) in enumerate(steps):
        constant = np.asarray(value, np.float32)
        if constant.ndim:
            constant = constant.reshape([-1 if a == axis else 1 for a in range(4)])
        name = net.constant(f"{op_type}_{number}", constant)
        x = net.node(op_type, [x, name] if first else [name, x])
    return x


def behind(
    steps: Sequence[Step], shape: Dims = IMAGE, dtype: int = TensorProto.FLOAT, channels: int = 3
) -> ModelProto:
    net = Net(shape)
    x = "x"
    if dtype != TensorProto.FLOAT:
        net.inputs = [helper.make_tensor_value_info("x", dtype, shape)]
        x = net.node("Cast", [x], {"to": TensorProto.FLOAT})
    return net.model(net.conv(normalised(net, x, steps), (channels, 4)))


def range_of(model: ModelProto) -> InputRange | None:
    tensor_info = TensorInfo(model, input_shapes(model, 1, 24), input_shapes(model, 2, 24))
    return input_ranges(to_graph(model), tensor_info, "auto").get("x")


@pytest.mark.parametrize(
    ("steps", "high", "mean", "spread"),
    [
        # What is taken away is the mean; 1/128 is no deviation of photographs, a quarter is.
        (PIXELS, 255, 127, 63.75),
        ([("Mul", 1 / 127.5), ("Sub", 1.0)], 255, 127.5, 63.75),
        ([("Sub", 127.5), ("Mul", 1 / 128)], 255, 127.5, 63.75),
        ([("Add", -127.5), ("Mul", 1 / 127.5)], 255, 127.5, 63.75),
        ([("Div", 255.0)], 255, 127.5, 63.75),
        ([("Div", 255.0), *NORMALISED], 255, np.multiply(MEAN, 255), np.multiply(STD, 255)),
        ([("Sub", (123.7, 116.3, 103.5))], 255, (123.7, 116.3, 103.5), 63.75),
        (NORMALISED, 1, MEAN, STD),
        ([("Mul", 2.0), ("Sub", 1.0)], 1, 0.5, 0.25),
        ([("Sub", 0.5)], 1, 0.5, 0.25),
    ],
)
def test_a_chain_tells_the_range(
    steps: Sequence[Step],
    high: float,
    mean: float | Sequence[float],
    spread: float | Sequence[float],
) -> None:
    pixel_range = range_of(behind(steps))
    assert pixel_range is not None
    assert (pixel_range.low, pixel_range.high) == (0.0, high)
    # The constants are float32.
    np.testing.assert_allclose(pixel_range.mean, np.broadcast_to(mean, 3), rtol=1e-5)
    np.testing.assert_allclose(pixel_range.spread, np.broadcast_to(spread, 3), rtol=1e-5)
    assert len(pixel_range.nodes) == len(steps)


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [("Mul", 1.0)],
        [("Add", 0.0)],
        [("Mul", 0.18215)],  # of a latent, say
        [("Div", 0.0)],
        [("Sub", np.nan)],
        [("Sub", -0.093)],
        [("Sub", 1000.0)],
        [("Sub", (0.5, 0.5, 100.0))],
        [("Pow", 2.0), *PIXELS],
    ],
)
def test_what_tells_nothing(steps: Sequence[Step]) -> None:
    assert range_of(behind(steps)) is None


@pytest.mark.parametrize("shape", [("N", 16, 24, 24), ("N", 3, 24), (1, 3, 24, 24, 24), ("N", 3)])
def test_only_images_are_asked(shape: Dims) -> None:
    net = Net(shape)
    net.nodes = []
    assert range_of(net.model(net.relu(normalised(net, "x", PIXELS)))) is None


def test_an_image_that_two_layers_read_tells_nothing() -> None:
    net = Net(IMAGE)
    one = net.conv(normalised(net, "x", PIXELS), (3, 4))
    assert range_of(net.model(net.node("Add", [one, net.conv("x", (3, 4))]))) is None


def test_a_shape_that_is_read_beside_does_not_matter() -> None:
    net = Net(IMAGE)
    shape = net.node("Shape", ["x"])
    pixel_range = range_of(net.model(net.conv(normalised(net, "x", PIXELS), (3, 4)), shape))
    assert pixel_range is not None


def test_a_constant_less_the_image_counts_too() -> None:
    net = Net(IMAGE)
    x = normalised(net, normalised(net, "x", [("Sub", 127.0)], first=False), [("Mul", 1 / 128)])
    pixel_range = range_of(net.model(net.conv(x, (3, 4))))
    assert pixel_range is not None
    assert (pixel_range.high, pixel_range.mean) == (255.0, (127.0,) * 3)


def test_channels_are_followed_through_a_transpose() -> None:
    net = Net(("N", 24, 24, 3))
    x = normalised(net, "x", [("Div", 255.0)])
    x = net.node("Transpose", [x], {"perm": [0, 3, 1, 2]})
    pixel_range = range_of(net.model(net.conv(normalised(net, x, NORMALISED), (3, 4))))
    assert pixel_range is not None
    assert pixel_range.axis == 3
    np.testing.assert_allclose(pixel_range.mean, np.multiply(MEAN, 255), rtol=1e-5)


@pytest.mark.parametrize("by", ["Gather", "Slice"])
def test_channels_are_followed_where_their_order_changes(by: str) -> None:
    """As Keras turns RGB to BGR before it takes the means of BGR away."""
    net = Net(IMAGE)
    if by == "Gather":
        x = net.node("Gather", ["x", net.ints(2, 1, 0)], {"axis": 1})
    else:
        x = net.node("Slice", ["x", net.ints(-1), net.ints(-99), net.ints(1), net.ints(-1)])
    pixel_range = range_of(
        net.model(net.conv(normalised(net, x, [("Sub", (103.9, 116.8, 123.7))]), (3, 4)))
    )
    assert pixel_range is not None
    np.testing.assert_allclose(pixel_range.mean, (123.7, 116.8, 103.9), rtol=1e-6)


def test_a_crop_ends_the_chain() -> None:
    net = Net(IMAGE)
    x = net.node("Slice", ["x", net.ints(1), net.ints(9), net.ints(2), net.ints(1)])
    assert range_of(net.model(net.conv(normalised(net, x, PIXELS), (3, 4)))) is None


def test_a_constant_for_each_row_ends_the_chain() -> None:
    net = Net(IMAGE)
    rows = net.constant("rows", np.linspace(0.5, 1.5, 24, dtype=np.float32).reshape(1, 1, 24, 1))
    x = net.node("Mul", [normalised(net, "x", PIXELS), rows])
    pixel_range = range_of(net.model(net.conv(x, (3, 4))))
    assert pixel_range is not None
    assert len(pixel_range.nodes) == 2


@pytest.mark.parametrize("opset", [10, 17])
def test_a_clip_tells_the_range_itself(opset: int) -> None:
    net = Net(IMAGE, opset=opset)
    if opset < 11:
        x = net.node("Clip", ["x"], {"min": -1.0, "max": 1.0})
    else:
        limits = [net.constant(f"c{v}", np.float32(v)) for v in (-1, 1)]
        x = net.node("Clip", ["x", *limits])
    pixel_range = range_of(net.model(net.conv(x, (3, 4))))
    assert pixel_range is not None
    assert (pixel_range.low, pixel_range.high, pixel_range.mean, pixel_range.spread) == (
        -1.0,
        1.0,
        (0.0,) * 3,
        (0.5,) * 3,
    )


def test_bytes_take_their_mean_from_the_chain() -> None:
    pixel_range = range_of(behind([("Div", 255.0), *NORMALISED], dtype=TensorProto.UINT8))
    assert pixel_range is not None
    assert (pixel_range.low, pixel_range.high) == (0.0, 255.0)
    np.testing.assert_allclose(pixel_range.mean, np.multiply(MEAN, 255), rtol=1e-5)


def applied(steps: Sequence[Step], x: NDArray[np.generic]) -> NDArray[np.float64]:
    """What the first layer reads, computed in NumPy."""
    operators: dict[str, Callable[..., NDArray[np.float64]]] = {
        "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide,
    }  # fmt: skip
    y = x.astype(np.float64)
    for op_type, value in steps:
        constant = np.asarray(value, np.float64)
        y = operators[op_type](y, constant.reshape(-1, 1, 1) if constant.ndim else constant)
    return y


@pytest.mark.parametrize(
    ("steps", "dtype", "deviation"),
    [
        (NORMALISED, TensorProto.FLOAT, 1.0),
        ([("Div", 255.0), *NORMALISED], TensorProto.FLOAT, 1.0),
        ([("Div", 255.0), *NORMALISED], TensorProto.UINT8, 1.0),
        (PIXELS, TensorProto.FLOAT, 0.5),
        (PIXELS, TensorProto.UINT8, 0.5),
    ],
)
def test_the_first_layer_reads_normalised_photographs(
    steps: Sequence[Step], dtype: int, deviation: float
) -> None:
    pixel_range = range_of(behind(steps, dtype=dtype))
    assert pixel_range is not None
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    spec = InputSpec(kind, (256, 3, 16, 16), InputKind("photo", pixels=pixel_range))
    x = synthetic_input(spec, np.random.default_rng(0))
    assert (x.shape, x.dtype) == (spec.shape, kind)
    assert x.min() >= 0.0
    assert x.max() <= pixel_range.high
    y = applied(steps, x)
    # 256 images, whose own means scatter by 0.7 deviations: 0.044 of it is one standard error.
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), 0.0, atol=0.15)
    # What is beyond the range is cut off, a few percent of the deviation.
    np.testing.assert_allclose(y.std(axis=(0, 2, 3)), deviation, rtol=0.12)


def detector() -> ModelProto:
    """A face detector's front: pixels normalised in the graph, biases, no BatchNormalization."""
    net = Net(("N", 3, 32, 32), seed=1)
    x = normalised(net, "x", PIXELS)
    for channels in ((3, 24), (24, 32), (32, 32)):
        x = net.relu(net.conv(x, channels))
    model = net.model(net.head(x, 32))
    for tensor in model.graph.initializer:  # biases as small as beside He-normal weights
        if tensor.name.startswith("b"):
            value = 0.1 * numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))
        elif tensor.name.startswith("w"):
            value = np.sqrt(2.0) * numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))
    return model


def outputs(model: ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def test_a_model_of_pixels_keeps_what_it_computes_on_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, config = detector(), Config(provider="cpu", round_to=1, ratio=0.3)
    images = synthetic_images(48, (3, 32, 32), np.random.default_rng(9), "photo")
    pixels = np.clip(np.rint(127 + 64 * images), 0, 255).astype(np.float32)
    want = outputs(model, pixels)

    def error() -> float:
        made = compress(model, config=config).model
        assert made is not None
        return float(np.linalg.norm(outputs(made, pixels) - want) / np.linalg.norm(want))

    in_range = error()
    monkeypatch.setattr("lbyl_onnx.inputs.evidence.input_ranges", lambda *rest: {})
    # A third of what samples of mean 0 and deviation 1 leave, which fed so are all one colour.
    assert in_range < error() / 3


def test_it_is_told_once_and_only_where_it_was_found(tmp_path: Path, sample: Path) -> None:
    onnx.save(detector(), tmp_path / "m.onnx")
    output = run_dry(tmp_path / "m.onnx", tmp_path / "report.json")
    assert " ".join(output.split()).count("of 0 to 255 (sub_0, div_1 tell the range)") == 1
    inputs = json.loads((tmp_path / "report.json").read_text())["inputs"]
    pixels = [(i["name"], i["kind"]["pixels"]["low"], i["kind"]["pixels"]["high"]) for i in inputs]
    assert pixels == [("x", 0.0, 255.0)]
    assert "tell the range" not in run_dry(sample, tmp_path / "other.json")
    inputs = json.loads((tmp_path / "other.json").read_text())["inputs"]
    assert [entry["kind"]["pixels"] for entry in inputs] == [None]


def run_dry(model: Path, report: Path) -> str:
    arguments = ["compress", "--ratio=0.3", str(model), "--dry-run", "--json", str(report)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    return result.stderr
