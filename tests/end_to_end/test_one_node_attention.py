"""Attention as one operator of ONNX Runtime's own domain."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from lbyl_onnx import CompressResult, Config, compress
from lbyl_onnx.channels.groups import Selection
from lbyl_onnx.graph.fused import unfused
from lbyl_onnx.methods.registry import method_names
from tests.support.one_node import HEADS, HIDDEN, TOKENS, WIDTH, encoder
from tests.support.oracle import assert_same, interpret, masked, run, values


def written_out(model: ModelProto) -> ModelProto:
    return unfused(model, numpy_helper.to_array)


def cut(method: str) -> CompressResult:
    return compress(encoder(), config=Config(ratio=0.5, method=method, round_to=1, provider="cpu"))


def test_queries_go_with_keys_and_values_by_themselves() -> None:
    channels = interpret(written_out(encoder()), Selection(scope="inner")).channels
    assert {(g.name, g.size, g.block_count) for g in channels.groups} == {
        ("0.wide/MatMul", HIDDEN, 1),
        ("0/Attention", WIDTH, HEADS),
        ("1.q/MatMul, 1.k/MatMul", WIDTH, HEADS),
        ("1.v/MatMul", WIDTH, HEADS),
        ("1.wide/MatMul", HIDDEN, 1),
    }
    (met,) = [g for g in channels.groups if g.name == "0/Attention" and g.products]
    assert met.producers[0].positions.tolist() == [[i, i + WIDTH] for i in range(WIDTH)]


def test_none_equals_the_original_with_zeroed_channels() -> None:
    analysis = interpret(written_out(encoder()), Selection(scope="inner"))
    feeds = {"x": np.random.default_rng(3).integers(0, 50, (3, TOKENS))}
    result = cut("none").model
    assert result is not None
    expected = run(masked(analysis.model, analysis.plan(0.5), analysis), feeds)
    assert_same(run(result, feeds), expected)


@pytest.mark.parametrize("method", method_names())
def test_each_head_keeps_half_and_its_scale(method: str) -> None:
    result = cut(method)
    assert result.model is not None
    stored = values(result.model)
    assert stored["1.q.weight"].shape == stored["1.v.weight"].shape == (WIDTH, WIDTH // 2)
    assert stored["0.qkv.weight"].shape == (WIDTH, 3 * WIDTH // 2)
    assert stored["0.qkv.bias"].shape == stored["1.qkv.bias"].shape == (3 * WIDTH // 2,)
    node = [n for n in result.model.graph.node if n.op_type == "MultiHeadAttention"][1]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert attributes["num_heads"] == HEADS
    assert attributes["scale"] == pytest.approx((WIDTH // HEADS) ** -0.5)
    assert result.after.macs < result.before.macs


def test_whole_heads_go_with_the_number_of_heads() -> None:
    config = Config(ratio=0.5, method="none", round_to=1, attention="heads", provider="cpu")
    result = compress(encoder(), config=config).model
    assert result is not None
    stored = values(result)
    for name in ("1.q.weight", "1.k.weight", "1.v.weight"):
        assert stored[name].shape == (WIDTH, WIDTH // 2)
    assert stored["1.qkv.bias"].shape == (3 * WIDTH // 2,)
    assert stored["1.out.weight"].shape == (WIDTH // 2, WIDTH)
    nodes = [n for n in result.graph.node if n.op_type == "MultiHeadAttention"]
    assert len(nodes) == 2
    for node in nodes:
        assert {a.name: a.i for a in node.attribute} == {"num_heads": HEADS // 2}
    original = written_out(encoder())
    analysis = interpret(original, Selection(attention="heads"))
    feeds = {"x": np.random.default_rng(3).integers(0, 50, (3, TOKENS))}
    assert_same(run(result, feeds), run(masked(original, analysis.plan(0.5), analysis), feeds))
