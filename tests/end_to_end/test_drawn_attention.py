"""Attention, whatever is drawn: pruned as heads ask for, as NumPy computes it, by every method."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto

from lbyl_onnx import Config, compress
from lbyl_onnx.guard.effort import Effort
from lbyl_onnx.methods.importance import kept_count
from lbyl_onnx.methods.registry import method_names
from tests.support.attentions import WIDTH, Block
from tests.support.oracle import deviation, run, values

TOLERANCE = 1e-5
EFFORT = Effort(rounds=2, fewest_rounds=2)  # how fast it is is not asked here
blocks = st.builds(
    Block,
    heads=st.integers(1, 4),
    shared=st.integers(1, 2),
    size=st.sampled_from([2, 3, 4]),
    fused=st.booleans(),
    bias=st.booleans(),
    masked=st.booleans(),
    operator=st.booleans(),
    dynamic=st.booleans(),
    seed=st.integers(0, 9),
    by_head=st.booleans(),
    norm=st.sampled_from(["", "", "rms", "layer", "rms, written out", "layer, written out"]),
)


def columns(model: ModelProto, block: Block) -> dict[str, NDArray[np.float32]]:
    """Weights of the projections of queries, keys and values, (in, out)."""
    stored = values(model)
    if not block.fused:
        return {name: stored[f"{name}.w"] for name in "qkv"}
    whole = stored["qkv.w"]
    nodes = [node for node in model.graph.node if node.op_type == "Split"]
    sizes = stored[nodes[0].input[1]]
    parts = np.split(whole, np.cumsum(sizes)[:-1], axis=1)
    return dict(zip("qkv", parts, strict=True))


def kept_of(
    before: NDArray[np.float64], after: NDArray[np.float32], heads: int
) -> NDArray[np.bool_]:
    """Which columns of a weight are left, by their values, (heads, d)."""
    left = {column.tobytes() for column in after.T.astype(np.float64)}
    return np.asarray([c.tobytes() in left for c in before.T.copy()]).reshape(heads, -1)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(block=blocks, ratio=st.sampled_from([0.34, 0.5]))
def test_dropping_is_what_attention_computes_without_these_channels(
    block: Block, ratio: float
) -> None:
    model = block.model()
    config = Config(ratio=ratio, round_to=1, min_channels=1, method="none", provider="cpu")
    result = compress(model, config=config, effort=EFFORT)
    assert result.model is not None
    weights, left = block.weights(), columns(result.model, block)
    stays = {n: kept_of(weights[n], left[n], count) for n, count in block.counts.items()}
    # Of each head as many, more than none; queries go where the keys that they meet do.
    for which in stays.values():
        assert len(set(which.sum(axis=1).tolist())) == 1
        assert 0 < which[0].sum() < block.size
    np.testing.assert_array_equal(stays["q"], np.repeat(stays["k"], block.shared, axis=0))
    x = np.random.default_rng(1).standard_normal((2, block.tokens, WIDTH)).astype(np.float32)
    expected = block.computed(x, stays).astype(np.float32)
    assert deviation(run(result.model, {"x": x})[0], expected) <= TOLERANCE


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(block=blocks.filter(lambda block: block.heads > 1), ratio=st.sampled_from([0.34, 0.5]))
def test_whole_heads_go_and_nothing_else(block: Block, ratio: float) -> None:
    model = block.model()
    config = Config(ratio=ratio, round_to=1, method="none", attention="heads", provider="cpu")
    result = compress(model, config=config, effort=EFFORT)
    assert result.model is not None
    weights, left = block.weights(), columns(result.model, block)
    stays = {n: kept_of(weights[n], left[n], count) for n, count in block.counts.items()}
    heads = stays["k"].all(axis=1)
    for name, which in stays.items():
        repeated = np.repeat(heads, block.counts[name] // block.heads)
        np.testing.assert_array_equal(which, np.repeat(repeated[:, None], block.size, axis=1))
    assert heads.sum() == kept_count(block.heads, ratio)
    x = np.random.default_rng(1).standard_normal((2, block.tokens, WIDTH)).astype(np.float32)
    expected = block.computed(x, stays).astype(np.float32)
    assert deviation(run(result.model, {"x": x})[0], expected) <= TOLERANCE


def test_the_oracle_is_what_the_model_computes() -> None:
    for operator in (False, True):
        block = Block(2, 2, 4, True, True, True, operator, False)
        kept = {name: np.ones((2, 4), np.bool_) for name in "kv"}
        x = np.random.default_rng(1).standard_normal((2, 4, WIDTH)).astype(np.float32)
        expected = block.computed(x, kept).astype(np.float32)
        assert deviation(run(block.model(), {"x": x})[0], expected) <= TOLERANCE


@pytest.mark.parametrize("method", method_names())
@settings(max_examples=4, deadline=None, derandomize=True)
@given(block=blocks)
def test_every_method_verifies(method: str, block: Block) -> None:
    config = Config(ratio=0.5, round_to=1, min_channels=1, method=method, provider="cpu")
    result = compress(block.model(), config=config, effort=EFFORT)
    assert result.verification.values > 0
    assert {g.kept < g.channels for g in result.groups} == {True}
    error = result.verification.fidelity.relative_error
    assert error is None or np.isfinite(error)
