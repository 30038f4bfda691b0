"""Where a figure is written: beside its script, or where the command line says."""

from __future__ import annotations

import sys
from pathlib import Path

from lbyl_onnx.report.svg import STYLE


def write(svg: str, script: str) -> None:
    """Write a figure."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(script).with_suffix(".svg")
    path.write_text(svg, encoding="utf-8")


def alone(svg: str) -> str:
    """Return a chart as a file of its own: with its style, on white paper by day and night."""
    light = STYLE.split("@media", 1)[0] + STYLE.rsplit("}}\n", 1)[1]
    head, rest = svg.split(">", 1)
    return f"{head}><style>{light}</style>{rest}\n"
