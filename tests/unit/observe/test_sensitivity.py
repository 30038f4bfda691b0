"""How errors reach the outputs, and what pruning is predicted to do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, TensorProto, helper, numpy_helper

from lbyl_onnx import Config, compress, inspect
from lbyl_onnx.cli import main
from lbyl_onnx.data.source import SampleSource
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.inspection import SHARES
from lbyl_onnx.observe.run import ObservationRun
from lbyl_onnx.observe.sensitivity import sensitivities
from tests.support.architectures import chain
from tests.support.models import MODELS
from tests.support.net import Net
from tests.support.specs import plain_spec


def branches(scales: tuple[float, float]) -> ModelProto:
    """Two Convs of the same input, each scaled, and added."""
    net = Net([1, 3, 8, 8])
    parts = []
    weight = net.rng.standard_normal((4, 3, 1, 1)).astype(np.float32)
    for i, scale in enumerate(scales):
        name = net.constant(f"w{i}", weight)
        y = net.node("Conv", ["x", name])
        parts.append(net.node("Mul", [y, net.constant(f"s{i}", np.float32(scale))]))
    out = net.node("Add", parts)
    graph = helper.make_graph(
        net.nodes,
        "branches",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        net.initializers,
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", net.opset)], ir_version=8
    )


def measured(model: ModelProto, folder: Path, size: int = 16) -> dict[int, float]:
    """Sensitivities at the output of each Conv."""
    shapes = {"x": (1, 3, 8, 8)}
    tensor_info = TensorInfo(model, shapes, {"x": (2, 3, 8, 8)})
    inputs = {"x": plain_spec(np.float32, (size, 3, 8, 8))}
    run = ObservationRun(folder, "CPUExecutionProvider", SampleSource(inputs, size, size, 0), True)
    convs = [n for n in model.graph.node if n.op_type == "Conv"]
    points = {i: node.output[0] for i, node in enumerate(convs)}
    return sensitivities(model, tensor_info, numpy_helper.to_array, points, run)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [0.1, 0.5, 2.0])
def test_it_is_the_share_that_a_branch_has_in_the_output(scale: float, tmp_path: Path) -> None:
    # Both branches compute the same, so an error of share e in one is e (s / (1 + s))^2 behind.
    sensitivity = measured(branches((1.0, scale)), tmp_path)
    shares = [(1 / (1 + scale)) ** 2, (scale / (1 + scale)) ** 2]
    # An error that is another sample's difference has its own power on 16 samples, not the mean.
    assert sensitivity[1] / sensitivity[0] == pytest.approx(scale**2, rel=1e-3)
    assert [sensitivity[0], sensitivity[1]] == pytest.approx(shares, rel=0.5)


def test_one_sample_tells_nothing(tmp_path: Path) -> None:
    assert measured(branches((1.0, 1.0)), tmp_path, size=1) == {}


def test_it_leaves_no_file_behind(tmp_path: Path) -> None:
    measured(branches((1.0, 1.0)), tmp_path)
    assert not [*tmp_path.glob("*.onnx*")]


@pytest.mark.parametrize("name", ["chain_2d", "mlp", "inception", "residual", "half", "folded"])
def test_predicted_errors_grow_with_what_goes(name: str) -> None:
    inspection = inspect(MODELS[name](), provider="cpu", sensitivity=True)
    assert inspection.groups
    for group in inspection.groups:
        assert [entry.removed for entry in group.predicted] == list(SHARES)
        for key in ("layer_error", "output_error"):
            errors = [getattr(entry, key) for entry in group.predicted]
            assert errors == sorted(errors)
            assert 0.0 <= errors[0] <= errors[-1] <= 1.0
            assert errors[-1] > 0.0


def test_copies_are_predicted_to_cost_nothing() -> None:
    model = MODELS["mlp"]()
    for index in (1, 2):
        name = model.graph.node[0].input[index]
        tensor = next(t for t in model.graph.initializer if t.name == name)
        value = numpy_helper.to_array(tensor).copy()
        half = len(value) // 2
        value[half : 2 * half] = value[:half]
        tensor.CopyFrom(numpy_helper.from_array(value, name))
    first = inspect(model, provider="cpu", sensitivity=True).groups[0].predicted
    errors = {round(entry.removed, 1): entry.layer_error for entry in first}
    assert errors[0.4] < 0.01 < errors[0.7]


def test_the_command(sample: Path) -> None:
    arguments = ["inspect", str(sample), "--sensitivity", "--json", "-"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert all(len(group["predicted"]) == 7 for group in report["groups"])
    last = report["groups"][-1]["predicted"][-1]["output_error"]
    assert f"{last:.1%}" in result.stderr
    assert "predicted error of the outputs" in result.stderr


def test_it_is_not_predicted_unasked(sample: Path) -> None:
    assert all(group.predicted == () for group in inspect(onnx.load(sample)).groups)


@pytest.mark.parametrize("samples", [1, 3])
def test_fewer_samples_than_a_mini_batch_holds(tmp_path: Path, samples: int) -> None:
    """Of one sample no error can be taken from another: nothing is known then."""
    values = np.random.default_rng(0).standard_normal((samples, 3, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "few.npz", x=values)
    config = Config(
        allocation="auto",
        calibration=str(tmp_path / "few.npz"),
        provider="cpu",
        round_to=1,
        ratio=0.3,
    )
    assert compress(chain(), config=config).after.macs > 0
