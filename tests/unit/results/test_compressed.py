"""What a result says of itself."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from lbyl_onnx import CompressResult, compress, inspect
from lbyl_onnx.report.terminal import print_result
from tests.support.architectures import chain


@pytest.fixture(scope="module")
def result() -> CompressResult:
    return compress(chain(), ratio=0.5, method="none", round_to=1, provider="cpu")


def test_repr_is_one_short_line(result: CompressResult) -> None:
    text = repr(result)
    assert result.model is not None
    assert "\n" not in text
    assert len(text) < 300
    assert "method none" in text
    assert f"{result.after.parameters:,}" in text


def test_it_prints_in_five_lines(result: CompressResult) -> None:
    lines = str(result).splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) < 160
    assert lines[0] == f"a model in memory: {result.target.text}, method none"
    share = result.after.macs / result.before.macs
    assert f"MACs {result.before.macs:,} -> {result.after.macs:,} ({share:.1%})" in lines[1]
    assert f"cosine {result.verification.fidelity.cosine:.3f}" in lines[3]
    removed = sum(group.channels - group.kept for group in result.groups)
    assert lines[4].startswith(f"{removed:,} channels removed in {len(result.groups)} groups")


def test_an_inspection_prints_in_five_lines_at_most() -> None:
    inspection = inspect(chain(), provider="cpu")
    lines = str(inspection).splitlines()
    assert len(lines) <= 5
    assert lines[0] == f"{inspection.costs.parameters:,} parameters, {inspection.costs.macs:,} MACs"
    assert lines[2].startswith(f"{len(inspection.groups)} channel groups")


@pytest.mark.parametrize("width", [60, 100])
def test_summary_is_what_the_command_prints_as_plain_text(
    result: CompressResult, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    printed = io.StringIO()
    print_result(result, "in.onnx", Console(file=printed, width=width, highlight=False))
    plain = re.sub(r"\x1b\[[\d;]*m", "", printed.getvalue())
    lines = [line.rstrip() for line in plain.splitlines()]
    assert "\n".join(lines[1:]) == result.summary(width)
    assert "\x1b" not in result.summary(width)
    assert max(map(len, result.summary(width).splitlines())) <= width
    assert "verified:" in result.summary(width)
