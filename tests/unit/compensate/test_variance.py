"""Repair: the outputs of compensated layers have the mean and variance that they had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from lbyl_onnx import CompressResult, Config, compress, pipeline
from lbyl_onnx.channels.analysis import find_channels
from lbyl_onnx.channels.groups import ChannelMap, Selection
from lbyl_onnx.compensate.group import Fitted, fit
from lbyl_onnx.compensate.variance import LARGEST_GAIN, repairs, targets
from lbyl_onnx.evaluate.verify import Verification, verify
from lbyl_onnx.graph.model_graph import Graph, Node, to_graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.guard.effort import USUAL
from lbyl_onnx.io.external_data import TensorReader
from lbyl_onnx.io.writer import ModelDraft
from lbyl_onnx.observe.accumulate import SampleMoments
from lbyl_onnx.observe.planning import repairable
from lbyl_onnx.observe.run import measure
from lbyl_onnx.rewrite import build as rewrite_build
from lbyl_onnx.runtime.baseline import Baseline
from lbyl_onnx.types import Array
from tests.support.gemms import gemms
from tests.support.models import MODELS
from tests.support.moments import feeds_of, tensor_facts
from tests.support.net import Net
from tests.support.oracle import deviation, run, tap

Floats = NDArray[np.float64]
COUNT = 100  # samples; one mini-batch holds them


@dataclass(frozen=True)
class Repaired:
    """What `compress` has made, and the reference that it proves it equal to."""

    result: CompressResult
    reference: ModelProto


def repaired(
    model: ModelProto,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    ratio: float = 0.5,
    repair: bool = True,
    feeds: dict[str, Array] | None = None,
) -> Repaired:
    """Compress with samples of our own, and keep what the verification compares with."""
    kept: list[ModelProto] = []

    def keeping(
        baseline: Baseline, source: Path, staged: Path, expected: Path, *samples: Any
    ) -> Verification:
        kept.append(onnx.load(expected))
        return verify(baseline, source, staged, expected, *samples)

    feeds = feeds or feeds_of(model, COUNT)
    np.savez(folder / "samples.npz", **feeds)  # type: ignore[arg-type]  # arrays by name
    config = Config(
        round_to=1, ratio=ratio, provider="cpu", calibration=str(folder / "samples.npz")
    )
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "verify", keeping)
        if not repair:
            patch.setattr("lbyl_onnx.observe.session.repairable", lambda *_: {})
        result = compress(model, config=config)
    return Repaired(result, kept[0])


def per_channel(x: Array, axis: int) -> tuple[Floats, Floats]:
    """Mean and variance of each channel."""
    rows = np.moveaxis(x.astype(np.float64), axis, -1).reshape(-1, x.shape[axis])
    return rows.mean(axis=0), rows.var(axis=0)


def found_of(model: ModelProto) -> tuple[Graph, TensorInfo, ChannelMap, set[int]]:
    """Graph, facts, channels and the nodes that consume a group."""
    graph, tensor_info = to_graph(model), tensor_facts(model)
    channels = find_channels(graph, tensor_info, Selection())
    nodes = {place.binding.node for group in channels.groups for place in group.consumers}
    return graph, tensor_info, channels, nodes


def names_of(model: ModelProto) -> list[str]:
    """Outputs of the nodes that are repaired, in their order."""
    return [view.tensor for view in repairable(*found_of(model)).values()]


# --- models with several repaired layers one behind the other -----------------------------------


def deep(norm: bool = True, dtype: int = TensorProto.FLOAT) -> ModelProto:
    """Four Convs and classes."""
    net = Net(("N", 3, 6, 6), dtype=dtype)
    x, channels = "x", 3
    for out in (8, 10, 8, 6):
        x = net.block(x, (channels, out)) if norm else net.relu(net.conv(x, (channels, out)))
        channels = out
    return net.model(net.head(x, 6))


def matmuls(bias: bool) -> ModelProto:
    """Four MatMuls on tokens, with an Add behind each or without."""
    net = Net(("N", 5, 6))
    x, sizes = "x", (6, 12, 10, 9, 5)
    for layer in range(4):
        x = net.node("MatMul", [x, net.weight(f"w{layer}", *sizes[layer : layer + 2])])
        if bias:
            size = sizes[layer + 1]
            x = net.node("Add", [x, net.constant(f"b{layer}", net.cast(net.rng.normal(size=size)))])
        x = net.relu(x) if layer < 3 else x
    return net.model(x)


def with_deconv() -> ModelProto:
    net = Net(("N", 3, 4, 4))
    x = net.relu(net.conv("x", (3, 8)))
    inputs = [x, net.weight("wt", 8, 6, 2, 2)]
    x = net.relu(net.node("ConvTranspose", inputs, {"strides": [2, 2]}))
    return net.model(net.head(net.relu(net.conv(x, (6, 5), (1, 1))), 5))


def with_groups(groups: int) -> ModelProto:
    """A Conv of several groups, or depthwise, between two others."""
    net = Net(("N", 3, 6, 6))
    x = net.block("x", (3, 8))
    inputs = [x, net.weight("wg", 8, 8 // groups, 3, 3)]
    x = net.relu(net.node("Conv", inputs, {"group": groups, "pads": [1, 1, 1, 1]}))
    x = net.relu(net.conv(x, (8, 6), (1, 1)))
    return net.model(net.head(net.relu(net.conv(x, (6, 5))), 5))


def gated() -> ModelProto:
    """A gate of sigmoids, whose squeeze of twelve channels is free."""
    net = Net(("N", 3, 6, 6))
    x = net.block("x", (3, 8))
    gate = net.relu(net.conv(net.node("GlobalAveragePool", [x]), (8, 12), (1, 1)))
    gate = net.node("Sigmoid", [net.conv(gate, (12, 8), (1, 1))])
    return net.model(net.head(net.node("Mul", [x, gate]), 8))


REPAIRED: dict[str, Callable[[], ModelProto]] = {
    "batch_norm": deep,
    "folded": partial(deep, False),
    "gemms": gemms,
    "gemms_not_transposed": partial(gemms, trans_b=0),
    "gemms_alpha_beta": partial(gemms, 0.5, 3.0),
    "gemms_row_bias": partial(gemms, 2.0, -0.5, "(1,N)"),
    "gemms_one_bias": partial(gemms, 0.5, 3.0, "(1,)"),
    "gemms_scalar_bias": partial(gemms, 0.5, 3.0, "()"),
    "gemms_without_bias": partial(gemms, 0.5, 3.0, "none"),
    "gemms_without_beta": partial(gemms, 0.5, 0.0, "none"),
    "matmuls": partial(matmuls, True),
    "matmuls_without_bias": partial(matmuls, False),
    "deconv": with_deconv,
    "two_groups": partial(with_groups, 2),
    "depthwise": partial(with_groups, 8),
    "gate": gated,
    **{
        name: MODELS[name]
        for name in (
            "residual",
            "inception",
            "dense",
            "nhwc",
            "caffe_scale",
            "two_outputs",
            "if_body",
            "identity_chains",
        )
    },
}


class TestMeanAndVariance:
    @pytest.mark.parametrize("name", REPAIRED)
    def test_they_are_the_originals(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """Each layer's, with all layers before it repaired, on the samples of the repair."""
        model = REPAIRED[name]()
        names = names_of(model)
        assert names
        reference = repaired(model, tmp_path, monkeypatch).reference
        changed = check_equal(model, reference, names, 1e-3)
        assert changed  # by the pruning

    @pytest.mark.parametrize("name", ["batch_norm", "folded", "residual", "dense", "matmuls"])
    def test_on_synthetic_samples_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """With the batch's own statistics in each BatchNormalization, and samples in one batch."""
        fits: list[Fitted] = []
        reference: list[ModelProto] = []

        def fitting(*arguments: Any) -> Fitted:
            fits.append(fit(*arguments))
            return fits[0]

        def keeping(
            baseline: Baseline, source: Path, staged: Path, expected: Path, *samples: Any
        ) -> Verification:
            reference.append(onnx.load(expected))
            return verify(baseline, source, staged, expected, *samples)

        monkeypatch.setattr(rewrite_build, "fit", fitting)
        monkeypatch.setattr(pipeline, "verify", keeping)
        model = REPAIRED[name]()
        at_once = replace(USUAL, largest_batch=USUAL.most_samples)
        config = Config(round_to=1, ratio=0.5, provider="cpu")
        compress(model, config=config, effort=at_once)
        statistics = fits[0].statistics
        assert statistics is not None
        assert statistics.run.batch_statistics
        assert statistics.run.source.count == statistics.run.source.size
        here = replace(statistics.run, folder=tmp_path)
        path = tmp_path / "reference.onnx"
        onnx.save(reference[0], path)
        views = {str(i): view for i, view in statistics.outputs.items()}
        after = measure(
            ModelDraft.of(reference[0]), tensor_facts(model), TensorReader(path), views, {}, here
        )
        assert set(after) == {str(i) for i in statistics.before} != set()
        for key, now in after.items():
            was = statistics.before[int(key)]
            spread = np.sqrt(was.second.max())
            np.testing.assert_allclose(now.mean, was.mean, atol=1e-3 * spread)
            np.testing.assert_allclose(now.second, was.second, atol=1e-3 * spread**2)

    def test_in_half(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Weights are rounded to 5e-4."""
        model = deep(dtype=TensorProto.FLOAT16)
        reference = repaired(model, tmp_path, monkeypatch).reference
        assert check_equal(model, reference, names_of(model), 2e-2)

    @pytest.mark.parametrize("build", [deep, gemms])
    def test_it_is_the_repair_that_does_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Callable[[], ModelProto]
    ) -> None:
        model = build()
        reference = repaired(model, tmp_path, monkeypatch, repair=False).reference
        names, feeds = names_of(model), feeds_of(model, COUNT)
        before, after = (run(tap(m, names[-1]), feeds)[-1] for m in (model, reference))
        assert np.max(np.abs(1 - per_channel(after, 1)[1] / per_channel(before, 1)[1])) > 0.01

    def test_the_last_layer_keeps_its_least_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The hidden layer's removed half is noise to the kept one: the outputs lose variance."""
        net = Net(("N", 6))
        model = net.model(net.gemm(net.relu(net.gemm("x", 6, 12)), 12, 5))
        both = [repaired(model, tmp_path, monkeypatch, repair=r).reference for r in (True, False)]
        assert both[0].SerializeToString() == both[1].SerializeToString()
        feeds = feeds_of(model, COUNT)
        before, after = (run(m, feeds)[0] for m in (model, both[0]))
        assert np.all(per_channel(after, 1)[1] < per_channel(before, 1)[1])


def check_equal(
    model: ModelProto, reference: ModelProto, names: Sequence[str], tolerance: float
) -> bool:
    """Compare mean and variance of some tensors; say whether the tensors themselves changed."""
    feeds, changed = feeds_of(model, COUNT), False
    graph = to_graph(model)
    operators = {n.outputs[0].name: n.op for n in graph.nodes}
    own = [o.name for o in model.graph.output]
    for name in names:
        before, after = (
            run(m, feeds)[own.index(name)] if name in own else run(tap(m, name), feeds)[-1]
            for m in (model, reference)
        )
        axis = before.ndim - 1 if operators[name] == "MatMul" else 1
        (mean, variance), (new_mean, new_variance) = (per_channel(x, axis) for x in (before, after))
        deviations = np.sqrt(variance)
        assert np.all(np.abs(new_mean - mean) <= tolerance * deviations.max())
        assert np.all(np.abs(new_variance - variance) <= tolerance * variance.max())
        changed |= deviation(after, before) > 1e-4
    return changed


class TestWhichLayers:
    @pytest.mark.parametrize("name", ["batch_norm", "gemms", "matmuls", "two_outputs"])
    def test_one_behind_which_no_layer_follows_is_left_alone(self, name: str) -> None:
        model = REPAIRED[name]()
        graph, _, _, consumers = found_of(model)
        outputs = {graph.nodes[i].outputs[0].name for i in consumers}
        left = outputs - set(names_of(model))
        last = {n.outputs[0].name for n in graph.nodes if n in final(graph)}
        assert left == outputs & last
        assert len(left) == (2 if name == "two_outputs" else 1)

    def test_behind_branches_and_sums_the_layer_is_found(self) -> None:
        """The second Conv of each residual block, but not the Gemm, which is the last layer."""
        model = MODELS["residual"]()
        graph, _, _, consumers = found_of(model)
        assert all(graph.nodes[i].op == "Conv" for i in consumers)
        consumed = {graph.nodes[i].outputs[0].name for i in consumers}
        assert len(consumed & set(names_of(model))) == len(consumers) == 2

    def test_layers_behind_are_repaired_too(self) -> None:
        """The first Conv of the second residual block reads what the first block has lost."""
        model = MODELS["residual"]()
        graph, tensor_info, channels, consumers = found_of(model)
        convs = [i for i, node in enumerate(graph.nodes) if node.op == "Conv"]
        first = min(consumers)
        expected = [i for i in convs if i >= first]
        assert list(repairable(graph, tensor_info, channels, [first])) == expected
        assert set(expected) - consumers

    @pytest.mark.parametrize("how", ["shared", "without a bias of its own"])
    def test_but_not_those_that_would_grow_the_model(self, how: str) -> None:
        """A weight that two layers read would become two, and a MatMul would need an Add."""
        net = Net(("N", 6))
        x = net.relu(net.gemm(net.relu(net.gemm("x", 6, 8)), 8, 6))
        weight = net.weight("w", 6, 6)
        for _ in range(2):
            x = net.relu(net.node("Gemm" if how == "shared" else "MatMul", [x, weight]))
        model = net.model(net.gemm(x, 6, 3))
        graph, tensor_info, channels, consumers = found_of(model)
        behind = [i for i, n in enumerate(graph.nodes) if weight in [t.name for t in n.inputs]]
        assert len(behind) == 2
        assert not set(repairable(graph, tensor_info, channels, [min(consumers)])) & set(behind)

    @pytest.mark.parametrize("bias", ["computed", "(M,1)", "(M,N)"])
    def test_a_gemm_whose_bias_cannot_be_scaled_is_left_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bias: str
    ) -> None:
        model = odd_bias(bias)
        assert "gemm_2_out" not in names_of(model)
        reference = repaired(model, tmp_path, monkeypatch, feeds=samples_of(model)).reference
        assert reference.graph.node

    def test_nor_is_one_that_does_not_count_its_bias(self) -> None:
        """With beta 0 a bias has no part in the output; what is added comes behind."""
        assert "gemm_2_out" not in names_of(gemms(beta=0.0))
        assert "gemm_2_out" in names_of(gemms(beta=0.0, bias="none"))

    def test_no_consumers_no_views(self) -> None:
        graph, tensor_info, channels, _ = found_of(MODELS["chain_2d"]())
        assert repairable(graph, tensor_info, channels, []) == {}


def final(graph: Graph) -> list[Node]:
    """Layers behind which no other lies."""
    layers = [n for n in graph.nodes if n.op in ("Conv", "Gemm", "MatMul", "ConvTranspose")]

    def reach(node: Node) -> list[Node]:
        after = [reader for tensor in node.outputs for reader in tensor.outputs]
        return after + [n for reader in after for n in reach(reader)]

    return [n for n in layers if not any(r in layers for r in reach(n))]


def odd_bias(kind: str) -> ModelProto:
    """Gemm, Relu, a Gemm 12 -> 4 whose bias is odd, Relu, Gemm; four samples."""
    net = Net((4, 6))
    x = net.relu(net.gemm("x", 6, 12))
    if kind == "computed":
        net.inputs.append(helper.make_tensor_value_info("x2", TensorProto.FLOAT, [4, 4]))
        bias = "x2"
    else:
        shape = (4, 1) if kind == "(M,1)" else (4, 4)
        bias = net.constant("odd", net.cast(net.rng.normal(size=shape)))
    x = net.relu(net.node("Gemm", [x, net.weight("w", 12, 4), bias]))
    return net.model(net.gemm(x, 4, 3))


def samples_of(model: ModelProto) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        info.name: rng.standard_normal(
            (COUNT, *(d.dim_value for d in info.type.tensor_type.shape.dim[1:])), np.float32
        )
        for info in model.graph.input
    }


class TestMatMul:
    @pytest.mark.parametrize("bias", [True, False])
    def test_what_is_added_comes_behind_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bias: bool
    ) -> None:
        """One Add for each of the three MatMuls that consume, before the model's own."""
        model = matmuls(bias)
        reference = repaired(model, tmp_path, monkeypatch).reference
        added = [n for n in reference.graph.node if n.op_type == "Add"]
        assert len(added) == 3 + (4 if bias else 0)
        for node in reference.graph.node:
            if node.op_type == "MatMul" and node.name != "matmul_0":
                reader = next(n for n in reference.graph.node if node.output[0] in n.input)
                assert reader.op_type == "Add"
                assert reader.name.startswith(node.name)

    def test_a_conv_without_bias_takes_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = deep()
        assert all(len(n.input) == 2 for n in model.graph.node if n.op_type == "Conv")
        reference = repaired(model, tmp_path, monkeypatch).reference
        assert [n.op_type for n in reference.graph.node] == [n.op_type for n in model.graph.node]
        convs = [n for n in reference.graph.node if n.op_type == "Conv"]
        assert [len(n.input) for n in convs] == [2, 3, 3, 3]


def moments(mean: Sequence[float], variance: Sequence[float]) -> SampleMoments:
    return SampleMoments(10, np.array(mean, np.float64), np.array(variance, np.float64))


class TestGain:
    def test_by_hand(self) -> None:
        """Variance 1 from 4 and 9 from 4; means 5 from 2 and 0 from -1."""
        repair = repairs({3: moments([5, 0], [1, 9])}, {3: moments([2, -1], [4, 4])})
        np.testing.assert_allclose(repair[3].gain, [0.5, 1.5])
        np.testing.assert_allclose(repair[3].shift, [4.0, 1.5])

    @pytest.mark.parametrize("ratio", [1e-9, 1e-3, 0.07, 0.5, 1.0, 15.0, 17.0, 1e9])
    def test_it_is_held_within_bounds(self, ratio: float) -> None:
        repair = repairs({0: moments([1.0], [ratio])}, {0: moments([2.0], [1.0])})[0]
        expected = min(max(np.sqrt(ratio), 1 / LARGEST_GAIN), LARGEST_GAIN)
        np.testing.assert_allclose(repair.gain, [expected])
        np.testing.assert_allclose(repair.shift, [1.0 - 2.0 * expected])  # the mean is exact

    @pytest.mark.parametrize("was", [0.0, 1.0, 1e6])
    def test_what_has_no_variance_is_not_scaled(self, was: float) -> None:
        """Variances of 1e-13 of the layer's largest are rounding."""
        before = moments([1, 2, 3], [was, was, 1.0])
        repair = repairs({0: before}, {0: moments([0, 0, 3], [0.0, 1e-13, 1.0])})[0]
        np.testing.assert_array_equal(repair.gain, [1.0, 1.0, 1.0])
        np.testing.assert_array_equal(repair.shift, [1.0, 2.0, 0.0])

    def test_a_layer_without_any_variance_is_not_scaled(self) -> None:
        repair = repairs({0: moments([1, 2], [1, 1])}, {0: moments([0, 0], [0, 0])})[0]
        np.testing.assert_array_equal(repair.gain, [1.0, 1.0])
        np.testing.assert_array_equal(repair.shift, [1.0, 2.0])

    def test_equal_moments_repair_nothing(self) -> None:
        same = moments([1, -2], [3, 4])
        repair = repairs({0: same}, {0: same})[0]
        np.testing.assert_array_equal(repair.gain, [1.0, 1.0])
        np.testing.assert_array_equal(repair.shift, [0.0, 0.0])

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("place", ["mean before", "before", "mean after", "after"])
    def test_a_layer_that_is_not_finite_is_left_out(self, place: str, value: float) -> None:
        bad = moments([value, 1], [1, 1]) if "mean" in place else moments([1, 1], [1, value])
        good = moments([1, 1], [1, 1])
        before, after = (bad, good) if "before" in place else (good, bad)
        assert set(repairs({0: before, 1: good}, {0: after, 1: good})) == {1}

    def test_targets_are_the_moments_before(self) -> None:
        model = deep()
        views = repairable(*found_of(model))
        before = {i: moments(range(v.columns), range(v.columns)) for i, v in views.items()}
        by_tensor = targets(views, before)
        assert set(by_tensor) == {view.tensor for view in views.values()}
        for view in views.values():
            aim = by_tensor[view.tensor]
            assert (aim.axis, aim.rank) == (view.axis, view.rank)
            np.testing.assert_array_equal(aim.mean, np.arange(view.columns))
            np.testing.assert_allclose(aim.std**2, np.arange(view.columns), rtol=1e-12)


class TestDegenerate:
    def test_a_layer_that_gives_a_constant_is_no_failure(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Relu of what is far below zero: nothing varies behind it."""
        model = deep(norm=False)
        for tensor in model.graph.initializer:
            if tensor.name == "b2":
                low = np.full(10, -1e3, np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(low, "b2"))
        made = repaired(model, tmp_path, monkeypatch)
        feeds = feeds_of(model, 10)
        before, after = (run(m, feeds)[0] for m in (model, made.reference))
        # Constant in both, and the same: the mean of what is removed moves into the bias.
        assert deviation(after, before) < 1e-4

    def test_nothing_removed_nothing_repaired(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = deep()
        reference = repaired(model, tmp_path, monkeypatch, ratio=0.0).reference
        feeds = feeds_of(model, 10)
        np.testing.assert_array_equal(run(reference, feeds)[0], run(model, feeds)[0])
        assert [len(n.input) for n in reference.graph.node] == [
            len(n.input) for n in model.graph.node
        ]
