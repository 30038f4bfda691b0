"""The maps of `lbyl_onnx.evaluate.prediction`, fitted, and tested on models left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from lbyl_onnx.evaluate.prediction.calibration import (
    CHANCE,
    Interval,
    Line,
    cosine_of,
    log_lead,
    log_odds,
    log_ratio,
    predicted_cosine,
    predicted_share,
    share_of,
)

# Share of the errors of networks left out that the spread takes in: more than the 0.9 that are to
# be inside, since it is taken of four or five networks alone; at 0.9 itself 0.89 are.
TAKEN_IN = 0.94


@dataclass(frozen=True)
class Row:
    """One compressed model: what is measured on unseen samples, and the truth on real images.

    Parameters
    ----------
    model, method, ratio
        What was compressed, and how; `method` names the quantisation, too.
    classes
        How many the model tells apart.
    logits, outputs, synthetic
        On unseen samples: cosines of what varies in the logits and in the outputs, as of
        `Separation`, and the share of equal classes.
    equal, real_cosine
        On real images: share of equal classes, and cosine of the outputs.
    before, after
        Accuracy of the original and of the compressed model on them.
    """

    model: str
    method: str
    ratio: float
    classes: int
    logits: float
    outputs: float
    synthetic: float
    equal: float
    real_cosine: float
    before: float
    after: float

    @property
    def family(self) -> str:
        """Exports of one network are left out together."""
        return self.model.removesuffix("_folded")


@dataclass(frozen=True)
class Scale:
    """What is predicted, and on which axes a line tells it.

    Parameters
    ----------
    name
        Of the quantity.
    x, truth
        What the line starts from, and what is to be predicted.
    value
        Back from the line to the quantity.
    ordinate
        From the quantity to the line.
    predict
        The map that the package has.
    """

    name: str
    x: Callable[[Row], float]
    truth: Callable[[Row], float]
    value: Callable[[Row, float], float]
    ordinate: Callable[[Row, float], float]
    predict: Callable[[Row, Line], Interval]


SHARE = Scale(
    "share of equal top-1",
    lambda row: log_lead(row.logits, row.classes),
    lambda row: row.equal,
    lambda row, y: share_of(y, row.classes),
    lambda row, share: log_odds(share, row.classes),
    lambda row, line: predicted_share(row.logits, row.classes, line),
)
COSINE = Scale(
    "cosine of the logits",
    lambda row: log_ratio(row.outputs),
    lambda row: row.real_cosine,
    lambda row, y: cosine_of(y),
    lambda row, cosine: log_ratio(cosine),
    lambda row, line: predicted_cosine(row.outputs, line),
)


def fitted(scale: Scale, rows: Sequence[Row]) -> Line:
    """Fit a line to rows, and take its spread from models left out in turns.

    Each network counts as much as each other, however many rows it has.
    """
    intercept, slope = _coefficients(scale, rows)
    errors, weights = list[float](), list[float]()
    for family in dict.fromkeys(row.family for row in rows):
        out = [row for row in rows if row.family == family]
        line = _coefficients(scale, [row for row in rows if row.family != family])
        errors += [_distance(scale, row, line) for row in out]
        weights += [1.0 / len(out)] * len(out)
    order = np.argsort(errors)
    reached = np.cumsum(np.array(weights)[order]) / np.sum(weights)
    spread = float(np.array(errors)[order][np.searchsorted(reached, TAKEN_IN)])
    return Line(intercept, slope, spread)


def left_out(scale: Scale, rows: Sequence[Row]) -> list[Interval]:
    """Predict each row by a line that is fitted to the other networks alone, spread included."""
    families = dict.fromkeys(row.family for row in rows)
    lines = {f: fitted(scale, [row for row in rows if row.family != f]) for f in families}
    return [scale.predict(row, lines[row.family]) for row in rows]


def _coefficients(scale: Scale, rows: Sequence[Row]) -> tuple[float, float]:
    """Least squares of the quantity itself, where the ends of its range count no more."""
    counts = {row.family: sum(r.family == row.family for r in rows) for row in rows}

    def errors(line: np.ndarray) -> list[float]:
        return [
            (scale.value(row, line[0] + line[1] * scale.x(row)) - scale.truth(row))
            / counts[row.family] ** 0.5
            for row in rows
        ]

    solved = least_squares(errors, [1.0, 1.0], bounds=([-np.inf, 0.0], np.inf)).x
    return float(solved[0]), float(solved[1])


def _distance(scale: Scale, row: Row, line: tuple[float, float]) -> float:
    """How far the truth lies from a line, less what the chance of the images explains."""
    y = line[0] + line[1] * scale.x(row)
    truth, value = scale.truth(row), scale.value(row, y)
    nearer = float(np.clip(value, truth - CHANCE, truth + CHANCE))
    return abs(scale.ordinate(row, nearer) - y) if nearer != value else 0.0
