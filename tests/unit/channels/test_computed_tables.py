"""Tables that a graph computes, and targets of a Reshape that it computes in each run."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from lbyl_onnx import Config, compress
from tests.support.net import Net
from tests.support.oracle import assert_same, interpret, make_feeds, masked, run, values

WIDTH, EACH = 6, 4


def scaled(by: str) -> ModelProto:
    """A hidden layer whose channels are scaled by what is computed, or by a layer's outputs."""
    net = Net(("N", WIDTH))
    x = net.node("MatMul", ["x", net.weight("made", WIDTH, EACH)])
    mean = net.node("ReduceMean", ["x"], {"axes": [1]})  # (N, 1)
    if by == "vector":
        y = net.node("Cos", [net.node("Mul", [mean, net.weight("vector", EACH)])])
    else:
        y = net.node("Softmax", [net.node("MatMul", ["x", net.weight("matrix", WIDTH, EACH)])])
    x = net.node("Mul", [x, y])
    return net.model(net.node("MatMul", [x, net.weight("read", EACH, 3)]))


def test_of_a_computed_table_the_channels_that_stay_are_taken() -> None:
    model = scaled("vector")
    analysis = interpret(model)
    result = compress(model, config=Config(ratio=0.5, method="none", round_to=1, provider="cpu"))
    assert result.model is not None
    assert values(result.model)["made"].shape == (WIDTH, EACH // 2)
    assert values(result.model)["vector"].shape == (EACH,)
    feeds = make_feeds(model)
    expected = run(masked(model, analysis.plan(0.5), analysis), feeds)
    assert_same(run(result.model, feeds), expected)


def test_what_a_layer_makes_is_no_table() -> None:
    reasons = {r.name: r.reason for r in interpret(scaled("matrix")).channels.refusals}
    assert "Mul joins them to channels that stay" in reasons["matmul_0"]


def by_heads(allowzero: int) -> ModelProto:
    """Values whose heads are told apart by [N, T, -1, d], computed in each run."""
    net = Net(("N", "T", WIDTH), opset=18)
    x = net.node("MatMul", ["x", net.weight("made", WIDTH, 2 * EACH)])
    sizes = [net.node("Shape", ["x"], {"start": i, "end": i + 1}) for i in range(2)]
    target = net.node("Concat", [*sizes, net.ints(-1, EACH)], {"axis": 0})
    x = net.node("Reshape", [x, target], {"allowzero": allowzero})
    x = net.node("Relu", [x])
    x = net.node("Reshape", [x, net.ints(0, 0, 2 * EACH)])
    return net.declared(net.node("MatMul", [x, net.weight("read", 2 * EACH, 3)]), "N", "T", 3)


@pytest.mark.parametrize("allowzero", [0, 1])
def test_two_dynamic_sizes_of_a_target_are_copied(allowzero: int) -> None:
    model = by_heads(allowzero)
    result = compress(model, config=Config(ratio=0.5, method="none", round_to=1, provider="cpu"))
    assert result.model is not None
    (node, _) = [n for n in result.model.graph.node if n.op_type == "Reshape"]
    np.testing.assert_array_equal(values(result.model)[node.input[1]], [0, 0, -1, EACH // 2])
    assert not [a for a in node.attribute if a.name == "allowzero" and a.i]
