"""`--quantize int8`: what is written, that it is what was planned, and what is refused."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, numpy_helper

from lbyl_onnx import CompressResult, Config, OptionError, QuantisationError, compress
from lbyl_onnx.cli import main
from lbyl_onnx.option_types import Hardware
from lbyl_onnx.runtime import timing
from lbyl_onnx.runtime.quantisation import weight_bits
from lbyl_onnx.types import Array
from tests.conftest import ROOT
from tests.support.models import MODELS
from tests.support.net import Net
from tests.support.oracle import make_feeds, run, values

SAMPLE = ROOT / "samples" / "digits.onnx"
INT8 = Config(ratio=0.0, quantize="int8", provider="cpu")


def layered() -> ModelProto:
    """Three Convs, one of them depthwise, and a Gemm."""
    net = Net(("N", 3, 8, 8))
    x = net.relu(net.batch_norm(net.conv("x", (3, 8)), 8))
    weight = net.weight("depthwise", 8, 1, 3, 3)
    x = net.relu(net.node("Conv", [x, weight], {"group": 8, "pads": [1, 1, 1, 1]}))
    x = net.relu(net.conv(x, (8, 8), bias=False))
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x])])
    return net.model(net.gemm(x, 8, 5))


def sequence() -> ModelProto:
    """Two matrix products of each token."""
    net = Net(("N", "T", 16))
    x = net.relu(net.node("MatMul", ["x", net.weight("first", 16, 32)]))
    return net.model(net.node("MatMul", [x, net.weight("second", 32, 16)]))


@cache
def quantised(name: str, ratio: float = 0.0, hardware: Hardware = "host") -> CompressResult:
    model = {"layered": layered, "sequence": sequence}[name]()
    return compress(model, ratio=ratio, quantize="int8", hardware=hardware, provider="cpu")


def model_of(result: CompressResult) -> ModelProto:
    assert result.model is not None
    return result.model


def operators(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_every_layer_is_in_whole_numbers(ratio: float) -> None:
    result = quantised("layered", ratio)
    assert result.quantised is not None
    assert (result.quantised.kind, result.quantised.layers) == ("static", 4)
    assert result.quantised.left == ()
    stored = {t.name: t for t in model_of(result).graph.initializer}
    producer = {n.output[0]: n for n in model_of(result).graph.node}
    for node in model_of(result).graph.node:
        if node.op_type in ("Conv", "Gemm"):
            weight = stored[producer[node.input[1]].input[0]]
            assert weight.data_type == onnx.TensorProto.INT8
            assert producer[node.input[0]].op_type == "DequantizeLinear"


def test_weights_have_as_many_bits_as_this_machine_multiplies_without_overflow() -> None:
    bits = weight_bits("host", "CPUExecutionProvider")
    stored = [
        numpy_helper.to_array(t)
        for t in model_of(quantised("layered")).graph.initializer
        if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1
    ]
    largest = max(int(np.abs(value.astype(int)).max()) for value in stored)
    assert largest == 2 ** (bits - 1) - 1


@pytest.mark.parametrize(("hardware", "most"), [("avx2", 63), ("neon", 127)])
def test_another_machine_may_be_named(hardware: Hardware, most: int) -> None:
    stored = [
        numpy_helper.to_array(t)
        for t in model_of(quantised("layered", hardware=hardware)).graph.initializer
        if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1
    ]
    assert max(int(np.abs(value.astype(int)).max()) for value in stored) == most


def test_tensorrt_has_zero_in_the_middle_and_biases_in_floating_point() -> None:
    model = model_of(quantised("layered", hardware="tensorrt-int8"))
    zeros = {n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert all(not np.any(values[name]) for name in zeros)
    assert all(value.dtype != np.int32 for value in values.values())


@pytest.mark.parametrize("name", ["layered", "sequence"])
def test_outputs_stay_near(name: str) -> None:
    original, result = {"layered": layered, "sequence": sequence}[name](), quantised(name)
    feeds = make_feeds(original)
    (before,), (after,) = run(original, feeds), run(model_of(result), feeds)
    cosine = float(np.vdot(before, after) / np.linalg.norm(before) / np.linalg.norm(after))
    assert cosine > 0.99
    assert result.quantised is not None
    assert result.quantised.deviation < 0.05


def test_outputs_are_not_cut_at_the_ends_of_a_range() -> None:
    """The largest of several classes would otherwise all be the end of the range."""
    model = model_of(quantised("layered"))
    producer = {name: node.op_type for node in model.graph.node for name in node.output}
    assert producer[model.graph.output[0].name] == "Gemm"
    original = layered()
    feeds = {name: 20.0 * value for name, value in make_feeds(original).items()}
    (after,) = run(model, feeds)
    assert len(np.unique(after)) == after.size


def test_products_of_sequences_take_the_ranges_of_each_run() -> None:
    result = quantised("sequence")
    assert result.quantised is not None
    assert result.quantised.kind == "dynamic"
    assert operators(model_of(result))["MatMulInteger"] == 2


def test_tables_of_tokens_take_a_quarter_of_their_bytes() -> None:
    net = Net(("N", "T"))
    net.inputs[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    x = net.node("Gather", [net.weight("table", 40, 16), "x"])
    model = net.model(net.node("MatMul", [x, net.weight("first", 16, 32)]))
    result = model_of(compress(model, config=INT8))
    stored = {t.dims[0]: t.data_type for t in result.graph.initializer if len(t.dims) == 2}
    assert stored[40] in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


def test_layers_that_are_named_stay_in_floating_point() -> None:
    model = layered()
    name = next(n.name for n in model.graph.node if n.op_type == "Gemm")
    result = compress(model, config=INT8, keep_float=(name,))
    assert result.quantised is not None
    assert result.quantised.left == ((name, "named by --keep-float"),)
    (gemm,) = [n for n in model_of(result).graph.node if n.op_type == "Gemm"]
    stored = {t.name: t.data_type for t in model_of(result).graph.initializer}
    assert stored[gemm.input[1]] == onnx.TensorProto.FLOAT
    assert np.array_equal(values(model_of(result))[gemm.input[1]], values(model)[gemm.input[1]])


def misled(kind: str) -> ModelProto:
    """A layer with a weight of 1e3 for a channel that is always 0: one step serves not both."""
    net, n = Net(("N", 8, 4, 4) if kind == "Conv" else ("N", 8)), 8
    rng = np.random.default_rng(0)

    def layer(x: str, weight: Array, bias: Array | None) -> str:
        stored = weight.T[..., None, None] if kind == "Conv" else weight
        inputs = [x, net.constant(f"weight_{len(net.nodes)}", stored)]
        inputs += [] if bias is None else [net.constant(f"bias_{len(net.nodes)}", bias)]
        return net.node(kind, inputs)

    weights = (rng.standard_normal((3, n, n)) / 2).astype(np.float32)
    bias = (rng.standard_normal(n) / 3).astype(np.float32)
    dead = bias.copy()
    dead[0], weights[1, 0] = -100, 1e3
    x = net.relu(layer("x", weights[0], dead))
    x = net.relu(layer(x, weights[1], None if kind == "Conv" else bias))
    return net.model(layer(x, weights[2], bias))


@pytest.mark.parametrize("kind", ["Conv", "Gemm"])
def test_a_layer_without_which_the_outputs_lose_less_stays_in_floating_point(kind: str) -> None:
    """ONNX Runtime would quantise its weight all the same, with one step for all of it."""
    result = compress(misled(kind), config=INT8)
    assert result.quantised is not None
    assert [name for name, _ in result.quantised.left] == [f"{kind.lower()}_2"]
    near = result.verification.fidelity.cosine  # by the kernels, optimised
    assert near is not None
    assert near > 0.999


# Without the search for other ways, which `test_factors.py` and `test_targets.py` try.
PLAIN: dict[str, Any] = {"allocation": "uniform", "moves": ("prune",)}


class TestTargets:
    """What is quantised is measured as it is deployed."""

    def test_bytes_are_those_of_whole_numbers(self) -> None:
        result = compress(SAMPLE, size="20%", quantize="int8", provider="cpu", **PLAIN)
        assert 0.15 * result.size_before < result.size_after <= 0.2 * result.size_before
        assert result.target.reached == result.size_after
        assert result.groups

    def test_nothing_is_pruned_where_whole_numbers_are_small_enough(self) -> None:
        result = compress(SAMPLE, size="50%", quantize="int8", provider="cpu", **PLAIN)
        assert all(group.kept == group.channels for group in result.groups)
        assert result.target.reached == result.size_after <= 0.5 * result.size_before

    def test_a_fidelity_is_that_of_whole_numbers(self) -> None:
        config = Config(fidelity=0.97, quantize="int8", provider="cpu", **PLAIN)
        result = compress(layered(), config=config)
        assert result.verification.fidelity.nearness == pytest.approx(result.target.reached)
        assert result.target.reached >= 0.97
        assert result.groups

    def test_a_latency_is_that_of_whole_numbers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        measured = []

        def time(original: Path, other: Path, *_: object) -> timing.PairedLatency:
            measured.append("QuantizeLinear" in {n.op_type for n in onnx.load(other).graph.node})
            return timing.summary([1.0], [0.5], runs=1)

        monkeypatch.setattr(timing, "paired", time)
        config = Config(latency="60%", quantize="int8", provider="cpu", **PLAIN)
        result = compress(layered(), config=config)
        assert all(measured)
        assert result.target.reached == 0.5


def test_bytes_are_the_same_again() -> None:
    again = compress(layered(), config=INT8)
    assert model_of(again) == model_of(quantised("layered"))


def test_a_model_that_cannot_be_pruned_can_be_quantised() -> None:
    net = Net(("N", 4))
    model = net.model(net.gemm("x", 4, 3))
    result = compress(model, config=INT8)
    assert result.groups == ()
    assert result.quantised is not None
    assert result.quantised.layers == 1


@pytest.mark.parametrize(
    "name",
    [
        "residual",
        "squeeze_excite",
        "if_body",
        "mlp_row_bias",  # with a beta that is not 1
        "ir_version_3",
        "constant_nodes",
        "dynamo_batch_norm",
        "opset_7",
        "unnamed",
    ],
)
def test_models_of_many_kinds_are_quantised(name: str) -> None:
    result = compress(MODELS[name](), config=INT8)
    assert result.quantised is not None
    assert result.quantised.layers > 0
    assert (result.quantised.cosine or 0.0) > 0.999


@pytest.mark.parametrize(("name", "kind"), [("half", "float16"), ("double", "double")])
def test_weights_in_other_types_are_refused(name: str, kind: str) -> None:
    with pytest.raises(QuantisationError, match=f"stores weights in {kind}; .* float32"):
        compress(MODELS[name](), config=INT8)


def test_the_command_says_how(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    arguments = ["compress", str(SAMPLE), str(out), "--ratio", "0", "--quantize", "int8"]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0, shown.output
    assert "quantised: " in shown.output
    assert out.stat().st_size < 0.5 * SAMPLE.stat().st_size


def test_layers_cannot_stay_in_floating_point_where_all_do() -> None:
    with pytest.raises(OptionError, match="keep_float is of quantised models; give quantize too"):
        Config(keep_float=("a",))


def test_a_glob_that_matches_no_layer_is_refused() -> None:
    with pytest.raises(OptionError, match="keep_float has 'nothing', which matches no layer"):
        compress(layered(), config=INT8, keep_float=("nothing",))
