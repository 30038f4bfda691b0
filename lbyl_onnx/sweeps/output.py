"""The compression curve as a table, and as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields

from lbyl_onnx.report.svg import Axis, GridRow, Series, grid_of_curves
from lbyl_onnx.sweeps.types import Measures, Outcome, Sweep

# Columns of the prediction.
PREDICTED = ("quantity", "value", "low", "high")


def as_csv(sweep: Sweep) -> str:
    """Return the outcomes as CSV, a row for each."""
    text = io.StringIO()
    names = [field.name for field in fields(Measures)]
    heads = ["model", "method", "ratio", "macs", "quantize", "metric", "samples"]
    writer = csv.writer(text, lineterminator="\n")
    columns = [*names, "score_low", "score_high"]
    named = [f"{n}_{side}" for side in ("before", "after") for n in columns]
    writer.writerow([*heads, *named, "p_value", *(f"predicted_{name}" for name in PREDICTED)])
    for outcome in sweep.outcomes:
        shown = asdict(outcome) | {"quantize": outcome.quantize or "none"}
        row = [shown[head] for head in heads]
        for side in (outcome.before, outcome.after):
            row += [getattr(side, n) for n in names]
            row += outcome.interval(side) or ("", "")
        row.append("" if outcome.p_value is None else outcome.p_value)
        # What is None, csv writes as nothing.
        row += [getattr(outcome.prediction, name, None) for name in PREDICTED]
        writer.writerow(row)
    return text.getvalue()


def as_svg(sweep: Sweep) -> str:
    """Return the curves as an SVG file: a row for each model, the score over what is left."""
    models = tuple(dict.fromkeys(outcome.model for outcome in sweep.outcomes))
    return grid_of_curves([_row(model, sweep) for model in models])


METRICS = {
    "accuracy": "accuracy",
    "agreement": "agreement with the original",
    "cosine": "cosine with the original",
    "score": "score",
}
_COSTS: Mapping[str, Callable[[Measures], float | None]] = {
    "MACs left": lambda side: side.macs,
    "parameters left": lambda side: side.parameters,
    "bytes left": lambda side: side.file_size,
    "latency left": lambda side: side.latency,
}


def _row(model: str, sweep: Sweep) -> GridRow:
    outcomes = [outcome for outcome in sweep.outcomes if outcome.model == model]
    names = dict.fromkeys(outcome.series for outcome in sweep.outcomes)
    metric = outcomes[0].metric
    y = Axis(METRICS[metric], "{:g}".format, high=None if metric == "score" else 1.0)
    panels = tuple(
        (
            Axis(title, "{:.0%}".format),
            tuple(
                Series(name, _curve([o for o in outcomes if o.series == name], cost))
                for name in names
            ),
        )
        for title, cost in _COSTS.items()
    )
    return GridRow(model, y, panels)


def _curve(
    outcomes: Sequence[Outcome], cost: Callable[[Measures], float | None]
) -> tuple[tuple[float, float], ...]:
    """The score over the share of a cost that is left, from the original on."""
    points = [(1.0, outcome.before.score) for outcome in outcomes[:1]]
    for outcome in outcomes:
        before, after = cost(outcome.before), cost(outcome.after)
        if before and after is not None:
            points.append((after / before, outcome.after.score))
    return tuple(points)
