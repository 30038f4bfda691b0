"""What a result says of itself."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from rich.console import Console

from lbyl_onnx import CompressResult, Options, Prediction, compress, inspect
from lbyl_onnx.report.terminal import print_result
from lbyl_onnx.results.rendering import prediction_lines
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


def test_a_prediction_is_told_with_its_interval_or_with_what_it_lacks() -> None:
    made = Prediction("equal top-1", 0.86, 0.781, 0.9104, 64, "mosaics")
    assert prediction_lines(made) == [
        "predicted equal top-1 on real inputs: 86.0% (78.1% to 91.0%, by 64 mosaics)"
    ]
    cosine = Prediction("cosine", 0.9, 0.85, 0.95, 16, "mosaics")
    assert "cosine on real inputs: 0.900 (0.850 to 0.950," in prediction_lines(cosine)[0]
    (bare,) = prediction_lines(Prediction("cosine", 0.9, None, None, 64, "texts"))
    assert bare.startswith("cosine on 64 texts: 0.900; ")
    assert "not known" in bare
    assert prediction_lines(None) == []


def test_the_users_own_samples_leave_nothing_to_predict() -> None:
    own = np.random.default_rng(0).standard_normal((32, 3, 6, 6)).astype(np.float32)
    options: Options = {"ratio": 0.5, "method": "lbyl+", "round_to": 1, "provider": "cpu"}
    made, none = (compress(chain(), samples=x, **options).prediction for x in (None, own))
    assert none is None
    assert made is not None
    assert made.kind == "mosaics"
    assert made.low is not None
