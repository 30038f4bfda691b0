"""Products of two activations by letters: queries meet keys, values pass, whatever the order."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from lbyl_onnx import Config, compress
from lbyl_onnx.methods.registry import method_names
from tests.support.einsum_attention import EACH, EQUATIONS, attention
from tests.support.oracle import assert_same, interpret, make_feeds, masked, run

every_order = pytest.mark.parametrize("order", list(EQUATIONS))


def cut(order: str, method: str) -> ModelProto:
    config = Config(ratio=0.5, method=method, round_to=1, provider="cpu")
    result = compress(attention(order), config=config)
    assert result.model is not None
    assert result.after.macs < 0.7 * result.before.macs
    return result.model


@every_order
def test_queries_go_with_keys_and_values_by_themselves(order: str) -> None:
    groups = interpret(attention(order)).channels.groups
    assert [(g.name, g.size) for g in groups] == [
        ("einsum_0, einsum_1", EACH),
        ("einsum_2", EACH),
    ]


@every_order
def test_none_equals_the_masked_original(order: str) -> None:
    original = attention(order)
    analysis, feeds = interpret(original), make_feeds(original)
    expected = run(masked(original, analysis.plan(0.5), analysis), feeds)
    assert_same(run(cut(order, "none"), feeds), expected)


@pytest.mark.parametrize("method", method_names())
@every_order
def test_every_method_verifies(order: str, method: str) -> None:
    model = cut(order, method)
    for output in run(model, make_feeds(model)):
        assert np.all(np.isfinite(output))
