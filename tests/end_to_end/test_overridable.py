"""Initializers that are inputs, too: defaults that a caller may override keep type and shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper

from lbyl_onnx import Config, VerificationError, compare_models, compress
from lbyl_onnx.evaluate.verify import verify
from lbyl_onnx.runtime.baseline import run_baseline
from tests.support.net import Net
from tests.support.oracle import interpret

CPU = "CPUExecutionProvider"


def scaled(ir_version: int = 8) -> ModelProto:
    """Two pairs of Convs; the first pair's channels are scaled by an input with a default."""
    net = Net(("N", 3, 8, 8))
    x = net.conv("x", (3, 8))
    x = net.node("Mul", [x, net.constant("gain", np.full((8, 1, 1), 2, np.float32))])
    x = net.conv(net.relu(x), (8, 6))
    x = net.relu(net.conv(x, (6, 8)))
    model = net.model(net.conv(x, (8, 4)))
    listed = ["gain"] if ir_version > 3 else [t.name for t in model.graph.initializer]
    dims = {t.name: tuple(t.dims) for t in model.graph.initializer}
    model.graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims[name]) for name in listed
    )
    model.ir_version = ir_version
    return model


def test_what_lies_along_one_is_left_alone_by_that_reason() -> None:
    channels = interpret(scaled()).channels
    reasons = {r.name: r.reason for r in channels.refusals}
    assert reasons["conv_0"] == "a caller may override gain"
    assert "conv_4" in {group.name for group in channels.groups}


def test_before_ir_4_every_initializer_is_an_input_and_a_constant() -> None:
    assert "conv_0" in {group.name for group in interpret(scaled(ir_version=3)).channels.groups}


def test_a_constant_computed_from_one_counts_as_well() -> None:
    model = scaled()
    model.graph.node.insert(0, helper.make_node("Exp", ["gain"], ["grown"], name="exp"))
    next(n for n in model.graph.node if n.op_type == "Mul").input[1] = "grown"
    reasons = {r.name: r.reason for r in interpret(model).channels.refusals}
    assert reasons["conv_0"] == "a caller may override gain"


@pytest.mark.parametrize("name", ["w3", "b3", "w0", "b0"])
def test_any_constant_of_a_layer_keeps_what_the_layer_reads_and_makes(name: str) -> None:
    model = scaled()
    dims = next(tuple(t.dims) for t in model.graph.initializer if t.name == name)
    del model.graph.input[1]
    model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    reasons = {r.name: r.reason for r in interpret(model).channels.refusals}
    assert f"a caller may override {name}" in reasons["conv_0"]


def test_a_caller_may_still_override_it(tmp_path: Path) -> None:
    config = Config(round_to=1, ratio=0.5, method="none", provider="cpu")
    made = compress(scaled(), config=config).model
    assert made is not None
    infos = [{i.name: i.SerializeToString() for i in m.graph.input} for m in (scaled(), made)]
    assert infos[0] == infos[1]
    session = ort.InferenceSession(made.SerializeToString(), providers=[CPU])
    x = np.ones((1, 3, 8, 8), np.float32)
    plain, masked_outputs = (
        session.run(None, {"x": x, **more})[0]
        for more in ({}, {"gain": np.zeros((8, 1, 1), np.float32)})
    )
    assert np.any(plain != masked_outputs)


def test_a_lost_default_is_a_changed_input(tmp_path: Path) -> None:
    model = scaled()
    onnx.save(model, tmp_path / "a.onnx")
    del model.graph.input[1]
    onnx.save(model, tmp_path / "b.onnx")
    one, two = tmp_path / "a.onnx", tmp_path / "b.onnx"
    taken = run_baseline(one, CPU, 0)
    with pytest.raises(VerificationError, match="inputs or outputs changed"):
        verify(taken, one, two, one, taken.feeds)
    with pytest.raises(VerificationError, match="inputs or outputs differ"):
        compare_models(one, two, provider="cpu")
