"""Types that all packages share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Array = NDArray[np.generic]
DEFAULT_DOMAINS = ("", "ai.onnx")
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is, 0 if unknown."""


def untold(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


class Stage(str):
    """The name of a stage of the work, which knows its place among all of them.

    Attributes
    ----------
    number : int
        Which stage it is, from 1. A search for a target does some of them again.
    of : int
        How many there are.
    """

    number: int
    of: int

    def __new__(cls, name: str, number: int, of: int) -> Stage:
        """Return a text that has both numbers, too."""
        stage = super().__new__(cls, name)
        stage.number, stage.of = number, of
        return stage


def numbered(progress: Progress, names: Sequence[str]) -> Progress:
    """Return a callback that gives another one each stage as a `Stage`.

    Parameters
    ----------
    progress
        The other one.
    names
        The stages in order; one that is not among them counts as part of that before it.
    """
    at = 0

    def call(stage: str, done: int, total: int) -> None:
        nonlocal at
        at = names.index(stage) if stage in names else at
        progress(Stage(stage, at + 1, len(names)), done, total)

    return call


OperatorKey = tuple[str, str]
"""Domain and name of an operator; the domain of ONNX's own is ""."""


def operator_key(domain: str, op_type: str) -> OperatorKey:
    """Return the key of an operator in the tables."""
    return ("" if domain in DEFAULT_DOMAINS else domain, op_type)
