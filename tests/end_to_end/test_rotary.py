"""Queries and keys under a rotary embedding: whole pairs go, of each layer its own."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from lbyl_onnx import Config, compress
from lbyl_onnx.channels.groups import Selection
from lbyl_onnx.methods.registry import method_names
from tests.support.oracle import assert_same, interpret, make_feeds, masked, run, values
from tests.support.rotary import EACH, HEADS, KEY_HEADS, WIDTH, rotary

# Of the second number of tokens the tables are no longer small beside the weights.
FEW, MANY = 5, 9
EACH_LAYER = {"stored": ["matmul_0, matmul_3", "matmul_40, matmul_43"]}
EACH_LAYER["computed"] = ["matmul_2, matmul_5", "matmul_42, matmul_45"]
EACH_LAYER["positions"] = ["matmul_10, matmul_13", "matmul_50, matmul_53"]


def cut(model: ModelProto, method: str) -> ModelProto:
    config = Config(ratio=0.5, method=method, round_to=1, provider="cpu")
    result = compress(model, config=config)
    assert result.model is not None
    assert result.verification.values > 0
    return result.model


def pairs(model: ModelProto) -> dict[str, int]:
    """Groups of queries and keys at the default scope, and how many pairs each has."""
    groups = interpret(model, Selection(scope="inner")).channels.groups
    return {group.name: group.size for group in groups if group.products}


@pytest.mark.parametrize("tables", list(EACH_LAYER))
def test_each_layer_has_pairs_of_its_own(tables: str) -> None:
    assert pairs(rotary(tables, FEW)) == dict.fromkeys(EACH_LAYER[tables], EACH // 2)


def test_layers_that_share_a_large_table_form_a_group() -> None:
    together = ", ".join(EACH_LAYER["stored"])
    assert pairs(rotary("stored", MANY)) == {together: EACH // 2}


def test_what_two_large_tables_are_computed_from_is_named() -> None:
    refusals = interpret(rotary("computed", MANY)).channels.refusals
    (reason,) = {r.reason for r in refusals if r.name == ", ".join(EACH_LAYER["computed"])}
    assert "the constant cos_0_out stays: another node reads what is computed from it" in reason


@pytest.mark.parametrize(
    "model", [("stored", FEW), ("stored", MANY), ("computed", FEW), ("positions", FEW)]
)
def test_none_equals_the_original_without_the_pairs(model: tuple[str, int]) -> None:
    original = rotary(*model)
    analysis = interpret(original, Selection(scope="inner"))
    feeds = make_feeds(original)
    expected = run(masked(original, analysis.plan(0.5), analysis), feeds)
    assert_same(run(cut(original, "none"), feeds), expected)


def test_the_pairs_that_stay_are_scaled_alike_in_all_heads() -> None:
    original = rotary("stored", FEW)
    result = compress(original, config=Config(ratio=0.5, round_to=1, provider="cpu"))
    assert result.model is not None
    assert [g.restored for g in result.groups if "scaled" in g.restored] == [
        "lbyl+, terms scaled"
    ] * 2
    before, after = values(original), values(result.model)
    queries, keys = (after[name].astype(np.float64).T for name in ("w0", "w3"))
    columns = before["w0"].astype(np.float64).T  # (heads * dims, width)
    near = np.abs(queries @ columns.T) / np.outer(
        *(np.linalg.norm(x, axis=1) for x in (queries, columns))
    )
    at = np.argmax(near, axis=1)
    np.testing.assert_allclose(near[np.arange(len(at)), at], 1.0, atol=1e-6)
    factors = np.einsum("ij,ij->i", queries, columns[at]) / np.sum(columns[at] ** 2, axis=1)
    pairs = factors.reshape(2 * HEADS, -1)  # (heads * dims,) -> (heads * halves, pairs)
    np.testing.assert_allclose(pairs, np.tile(pairs[:1], (len(pairs), 1)), rtol=1e-5)
    assert np.any(np.abs(pairs - 1.0) > 1e-3)
    whole = {column.tobytes() for column in before["w3"].T.astype(np.float64).copy()}
    assert all(key.tobytes() in whole for key in keys.copy())


def test_of_angles_computed_from_positions_each_layer_takes_its_pairs() -> None:
    original = rotary("positions")
    result = cut(original, "lbyl+")
    stored = values(result)
    assert stored["w10"].shape == (WIDTH, HEADS * EACH // 2)
    taken = [n for n in result.graph.node if n.op_type == "Gather" and "pruned" in n.name]
    # Cosines and sines, once for queries and keys of each of two layers.
    assert len(taken) == 4
    for node in taken:
        kept = stored[node.input[1]]
        np.testing.assert_array_equal(kept[: EACH // 4] + EACH // 2, kept[EACH // 4 :])
    np.testing.assert_array_equal(stored["each"], values(original)["each"])


@pytest.mark.parametrize("method", method_names())
@pytest.mark.parametrize("model", [("stored", FEW), ("stored", MANY)])
def test_every_method_cuts_weights_and_tables(model: tuple[str, int], method: str) -> None:
    original = rotary(*model)
    result = cut(original, method)
    shapes = {name: value.shape for name, value in values(result).items()}
    assert shapes["w0"] == (WIDTH, HEADS * EACH // 2)
    assert shapes["w3"] == (WIDTH, KEY_HEADS * EACH // 2)
    tables = [shape for shape in shapes.values() if shape[:1] == (1,) and model[1] in shape]
    assert tables
    assert all(shape[-1] == EACH // 2 for shape in tables)
    assert len(result.SerializeToString()) < len(original.SerializeToString())
    for output in run(result, make_feeds(result)):
        assert np.all(np.isfinite(output))
