"""Warnings that a result comes with."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from lbyl_onnx import CompressResult, Config, compress
from lbyl_onnx.graph.costs import Costs
from lbyl_onnx.report.html import as_html
from lbyl_onnx.report.json import as_json
from lbyl_onnx.report.origin import Origin
from lbyl_onnx.report.terminal import print_result
from lbyl_onnx.results.warnings import LONGEST_NAME, Timed, warnings_of
from lbyl_onnx.runtime import timing
from tests.support.architectures import chain

SMALL, LARGE = Costs(100, 1000), Costs(101, 1000)
SAME = Timed(timing.summary([1.0] * 9, [1.0] * 9, 9), 8, 8, False)


@pytest.mark.parametrize(
    ("before", "after", "sizes", "messages"),
    [
        (SMALL, SMALL, (500, 500), []),
        (LARGE, SMALL, (500, 499), []),
        (SMALL, LARGE, (500, 500), ["101 parameters instead of 100"]),
        (SMALL, SMALL, (2000, 3000), ["3.0 kB instead of 2.0 kB"]),
        (SMALL, LARGE, (2000, 3000), ["101 parameters instead of 100, 3.0 kB instead of 2.0 kB"]),
    ],
)
def test_a_result_that_grew_is_told(
    before: Costs, after: Costs, sizes: tuple[int, int], messages: list[str]
) -> None:
    warnings = warnings_of(before, after, sizes, [], SAME)
    assert len(warnings) == len(messages)
    for line, part in zip(warnings, messages, strict=True):
        assert line.startswith(f"the result is larger than the original: {part}; ")


@pytest.mark.parametrize(
    ("after", "step", "message"),
    [
        (1.0, 1, ""),
        (0.5, 1, ""),
        (1.01, 1, ""),  # not measurable
        (1.2, 1, "no multiples of 8 fall out of the fast layout .* use --round-to auto"),
        (1.2, 8, "copying tensors .* prune more"),
        (1.2, 16, "copying tensors .* prune more"),
    ],
)
def test_a_result_that_is_measurably_slower_is_told(after: float, step: int, message: str) -> None:
    timed = Timed(timing.summary([1.0] * 9, [after] * 9, 9), step, 8, False)
    warnings = warnings_of(SMALL, SMALL, (1, 1), [], timed)
    assert len(warnings) == bool(message)
    if message:
        assert re.match(rf"the result takes 1.20 \(1.20 to 1.20\) .*{message}", warnings[0])


def test_whole_numbers_that_gain_nothing_are_told() -> None:
    timed = Timed(timing.summary([1.0] * 9, [1.2] * 9, 9), 1, 8, True)
    (line,) = warnings_of(SMALL, SMALL, (1, 1), [], timed)
    assert "whole numbers gain its layers no time, only bytes" in line


@pytest.mark.parametrize(("kept", "warned"), [(10, False), (3, False), (2, True)])
def test_a_group_that_loses_more_than_seven_in_ten_is_told(kept: int, warned: bool) -> None:
    warnings = warnings_of(SMALL, SMALL, (1, 1), [("conv", 10, kept), ("other", 10, 9)], SAME)
    assert bool(warnings) is warned
    assert not warned or warnings[0].startswith(
        "a channel group loses more than 70% of the channels (c"
    )


def test_many_groups_make_one_line_of_bounded_length() -> None:
    losses = [(f"{number} {'x' * 1000}", 10, 1) for number in range(500)]
    (line,) = warnings_of(SMALL, SMALL, (1, 1), losses, SAME)
    assert line.startswith("500 channel groups lose")
    assert "and 497 more" in line
    assert len(line) < 3 * LONGEST_NAME + 200


@pytest.fixture(scope="module")
def result() -> CompressResult:
    config = Config(round_to=1, ratio=0.8, method="none", provider="cpu")
    return compress(chain(), config=config, detailed=True)


def test_terminal_json_and_page_tell_them(result: CompressResult) -> None:
    # Beside it there may be one of the clock: this is a small model on a busy machine.
    warning = next(line for line in result.warnings if "lose more than 70%" in line)
    assert warning.startswith("2 channel groups")
    out = io.StringIO()
    print_result(result, "in.onnx", Console(file=out, width=1000))
    lines = out.getvalue().splitlines()
    at = lines.index(f"warning: {warning}")
    assert any(line.startswith("file size") for line in lines[:at])
    assert json.loads(as_json(result, Origin("in.onnx", "lbyl-onnx", {}), "1"))["warnings"] == list(
        result.warnings
    )
    assert warning in as_html(result, Origin("in.onnx", "command", {}))


def test_a_result_without_any_shows_none(result: CompressResult) -> None:
    plain = replace(result, warnings=())
    out = io.StringIO()
    print_result(plain, "in.onnx", Console(file=out, width=1000))
    assert "warning" not in out.getvalue()
    assert 'id="warnings"' not in as_html(plain, Origin("in.onnx", "command", {}))
