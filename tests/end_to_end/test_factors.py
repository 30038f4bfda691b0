"""A target reached by factors, from Python and by the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, numpy_helper

from lbyl_onnx import CompressResult, Config, TargetError, compress
from lbyl_onnx.cli import main
from lbyl_onnx.report.html import as_html
from lbyl_onnx.report.origin import Origin
from tests.support.architectures import mlp
from tests.support.net import Net
from tests.support.oracle import run

WIDE = 400


def low_rank() -> ModelProto:
    """A wide Gemm of rank 16, near enough, that is far faster as two, and a head."""
    net = Net(("N", WIDE))
    model = net.model(net.gemm(net.relu(net.gemm("x", WIDE, WIDE)), WIDE, 10))
    rng = np.random.default_rng(0)
    value = rng.standard_normal((WIDE, 16)) @ rng.standard_normal((16, WIDE)) / WIDE
    weight = model.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(value.astype(np.float32), weight.name))
    return model


@pytest.fixture(scope="module")
def factored() -> CompressResult:
    return compress(
        low_rank(), config=Config(provider="cpu", macs="25%", moves=("factor",)), detailed=True
    )


def test_the_wide_layer_became_two(factored: CompressResult) -> None:
    assert [factor.name for factor in factored.factors] == ["gemm_0"]
    assert factored.after.macs <= 0.25 * factored.before.macs
    assert factored.target.reached == factored.after.macs
    assert factored.groups == ()
    assert factored.verification.deviation < 1e-4
    assert factored.model is not None
    assert [node.op_type for node in factored.model.graph.node] == ["Gemm", "Gemm", "Relu", "Gemm"]


def test_it_computes_nearly_the_same(factored: CompressResult) -> None:
    assert factored.model is not None
    x = np.random.default_rng(1).standard_normal((4, WIDE)).astype(np.float32)
    before, after = (run(model, {"x": x})[0] for model in (low_rank(), factored.model))
    assert np.linalg.norm(after - before) < 0.05 * np.linalg.norm(before)


def test_the_reports_name_the_layer(factored: CompressResult) -> None:
    summary = factored.summary()
    assert "factors alone" in summary
    assert "factored: 1 layer as two of lower rank" in summary
    assert "gemm_0: 400 outputs by rank" in summary
    origin = Origin("model.onnx", "lbyl-onnx", {})
    assert "400 outputs by rank" in as_html(factored, origin)


def test_by_the_command(tmp_path: Path) -> None:
    source, output = tmp_path / "model.onnx", tmp_path / "small.onnx"
    onnx.save(low_rank(), source)
    arguments = ["compress", str(source), str(output), "--macs", "15%", "--provider", "cpu"]
    result = CliRunner().invoke(main, [*arguments, "--moves", "prune,factor", "--json", "-"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["options"]["moves"] == ["prune", "factor"]
    assert document["after"]["macs"] <= 0.15 * document["before"]["macs"]
    assert [factor["name"] for factor in document["factors"]] == ["gemm_0"]
    assert document["after"]["file_size"] == output.stat().st_size
    onnx.checker.check_model(onnx.load(output), full_check=True)


def test_weights_in_a_file_beside_it(tmp_path: Path) -> None:
    output = tmp_path / "small.onnx"
    config = Config(provider="cpu", size="25%", moves=("factor",), external_data="always")
    result = compress(low_rank(), output, config=config)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) == result.size_after
    assert result.target.reached == result.size_after <= 0.25 * result.size_before


def test_a_model_without_a_channel_group() -> None:
    """A residual stream alone: its channels stay at scope inner, but its layer is of low rank."""
    net = Net(("N", WIDE))
    stream = net.node("Add", ["x", net.gemm("x", WIDE, WIDE)])
    model = net.model(stream)
    model.graph.initializer[0].CopyFrom(low_rank().graph.initializer[0])
    result = compress(model, config=Config(provider="cpu", macs="50%", moves=("prune", "factor")))
    assert [factor.name for factor in result.factors] == ["gemm_0"]
    assert result.groups == ()


def test_factors_that_do_not_reach_it() -> None:
    with pytest.raises(TargetError, match=r"macs 1% cannot be reached by factors"):
        compress(mlp(), config=Config(provider="cpu", macs="1%", moves=("factor",)))
