"""Charts: what they name lies within them."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from lbyl_onnx.report.svg import Axis, GridRow, Series, curves, grid_of_curves

X, Y = Axis("cost"), Axis("gain")
SVG = "{http://www.w3.org/2000/svg}"


def lines_named(*names: str) -> tuple[Series, ...]:
    return tuple(Series(name, ((0.0, 1.0), (1.0, 2.0))) for name in names)


@pytest.mark.parametrize(
    "names", [("short",), ("two Gemm", "convolutional", "text encoder"), ("a" * 30, "b" * 30)]
)
@pytest.mark.parametrize("columns", [0, 1, 3])
def test_every_line_is_named_within_the_chart(names: tuple[str, ...], columns: int) -> None:
    series = lines_named(*names)
    panels = tuple((X, series) for _ in range(columns))
    text = grid_of_curves([GridRow("row", Y, panels)]) if columns else curves("", series, X, Y)
    svg = ET.fromstring(text)
    width, height = (float(side) for side in svg.attrib["viewBox"].split()[2:])
    entries = {e.text: e for e in svg.iter(f"{SVG}text") if e.text in names}
    assert set(entries) == set(names)
    for name, entry in entries.items():
        # A letter of 12 pixels is about 7 wide.
        assert float(entry.attrib["x"]) + 7 * len(name) <= width
        assert float(entry.attrib["y"]) <= height
    places = [(e.attrib["x"], e.attrib["y"]) for e in entries.values()]
    assert len(set(places)) == len(names)
