"""Half of all hidden, value, query and key channels is gone, and that is proven."""

from __future__ import annotations

import pytest

from lbyl_onnx import CompressResult, Config, compress
from lbyl_onnx.guard.effort import Effort
from tests.support.exported import load

# export -> the least share of its parameters that is gone
HALF = {
    "t5_dynamo_18": 0.40,
    "vit_unbind_eager_dynamo_18": 0.35,
    "vit_split_dynamo_20_as_traced": 0.35,
    "encoder_layers_dynamo_18": 0.46,
    "multihead_dynamo_18": 0.36,
    "multihead_legacy_17_static": 0.36,
    "whisper_eager_legacy_13_as_trained": 0.46,
}
MIXED = ("t5_dynamo_18", "bert_dynamo_23")


def halved(name: str, method: str) -> CompressResult:
    config = Config(ratio=0.5, method=method, round_to=1, min_channels=1, provider="cpu")
    # How fast it is is not asked here.
    return compress(load(name), config=config, effort=Effort(rounds=2, fewest_rounds=2))


@pytest.mark.parametrize("name", HALF)
def test_half_of_the_channels_are_gone(name: str) -> None:
    result = halved(name, "none")
    gone = 1.0 - result.after.parameters / result.before.parameters
    assert gone >= HALF[name]
    assert all(2 * group.kept == group.channels for group in result.groups)


@pytest.mark.parametrize("name", MIXED)
def test_mixing_is_proven_too(name: str) -> None:
    result = halved(name, "lbyl+")
    assert result.verification.values > 0
    assert all(2 * group.kept == group.channels for group in result.groups)
    assert any("channels mixed" in group.restored for group in result.groups)
