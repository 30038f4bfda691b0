"""Targets as the user writes them."""

from __future__ import annotations

import pytest

from lbyl_onnx import Config, OptionError
from lbyl_onnx.target import Kind, Target, parse_target


@pytest.mark.parametrize(
    ("kind", "text", "original", "budget"),
    [
        ("macs", "50%", 300.0, 150.0),
        ("macs", "2G", 0.0, 2e9),
        ("macs", 12345, 0.0, 12345.0),
        ("params", "1.5M", 0.0, 1.5e6),
        ("params", "100 k", 0.0, 1e5),
        ("size", "5MB", 0.0, 5e6),
        ("size", "1.5MiB", 0.0, 1.5 * 2**20),
        ("size", "25%", 4e6, 1e6),
        ("latency", "20ms", 0.0, 20.0),
        ("latency", "0.5s", 0.0, 500.0),
        ("latency", "60%", 10.0, 6.0),
    ],
)
def test_amounts(kind: Kind, text: str | float, original: float, budget: float) -> None:
    assert parse_target(kind, text).budget(original) == pytest.approx(budget, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("macs", "many"),
        ("macs", "5MB"),
        ("params", "0%"),
        ("params", "101%"),
        ("size", "20ms"),
        ("size", "-1"),
        ("size", "0"),
        ("latency", "20"),
        ("latency", "1.2.3ms"),
    ],
)
def test_what_is_no_amount(kind: Kind, text: str) -> None:
    with pytest.raises(OptionError, match=kind):
        parse_target(kind, text)


def test_one_target() -> None:
    assert Config().target.kind == "safe"
    assert Config(ratio=0.3).target == Target("ratio", 0.3, True)
    assert Config(size="5MB").target.kind == "size"
    with pytest.raises(OptionError, match="macs and size"):
        Config(macs="50%", size="5MB")
    with pytest.raises(OptionError, match="ratio and macs"):
        Config(ratio=0.5, macs="50%")


def test_allocation_follows_the_target() -> None:
    assert Config(ratio=0.5).allotted == "uniform"
    assert Config(macs="50%").allotted == "auto"
    assert Config(macs="50%", allocation="uniform").allotted == "uniform"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fidelity": 1.0}, "below 1"),
        ({"fidelity": 0.0}, "above 0"),
        ({"ratio_for": (("a", 1.0),)}, "from 0 to below 1"),
        ({"keep_for": (("a", 0),)}, "keep_for 'a' is 0"),
        ({"min_channels": 0}, "at least 1"),
        ({"round_to": 0}, "at least 1"),
        ({"round_to": "8"}, "whole number or auto"),
        ({"allocation": "even"}, "uniform, auto"),
    ],
)
def test_options_outside_what_they_may_be(options: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Config(**options)  # type: ignore[arg-type]
