"""README's first screen: short, and made of what was measured."""

from __future__ import annotations

import pytest

from docs.screens import TABLE, TABLES, filled, pages
from tests.conftest import ROOT


def test_the_first_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


@pytest.mark.parametrize(
    ("page", "name"),
    [("README.md", "results"), ("docs/choosing.md", "results"), ("docs/comparison.md", "peers")],
)
def test_the_table_is_what_was_measured(page: str, name: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    assert name in [match[2] for match in TABLE.finditer(text)]
    assert TABLES[name]() in text


def test_a_screen_may_be_cut() -> None:
    page = "<!-- screen of 2 lines: lbyl-onnx doctor -->\nold\n<!-- end of screen -->\n"
    shown = filled(page, lambda command: f"{command}\nsecond\nthird")
    assert "```text\nlbyl-onnx doctor\nsecond\n...\n```" in shown
    assert filled(shown, lambda command: f"{command}\nsecond\nthird") == shown


def test_every_screen_is_of_a_command() -> None:
    commands = [
        line.split(": ", 1)[1]
        for page in pages()
        for line in page.read_text("utf-8").splitlines()
        if line.startswith("<!-- screen")
    ]
    assert commands
    assert all(command.startswith("lbyl-onnx ") for command in commands)
