"""Tables and lines in which no name is broken."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lbyl_onnx.results.layout import LONGEST_LIST, Lines, TextTable, wrapped

NAMES = ("/block/unit1/conv/Conv", "features.denseblock1.denselayer12.conv2", "/top/層/Conv")
TABLE = TextTable(
    ("producer", "channels", "reason", "nodes"),
    frozenset(("channels",)),
    tuple((name, str(8 * number), "on a stream (/block/Add)", name) for number, name in
          enumerate(NAMES)),
)  # fmt: skip


def screen(shown: Lines | TextTable, width: int, terminal: bool) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, color_system=None)
    console.print(shown, crop=False)
    return file.getvalue().splitlines()


def parts(text: str) -> list[str]:
    """What is never broken: words, or what stands between their slashes."""
    return text.replace("/", " /").split()


@given(st.text("ab/ ", max_size=60), st.integers(1, 30))
def test_lines_hold_all_and_are_no_longer_than_must_be(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    for line in lines:
        assert len(line) <= width or len(parts(line)) <= 1 or "//" in line or line[0] == " "


def test_a_word_that_fits_is_not_broken_at_a_slash() -> None:
    assert wrapped("stream (/block/Add)", 14) == ["stream", "(/block/Add)"]
    assert wrapped("  y: /block/Add", 10) == ["  y:", "  /block", "  /Add"]


@pytest.mark.parametrize("width", [1, 10, 40, 60, 70, 80, 100, 150])
def test_no_name_of_a_table_is_broken(width: int) -> None:
    lines = screen(TABLE, width, terminal=True)
    words = {part for line in lines for part in parts(line)}
    for row in TABLE.rows:
        assert {part for cell in row for part in parts(cell)} <= words


def test_columns_are_folded_where_they_do_not_fit() -> None:
    lines = screen(TABLE, 60, terminal=True)
    assert lines[0].split() == ["producer", "channels", "reason"]
    assert f"  nodes: {NAMES[0]}" in lines
    assert max(map(len, lines)) <= 60


def test_a_row_is_a_line_where_there_is_room() -> None:
    lines = screen(TABLE, 1000, terminal=False)
    assert len(lines) == 1 + len(NAMES)
    starts = {line.index(name) for line, name in zip(lines[1:2], NAMES, strict=False)}
    assert starts == {0}
    assert lines[1].split() == [NAMES[0], "0", "on", "a", "stream", "(/block/Add)", NAMES[0]]
    assert lines[1].index("on a") == lines[2].index("on a") == lines[0].index("reason")


def test_a_terminal_gets_the_first_rows_and_a_pipe_all() -> None:
    many = TextTable(("name",), frozenset(), tuple((f"n{i}",) for i in range(LONGEST_LIST + 7)))
    assert screen(many, 80, terminal=True)[-1] == "... and 7 more; --json lists them all"
    assert screen(many, 80, terminal=False)[-1] == f"n{LONGEST_LIST + 6}"
    assert screen(TextTable(("name",), frozenset(), ()), 80, terminal=True) == ["name"]


def test_one_long_name_does_not_lengthen_all_rows() -> None:
    rows = (("n" * 10_000, "1", "x"), *(("a", "2", "y") for _ in range(1000)))
    table = TextTable(("name", "channels", "reason"), frozenset(("channels",)), rows)
    lines = screen(table, 10**6, terminal=False)
    assert sum(map(len, lines)) < 10_000 + 1002 * 140
    assert lines[1].startswith("n" * 10_000 + "  ")
    assert lines[2].split() == ["a", "2", "y"]
