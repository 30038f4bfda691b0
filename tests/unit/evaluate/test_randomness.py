"""Random operators are taken out: a model is as near to itself as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from lbyl_onnx import Config, compare_models, compress
from lbyl_onnx.evaluate.randomness import same_randomness, settle
from tests.support.net import Net
from tests.support.oracle import run

DRAWING = ("RandomNormalLike", "RandomUniformLike", "Bernoulli", "RandomNormal", "Dropout")


def sampled(op_type: str, seed: float | None = None) -> ModelProto:
    """Two Convs; to what comes out, noise is added."""
    net = Net((2, 3, 8, 8))
    x = net.conv(net.relu(net.conv("x", (3, 8))), (8, 4))
    attributes = {} if seed is None else {"seed": seed}
    if op_type == "RandomNormal":
        noise = net.node(op_type, [], {"shape": [2, 4, 8, 8], **attributes})
    elif op_type == "Dropout":
        training = net.constant("training", np.bool_(True))
        noise = net.node(op_type, [x, net.constant("share", np.float32(0.5)), training])
    else:
        noise = net.node(op_type, [net.node("Sigmoid", [x])], attributes)
    return net.model(net.node("Add", [x, noise]))


@pytest.mark.parametrize("op_type", DRAWING)
def test_a_model_is_near_itself(op_type: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(sampled(op_type), path)
    comparison = compare_models(path, path, provider="cpu")
    assert (comparison.fidelity.relative_error, comparison.fidelity.cosine) == (0.0, 1.0)
    assert len(comparison.random) == 1
    assert comparison.random[0].startswith(op_type.lower())


@pytest.mark.parametrize("op_type", ["RandomNormalLike", "Dropout"])
def test_it_is_pruned_and_proven_with_the_same_numbers(op_type: str) -> None:
    config = Config(round_to=1, ratio=0.25, method="lbyl", provider="cpu")
    proof = compress(sampled(op_type), config=config).verification
    assert len(proof.random) == 1
    assert proof.deviation < 1e-3


def test_a_seed_of_its_own_stays() -> None:
    model = sampled("RandomNormal", seed=7.0)
    assert len(settle(model)) == 1
    node = next(n for n in model.graph.node if n.op_type == "RandomNormal")
    assert [a.f for a in node.attribute if a.name == "seed"] == [7.0]


def test_each_operator_draws_numbers_of_its_own() -> None:
    net = Net((1, 4))
    noise = [net.node("RandomNormalLike", ["x"]) for _ in range(2)]
    model = net.model(net.node("Sub", noise))
    assert settle(model) == ("randomnormallike_0", "randomnormallike_1")
    assert np.any(run(model, {"x": np.zeros((1, 4), np.float32)})[0] != 0)


def test_those_in_a_body_are_found() -> None:
    net = Net((1, 4))
    inner = helper.make_node("RandomNormalLike", ["x"], ["drawn"], name="inner")
    info = helper.make_tensor_value_info("drawn", TensorProto.FLOAT, [1, 4])
    body = helper.make_graph([inner], "body", [], [info])
    condition = net.constant("condition", np.bool_(True))
    y = net.node("If", [condition], {"then_branch": body, "else_branch": body})
    model = net.model(net.node("Identity", [y]))
    assert settle(model) == ("inner", "inner")


def test_a_model_without_any_is_run_from_its_own_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    net = Net((1, 4))
    onnx.save(net.model(net.relu("x")), path)
    with same_randomness(path, path) as (paths, names):
        assert (paths, names) == ((path, path), ())
