"""One result as one HTML file: no script, no network, nothing of the model taken for markup."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lbyl_onnx.channels import Refusal
from lbyl_onnx.charts import STYLE, Axis, scatter
from lbyl_onnx.details import Details, Layer
from lbyl_onnx.pipeline import CompressResult, GroupReport
from lbyl_onnx.report import by_output, described, nearness, proven
from lbyl_onnx.text import count, milliseconds, printable, share, short_count, size


@dataclass(frozen=True)
class Origin:
    """Where a result comes from.

    Parameters
    ----------
    source
        The input, as the user named it.
    command
        The command line, word by word.
    versions
        Of what computed, by name.
    """

    source: str
    command: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Figure:
    """A number before and after."""

    title: str
    before: str
    after: str
    ratio: float


@dataclass(frozen=True)
class Row:
    """A layer of the strip.

    Parameters
    ----------
    layer
        The layer.
    kept, removed
        Lengths of the bar's two parts, in percent; as a whole it grows with the square root of the
        layer's width.
    state
        `pruned`, `left` or `reads`: whether its own channels went, stay for a reason, or stay.
    note
        What is to be said of that.
    macs, latency
        Before and after.
    """

    layer: Layer
    kept: float
    removed: float
    state: str
    note: str
    macs: Figure
    latency: Figure | None


def as_html(result: CompressResult, origin: Origin) -> str:
    """Return a whole result as one HTML file.

    Parameters
    ----------
    result
        The result, with its details.
    origin
        The command and the versions behind it.

    Raises
    ------
    ValueError
        When the result was made without details.
    """
    details = result.details
    if details is None:
        raise ValueError("the result has no details; compress with detailed=True")
    environment = Environment(
        loader=PackageLoader("lbyl_onnx"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(count=count, size=size, share=share)
    environment.globals.update(nearness=nearness, by_output=by_output, proven=proven)
    return environment.get_template("report.html.j2").render(
        result=result,
        details=details,
        origin=origin,
        target="dry run: nothing written" if result.output is None else str(result.output),
        described=described(result),
        proof=result.verification,
        figures=_figures(result),
        rows=_rows(result, details),
        others=_latency(details.others_before, details.others_after),
        timed=any(layer.ms_before is not None for layer in details.layers),
        predicted=_predicted(result.groups),
        scatter=_scatter(details),
        style=Markup(STYLE),
    )


def _harmless(value: object) -> object:
    """Spell out control characters of whatever text enters the page; it is escaped after that."""
    return printable(value) if type(value) is str else value


def _figures(result: CompressResult) -> list[Figure]:
    before, after = result.before, result.after
    figures = [
        _figure("Parameters", before.parameters, after.parameters, short_count),
        _figure("MACs", before.macs, after.macs, short_count),
        _figure("File size", result.size_before, result.size_after, lambda b: size(int(b))),
    ]
    old, new = result.verification.before, result.verification.after
    if old is not None and new is not None:
        figures.append(_figure("Latency", old.median, new.median, milliseconds))
    return figures


def _figure(title: str, before: float, after: float, form: Callable[[float], str]) -> Figure:
    return Figure(title, form(before), form(after), after / before if before else 1.0)


def _latency(before: float | None, after: float | None) -> Figure | None:
    if before is None or after is None:
        return None
    unit, factor = ("µs", 1000.0) if before < 1.0 else ("ms", 1.0)
    told = f"{factor * before:.3g}", f"{factor * after:.3g} {unit}"
    return Figure("latency", *told, after / before if before else 1.0)


def _rows(result: CompressResult, details: Details) -> list[Row]:
    widest = max((layer.channels_before for layer in details.layers), default=1) or 1
    rows = []
    for layer in details.layers:
        # By the square root of the width: the narrow layers at a network's start stay visible.
        length = 100 * math.sqrt(layer.channels_before / widest)
        kept = layer.channels_after / (layer.channels_before or 1)
        rows.append(
            Row(
                layer,
                length * kept,
                length * (1 - kept),
                *_state(layer, result.groups, result.refusals),
                _figure("MACs", layer.macs_before, layer.macs_after, short_count),
                _latency(layer.ms_before, layer.ms_after),
            )
        )
    return rows


def _state(
    layer: Layer, groups: Sequence[GroupReport], refusals: Sequence[Refusal]
) -> tuple[str, str]:
    for group in groups:
        if _names(group.name, layer.name):
            restored = "not restored" if group.restored == "none" else f"by {group.restored}"
            return "pruned", restored
    for refusal in refusals:
        if _names(refusal.name, layer.name):
            return "left", refusal.reason
    return "reads", ""


def _names(names: str, name: str) -> bool:
    """Whether a group's name, the names of its producers with commas between, has one name."""
    return f", {name}, " in f", {names}, "


def _predicted(groups: Sequence[GroupReport]) -> list[tuple[GroupReport, float]]:
    """Groups whose error is predicted, with its part of the largest, in percent."""
    known = [(g, g.predicted_error) for g in groups if g.predicted_error is not None]
    largest = max((error for _, error in known), default=0.0) or 1.0
    return [(group, 100 * error / largest) for group, error in known]


def _scatter(details: Details) -> Markup | None:
    if not details.points:
        return None
    axes = Axis("original output", "{:.3g}".format), Axis("compressed output", "{:.3g}".format)
    # The chart escapes its own texts: it is built as a tree, not as a string.
    return Markup(scatter("", details.points, *axes))
