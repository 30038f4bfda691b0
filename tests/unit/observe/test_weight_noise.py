"""Noise shaped by the weights, for models that begin with a Gemm or MatMul."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

from lbyl_onnx import Config, compress
from lbyl_onnx.data.source import SampleSource
from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.io.external_data import TensorReader
from lbyl_onnx.io.writer import ModelDraft, write_message
from lbyl_onnx.observe.run import ObservationRun, layer_noises, measure
from lbyl_onnx.observe.spec import MomentSpec
from tests.support.einsums import chain
from tests.support.models import MODELS
from tests.support.net import Net
from tests.support.oracle import interpret
from tests.support.specs import plain_spec

COUNT = 4096


def tower(seed: int = 0) -> ModelProto:
    """Three Gemms with ReLU between."""
    net = Net(("N", 12), seed=seed)
    x = net.relu(net.gemm("x", 12, 20))
    x = net.relu(net.gemm(x, 20, 16))
    return net.model(net.gemm(x, 16, 5))


def run_of(folder: Path, model: ModelProto, noisy: bool) -> ObservationRun:
    analysis = interpret(model)
    source = SampleSource({"x": plain_spec(np.float32, (COUNT, 12))}, COUNT, COUNT, 0)
    noises = layer_noises(to_graph(model), analysis.tensor_info) if noisy else {}
    return ObservationRun(folder, "CPUExecutionProvider", source, True, noises)


def first_outputs(folder: Path, model: ModelProto, noisy: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the first layer's outputs."""
    path = folder / "model.onnx"
    write_message(model, path)
    analysis = interpret(model)
    tensor = model.graph.node[0].output[0]
    views = {"z": MomentSpec(tensor, 1, 2, np.arange(20)[:, None])}
    run = run_of(folder, model, noisy)
    measured = measure(
        ModelDraft.of(model), analysis.tensor_info, TensorReader(path), views, {}, run
    )["z"]
    return measured.mean, measured.second


@pytest.mark.parametrize("name", ["folded", "residual", "fully_convolutional", "token_mixing"])
def test_models_that_begin_otherwise_get_none(name: str) -> None:
    model = MODELS[name]()
    assert layer_noises(to_graph(model), interpret(model).tensor_info) == {}


def test_every_layer_gets_noise_and_the_first_a_power() -> None:
    model = tower()
    noises = layer_noises(to_graph(model), interpret(model).tensor_info)
    gemms = [node.output[0] for node in model.graph.node if node.op_type == "Gemm"]
    assert list(noises) == gemms
    assert [noise.outputs for noise in noises.values()] == [20, 16, 5]
    assert [noise.power is None for noise in noises.values()] == [False, True, True]


@pytest.mark.parametrize("first", [False, True])
def test_an_einsum_of_samples_by_a_matrix_gets_noise(first: bool, tmp_path: Path) -> None:
    """As the same product by a MatMul gets it, whichever operand the weight is."""
    equation = "de,bd->be" if first else "bd,de->be"
    model = chain(
        ("N", 12), (equation, (12, 20)), (equation.replace("d", "f"), (20, 5)), first=first
    )
    same = ModelProto()
    same.CopyFrom(model)
    for node in same.graph.node:
        if node.op_type == "Einsum":
            operands = sorted(node.input, key=lambda name: name in ("e0", "e2"))
            node.CopyFrom(helper.make_node("MatMul", operands, node.output, name=node.name))
    actual, expected = (first_outputs(tmp_path, m, noisy=True) for m in (model, same))
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-4, atol=1e-5)
    plain = first_outputs(tmp_path, model, noisy=False)
    assert not np.allclose(actual[1], plain[1], rtol=0.1)


def test_the_covariance_is_that_of_the_input_and_of_the_weights(tmp_path: Path) -> None:
    """Inputs are white here; half of the samples get as much again along W^T W."""
    model = tower()
    analysis = interpret(model)
    gemm = model.graph.node[0]
    weight = analysis.tensor_info.value(gemm.input[1]).astype(np.float64)
    transposed = any(a.name == "transB" and a.i for a in gemm.attribute)
    weight = weight if transposed else weight.T  # (outputs, inputs)
    shape = weight.T @ weight
    inputs = np.eye(12) + 0.5 * shape / np.mean(np.diag(shape)) * 2.0
    expected = weight @ inputs @ weight.T
    expected *= np.sum(weight**2) / np.trace(expected)
    _, covariance = first_outputs(tmp_path, model, noisy=True)
    # The standard error of each of 4,096 samples' moments is near 1 / sqrt(4096) of the largest.
    np.testing.assert_allclose(covariance, expected, atol=0.08 * np.max(expected))
    _, plain = first_outputs(tmp_path, model, noisy=False)
    assert np.max(np.abs(plain - expected)) > 0.2 * np.max(expected)


def test_the_outputs_have_the_power_that_white_inputs_give(tmp_path: Path) -> None:
    model = tower()
    weight = interpret(model).tensor_info.value(model.graph.node[0].input[1]).astype(np.float64)
    _, covariance = first_outputs(tmp_path, model, noisy=True)
    np.testing.assert_allclose(np.trace(covariance), np.sum(weight**2), rtol=1e-4)


def test_the_same_seed_gives_the_same_model() -> None:
    config = Config(round_to=1, ratio=0.5, provider="cpu")
    first, second = (compress(tower(), config=config).model for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )
