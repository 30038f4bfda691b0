"""Queries and keys behind a filter of each channel: chosen, and not mixed in front of it."""

from __future__ import annotations

import pytest
from onnx import ModelProto

from lbyl_onnx import Config, compress
from tests.support.net import Net

CHANNELS = 8


def filtered(depthwise: bool) -> ModelProto:
    """Scores of all pairs of places, of queries and keys that a Conv, or two, make."""
    net = Net(("N", 3, 6, 6))
    made = [net.conv("x", (3, CHANNELS)) for _ in range(2)]
    if depthwise:
        filters = [net.weight(f"f{i}", CHANNELS, 1, 3, 3) for i in range(2)]
        attributes = {"group": CHANNELS, "pads": [1] * 4}
        pairs = zip(made, filters, strict=True)
        made = [net.node("Conv", [x, weight], attributes) for x, weight in pairs]
    flat = net.ints(0, CHANNELS, 36)
    queries, keys = (net.node("Reshape", [x, flat]) for x in made)
    turned = net.node("Transpose", [queries], {"perm": [0, 2, 1]})
    return net.declared(net.node("MatMul", [turned, keys]), "N", 36, 36)


@pytest.mark.parametrize(("depthwise", "mixed"), [(False, True), (True, False)])
def test_channels_are_mixed_only_where_nothing_filters_each(depthwise: bool, mixed: bool) -> None:
    result = compress(filtered(depthwise), config=Config(round_to=1, ratio=0.5, provider="cpu"))
    (group,) = result.groups
    assert group.kept == CHANNELS // 2
    assert ("mixed" in group.restored) is mixed
