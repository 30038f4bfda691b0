"""The tables of options in the docs, written anew: `python -m docs.options`."""

from __future__ import annotations

import re
from pathlib import Path

from lbyl_onnx.config import DEFAULTS, OPTIONS, SECTIONS
from lbyl_onnx.option_types import Option

ROOT = Path(__file__).parents[1]
# Pages with a table between the marks.
PAGES = ("docs/commands.md", "docs/api.md")
BEGIN, END = "<!-- options: python -m docs.options -->", "<!-- end of options -->"


def table() -> str:
    """Return the options as Markdown, section by section."""
    lines = ["| option | values | | default |", "| --- | --- | --- | --- |"]
    for section in SECTIONS:
        lines.append(f"| **{section}** | | | |")
        lines += [_row(name, o) for name, o in OPTIONS.items() if o.section == section]
    return "\n".join(lines)


def _row(name: str, option: Option) -> str:
    if option.choices is not None:
        values = option.choices()
    else:
        values = (option.metavar or option.type.name).split("|")  # a bar would end the cell
    listed = ", ".join(f"`{value}`" for value in values)
    default = "" if DEFAULTS[name] in (None, ()) else f"`{DEFAULTS[name]}`"
    return f"| `{option.flag}` | {listed} | {option.help} | {default} |"


def filled(page: str) -> str:
    """Return a page with its table written anew."""
    between = re.compile(f"(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", re.DOTALL)
    return between.sub(lambda _: f"\n{table()}\n\n", page)


if __name__ == "__main__":
    for name in PAGES:
        path = ROOT / name
        path.write_text(filled(path.read_text()))
