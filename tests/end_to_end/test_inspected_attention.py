"""`inspect` shows attention as attention: what channels are, of how many heads, of what size."""

from __future__ import annotations

import io
import json
from collections import Counter
from functools import cache

import pytest
from rich.console import Console

from lbyl_onnx import Inspection, inspect
from lbyl_onnx.report.json import inspection_as_json
from lbyl_onnx.report.terminal import print_inspection
from tests.support.architectures import residual
from tests.support.exported import load

VIT = "vit_unbind_legacy_17_static"
# export -> (role, blocks, channels of each) of its groups, and how often these occur
ROLES = {
    # one weight for queries, keys and values of four heads
    VIT: {("queries and keys", 4, 16): 2, ("values", 4, 16): 2, ("hidden", 1, 256): 2},
    # three weights
    "vit_split_dynamo_20_as_traced": {
        ("queries and keys", 4, 16): 2,
        ("values", 4, 16): 2,
        ("hidden", 1, 256): 2,
    },
    # Attention as one operator
    "bert_dynamo_23": {
        ("queries and keys", 4, 16): 2,
        ("values", 4, 16): 2,
        ("hidden", 1, 256): 2,
    },
    # two layers make the hidden channels of a gated feed-forward block
    "gated_dynamo_18": {("hidden", 1, 128): 2},
}


@cache
def inspected(name: str) -> Inspection:
    return inspect(load(name), provider="cpu")


def printed(inspection: Inspection) -> str:
    stream = io.StringIO()
    print_inspection(inspection, "in.onnx", Console(file=stream, width=200))
    return stream.getvalue()


@pytest.mark.parametrize("name", ROLES)
def test_each_group_has_a_role_and_its_heads(name: str) -> None:
    groups = inspected(name).groups
    assert Counter((g.role, g.blocks, g.per_block) for g in groups) == ROLES[name]


def test_values_of_grouped_queries_have_the_heads_of_the_keys() -> None:
    groups = inspected("llama_dynamo_23").groups
    values = [(g.blocks, g.per_block) for g in groups if g.role == "values"]
    assert values == [(2, 16), (2, 16)]


def test_the_table_says_so() -> None:
    text = printed(inspected(VIT))
    assert text.count("queries and keys, 4 heads of 16") == 2
    assert text.count("values, 4 heads of 16") == 2
    assert "role" in text


def test_whole_heads_are_shown_where_they_are_asked_for() -> None:
    inspection = inspect(load(VIT), provider="cpu", attention="heads")
    assert [(g.role, g.channels) for g in inspection.groups] == [
        ("whole heads", 4),
        ("hidden", 256),
    ] * 2
    assert printed(inspection).count("whole heads") == 2


def test_without_attention_the_table_has_no_column_for_it() -> None:
    inspection = inspect(residual(), provider="cpu")
    assert {(g.role, g.blocks) for g in inspection.groups} == {("hidden", 1)}
    assert "role" not in printed(inspection)


def test_json_says_so() -> None:
    document = json.loads(inspection_as_json(inspected(VIT), "in.onnx", "1.0"))
    assert [(g["role"], g["blocks"]) for g in document["groups"][:3]] == [
        ("queries and keys", 4),
        ("values", 4),
        ("hidden", 1),
    ]
