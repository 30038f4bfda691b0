"""One result as one HTML file: no script, no network, nothing of the model taken for markup."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lbyl_onnx.evaluate.layers import Details, LayerComparison
from lbyl_onnx.report.noise import Noise, noise_of
from lbyl_onnx.report.origin import Origin
from lbyl_onnx.report.svg import STYLE, Axis, scatter
from lbyl_onnx.results.compressed import CompressResult
from lbyl_onnx.results.groups import GroupReport
from lbyl_onnx.results.next_steps import next_steps
from lbyl_onnx.results.rendering import (
    by_output,
    factor_lines,
    nearness,
    prediction_lines,
    proven,
    quantised_lines,
)
from lbyl_onnx.runtime.timing import PairedLatency
from lbyl_onnx.text import (
    LONGEST_GROUP,
    count,
    listed,
    milliseconds,
    printable,
    share,
    short,
    short_count,
    size,
)

# Characters of any one text of the page: a list of names, the command line.
_LONGEST_TEXT = 1 << 15


@dataclass(frozen=True)
class Figure:
    """A number before and after.

    `ratio_text` says the ratio in words; `more` is whether it has grown, beyond what is measurable;
    `note` is how sure the ratio is, where it was measured.
    """

    title: str
    before: str
    after: str
    ratio: float
    ratio_text: str
    more: bool
    note: str = ""

    @property
    def left(self) -> float:
        """What is left, in percent, at most all."""
        return min(100.0, 100.0 * self.ratio)


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
        Before and after; no latency where its difference is within noise.
    """

    layer: LayerComparison
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
        The command, the versions, the date and the machine behind it.

    Raises
    ------
    ValueError
        When the result was made without details.
    """
    details = result.details
    if details is None:
        raise ValueError("the result has no details; compress with detailed=True")
    noise = noise_of(details, result.latency if result.quantised is None else None)
    rows = _rows(result, details, noise)
    others = _latency(details.others_before, details.others_after, noise)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            result=result,
            details=details,
            origin=origin,
            steps=next_steps(result, origin.source),
            output="dry run: nothing written" if result.output is None else str(result.output),
            described=result.description,
            inputs=[entry.description for entry in result.inputs],
            proof=result.verification,
            predicted_lines=prediction_lines(result.prediction),
            quantised=[*factor_lines(result.factors), *quantised_lines(result.quantised)],
            figures=figures(
                (result.before.parameters, result.after.parameters),
                (result.before.macs, result.after.macs),
                (result.size_before, result.size_after),
                result.latency,
            ),
            rows=rows,
            others=others,
            noise=noise,
            timed=others is not None or any(row.latency is not None for row in rows),
            groups=with_errors(result.groups),
            dropped=result.config.method_entry.needs == "nothing",
            scatter=_scatter(details),
        )
    )


def environment() -> Environment:
    """Return what renders a page: all that enters it is escaped, and harmless before that."""
    made = Environment(
        loader=PackageLoader("lbyl_onnx.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(count=count, size=size, share=share, listed=listed)
    made.globals.update(nearness=nearness, by_output=by_output, proven=proven)
    made.globals.update(named=partial(short, most=LONGEST_GROUP), style=Markup(STYLE))
    return made


def _harmless(value: object) -> object:
    """Make whatever text enters the page harmless: of bounded length, control characters spelled.

    It is escaped after that.
    """
    return printable(short(value, _LONGEST_TEXT)) if type(value) is str else value


def figures(
    parameters: tuple[int, int], macs: tuple[int, int], sizes: tuple[int, int], times: PairedLatency
) -> list[Figure]:
    """Return what a result saves, each before and after; sizes are in bytes."""
    return [
        _figure("Parameters", *parameters, short_count),
        _figure("MACs", *macs, short_count),
        _figure("File size", *sizes, lambda b: size(int(b))),
        _time(times),
    ]


def _time(times: PairedLatency) -> Figure:
    """The ratio of the times with its interval; a difference that is none is drawn as none."""
    sides = milliseconds(times.before.median), milliseconds(times.after.median)
    interval = f"{times.low:.1%} to {times.high:.1%} (99% interval)"
    if times.faster or times.slower:
        return Figure("Time", *sides, times.ratio, f"{times.ratio:.1%}", times.slower, interval)
    return Figure("Time", *sides, 1.0, "no difference", False, f"within noise: {interval}")


def _figure(title: str, before: float, after: float, form: Callable[[float], str]) -> Figure:
    ratio = after / before if before else 1.0
    return Figure(title, form(before), form(after), ratio, f"{ratio:.1%}", ratio > 1.005)


def _latency(before: float | None, after: float | None, noise: Noise) -> Figure | None:
    if before is None or after is None or noise.hides(before, after):
        return None
    unit, factor = ("µs", 1000.0) if before < 1.0 else ("ms", 1.0)
    texts = f"{factor * before:.3g}", f"{factor * after:.3g} {unit}"
    ratio = after / before if before else 1.0
    return Figure("latency", *texts, ratio, f"{ratio:.1%}", False)


def _rows(result: CompressResult, details: Details, noise: Noise) -> list[Row]:
    widest = max((layer.channels_before for layer in details.layers), default=1) or 1
    rows, states = [], _states(result)
    for layer in details.layers:
        # By the square root of the width: the narrow layers at a network's start stay visible.
        length = 100 * math.sqrt(layer.channels_before / widest)
        kept = layer.channels_after / (layer.channels_before or 1)
        rows.append(
            Row(
                layer,
                length * kept,
                length * (1 - kept),
                *states.get(layer.name, ("reads", "")),
                _figure("MACs", layer.macs_before, layer.macs_after, short_count),
                _latency(layer.ms_before, layer.ms_after, noise),
            )
        )
    return rows


def _states(result: CompressResult) -> dict[str, tuple[str, str]]:
    """State and note of each layer that is named by a group or a refusal, by its name."""
    states: dict[str, tuple[str, str]] = {}
    dropped = result.config.method_entry.needs == "nothing"
    for group in result.groups:
        restored = "not restored" if dropped else f"by {group.restored}"
        for name in _producers(group.name):
            states.setdefault(name, ("pruned", restored))
    for refusal in result.refusals:
        for name in _producers(refusal.name):
            states.setdefault(name, ("left", refusal.reason))
    return states


def _producers(names: str) -> tuple[str, ...]:
    """Return the names in a group's name, which has commas between them; one may hold commas."""
    return (names, *names.split(", "))


def with_errors(groups: Sequence[GroupReport]) -> list[tuple[GroupReport, float | None]]:
    """Each group with its predicted error as a part of the largest, in percent; None for none."""
    errors = [g.predicted_error for g in groups if g.predicted_error is not None]
    largest = max(errors, default=0.0) or 1.0
    return [
        (g, None if g.predicted_error is None else 100 * g.predicted_error / largest)
        for g in groups
    ]


def _scatter(details: Details) -> Markup | None:
    if not details.points:
        return None
    axes = Axis("original output", "{:.3g}".format), Axis("compressed output", "{:.3g}".format)
    # The chart escapes its own texts: it is built as a tree, not as a string.
    return Markup(scatter("", details.points, *axes))
