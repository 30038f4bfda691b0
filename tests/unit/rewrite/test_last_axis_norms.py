"""Layer and RMS normalisations over channels of which some go, behind a hidden layer."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper

from lbyl_onnx import CompressResult, Config, compress
from tests.support.net import Net
from tests.support.oracle import assert_same, interpret, make_feeds, masked, run, values
from tests.unit.graph.test_normalising_scale import KINDS, normalised

WIDTH = 8


def hidden(kind: str) -> ModelProto:
    """Two layers with a normalisation between, of channels of unlike size."""
    net = Net(("N", 3, 5), opset=23)
    made = net.weight("made", 5, WIDTH)
    gamma = 1.0 + np.arange(WIDTH) / WIDTH
    x = normalised(net, net.node("MatMul", ["x", made]), kind, gamma)
    return net.model(net.node("MatMul", [x, net.weight("read", WIDTH, 4)]))


def cut(model: ModelProto, method: str) -> CompressResult:
    return compress(model, config=Config(ratio=0.5, round_to=1, method=method, provider="cpu"))


@pytest.mark.parametrize("kind", KINDS)
def test_none_equals_the_original_over_the_channels_that_stay(kind: str) -> None:
    model = hidden(kind)
    analysis = interpret(model)
    result = cut(model, "none").model
    assert result is not None
    shapes = {value.shape for value in values(result).values()}
    assert (WIDTH // 2,) in shapes
    assert (WIDTH,) not in shapes
    feeds = make_feeds(model)
    assert_same(run(result, feeds), run(masked(model, analysis.plan(0.5), analysis), feeds))


@pytest.mark.parametrize("kind", ["LayerNormalization", "rms"])
def test_its_constants_are_fitted(kind: str) -> None:
    plain, fitted = (cut(hidden(kind), method) for method in ("none", "lbyl+"))
    assert fitted.model is not None
    errors = [r.verification.fidelity.relative_error or 0.0 for r in (plain, fitted)]
    assert errors[1] < errors[0]
    epsilons = [v for name, v in values(fitted.model).items() if name.startswith("epsilon")]
    for node in fitted.model.graph.node:
        named = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        epsilons += [np.asarray(named["epsilon"])] if "epsilon" in named else []
    (epsilon,) = epsilons
    assert epsilon != np.float32(1e-5)
