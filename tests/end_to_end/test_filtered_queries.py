"""Queries and keys behind a filter of each channel: chosen, and not mixed in front of it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from lbyl_onnx import Config, compress
from tests.support.attentions import EPSILON, Block
from tests.support.net import Net
from tests.support.oracle import values

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


def test_behind_a_normalisation_gamma_and_epsilon_are_fitted() -> None:
    block = Block(2, 1, 8, False, True, False, False, True, norm="rms, written out")
    model = block.model()
    errors = {}
    for method in ("none", "lbyl+"):
        result = compress(
            model, config=Config(round_to=1, ratio=0.5, method=method, provider="cpu")
        )
        assert result.model is not None
        errors[method] = result.verification.fidelity.relative_error or 0.0
        after = values(result.model)
        epsilon = [v for name, v in after.items() if name.startswith("q.epsilon")]
        assert bool(epsilon[0] == np.float32(EPSILON)) is (method == "none")
    (group,) = [g for g in result.groups if "scaled" in g.restored]
    assert group.predicted_error is not None
    assert errors["lbyl+"] < errors["none"]
