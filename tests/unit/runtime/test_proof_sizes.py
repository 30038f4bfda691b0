"""The sizes at which a model is verified: small, odd and large ones, where it runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from lbyl_onnx import Config, compress
from lbyl_onnx.runtime.baseline import Baseline, run_baseline
from lbyl_onnx.runtime.sizes.proof import kinds
from tests.support.net import Dims, Net

CPU = "CPUExecutionProvider"


def convolutional(shape: Dims) -> ModelProto:
    net = Net(shape)
    return net.model(net.conv(net.relu(net.conv("x", (3, 8))), (8, 4)))


def halved(shape: Dims) -> ModelProto:
    """A network that gives up on sizes that cannot be halved: it joins what it has enlarged."""
    net = Net(shape)
    x = net.relu(net.conv("x", (3, 8)))
    small = net.node("MaxPool", [x], {"kernel_shape": [16, 16], "strides": [16, 16]})
    scales = net.constant("scales", np.array([1, 1, 16, 16], np.float32))
    large = net.node("Resize", [small, "", scales], {"mode": "nearest"})
    x = net.node("Concat", [x, large], {"axis": 1})
    return net.model(net.conv(x, (16, 4)))


def baseline_of(model: ModelProto, folder: Path) -> Baseline:
    onnx.save(model, folder / "model.onnx")
    return run_baseline(folder / "model.onnx", CPU, 0)


def sizes(baseline: Baseline, axis: int) -> set[int]:
    return {s["x"][axis] for s in (baseline.first, baseline.second, *baseline.others)}


def test_each_dynamic_axis_has_four_sizes_or_more(tmp_path: Path) -> None:
    baseline = baseline_of(convolutional(("N", 3, "H", "W")), tmp_path)
    first = baseline.first["x"][2]
    for axis in (0, 2, 3):
        assert len(sizes(baseline, axis)) >= 4
    for axis in (2, 3):
        assert min(sizes(baseline, axis)) < first // 4
        assert max(sizes(baseline, axis)) > 2 * first
        assert any(size % 2 for size in sizes(baseline, axis))
    assert any(s["x"][2] != s["x"][3] for s in baseline.others)
    assert baseline.shapes == 5
    assert len(baseline.feeds) == len(baseline.record.outputs) == 12


def test_a_batch_alone_has_its_sizes(tmp_path: Path) -> None:
    assert sizes(baseline_of(convolutional(("N", 3, 8, 8)), tmp_path), 0) == {1, 2, 3, 4, 17}


def test_a_model_of_fixed_sizes_has_one(tmp_path: Path) -> None:
    baseline = baseline_of(convolutional((1, 3, 8, 8)), tmp_path)
    assert (baseline.others, baseline.shapes) == ((), 1)


def test_sizes_at_which_the_original_fails_are_left_out(tmp_path: Path) -> None:
    baseline = baseline_of(halved(("N", 3, "H", "W")), tmp_path)
    assert len(sizes(baseline, 2)) >= 4
    assert all(size % 16 == 0 for size in sizes(baseline, 2) | sizes(baseline, 3))


def test_a_size_at_which_nothing_comes_out_is_left_out(tmp_path: Path) -> None:
    net = Net(("N", 3, "H", "W"))
    x = net.relu(net.conv("x", (3, 8)))
    rest = net.node("Slice", [x, net.ints(8), net.ints(10**6), net.ints(2)])
    baseline = baseline_of(net.model(net.conv(rest, (8, 4))), tmp_path)
    assert min(sizes(baseline, 2)) == 16


def test_a_size_at_which_the_original_is_not_finite_is_left_out(tmp_path: Path) -> None:
    """1 / (H - 16) is infinite at 16 alone."""
    net = Net((1, 3, "H", 16))
    x = net.relu(net.conv("x", (3, 8)))
    height = net.node("Gather", [net.node("Shape", [x]), net.ints(2)])
    less = net.node("Sub", [net.node("Max", [height, net.ints(16)]), net.ints(16)])
    x = net.node("Div", [x, net.node("Cast", [less], {"to": 1})])
    baseline = baseline_of(net.model(net.conv(x, (8, 4))), tmp_path)
    assert min(sizes(baseline, 2)) > 16


def test_equal_names_are_equal_sizes_and_others_are_not() -> None:
    inputs = (("a", "tensor(float)", ("N", "T")), ("b", "tensor(float)", (None, "T", "U")))
    first, second = {"a": (1, 64), "b": (1, 64, 64)}, {"a": (2, 96), "b": (2, 96, 96)}
    for kind in kinds(inputs, first, second):
        assert kind
        assert all(s["a"][0] == s["b"][0] and s["a"][1] == s["b"][1] for s in kind)
    assert any(s["b"][1] != s["b"][2] for s in kinds(inputs, first, second)[1])


def test_the_proof_tells_how_many_shapes(tmp_path: Path) -> None:
    config = Config(round_to=1, ratio=0.5, method="none", provider="cpu")
    result = compress(convolutional(("N", 3, "H", "W")), config=config)
    assert result.verification.shapes == 5


@pytest.mark.parametrize("shape", [("N", 3, "H", "W"), ("N", 3, 8, 8)])
def test_the_same_seed_gives_the_same_inputs(tmp_path: Path, shape: Dims) -> None:
    one, two = (baseline_of(convolutional(shape), tmp_path) for _ in range(2))
    assert one.others == two.others
    for a, b in zip(one.feeds, two.feeds, strict=True):
        np.testing.assert_array_equal(a["x"], b["x"])
