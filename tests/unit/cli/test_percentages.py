"""Shares as numbers or in percent, wherever the command line takes them."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from lbyl_onnx.cli import main


def parsed(*words: str) -> dict[str, Any]:
    name, *rest = words
    return main.commands[name].make_context(name, rest).params


@pytest.mark.parametrize(("text", "value"), [("30%", 0.3), (".3", 0.3), ("7 %", 0.07), ("0", 0.0)])
def test_a_ratio(text: str, value: float) -> None:
    assert parsed("compress", "a", "b", "--ratio", text)["ratio"] == value
    assert parsed("compress", "a", "b", "--ratio-for", f"x={text}")["ratio_for"] == (("x", value),)
    assert parsed("compress", "a", "b", "--fidelity", text)["fidelity"] == value
    assert parsed("verify", "a", "b", "--min-agreement", text)["min_agreement"] == value


def test_ratios_of_a_sweep() -> None:
    first = parsed("sweep", "a", "--out", "o", "--ratios", "10%:30%:10%")["ratios"]
    assert first == parsed("sweep", "a", "--out", "o", "--ratios", "10%,.2,0.3")["ratios"]
    assert first == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    "words",
    [
        ("compress", "a", "b", "--ratio", "30x"),
        ("compress", "a", "b", "--ratio", "%"),
        ("compress", "a", "b", "--ratio-for", "x=3%0"),
        ("verify", "a", "b", "--min-agreement", "130%"),
        ("sweep", "a", "--out", "o", "--ratios", "10%:x"),
    ],
)
def test_what_is_none(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "%" in result.stderr.splitlines()[-1] or "GLOB=NUMBER" in result.stderr
