"""Two nodes compute what one with the product of their weights does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.config import Config
from lbyl_onnx.factor.layers import FactorLayer, factor_layers
from lbyl_onnx.factor.rewrite import NewWeights, with_weights
from lbyl_onnx.graph.source import check_source
from lbyl_onnx.io.writer import write_draft
from tests.support.net import Array, Net
from tests.support.oracle import run


def strided() -> ModelProto:
    net = Net(("N", 4, 9, 8))
    weight = net.weight("w", 12, 4, 3, 3)
    attributes = {"strides": [2, 1], "dilations": [1, 2], "pads": [1, 2, 0, 1]}
    return net.model(net.node("Conv", ["x", weight], attributes))


def signal() -> ModelProto:
    net = Net(("N", 4, 9))
    return net.model(net.conv("x", (4, 12), (3,)))


def gemm(transposed: bool) -> ModelProto:
    net = Net(("N", 9))
    weight = net.weight("w", *((12, 9) if transposed else (9, 12)))
    bias = net.constant("b", net.cast(net.rng.normal(size=(1, 12))))
    attributes = {"transB": int(transposed), "alpha": 0.5, "beta": 2.0}
    return net.model(net.node("Gemm", ["x", weight, bias], attributes))


def tokens() -> ModelProto:
    net = Net(("N", 5, 9))
    return net.model(net.node("MatMul", ["x", net.weight("w", 9, 12)]))


def taken() -> ModelProto:
    """Names that the new ones would have."""
    net = Net(("N", 4, 6, 6))
    x = net.conv("x", (4, 12))
    scale = net.constant("conv_0_out_factor_1", np.float32(2.0))
    return net.model(net.node("Mul", [x, scale]))


def same(side: str) -> Callable[[], ModelProto]:
    def build() -> ModelProto:
        net = Net(("N", 4, 9, 8))
        attributes = {"strides": [2, 3], "auto_pad": f"SAME_{side}"}
        return net.model(net.node("Conv", ["x", net.weight("w", 12, 4, 3, 5)], attributes))

    return build


MODELS: dict[str, Callable[[], ModelProto]] = {
    "strided": strided,
    "same upper": same("UPPER"),
    "same lower": same("LOWER"),
    "signal": signal,
    "gemm": lambda: gemm(False),
    "gemm transposed": lambda: gemm(True),
    "matmul": tokens,
    "names taken": taken,
}


def opened(model: ModelProto, folder: Path) -> tuple[AnalyzedModel, FactorLayer]:
    """Read a model, and its one layer."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    shape = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
    shapes = [{"x": tuple(shape)}, {"x": (3, *shape[1:])}]
    analyzed = AnalyzedModel.open(check_source(path), shapes)
    able, refused = factor_layers(analyzed, Config(), 64)
    assert refused == ()
    return analyzed, able[0]


def fed(analyzed: AnalyzedModel, rng: np.random.Generator) -> dict[str, Array]:
    """Random inputs at the first input shapes."""
    shape = [d or 0 for d in analyzed.tensor_info.shape("x") or ()]
    return {"x": rng.standard_normal(shape).astype(np.float32)}


CASES = [(name, 0) for name in MODELS]
CASES += [(name, 1) for name in ("strided", "same upper", "same lower", "names taken")]


@pytest.mark.parametrize(("name", "split"), CASES)
def test_two_nodes_equal_the_product(name: str, split: int, tmp_path: Path) -> None:
    model = MODELS[name]()
    analyzed, own = opened(model, tmp_path)
    assert len(own.splits) == 1 + ((name, 1) in CASES)
    rng = np.random.default_rng(1)
    inputs, taps = own.layer.shape[own.layer.in_axis], own.splits[split].taps
    bias = rng.standard_normal(12) if own.has_offset else None
    first = rng.standard_normal((inputs, 3, taps[0]))
    new = NewWeights(own, first, rng.standard_normal((12, 3, taps[1])), bias, split)
    feeds = fed(analyzed, rng)
    outputs = []
    for part, weights in (("two", new), ("one", new.product)):
        draft = with_weights(model, {own.index: weights})
        path = tmp_path / f"{part}.onnx"
        write_draft(draft, path, analyzed.read, "auto")
        made = onnx.load(path)
        onnx.checker.check_model(made, full_check=True)
        assert len(made.graph.node) == len(model.graph.node) + (part == "two")
        outputs.append(run(made, feeds)[0])
    scale = float(np.max(np.abs(outputs[1])))
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-5 * scale)


@pytest.mark.parametrize(("name", "split"), CASES)
def test_the_cost_of_both_factors(name: str, split: int, tmp_path: Path) -> None:
    """What is predicted of their cost is what the model with them costs."""
    model = MODELS[name]()
    analyzed, own = opened(model, tmp_path)
    inputs, taps = own.layer.shape[own.layer.in_axis], own.splits[split].taps
    new = NewWeights(own, np.zeros((inputs, 3, taps[0])), np.zeros((12, 3, taps[1])), None, split)
    path = tmp_path / "two.onnx"
    write_draft(with_weights(model, {own.index: new}), path, analyzed.read, "auto")
    shape = tuple(d or 0 for d in analyzed.tensor_info.shape("x") or ())
    made = AnalyzedModel.open(check_source(path), [{"x": shape}, {"x": (3, *shape[1:])}])
    sizes = [
        sum(t.size for t in map(numpy_helper.to_array, m.graph.initializer) if t.ndim > 1)
        for m in (onnx.load(path), model)
    ]
    if own.layer.node.op_type == "Conv":
        assert sizes[0] == pytest.approx(own.share(own.splits[split], 3, "params") * sizes[1])
    predicted = own.share(own.splits[split], 3, "macs") * analyzed.costs.macs
    assert made.costs.macs == pytest.approx(predicted)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_the_layer_itself_as_it_was(build: Callable[[], ModelProto], tmp_path: Path) -> None:
    """One node of the weight and the bias that the layer has, its scales taken into them."""
    model = build()
    analyzed, own = opened(model, tmp_path)
    layer, info = own.layer, analyzed.tensor_info
    weight = layer.alpha * layer.logical(info.value(layer.weight_name)).astype(np.float64)
    bias = layer.bias(info)
    spread = None if bias is None else layer.beta * bias.astype(np.float64).reshape(-1)
    draft = with_weights(model, {own.index: NewWeights(own, weight, None, spread)})
    path = tmp_path / "same.onnx"
    write_draft(draft, path, analyzed.read, "auto")
    rng = np.random.default_rng(2)
    feeds = fed(analyzed, rng)
    np.testing.assert_allclose(run(onnx.load(path), feeds)[0], run(model, feeds)[0], atol=1e-5)


def test_the_original_is_not_changed(tmp_path: Path) -> None:
    model = strided()
    before = model.SerializeToString(deterministic=True)
    _, own = opened(model, tmp_path)
    new = NewWeights(own, np.zeros((4, 3, 9)), np.zeros((12, 3, 1)), np.zeros(12))
    draft = with_weights(model, {0: new})
    assert model.SerializeToString(deterministic=True) == before
    names = [t.name for t in draft.initializers]
    assert "w" not in names
    assert names == ["w_factor_1", "w_second_factor_1", "w_bias_factor_1"]
    assert numpy_helper.to_array(model.graph.initializer[0]).shape == (12, 4, 3, 3)
