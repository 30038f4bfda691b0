"""The statistics of images, read off the BatchNormalization behind the first layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import ModelProto

from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.config import Config
from lbyl_onnx.data.image_statistics import ImageStatistics
from lbyl_onnx.data.input_kind import InputKind, InputRange
from lbyl_onnx.data.synthetic.images import Floats
from lbyl_onnx.data.synthetic.images import images as synthetic_images
from lbyl_onnx.data.synthetic.recolour import recoloured
from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.graph.source import check_source
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.inputs.first_layers import image_statistics, with_statistics
from lbyl_onnx.io import reader
from lbyl_onnx.observe.session import prepare
from lbyl_onnx.runtime.baseline import run_baseline
from tests.support.net import Net
from tests.support.oracle import input_shapes

Doubles = NDArray[np.float64]
SIDE = 24
MEAN = np.array([0.3, -0.2, 0.1])
# The square root of a covariance, with more colour than photographs have.
MIX = 0.6 * np.array([[1.0, 0.5, 0.1], [1.0, 0.0, -0.2], [1.0, -0.5, 0.1]])


def photographs(count: int, seed: int) -> Floats:
    return synthetic_images(count, (3, SIDE, SIDE), np.random.default_rng(seed), "photo")


def seen(count: int = 300) -> Doubles:
    """Images (n, 3, h, w) of known mean and covariance, blurred: little power where it is fine."""
    rng = np.random.default_rng(5)
    fields = rng.standard_normal((count, 3, SIDE + 4, SIDE + 4))
    for axis in (2, 3):
        windows = sliding_window_view(fields, 5, axis)
        fields = windows @ np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / np.sqrt(70.0)
    fields = 0.8 * fields + 0.6 * rng.standard_normal((count, 3, 1, 1))
    fields += 0.1 * rng.standard_normal(fields.shape)
    return np.asarray(np.einsum("ij,njhw->nihw", MIX, fields) + MEAN[:, None, None])


def outputs(images: Doubles, weight: Doubles, pad: int, stride: int = 1) -> Doubles:
    """Convolve as its definition says: (n, filters, places)."""
    padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(padded, weight.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    found = np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True)
    return np.asarray(found.reshape(*found.shape[:2], -1))


def filters(count: int, seed: int = 0, kernel: int = 3) -> Doubles:
    """Filters as trained ones are: of brightness or of a colour, means or differences."""
    rng = np.random.default_rng(seed)
    colour = np.where(np.arange(count)[:, None] % 2, 1.0, 0.0) + rng.standard_normal((count, 3))
    colour[::3] -= colour[::3].mean(axis=1, keepdims=True)
    taps = rng.standard_normal((count, kernel, kernel))
    taps[1::4] += 1.0
    taps[2::4] -= taps[2::4].mean(axis=(1, 2), keepdims=True)
    taps[3::4] -= taps[3::4].mean(axis=2, keepdims=True)
    noise = 0.03 * rng.standard_normal((count, 3, kernel, kernel))
    return np.asarray(np.einsum("oc,oyx->ocyx", colour, taps) + noise)


@dataclass(frozen=True, eq=False)
class First:
    """A model's first layer: its filters, what BatchNormalization stores, and what is before."""

    weight: Doubles
    mean: Doubles
    var: Doubles
    pad: int = 1
    stride: int = 1
    bias: float = 0.0

    @staticmethod
    def of(images: Doubles, weight: Doubles, pad: int = 1, stride: int = 1) -> First:
        """A layer that has seen images."""
        z = outputs(images, weight, pad, stride)
        return First(weight, z.mean(axis=(0, 2)), z.var(axis=(0, 2)), pad, stride)

    def append(self, net: Net, x: str) -> str:
        """Append it to a model."""
        count = len(self.mean)
        inputs = [x, net.constant("first", self.weight.astype(np.float32))]
        if self.bias:
            inputs.append(net.constant("bias", np.full(count, self.bias, np.float32)))
        pads = {"pads": [self.pad] * 4, "strides": [self.stride] * 2}
        x = net.node("Conv", inputs, pads)
        values = (np.full(count, 0.3), np.full(count, -0.5), self.mean + self.bias, self.var)
        names = [net.constant(f"bn{i}", v.astype(np.float32)) for i, v in enumerate(values)]
        return net.relu(net.node("BatchNormalization", [x, *names]))

    def model(self) -> ModelProto:
        """Return a model of this layer alone."""
        net = Net(("N", 3, SIDE, SIDE))
        return net.model(self.append(net, "x"))


def told(model: ModelProto) -> ImageStatistics | None:
    tensor_info = TensorInfo(model, input_shapes(model, 1, SIDE), input_shapes(model, 2, SIDE))
    x = next(tensor for tensor in to_graph(model).inputs if tensor.name == "x")
    return image_statistics(x, tensor_info, "auto", "photo")


def check(statistics: ImageStatistics | None, images: Doubles) -> None:
    """Recoloured synthetic images have the moments of the images that were seen."""
    assert statistics is not None
    deviation = images.std()
    np.testing.assert_allclose(statistics.mean, images.mean(axis=(0, 2, 3)), atol=0.05 * deviation)
    channels = np.moveaxis(images, 1, 0).reshape(3, -1)
    assert abs(np.trace(statistics.covariance) / np.trace(np.cov(channels)) - 1.0) < 0.2
    unit = photographs(600, 9).astype(np.float64)
    made = recoloured(unit.astype(np.float32), statistics).astype(np.float64)
    unseen = filters(48, seed=77)  # the fit has not had them
    want, get, flat = (outputs(x, unseen, 0).var(axis=(0, 2)) for x in (images, made, unit))
    flat *= np.exp(np.mean(np.log(want / flat)))
    error, before = (np.sqrt(np.mean(np.log(x / want) ** 2)) for x in (get, flat))
    assert before > 0.3
    assert error < 0.22  # the lowest knot holds brightness and slow shading together
    assert statistics.fitted > statistics.flat


@pytest.mark.parametrize(("count", "kernel", "pad", "stride"), [(64, 3, 1, 1), (48, 5, 2, 2)])
def test_filters_tell_the_images_that_they_have_seen(
    count: int, kernel: int, pad: int, stride: int
) -> None:
    images = seen()
    first = First.of(images, filters(count, kernel=kernel), pad, stride)
    statistics = told(first.model())
    check(statistics, images)
    assert statistics is not None
    assert (statistics.filters, statistics.axis, statistics.nodes) == (count, 1, ("conv_0",))


def test_zeros_around_are_counted_as_zeros() -> None:
    """Images far from zero: their edge alone makes half of a filter's variance."""
    images = seen() + np.array([4.0, 5.0, 6.0])[:, None, None]
    statistics = told(First.of(images, filters(64)).model())
    check(statistics, images)


def test_a_bias_is_no_mean_of_the_images() -> None:
    images = seen()
    first = First.of(images, filters(64))
    biased = First(first.weight, first.mean, first.var, bias=3.0)
    one, other = told(first.model()), told(biased.model())
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one.mean, other.mean, atol=1e-4)


def test_statistics_are_those_of_the_input_itself() -> None:
    """Bytes, channels last, turned round and normalised before the first layer."""
    images = seen()
    first = First.of(images, filters(64))
    scale, shift = np.array([50.0, 60.0, 70.0]), np.array([100.0, 120.0, 140.0])
    net = Net(("N", SIDE, SIDE, 3))
    x = net.node("Gather", ["x", net.ints(2, 1, 0)], {"axis": 3})
    x = net.node("Sub", [x, net.constant("mean", shift.astype(np.float32))])
    x = net.node("Div", [x, net.constant("std", scale.astype(np.float32))])
    x = net.node("Transpose", [x], {"perm": [0, 3, 1, 2]})
    statistics = told(net.model(first.append(net, x)))
    assert statistics is not None
    assert statistics.axis == 3
    raw = (images * scale[:, None, None] + shift[:, None, None])[:, ::-1]
    np.testing.assert_allclose(statistics.mean, raw.mean(axis=(0, 2, 3)), atol=3.0)
    covariance = np.cov(np.moveaxis(raw, 1, 0).reshape(3, -1))
    assert abs(np.trace(statistics.covariance) / np.trace(covariance) - 1.0) < 0.2


def test_two_first_layers_tell_together() -> None:
    images = seen()
    net = Net(("N", 3, SIDE, SIDE))
    one = First.of(images, filters(8)).append(net, "x")
    alone = told(net.model(one))
    net = Net(("N", 3, SIDE, SIDE))
    one = First.of(images, filters(24)).append(net, "x")
    other = First.of(images, filters(24, seed=1)).append(
        net, net.node("Pad", ["x", net.ints(*[0] * 8)])
    )
    both = told(net.model(net.node("Concat", [one, other], {"axis": 1})))
    assert alone is None
    assert both is not None
    assert both.filters == 48


def test_filters_of_no_variance_are_left_out() -> None:
    images = seen()
    first = First.of(images, filters(64))
    weight = np.concatenate([first.weight, 1e-20 * filters(8, seed=3)])
    mean, var = np.append(first.mean, [7.0] * 8), np.append(first.var, [0.0] * 4 + [1e-12] * 4)
    statistics = told(First(weight, mean, var).model())
    check(statistics, images)
    assert statistics is not None
    assert statistics.filters == 64


def test_what_tells_nothing() -> None:
    images = seen(50)
    good = First.of(images, filters(64))
    rng = np.random.default_rng(0)
    ones, zeros = np.ones(64), np.zeros(64)
    untrained = First(good.weight, zeros, ones)
    mixed = First(good.weight, good.mean, rng.permutation(good.var))
    moved = First(good.weight, good.mean + np.sqrt(good.var) * rng.standard_normal(64), good.var)
    broken = First(good.weight, good.mean, np.where(np.arange(64) == 5, np.nan, good.var))
    dead = First(good.weight, good.mean, zeros)
    assert told(good.model()) is not None
    for first in (untrained, mixed, moved, broken, dead):
        assert told(first.model()) is None


def test_photographs_of_less_contrast_are_known_by_fourteen_filters() -> None:
    unit = photographs(400, 3).astype(np.float64)
    statistics = told(First.of(0.5 * unit, filters(14)).model())
    assert statistics is not None
    np.testing.assert_allclose(np.sqrt(np.diag(statistics.covariance)), 0.5, rtol=0.06)
    assert told(First.of(0.5 * unit, filters(8)).model()) is None


def test_a_model_is_measured_on_images_like_those_that_it_has_seen(tmp_path: Path) -> None:
    images = seen()
    net = Net(("N", 3, SIDE, SIDE))
    x = First.of(images, filters(32)).append(net, "x")
    model = net.model(net.relu(net.conv(x, (32, 8))))
    with reader.on_disk(model) as path:
        baseline = run_baseline(path, "CPUExecutionProvider", 0)
        files = check_source(path)
        analyzed = AnalyzedModel.open(files, baseline.shape_sets)
        config = Config(ratio=0.5, provider="cpu")
        prepared = prepare(analyzed, baseline, config, tmp_path)
    assert prepared.run is not None
    made = np.concatenate([batch["x"] for batch in prepared.run.source.batches()])
    wanted = np.cov(np.moveaxis(images, 1, 0).reshape(3, -1))
    np.testing.assert_allclose(made.mean(axis=(0, 2, 3)), MEAN, atol=0.12)
    found = np.cov(np.moveaxis(made, 1, 0).reshape(3, -1))
    np.testing.assert_allclose(found, wanted, atol=0.25 * wanted.max())


class TestKinds:
    """Images get the statistics of those that the model has seen; a stated range is kept."""

    @staticmethod
    def kinds(**choice: Any) -> InputKind:
        unit = photographs(400, 3).astype(np.float64)
        model = First.of(0.5 * unit, filters(14)).model()
        tensor_info = TensorInfo(model, input_shapes(model, 1, SIDE), input_shapes(model, 2, SIDE))
        kinds = {"x": InputKind("photo", **choice)}
        return with_statistics(kinds, to_graph(model), tensor_info, "auto")["x"]

    def test_images_of_which_nothing_is_said(self) -> None:
        kind = self.kinds()
        assert kind.statistics is not None
        assert "deviation 0.49" in kind.description  # half of what they are made with

    def test_nothing_is_added_where_most_layers_are_folded(self) -> None:
        unit = photographs(400, 3).astype(np.float64)
        net = Net(("N", 3, SIDE, SIDE))
        x = First.of(0.5 * unit, filters(14)).append(net, "x")
        for channels in ((14, 8), (8, 8)):
            x = net.relu(net.conv(x, channels))
        model = net.model(x)
        assert told(model) is not None
        tensor_info = TensorInfo(model, input_shapes(model, 1, SIDE), input_shapes(model, 2, SIDE))
        kinds = with_statistics({"x": InputKind("photo")}, to_graph(model), tensor_info, "auto")
        assert kinds["x"].statistics is None

    def test_the_users_range_is_not_overruled(self) -> None:
        pixels = InputRange(0.0, 1.0, (0.5,) * 3, (0.25,) * 3, 1)
        assert self.kinds(sure="stated", pixels=pixels).statistics is None
        assert self.kinds(sure="clear", pixels=pixels).statistics is not None
