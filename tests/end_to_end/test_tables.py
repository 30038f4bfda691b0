"""Tables of which each run reads rows: embeddings of tokens and of positions."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from lbyl_onnx import Config, compress
from lbyl_onnx.channels.affine import TABLE_ROWS, producer_matrix
from lbyl_onnx.channels.groups import Selection
from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.methods.registry import method_names
from tests.support.net import Net
from tests.support.oracle import assert_same, interpret, make_feeds, masked, run, values

ROWS, WIDTH, LONGEST = 12, 10, 20
STREAMS = Selection(scope="all")


def embedded(reader: str = "MatMul", rows: int = ROWS, tied: bool = False) -> ModelProto:
    """Tokens and positions, added, then two layers.

    Parameters
    ----------
    reader
        What reads the sum: `MatMul`, or `Softmax`, which mixes its channels.
    rows
        Of the table of tokens.
    tied
        Whether the last layer reads the table of tokens, too.
    """
    net = Net(("N", "T"), dtype=TensorProto.FLOAT)
    net.inputs[0].type.tensor_type.elem_type = TensorProto.INT64
    table = net.weight("tokens", rows, WIDTH)
    tokens = net.node("Gather", [table, "x"])
    length = net.node("Gather", [net.node("Shape", ["x"]), net.ints(1)])
    positions = net.weight("positions", LONGEST, WIDTH)
    some = net.node("Slice", [positions, net.ints(0), length, net.ints(0)])
    stream = net.node("Add", [tokens, some])
    if reader == "Softmax":
        stream = net.node("Softmax", [stream])
    if tied:
        turned = net.node("Transpose", [table], {"perm": [1, 0]})
        return net.model(net.node("MatMul", [net.node("Relu", [stream]), turned]))
    hidden = net.node("Relu", [net.node("MatMul", [stream, net.weight("first", WIDTH, 6)])])
    return net.model(net.node("MatMul", [hidden, net.weight("second", 6, 3)]))


def with_class_token(dynamic: bool) -> ModelProto:
    """Tokens with a learned one in front, stored once, or repeated for each sample."""
    net = Net(("N" if dynamic else 2, 4, WIDTH))
    token = net.weight("class_token", 1, 1, WIDTH)
    if dynamic:
        batch = net.node("Gather", [net.node("Shape", ["x"]), net.ints(0)])
        rest = net.ints(1, 1)
        token = net.node("Expand", [token, net.node("Concat", [batch, rest], {"axis": 0})])
    else:
        token = net.constant("tokens_of_two", net.cast(net.rng.normal(size=(2, 1, WIDTH))))
    patches = net.node("MatMul", ["x", net.weight("patches", WIDTH, WIDTH)])
    stream = net.node("Concat", [token, patches], {"axis": 1})
    return net.model(net.node("MatMul", [net.node("Relu", [stream]), net.weight("last", WIDTH, 3)]))


def halved(model: ModelProto, method: str) -> ModelProto:
    config = Config(ratio=0.5, method=method, scope="all", round_to=1, provider="cpu")
    result = compress(model, config=config)
    assert result.model is not None
    return result.model


def test_tables_that_are_added_are_a_stream() -> None:
    reasons = {r.reason for r in interpret(embedded()).channels.refusals}
    assert "they lie on a residual stream" in reasons


def test_columns_of_tables_are_channels_of_one_group() -> None:
    groups = interpret(embedded(), STREAMS).channels.groups
    (group,) = [g for g in groups if g.size == WIDTH]
    assert len(group.producers) == 2
    assert len(group.consumers) == 1


def test_none_equals_the_original_with_zeroed_inputs() -> None:
    original = embedded()
    analysis, feeds = interpret(original, STREAMS), make_feeds(original)
    expected = run(masked(original, analysis.plan(0.5), analysis), feeds)
    assert_same(run(halved(original, "none"), feeds), expected)


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_class_token_loses_the_channels_of_the_tokens_beside_it(dynamic: bool) -> None:
    original = with_class_token(dynamic)
    analysis, feeds = interpret(original, STREAMS), make_feeds(original)
    (group,) = analysis.channels.groups
    assert group.size == WIDTH
    expected = run(masked(original, analysis.plan(0.5), analysis), feeds)
    cut = halved(original, "none")
    assert_same(run(cut, feeds), expected)
    name = "class_token" if dynamic else "tokens_of_two"
    assert values(cut)[name].shape[-1] == WIDTH // 2


@pytest.mark.parametrize("method", method_names())
def test_tables_lose_columns_and_no_rows(method: str) -> None:
    stored = values(halved(embedded(), method))
    assert stored["tokens"].shape == (ROWS, WIDTH // 2)
    assert stored["positions"].shape == (LONGEST, WIDTH // 2)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (embedded("Softmax"), "Softmax mixes them"),
        (embedded(tied=True), "the constant tokens both makes and reads them"),
    ],
)
def test_a_table_that_stays_is_refused(model: ModelProto, reason: str) -> None:
    refusals = interpret(model, STREAMS).channels.refusals
    assert any(reason in r.reason and r.channels == WIDTH for r in refusals)


def test_rows_of_a_long_table_are_looked_at_in_part() -> None:
    analysis = interpret(embedded(rows=3 * TABLE_ROWS), STREAMS)
    (group,) = [g for g in analysis.channels.groups if g.size == WIDTH]
    columns = producer_matrix(to_graph(analysis.model), analysis.tensor_info, group)
    assert columns.shape == (WIDTH, TABLE_ROWS + LONGEST)
    assert np.all(np.isfinite(columns))
