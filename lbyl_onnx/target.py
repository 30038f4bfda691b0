"""Targets of the compression: "50%", "5MB", "20ms"."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from lbyl_onnx.errors import OptionError

Kind = Literal["ratio", "macs", "params", "size", "latency", "fidelity", "min_score", "safe"]
# What is told by the nearness of the outputs, and all that is looked for by models that are made.
BY_OUTPUTS: tuple[Kind, ...] = ("fidelity", "safe")
SEARCHED: tuple[Kind, ...] = (*BY_OUTPUTS, "min_score")
# Kinds whose value is a plain number.
_PLAIN = ("ratio", *SEARCHED)
_NUMBER = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Zµ%]*)\s*")
_COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}
_BYTES = {"": 1.0, "B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9}
_BYTES |= {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_TIMES = {"ms": 1.0, "s": 1e3, "us": 1e-3, "µs": 1e-3}
_UNITS = {"macs": _COUNTS, "params": _COUNTS, "size": _BYTES, "latency": _TIMES}
_EXAMPLES = {
    "macs": "50% or 200M",
    "params": "50% or 1.5M",
    "size": "50%, 5MB or 4.5MiB",
    "latency": "60% or 20ms",
}


@dataclass(frozen=True)
class Target:
    """What the compressed model is to be.

    Parameters
    ----------
    kind
        What of it.
    value
        The most (of fidelity, score and what is safe the least): multiply-accumulates, parameters,
        bytes, milliseconds; a share of the original's where `relative`. For a ratio, the share of
        channels to remove.
    relative
        Whether it is a share.
    """

    kind: Kind
    value: float
    relative: bool

    def budget(self, original: float) -> float:
        """Return the most that is allowed, for what the original has."""
        return self.value * original if self.relative else self.value

    def __str__(self) -> str:
        """Return it as on the command line, numbers in plain units."""
        if self.kind == "safe":
            return f"what is safe (fidelity {self.value:g})"
        if self.kind in _PLAIN:
            return f"{self.kind.replace('_', ' ')} {self.value:g}"
        if self.relative:
            return f"{self.kind} {100 * self.value:g}%"
        return f"{self.kind} {amount(self.kind, self.value)}"


GOALS: tuple[Kind, ...] = tuple(kind for kind in get_args(Kind) if kind != "safe")
"""Kinds that the user gives; without any, the most is removed that is predicted safe."""
SAFE = Target("safe", 0.98, False)
"""The outputs keep this cosine (of whole numbers this share is equal): no goal is given."""


def amount(kind: Kind, value: float) -> str:
    """Return an amount with its unit, for the user."""
    if kind in ("macs", "params"):
        return f"{math.ceil(value):,}"
    if kind == "size":
        return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB"
    return f"{value:.3g} ms" if kind == "latency" else f"{value:.4g}"


def parse_target(kind: Kind, text: str | float) -> Target:
    """Read a target as the user writes it.

    Raises
    ------
    OptionError
        For one that is no number, has another unit, or is outside what it may be.

    Examples
    --------
    >>> parse_target("size", "1.5MB").value
    1500000.0
    >>> parse_target("macs", "50%")
    Target(kind='macs', value=0.5, relative=True)
    """
    if kind in _PLAIN:
        return Target(kind, float(text), kind == "ratio")
    message = f"{kind} is {text!r}; give for example {_EXAMPLES[kind]}"
    match = _NUMBER.fullmatch(str(text))
    if match is None:
        raise OptionError(message)
    number, unit = match.groups()
    try:
        value = float(number)
    except ValueError as error:  # two points
        raise OptionError(message) from error
    if unit == "%":
        if not 0.0 < value <= 100.0:
            raise OptionError(f"{kind} is {text}; give a share above 0% and up to 100%")
        return Target(kind, value / 100.0, True)
    if unit not in _UNITS[kind] or not 0.0 < value < math.inf:
        raise OptionError(message)
    return Target(kind, value * _UNITS[kind][unit], False)
