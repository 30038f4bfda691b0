"""Small charts as SVG: they need no script and no network, and follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from lbyl_onnx.text import printable

# Okabe and Ito's colours, told apart by colour-blind people too; brighter ones on dark ground.
# The marks differ in shape as well.
STYLE = """
.chart{--ink:#1c2733;--soft:#5b6875;--rule:#d9dfe5;--s0:#0072b2;--s1:#d55e00;--s2:#00805a;
--s3:#8a4a86;--s4:#8a6d00;font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
@media (prefers-color-scheme:dark){.chart{--ink:#e6ebf0;--soft:#a3b0bd;--rule:#39444f;
--s0:#56b4e9;--s1:#f08a4b;--s2:#34c495;--s3:#d99ad4;--s4:#e3c04a}}
@media print{.chart{--ink:#000;--soft:#444;--rule:#ccc;--s0:#0072b2;--s1:#d55e00;--s2:#00805a;
--s3:#8a4a86;--s4:#8a6d00}}
.chart text{fill:var(--ink);stroke:none}.chart .soft{fill:var(--soft)}
.chart .title{font-weight:600;font-size:13px}
.chart .rule{stroke:var(--rule);stroke-width:1;fill:none}
.chart .same{stroke:var(--soft);stroke-width:1;stroke-dasharray:4 3;fill:none}
.chart .line{fill:none;stroke-width:2;stroke-linejoin:round}
.chart .dots{stroke:none;fill:var(--s0);fill-opacity:.65}
.chart .c0{stroke:var(--s0);fill:var(--s0)}.chart .c1{stroke:var(--s1);fill:var(--s1)}
.chart .c2{stroke:var(--s2);fill:var(--s2)}.chart .c3{stroke:var(--s3);fill:var(--s3)}
.chart .c4{stroke:var(--s4);fill:var(--s4)}
.chart .line.c0,.chart .line.c1,.chart .line.c2,.chart .line.c3,.chart .line.c4{fill:none}
.chart .range{fill:none;stroke-width:1;opacity:.55}.chart .hollow{fill:none;stroke-width:1.5}
"""
_COLOURS = 5


@dataclass(frozen=True)
class Series:
    """A line of a chart: its name and its points, in the order in which they are joined."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Axis:
    """An axis: what it shows, the format of its numbers, and its ends; None for the data's own."""

    title: str
    form: Callable[[float], str] = "{:g}".format
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class GridRow:
    """A row of panels: its title, the axis they share, and the other axis and lines of each."""

    title: str
    y: Axis
    panels: tuple[tuple[Axis, tuple[Series, ...]], ...]


@dataclass(frozen=True)
class Choice:
    """One of several models in a picture of what each costs and gives.

    Parameters
    ----------
    label, text
        What stands beside its mark, and what is shown where a pointer rests on it.
    x, y
        Its cost, and what it gives.
    low, high
        Interval of the cost.
    best
        Whether no other gives as much for less.
    """

    label: str
    text: str
    x: float
    y: float
    low: float
    high: float
    best: bool


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """Return the position of a value, in pixels."""
        span = self.high - self.low
        return self.start + (value - self.low) / span * (self.end - self.start)


# A panel in pixels: its size, and the margins that titles and numbers take.
_WIDTH, _HEIGHT = 340.0, 290.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 22.0, 30.0, 46.0


def scatter(title: str, points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    """Draw pairs of values against each other, with the line on which they would be the same.

    Parameters
    ----------
    title
        Over the chart.
    points
        Pairs, x first.
    x, y
        The axes; both get the ends of all values.

    Returns
    -------
    str
        An SVG element.
    """
    values = [value for point in points for value in point] or [0.0]
    low, high = min(values), max(values)
    svg = _svg(_WIDTH, _HEIGHT, title)
    x, y = (Axis(axis.title, axis.form, low, high) for axis in (x, y))
    across, up = _frame(svg, title, x, y, [], [])
    ends = (across.low, across.high)
    _line(svg, [(across(v), up(v)) for v in ends], "same")
    dots = "".join(
        f"M{across(a) - 1.5:.1f} {up(b):.1f}a1.5 1.5 0 1 0 3 0a1.5 1.5 0 1 0-3 0" for a, b in points
    )
    ET.SubElement(svg, "path", {"class": "dots", "d": dots})
    return _text_of(svg)


def curves(title: str, series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Draw lines with a mark at each point.

    Parameters
    ----------
    title
        Over the chart.
    series
        The lines, in an order that keeps their colours.
    x, y
        The axes.

    Returns
    -------
    str
        An SVG element.
    """
    svg = _svg(_WIDTH, _HEIGHT + _legend_height(series, _WIDTH), title)
    _curves(svg, title, series, x, y)
    _legend(svg, series, _HEIGHT, _WIDTH)
    return _text_of(svg)


def choices(title: str, series: Sequence[tuple[str, Sequence[Choice]]], x: Axis, y: Axis) -> str:
    """Draw models by what they cost and give; those that are best are joined.

    Parameters
    ----------
    title
        Over the chart.
    series
        Models that are compared with each other, under a name.
    x, y
        The axes.

    Returns
    -------
    str
        An SVG element: marks of the best are filled, the others hollow.
    """
    shown = [choice for _, models in series for choice in models]
    xs = [end for choice in shown for end in (choice.low, choice.high, choice.x)]
    svg = _svg(_WIDTH, _HEIGHT, title)
    across, up = _frame(svg, title, x, y, xs, [choice.y for choice in shown])
    labels: list[tuple[float, float]] = []
    for number, (_, models) in enumerate(series):
        colour = f"c{number % _COLOURS}"
        best = sorted((choice.x, choice.y) for choice in models if choice.best)
        _line(svg, [(across(a), up(b)) for a, b in best], f"line {colour}")
        for choice in models:
            px, py = across(choice.x), up(choice.y)
            ends = [(across(choice.low), py), (across(choice.high), py)]
            _line(svg, ends, f"range {colour}")
            kind = colour if choice.best else f"{colour} hollow"
            mark = ET.SubElement(svg, "path", {"class": kind, "d": _mark(number, px, py)})
            ET.SubElement(mark, "title").text = printable(choice.text)
            place = _free(px + 5, py - 5, labels)
            if place is not None:
                labels.append(place)
                _label(svg, *place, choice.label, "")
    return _text_of(svg)


def _free(x: float, y: float, taken: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Return the next place above for a short label; None where there is none in the picture."""
    while y > 8 and any(abs(x - a) < 14 and abs(y - b) < 11 for a, b in taken):
        y -= 11
    return (x, y) if y > 8 else None


def grid_of_curves(rows: Sequence[GridRow]) -> str:
    """Draw rows of panels with one legend: a whole SVG file.

    Parameters
    ----------
    rows
        What is shown; all panels have the same lines.

    Returns
    -------
    str
        An SVG document that carries its own style.
    """
    columns = max((len(row.panels) for row in rows), default=1)
    width, row_height = columns * _WIDTH, _HEIGHT + 26.0
    named = rows[0].panels[0][1] if rows else ()
    height = row_height * len(rows) + 2.0 + _legend_height(named, width)
    svg = _svg(width, height, "; ".join(row.title for row in rows))
    svg.set("width", f"{width:g}")
    ET.SubElement(svg, "style").text = STYLE + _GROUND
    ET.SubElement(svg, "rect", {"class": "ground", "width": "100%", "height": "100%"})
    for number, row in enumerate(rows):
        _label(svg, _LEFT, number * row_height + 20.0, row.title, "title")
        for column, (x, series) in enumerate(row.panels):
            place = f"translate({column * _WIDTH:g} {number * row_height + 16.0:g})"
            _curves(ET.SubElement(svg, "g", {"transform": place}), "", series, x, row.y)
    _legend(svg, named, row_height * len(rows), width)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + _text_of(svg) + "\n"


_GROUND = """
.ground{fill:#fff}@media (prefers-color-scheme:dark){.ground{fill:#14191f}}
@media print{.ground{fill:#fff}}
"""


def _curves(parent: ET.Element, title: str, series: Sequence[Series], x: Axis, y: Axis) -> None:
    xs = [point[0] for line in series for point in line.points]
    ys = [point[1] for line in series for point in line.points]
    across, up = _frame(parent, title, x, y, xs, ys)
    for number, line in enumerate(series):
        pixels = [(across(a), up(b)) for a, b in line.points]
        colour = f"c{number % _COLOURS}"
        _line(parent, pixels, f"line {colour}")
        for (px, py), (a, b) in zip(pixels, line.points, strict=True):
            mark = ET.SubElement(parent, "path", {"class": colour, "d": _mark(number, px, py)})
            label = f"{line.name}: {x.title} {x.form(a)}, {y.title} {y.form(b)}"
            ET.SubElement(mark, "title").text = printable(label)


def _frame(
    parent: ET.Element, title: str, x: Axis, y: Axis, xs: Sequence[float], ys: Sequence[float]
) -> tuple[_Scale, _Scale]:
    across = _scale(x, xs, _LEFT, _WIDTH - _RIGHT)
    up = _scale(y, ys, _HEIGHT - _BOTTOM, _TOP)
    for tick in up.ticks:
        _line(parent, [(_LEFT, up(tick)), (_WIDTH - _RIGHT, up(tick))], "rule")
        _label(parent, _LEFT - 6, up(tick) + 4, y.form(tick), "soft", "end")
    for tick in across.ticks:
        _line(parent, [(across(tick), up(up.low)), (across(tick), up(up.low) + 4)], "rule")
        _label(parent, across(tick), _HEIGHT - _BOTTOM + 17, x.form(tick), "soft", "middle")
    if title:
        _label(parent, _LEFT, 14, title, "title")
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    _label(parent, middle, _HEIGHT - _BOTTOM + 36, x.title, "soft", "middle")
    turned = _label(parent, 0, 0, y.title, "soft", "middle")
    turned.set("transform", f"translate(12 {(_TOP + _HEIGHT - _BOTTOM) / 2:g}) rotate(-90)")
    return across, up


def _scale(axis: Axis, values: Sequence[float], start: float, end: float) -> _Scale:
    """Cover the values, from one round number to another."""
    low = axis.low if axis.low is not None else min(values, default=0.0)
    high = axis.high if axis.high is not None else max(values, default=1.0)
    # Values that are one but for rounding have no scale between them.
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        pad = abs(low) / 10 or 1.0
        low, high = low - pad, high + pad
    step = _round_step((high - low) / 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(number * step for number in range(first, last + 1))
    return _Scale(ticks[0], ticks[-1], start, end, ticks)


def _round_step(rough: float) -> float:
    """Return 1, 2, 2.5 or 5 times a power of ten, at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)


def _mark(number: int, x: float, y: float) -> str:
    """Return the outline of a mark: a disc, a square, a triangle, a diamond, a cross."""
    outlines = (
        f"M{x - 3:.1f} {y:.1f}a3 3 0 1 0 6 0a3 3 0 1 0-6 0",
        f"M{x - 2.7:.1f} {y - 2.7:.1f}h5.4v5.4h-5.4z",
        f"M{x:.1f} {y - 3.6:.1f}l3.6 6.4h-7.2z",
        f"M{x:.1f} {y - 4:.1f}l4 4l-4 4l-4-4z",
        f"M{x - 3:.1f} {y - 3:.1f}l6 6m0-6l-6 6",
    )
    return outlines[number % len(outlines)]


def _legend_height(series: Sequence[Series], width: float) -> float:
    return max((y for _, y in _legend_positions(series, width)), default=-22.0) + 22.0


def _legend_positions(series: Sequence[Series], width: float) -> list[tuple[float, float]]:
    """Where each line's entry begins, in as many rows as the width asks for."""
    positions, x, y = list[tuple[float, float]](), _LEFT, 0.0
    for line in series:
        length = 23 + 7 * len(line.name)
        if x > _LEFT and x + length > width:
            x, y = _LEFT, y + 20.0
        positions.append((x, y))
        x += length + 17
    return positions


def _legend(parent: ET.Element, series: Sequence[Series], top: float, width: float) -> None:
    for number, (x, y) in enumerate(_legend_positions(series, width)):
        colour, middle = f"c{number % _COLOURS}", top + y + 6
        _line(parent, [(x, middle), (x + 18, middle)], f"line {colour}")
        ET.SubElement(parent, "path", {"class": colour, "d": _mark(number, x + 9, middle)})
        _label(parent, x + 23, middle + 4, series[number].name, "")


def _svg(width: float, height: float, title: str) -> ET.Element:
    return ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width:g} {height:g}",
            "class": "chart",
            "role": "img",
            "aria-label": printable(title),
        },
    )


def _line(parent: ET.Element, pixels: Sequence[tuple[float, float]], kind: str) -> None:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
    ET.SubElement(parent, "polyline", {"class": kind, "points": points})


def _label(
    parent: ET.Element, x: float, y: float, text: str, kind: str, anchor: str = "start"
) -> ET.Element:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "class": kind}
    label = ET.SubElement(parent, "text", place)
    label.text = printable(text)
    return label


def _text_of(svg: ET.Element) -> str:
    return ET.tostring(svg, encoding="unicode")
