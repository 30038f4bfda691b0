"""Which layers can be factored, and why others cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.config import Config
from lbyl_onnx.factor.layers import FactorLayer, NotFactored, factor_layers
from lbyl_onnx.graph.source import check_source
from tests.support.net import Net

Layers = tuple[tuple[FactorLayer, ...], tuple[NotFactored, ...]]


def layers_of(model: ModelProto, folder: Path, config: Config, most: int = 64) -> Layers:
    path = folder / "model.onnx"
    onnx.save(model, path)
    sizes = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    shapes = [{"x": (batch, *sizes[1:])} for batch in (2, 3)]
    return factor_layers(AnalyzedModel.open(check_source(path), shapes), config, 64, most)


def grouped() -> ModelProto:
    net = Net(("N", 8, 6, 6))
    return net.model(net.node("Conv", ["x", net.weight("w", 8, 1, 3, 3)], {"group": 8}))


def shared() -> ModelProto:
    net = Net(("N", 8))
    weight = net.weight("w", 8, 8)
    return net.model(net.node("MatMul", [net.relu(net.node("MatMul", ["x", weight])), weight]))


def computed() -> ModelProto:
    net = Net(("N", 8))
    weight = net.node("Mul", [net.weight("w", 8, 8), net.constant("two", np.float32(2.0))])
    return net.model(net.node("MatMul", ["x", weight]))


def stacked() -> ModelProto:
    net = Net(("N", 3, 4, 8))
    return net.model(net.node("MatMul", ["x", net.weight("w", 3, 8, 8)]))


def by_activations() -> ModelProto:
    net = Net(("N", 8))
    return net.model(net.node("Gemm", ["x", net.node("Relu", ["x"])], {"transB": 1}))


def by_row() -> ModelProto:
    net = Net((3, 8))
    bias = net.constant("b", np.ones((3, 1), np.float32))
    return net.model(net.node("Gemm", ["x", net.weight("w", 8, 8), bias]))


def wide() -> ModelProto:
    net = Net(("N", 8))
    return net.model(net.gemm("x", 8, 65))


def listed() -> ModelProto:
    model = wide()
    model.ir_version = 3
    infos = [
        onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
        for t in model.graph.initializer
    ]
    model.graph.input.extend(infos)
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", 7))
    return model


REFUSED: dict[str, tuple[Callable[[], ModelProto], str]] = {
    "grouped": (grouped, "its channels are in groups"),
    "shared": (shared, "another node reads its weight"),
    "computed": (computed, "its weight is not stored in float32"),
    "stacked": (stacked, "its weight is several matrices"),
    "by activations": (by_activations, "its weight is not constant"),
    "a bias of each row": (by_row, "its bias is not one constant for each output"),
    "wide": (wide, "it has more than 64 outputs"),
    "an old model": (listed, "the model lists its weights among its inputs"),
}


@pytest.mark.parametrize(("build", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_factored(
    build: Callable[[], ModelProto], reason: str, tmp_path: Path
) -> None:
    able, refused = layers_of(build(), tmp_path, Config())
    assert able == ()
    assert {layer.reason for layer in refused} == {reason}


def chain_of_two() -> ModelProto:
    net = Net(("N", 8))
    return net.model(net.gemm(net.relu(net.gemm("x", 8, 12)), 12, 10))


@pytest.mark.parametrize(
    ("config", "left"),
    [
        (Config(exclude=("gemm_0",)), ["gemm_2"]),
        (Config(include=("gemm_0",)), ["gemm_0"]),
        (Config(keep_for=(("gemm_2", 8),)), ["gemm_0"]),
        (Config(), ["gemm_0", "gemm_2"]),
    ],
)
def test_the_options_leave_layers_out(config: Config, left: list[str], tmp_path: Path) -> None:
    able, _ = layers_of(chain_of_two(), tmp_path, config)
    assert [layer.name for layer in able] == left


def test_inputs_are_counted_with_the_window(tmp_path: Path) -> None:
    net = Net(("N", 3, 6, 6))
    (layer,), _ = layers_of(net.model(net.conv("x", (3, 8))), tmp_path, Config())
    assert (layer.inputs, layer.layer.channels) == (27, 8)
