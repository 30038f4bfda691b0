"""Which layers of attention have whole heads to lose, and why others have none."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from lbyl_onnx.channels.analysis import find_channels
from lbyl_onnx.channels.groups import ChannelMap, Selection
from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.option_types import Scope
from tests.support.exported import load
from tests.support.oracle import input_shapes

# export -> heads, channels of a head at each layer that makes them, at the layer that reads them
HEADS: dict[str, tuple[int, tuple[int, ...], int]] = {
    # one weight for all, then cut into queries, keys and values behind the heads, or before
    "vit_unbind_legacy_17_static": (4, (48,), 16),
    "text_encoder_dynamo_20_as_traced": (3, (24,), 8),
    # Attention as one operator
    "bert_dynamo_23": (4, (16, 16, 16), 16),
    # rotary embeddings, and heads of keys that two of queries read
    "llama_eager_dynamo_18": (2, (32, 16, 16), 32),
    "llama_dynamo_23": (2, (32, 16, 16), 32),
    # heads merged with samples, whose number is dynamic
    "multihead_dynamo_18": (4, (48,), 16),
    # a table of positions with a row for each head
    "swin_dynamo_18": (2, (24,), 8),
}
# export -> why its heads stay
STAY = {
    "einsum_legacy_13_as_trained": (
        "no whole heads: the layer has one, or an axis of its own for heads"
    ),
    # a bias of each head is taken by computed indices
    "t5_dynamo_18": "no whole heads: Add joins them to channels that stay",
    # all layers add one table of positions
    "t5_eager_legacy_17_static": "no whole heads: layers that share a constant produce them",
}


@cache
def channels(name: str, selection: Selection) -> ChannelMap:
    model = load(name)
    tensor_info = TensorInfo(model, input_shapes(model, 2, 0), input_shapes(model, 3, 0))
    return find_channels(to_graph(model), tensor_info, selection)


def whole(name: str, scope: Scope = "inner") -> ChannelMap:
    return channels(name, Selection(scope=scope, attention="heads"))


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_the_channels_of_attention(name: str) -> None:
    count, made, read = HEADS[name]
    group = next(group for group in whole(name).groups if group.whole_heads)
    assert group.size == count
    assert tuple(p.positions.shape[1] for p in group.producers) == made
    (consumer,) = group.consumers
    np.testing.assert_array_equal(consumer.positions, np.arange(count * read).reshape(count, read))
    assert all(not g.products and g.block_count == 1 for g in whole(name).groups)


@pytest.mark.parametrize("name", STAY)
def test_where_heads_stay_the_reason_is_named_and_dims_go(name: str) -> None:
    reasons = {r.reason: r.nodes for r in whole(name).refusals if r.reason.startswith("no whole")}
    assert [*reasons] == [STAY[name]]
    assert reasons[STAY[name]]
    names = [group.name for group in channels(name, Selection()).groups]
    assert [group.name for group in whole(name).groups] == names


def test_a_table_of_all_layers_makes_their_heads_one_group_of_scope_all() -> None:
    (group,) = [g for g in whole("t5_eager_legacy_17_static", "all").groups if g.whole_heads]
    assert (group.size, len(group.producers), len(group.consumers)) == (4, 6, 2)


def test_layers_that_are_left_to_dims_keep_their_heads() -> None:
    name = "vit_unbind_legacy_17_static"
    first, second = (g for g in whole(name).groups if g.whole_heads)
    left = frozenset(place.binding.node for place in first.producers)
    mixed = channels(name, Selection(attention="heads", by_dims=left))
    assert [g.name for g in mixed.groups if g.whole_heads] == [second.name]
    assert sum(g.block_count == 4 for g in mixed.groups) == 2
    assert mixed.refusals == channels(name, Selection()).refusals
