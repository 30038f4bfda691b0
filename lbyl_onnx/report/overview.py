"""Several results on one page: as a table, as a picture of costs and gains, and one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lbyl_onnx.report.html import Figure, environment, figures, with_errors
from lbyl_onnx.report.recorded import Recorded
from lbyl_onnx.report.svg import Axis, Choice, choices
from lbyl_onnx.results.groups import GroupReport
from lbyl_onnx.text import LONGEST_NAME, share, short, size

# What is left of a cost, as a share of the original's, with its interval.
_Cost = Callable[[Recorded], tuple[float, float, float] | None]


@dataclass(frozen=True)
class Entry:
    """A result of the page.

    Parameters
    ----------
    number
        Its place in the table, which is its mark's in the picture.
    result
        The result.
    name
        The model that was written; of a dry run the original's.
    method
        How it was restored and quantised.
    macs, parameters, bytes, time, interval
        What is left of each, in percent, and the interval of the time.
    nearness, agreement
        The least cosine of an output, of whole numbers the share that is equal; and the share of
        equal classes. Dashes where there is none.
    best
        Whether no other of the same original is as near to it for less time, MACs or bytes.
    score
        Its score by the user's own function; empty where there was none.
    figures, groups
        What it saves, and its groups with the bars of their errors.
    """

    number: int
    result: Recorded
    name: str
    method: str
    macs: str
    parameters: str
    bytes: str
    time: str
    interval: str
    nearness: str
    agreement: str
    best: bool
    score: str
    figures: list[Figure]
    groups: list[tuple[GroupReport, float | None]]


def as_overview(results: Sequence[Recorded], date: str) -> str:
    """Return several results as one HTML file.

    Parameters
    ----------
    results
        The results, in the order in which they are shown.
    date
        When the page is made.
    """
    pictures, best = [], set[int]()
    for axis, cost in _COSTS.items():
        series = _series(results, cost)
        if len(results) > 1 and series:
            y = Axis("cosine with the original", "{:.3g}".format)
            drawn = choices("", series, Axis(axis, "{:.0%}".format), y)
            # The chart escapes its own texts: it is built as a tree, not as a string.
            pictures.append(Markup(drawn))
        best |= {int(one.label) for _, models in series for one in models if one.best}
    return (
        environment()
        .get_template("overview.html.j2")
        .render(
            entries=[_entry(n, one, n in best) for n, one in enumerate(results, 1)],
            pictures=pictures,
            date=date,
            originals=list(dict.fromkeys(one.input for one in results)),
            machines=list(
                dict.fromkeys("" if r.machine is None else str(r.machine) for r in results)
            ),
            scored=any(one.target.kind == "min_score" for one in results),
        )
    )


def frontier(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return which points no other beats: costs no more and gives no less, and one of both better.

    Parameters
    ----------
    points
        The cost and the gain of each.

    Examples
    --------
    >>> frontier([(0.5, 0.9), (0.6, 0.9), (0.7, 0.95)])
    [True, False, True]
    """
    best = [False] * len(points)
    order = sorted(range(len(points)), key=lambda n: (points[n][0], -points[n][1]))
    last: tuple[float, float] | None = None
    for n in order:
        if last is None or points[n][1] > last[1] or points[n] == last:
            best[n], last = True, points[n]
    return best


def _series(results: Sequence[Recorded], cost: _Cost) -> list[tuple[str, list[Choice]]]:
    """The results by their original: only those of one are compared with each other."""
    by_original: dict[object, list[tuple[int, Recorded]]] = {}
    for number, one in enumerate(results, 1):
        comparable = cost(one) is not None and one.verification.fidelity.nearness is not None
        key = one.input, one.before.parameters, one.before.macs, one.before.file_size
        if comparable:
            by_original.setdefault(key, []).append((number, one))
    return [(own[0][1].input, _choices(own, cost)) for own in by_original.values()]


def _choices(numbered: Sequence[tuple[int, Recorded]], cost: _Cost) -> list[Choice]:
    costs = [cost(one) or (0.0, 0.0, 0.0) for _, one in numbered]
    gains = [one.verification.fidelity.nearness or 0.0 for _, one in numbered]
    best = frontier([(middle, gain) for (middle, _, _), gain in zip(costs, gains, strict=True)])
    return [
        Choice(
            str(number),
            f"{number}. {short(_name(one))}: {middle:.1%} left, cosine {gain:.3f}",
            *(middle, gain, low, high, is_best),
        )
        for (number, one), (middle, low, high), gain, is_best in zip(
            numbered, costs, gains, best, strict=True
        )
    ]


def _time(result: Recorded) -> tuple[float, float, float]:
    ratio = result.time_ratio
    return ratio.median, ratio.low, ratio.high


def _counted(before: int, after: int) -> tuple[float, float, float] | None:
    return (after / before,) * 3 if before else None


_COSTS: Mapping[str, _Cost] = {
    "time left": _time,
    "MACs left": lambda one: _counted(one.before.macs, one.after.macs),
    "bytes left": lambda one: _counted(one.before.file_size, one.after.file_size),
}


def _name(result: Recorded) -> str:
    return f"{result.input} (dry run)" if result.output is None else result.output


def _entry(number: int, result: Recorded, best: bool) -> Entry:
    before, after, times = result.before, result.after, result.times
    near = result.verification.fidelity
    int8 = "" if result.quantised is None else ", int8"
    return Entry(
        number,
        result,
        short(_name(result), LONGEST_NAME),
        f"{result.options.method}{int8}",
        share(after.macs, before.macs),
        share(after.parameters, before.parameters),
        f"{size(after.file_size)} ({share(after.file_size, before.file_size)})",
        f"{times.ratio:.1%}",
        f"{times.low:.1%} to {times.high:.1%}",
        "-" if near.nearness is None else f"{near.nearness:.3f}",
        "-" if near.top1_agreement is None else f"{near.top1_agreement:.1%}",
        best,
        f"{result.target.reached:.4g}" if result.target.kind == "min_score" else "",
        figures(
            (before.parameters, after.parameters),
            (before.macs, after.macs),
            (before.file_size, after.file_size),
            times,
        ),
        with_errors(result.groups),
    )
