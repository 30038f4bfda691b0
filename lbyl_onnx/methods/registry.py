"""Restoration methods and criteria by their names: those of this package, and the user's own."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, get_args

import numpy as np

from lbyl_onnx.errors import OptionError
from lbyl_onnx.methods.types import Delivery, Evidence, Ranking
from lbyl_onnx.text import short

MethodNeeds = Literal["nothing", "rows", "moments"]
CriterionNeeds = Literal["weights", "moments"]
OptionValue = float | int | str | bool
Rank = Callable[[Evidence, int, np.random.Generator], Ranking]
# Names stand on command lines, in lists with commas and in file names.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+.-]{0,63}")


@dataclass(frozen=True)
class MethodOption:
    """An option that one method has.

    Attributes
    ----------
    name : str
        Name of the keyword argument of the method's `deliver`. Where `Config` has a field of this
        name, the field is the option; else it is given in ``method_options``.
    default : float, int, bool or str
        Its type is the option's.
    help : str
        What it does, in a line.
    low, high : float
        Bounds of a number, both allowed.
    """

    name: str
    default: OptionValue
    help: str = ""
    low: float = -math.inf
    high: float = math.inf

    def read(self, value: object) -> OptionValue:
        """Return a value, or the text that a command line has of it, in the option's type.

        Raises
        ------
        OptionError
            For another type, or a number out of its bounds.
        """
        kind = type(self.default)
        typed = _as(kind, value)
        if typed is None:
            raise OptionError(f"{self.name} is {short(repr(value), 60)}; give {_KINDS[kind]}")
        if isinstance(typed, bool | str):
            return typed
        if not (math.isfinite(typed) and self.low <= typed <= self.high):
            raise OptionError(
                f"{self.name} is {typed}; give a finite number from {self.low:g} to {self.high:g}"
            )
        return typed


_KINDS = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}


def _as(kind: type, value: object) -> OptionValue | None:
    """Return a value in a type; None where it has none that is obvious."""
    if kind is bool:
        flag = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else None
        return bool(value) if isinstance(value, bool | np.bool_) else flag
    if kind is str:
        return value if isinstance(value, str) else None
    try:
        if kind is int and isinstance(value, Integral | str) and not isinstance(value, bool):
            return int(value)
        if kind is float and isinstance(value, Real | str) and not isinstance(value, bool):
            return float(value)
    except (ValueError, OverflowError):
        pass
    return None


@dataclass(frozen=True)
class Method:
    """How the kept channels of a group stand in for the removed ones.

    Attributes
    ----------
    name, summary : str
        What users call it, and what it does in a line.
    needs : {"nothing", "rows", "moments"}
        The first argument of `deliver`: the number n of channels; the `FoldedRows` of the group on
        its way to one consumer; or the `Moments` at the input of one layer, for which the model is
        run on samples, and the layers' outputs are brought back to their mean and variance.
    deliver : callable
        ``deliver(evidence, kept, **options) -> Delivery`` with `kept` a (k,) intp array, ascending.
    options : tuple of MethodOption
        Its keyword arguments.
    criterion : str
        Which channels are kept unless the user says otherwise.
    fallback : str or None
        The method for groups of which there are no moments; every method that needs them has one.
    adds_bias : bool
        Whether consumers without a bias are given one as a rule, which targets in bytes count.
    mixes : bool
        Whether channels are mixed in their producer where consumers read them linearly and the
        method's own criterion chooses.
    """

    name: str
    summary: str
    needs: MethodNeeds
    deliver: Callable[..., Delivery]
    options: tuple[MethodOption, ...] = ()
    criterion: str = "l2"
    fallback: str | None = None
    adds_bias: bool = False
    mixes: bool = False


@dataclass(frozen=True)
class Criterion:
    """Which channels of a group are kept.

    Attributes
    ----------
    name, summary : str
        What users call it, and what it does in a line.
    needs : {"weights", "moments"}
        Whether `Evidence.losses` is wanted, for which the model is run on samples.
    rank : callable
        ``rank(evidence, keep, rng) -> Ranking``: the order in which channels go until `keep` are
        left. `rng` is seeded by the user's seed and the group.
    fallback : str
        The criterion for groups of which there are no moments.
    """

    name: str
    summary: str
    needs: CriterionNeeds
    rank: Rank
    fallback: str = "l2"


# By name, in the order of registration.
METHODS: dict[str, Method] = {}
CRITERIA: dict[str, Criterion] = {}


def register_method(method: Method) -> None:
    """Make a method known by its name, to `Config` and the command line of this process.

    Raises
    ------
    OptionError
        If there is a method of this name, or an attribute is not what it has to be.
    """
    what = f"method {short(repr(method.name), 60)}"
    _check_name(what, method.name, METHODS)
    if method.needs not in get_args(MethodNeeds):
        raise OptionError(
            f"{what} needs {method.needs!r}; give one of {', '.join(get_args(MethodNeeds))}"
        )
    find_criterion(method.criterion)
    for option in method.options:
        if type(option.default) not in _KINDS or not option.name.isidentifier():
            raise OptionError(f"{what}: option {option.name!r} needs another name or default")
    if method.needs == "moments":
        if method.fallback is None:
            raise OptionError(f"{what} needs moments; name a fallback for groups without them")
        if find_method(method.fallback).needs == "moments":
            raise OptionError(f"{what}: its fallback needs moments, too; name one that does not")
    METHODS[method.name] = method


def register_criterion(criterion: Criterion) -> None:
    """Make a criterion known by its name, as `register_method` does a method.

    Raises
    ------
    OptionError
        If there is a criterion of this name, or an attribute is not what it has to be.
    """
    what = f"criterion {short(repr(criterion.name), 60)}"
    _check_name(what, criterion.name, {**CRITERIA, "auto": None})
    if criterion.needs not in get_args(CriterionNeeds):
        raise OptionError(
            f"{what} needs {criterion.needs!r}; give one of {', '.join(get_args(CriterionNeeds))}"
        )
    CRITERIA[criterion.name] = criterion


def _check_name(what: str, name: str, registered: Mapping[str, object]) -> None:
    if name in registered:
        raise OptionError(f"{what} is there already; choose another name")
    if not _NAME.fullmatch(name):
        raise OptionError(f"{what}: a name has letters, digits, _ + . - and begins with a letter")


def find_method(name: str) -> Method:
    """Return the method of a name.

    Raises
    ------
    OptionError
        Where there is none; the error lists those there are.
    """
    if name not in METHODS:
        raise OptionError(f"method is {short(repr(name), 60)}; give one of {', '.join(METHODS)}")
    return METHODS[name]


def find_criterion(name: str) -> Criterion:
    """Return the criterion of a name, as `find_method` does a method."""
    if name not in CRITERIA:
        names = ", ".join(("auto", *CRITERIA))
        raise OptionError(f"criterion is {short(repr(name), 60)}; give one of {names}")
    return CRITERIA[name]


def method_names() -> tuple[str, ...]:
    """Return the names of the methods there are."""
    return tuple(METHODS)


def criterion_names() -> tuple[str, ...]:
    """Return the names of the criteria there are; `auto`, the method's own, is none of them."""
    return tuple(CRITERIA)


def measuring() -> str:
    """Return the methods and criteria that need moments, as advice."""
    names = [f"method {m.name}" for m in METHODS.values() if m.needs == "moments"]
    names += [f"criterion {c.name}" for c in CRITERIA.values() if c.needs == "moments"]
    return " or ".join(names)
