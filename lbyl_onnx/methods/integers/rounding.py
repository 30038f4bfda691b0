"""Weights rounded to whole numbers in the metric of what they multiply."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from lbyl_onnx.types import Floats

Integers = NDArray[np.int8]
# Ridge on the second moments, as a share of their mean.
RIDGE = 0.01
# Columns that are rounded before the rest is told of their errors.
BLOCK = 128


def most_of(bits: int) -> int:
    """Return the largest whole number of so many bits; zero lies in the middle of all."""
    return (1 << (bits - 1)) - 1


def steps(weight: Floats, most: int) -> Floats:
    """Return the step of each output's whole numbers: its largest weight is `most` of them.

    Parameters
    ----------
    weight
        Shape (outputs, columns).
    most
        The largest whole number.

    Returns
    -------
    (outputs,) float64
        1 where all weights of an output are zero.
    """
    largest = np.max(np.abs(weight), axis=1, initial=0.0)
    return np.where(largest > 0.0, largest / most, 1.0)


def nearest(weight: Floats, step: Floats, most: int) -> Integers:
    """Return the nearest whole numbers, (outputs, columns), of `step`, (outputs,), each."""
    whole = np.clip(np.rint(weight / step[:, None]), -most, most)
    return whole.astype(np.int8)


def round_in_metric(weight: Floats, step: Floats, most: int, moments: Floats) -> Integers:
    """Round a weight so that little of its outputs' second moment is lost.

    Column after column is rounded, and each error is carried by the columns that are not rounded
    yet, as far as what they multiply goes along with what it multiplies: the closed form of the
    least squares in each step. Columns of the largest power come first.

    Parameters
    ----------
    weight
        Shape (outputs, columns).
    step
        Shape (outputs,).
    most
        The largest whole number.
    moments
        Second moments of what the columns multiply, (columns, columns).

    Returns
    -------
    (outputs, columns) int8
        From -`most` to `most`; the nearest ones where the moments are not finite.

    References
    ----------
    Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ", ICLR 2023, section 3; the carrying of errors is
    that of Hassibi and Stork, "Optimal Brain Surgeon", 1993.
    """
    scale = float(np.trace(moments)) / max(1, len(moments))
    if not np.isfinite(scale) or scale <= 0.0 or not np.all(np.isfinite(moments)):
        return nearest(weight, step, most)
    order = np.argsort(-np.diag(moments), kind="stable")
    upper = _carried(moments[np.ix_(order, order)], RIDGE * scale)
    left = weight[:, order] / step[:, None]  # in steps
    whole = np.zeros(left.shape, np.int8)
    for start in range(0, left.shape[1], BLOCK):
        block = slice(start, min(start + BLOCK, left.shape[1]))
        some, errors = left[:, block].copy(), np.zeros((len(left), block.stop - start))
        for column in range(block.stop - start):
            at = start + column
            rounded = np.clip(np.rint(some[:, column]), -most, most)
            whole[:, at] = rounded
            errors[:, column] = (some[:, column] - rounded) / upper[at, at]
            rest = upper[at, at + 1 : block.stop]
            some[:, column + 1 :] -= np.outer(errors[:, column], rest)
        left[:, block.stop :] -= errors @ upper[block, block.stop :]
    result = np.zeros_like(whole)
    result[:, order] = whole
    return result


def _carried(moments: Floats, ridge: float) -> Floats:
    """Upper Cholesky factor of the inverse of the moments, a ridge added to them."""
    regular = moments + ridge * np.eye(len(moments))
    lower = linalg.cholesky(regular, lower=True)
    inverse = linalg.cho_solve((lower, True), np.eye(len(moments)))
    upper: Floats = linalg.cholesky(inverse, lower=False)
    return upper
