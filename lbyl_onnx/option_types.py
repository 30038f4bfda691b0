"""What an option is: its type, its bounds, its text; the metadata of each field of `Config`.

A reader gives a value its type where there is one obvious meaning, and raises TypeError, whose text
says what to give, for all else.
"""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any, Literal, TypedDict, TypeVar, get_args

import numpy as np

from lbyl_onnx.input_options.kinds import Said, read_choices
from lbyl_onnx.input_options.shapes import SuppliedShapes, read_shapes
from lbyl_onnx.methods.registry import OptionValue

Scope = Literal["inner", "all"]
Attention = Literal["dims", "heads", "auto"]
ExternalData = Literal["auto", "always", "never"]
Hardware = Literal["host", "avx2", "avx512", "neon", "cuda", "tensorrt-fp16", "tensorrt-int8"]
Layout = Literal["auto", "nchw", "nhwc"]
Provider = Literal["auto", "cpu", "cuda"]
Allocation = Literal["uniform", "auto"]
Quantize = Literal["int8"]
Move = Literal["prune", "factor", "int8"]
Value = TypeVar("Value")
Read = Callable[[object], Any]
"""Gives a value its type; raises TypeError for another one."""
# Entries of a list of globs or of numbers; each glob is matched with each layer's name.
MOST_ENTRIES = 1000
# Characters of a text; paths are not longer.
LONGEST_TEXT = 4096


def shown(value: object) -> str:
    """Return a value for an error's text: in one line, without its middle where it is long."""
    form = reprlib.Repr()
    form.maxstring = form.maxother = form.maxlong = 60
    return " ".join(form.repr(value).split())


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError("a number")
    try:
        return float(value)  # what is NaN or infinite is refused by the option's own bounds
    except OverflowError:  # a whole number of hundreds of digits, whatever its sign
        return math.inf


def number_of(text: str) -> float:
    """Read a number as the user writes it: "0.3", or in percent, "30%".

    Raises
    ------
    ValueError
        For a text that is none.

    Examples
    --------
    >>> number_of("30%")
    0.3
    """
    number, percent, rest = text.strip().partition("%")
    # By its exponent it is rounded once, as 0.3 is.
    return float(f"{number.rstrip()}e-2" if percent and not rest else text)


def _number_or_percent(value: object) -> float:
    """Read a number, and a text in percent; any other text is likelier a mistake."""
    if isinstance(value, str):
        try:
            if len(value) <= LONGEST_TEXT and value.endswith("%"):
                return number_of(value)
        except ValueError:
            pass
        raise TypeError("a number, or a text in percent, as 30%")
    return _number(value)


def _finite(value: object) -> float:
    number = _number(value)
    if not math.isfinite(number):
        raise TypeError("a finite number")
    return number


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError("a whole number")
    if not -(1 << 63) <= int(value) < 1 << 63:
        raise TypeError("a whole number of at most 64 bits")
    return int(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a text")
    if len(value) > LONGEST_TEXT:
        raise TypeError(f"a text of at most {LONGEST_TEXT:,} characters")
    return value


def _path(value: object) -> str:
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise TypeError("a path")
    return _text(path)


def _paths(value: object) -> tuple[str, ...]:
    if isinstance(value, str | os.PathLike):
        return (_path(value),)
    listed = isinstance(value, list | tuple) and value
    if not listed or not all(isinstance(path, str | os.PathLike) for path in _entries(value)):
        raise TypeError(
            "the path of an .npz, an .npy or a folder of images, or a list of paths; arrays are "
            "samples of compress"
        )
    return tuple(map(_path, _entries(value)))


def _amount(value: object) -> str | float:
    if not isinstance(value, str | Real):
        raise TypeError("a number or a text, as 50%")
    return _text(value) if isinstance(value, str) else _finite(value)


def _step(value: object) -> int | str:
    if not isinstance(value, str | Integral):
        raise TypeError("a whole number or auto")
    if isinstance(value, str) and value != "auto":
        raise TypeError("a whole number or auto")
    return value if isinstance(value, str) else _whole(value)


def _entries(values: Any) -> list[Any]:
    entries = list(values)
    if len(entries) > MOST_ENTRIES:
        raise TypeError(f"at most {MOST_ENTRIES:,} of them")
    return entries


def _globs(value: object) -> tuple[str, ...]:
    if isinstance(value, str):  # its letters are no globs
        return (_text(value),)
    if not isinstance(value, list | tuple | set | frozenset):
        raise TypeError("a glob or a list of globs")
    globs = sorted(value, key=str) if isinstance(value, set | frozenset) else value
    if not all(isinstance(glob, str) for glob in globs):
        raise TypeError("a glob or a list of globs")
    return tuple(_text(glob) for glob in _entries(globs))


def _moves(value: object) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(x, str) for x in _entries(names)):
        raise TypeError("names of moves with commas between")
    requested = {name.strip() for name in names}
    if not requested <= {*get_args(Move)}:
        raise TypeError(f"moves of {', '.join(get_args(Move))}")
    return tuple(name for name in get_args(Move) if name in requested)


def _numbers(value: object) -> tuple[float, ...]:
    if isinstance(value, Real):
        return (_finite(value),)
    flat = isinstance(value, np.ndarray) and value.ndim == 1
    if not (flat or isinstance(value, list | tuple)):
        raise TypeError("a list of numbers")
    return tuple(_finite(item) for item in _entries(value))


def _by_glob(read: Read) -> Read:
    def pairs(value: object) -> tuple[tuple[str, Any], ...]:
        items = value.items() if isinstance(value, Mapping) else value
        if not isinstance(value, Mapping | list | tuple):
            raise TypeError("a table by glob")
        entries = _entries(items)
        for pair in entries:
            if not (isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)):
                raise TypeError("a table by glob, or pairs of a glob and a number")
        return tuple((_text(glob), read(item)) for glob, item in entries)

    return pairs


def _by_name(value: object) -> tuple[tuple[str, Any], ...]:
    items = value.items() if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping | list | tuple):
        raise TypeError("a table by the names of the method's options")
    entries = _entries(items)
    for pair in entries:
        named = isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)
        if not (named and isinstance(pair[1], str | Real | np.bool_)):
            raise TypeError("a table of numbers and texts by the names of the method's options")
    # Of each value the method's option tells the type.
    return tuple((_text(name), _text(v) if isinstance(v, str) else v) for name, v in entries)


@dataclass(frozen=True)
class OptionType:
    """The type of an option.

    Parameters
    ----------
    name
        What a value is called on the command line, where the option says nothing else.
    read
        Gives a value of Python or of a file its type.
    python
        What a value is in Python, for its help.
    by_glob
        Whether it is pairs of a glob and a number.
    """

    name: str
    read: Read
    python: str
    by_glob: bool = False


NUMBER = OptionType("X", _number_or_percent, "float")
WHOLE = OptionType("N", _whole, "int")
TEXT = OptionType("TEXT", _text, "str")
PATH = OptionType("PATH", _path, "path")
PATHS = OptionType("PATH", _paths, "path or list of paths")
AMOUNT = OptionType("50%|N", _amount, "str or float")
WHOLE_OR_AUTO = OptionType("N|auto", _step, "int or 'auto'")
GLOBS = OptionType("GLOB", _globs, "glob or list of globs")
MOVES = OptionType("prune|factor|int8,..", _moves, "list of moves")
NUMBERS = OptionType("X,..", _numbers, "list of floats")
NUMBER_BY_GLOB = OptionType(
    "GLOB=X", _by_glob(_number_or_percent), "dict of floats by glob", by_glob=True
)
WHOLE_BY_GLOB = OptionType("GLOB=N", _by_glob(_whole), "dict of ints by glob", by_glob=True)
NAMED_VALUES = OptionType("NAME=VALUE", _by_name, "dict of values by name")
SHAPES = OptionType("[NAME:]1,3,48,320", read_shapes, "dict of shapes by name")
CHOICES = OptionType("[NAME=]KIND[,..]", read_choices, "str, list or dict by name")


@dataclass(frozen=True)
class Bounds:
    """The interval in which a number must lie.

    Parameters
    ----------
    least, most
        Its ends; infinity belongs to no interval.
    above, below
        Whether the ends themselves are outside.
    whole
        Whether it is of whole numbers.
    """

    least: float
    most: float = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False

    def hold(self, value: float) -> bool:
        """Whether a number lies in them; NaN does not."""
        low = value > self.least if self.above else value >= self.least
        high = value < self.most if self.below or self.most == math.inf else value <= self.most
        return low and high

    def __str__(self) -> str:
        """Return what to give."""
        if self.most == math.inf:
            return f"a {'whole' if self.whole else 'finite'} number of at least {self.least:g}"
        first = f"above {self.least:g}" if self.above else f"from {self.least:g}"
        joint = "and" if self.above else "to"
        return f"a number {first} {joint} {'below ' if self.below else ''}{self.most:g}"


@dataclass(frozen=True)
class Option:
    """All that is to be said of an option: command line, files, Olive and the docs follow it.

    Parameters
    ----------
    type
        Of its values.
    help
        One or two sentences for the command line and README; backquotes mark code.
    section
        Title under which the command line lists it.
    metavar
        What the command line calls a value; the type's name without.
    choices
        Returns the texts that are allowed, where not all are: a function, for registries that are
        filled later.
    bounds
        Of a number, of each number of a table by glob.
    flag
        Its name on the command line; that of the field with - for _ where it is not given.
    """

    type: OptionType
    help: str
    section: str
    metavar: str | None = None
    choices: Callable[[], Sequence[str]] | None = None
    bounds: Bounds | None = None
    flag: str = ""

    def wrong(self, name: str, value: Any) -> str | None:
        """Return why a value of the right type is not allowed; None for one that is.

        Parameters
        ----------
        name
            Of the option.
        value
            As `read` of its type gives it.
        """
        if self.choices is not None and value not in self.choices():
            return f"{name} is {value!r}; give one of {', '.join(self.choices())}"
        for label, number in self._numbers(name, value):
            if self.bounds is not None and not self.bounds.hold(number):
                # Whoever writes 30 for a share means percent.
                share = self.bounds.least == 0 and self.bounds.most == 1 and 1 < number <= 100
                percent = f", or {number:g}%" if share else ""
                return f"{label} is {number}; give {self.bounds}{percent}"
        return None

    def _numbers(self, name: str, value: Any) -> Iterator[tuple[str, float]]:
        if self.type.by_glob:
            yield from ((f"{name} {shown(glob)}", number) for glob, number in value)
        elif isinstance(value, int | float):
            yield name, value


_KEY = "option"


def option(
    default: Value,
    type: OptionType,
    help: str,
    section: str,
    *,
    metavar: str | None = None,
    choices: Callable[[], Sequence[str]] | None = None,
    bounds: Bounds | None = None,
    flag: str = "",
) -> Value:
    """Return a field that is an option, with its default and its `Option` as metadata."""
    declared = Option(type, help, section, metavar, choices, bounds, flag)
    return field(default=default, metadata={_KEY: declared})


def options_of(declared: Any) -> dict[str, Option]:
    """Return the options that a dataclass declares, by name, in their order."""
    options = {entry.name: entry.metadata[_KEY] for entry in fields(declared)}
    return {
        name: replace(option, flag=option.flag or f"--{name.replace('_', '-')}")
        for name, option in options.items()
    }


def documented(declared: Any) -> str:
    """Return the options of a dataclass as the Parameters section of its docstring."""
    return "\n".join(("Parameters", "----------", *entries(declared)))


def entries(declared: Any) -> Iterator[str]:
    """Yield each option of a dataclass as an entry of a docstring, with its type and default."""
    defaults = {entry.name: entry.default for entry in fields(declared)}
    for name, option in options_of(declared).items():
        kind = option.type.python
        if option.choices is not None:
            kind = f"{{{', '.join(map(repr, option.choices()))}}}"
        yield f"{name} : {kind}, default={defaults[name]!r}\n    {option.help}"


class Options(TypedDict, total=False):
    """The options of `Config` as keywords, for type checkers."""

    ratio: float | None
    macs: str | float | None
    params: str | float | None
    size: str | float | None
    latency: str | float | None
    fidelity: float | None
    min_score: float | None
    metric: str | None
    moves: tuple[Move, ...]
    allocation: Allocation | None
    round_to: int | Literal["auto"]
    hardware: Hardware
    ratio_for: tuple[tuple[str, float], ...]
    keep_for: tuple[tuple[str, int], ...]
    min_channels: int
    method: str
    criterion: str
    method_options: tuple[tuple[str, OptionValue], ...]
    seed: int
    lambda1: float
    lambda2: float
    cosine_threshold: float
    cosine_weight: float
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    scope: Scope
    attention: Attention
    provider: Provider
    calibration: str | tuple[str, ...] | None
    tokenizer: str | None
    sample_rate: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: Layout
    input: Said
    quantize: Quantize | None
    keep_float: tuple[str, ...]
    external_data: ExternalData
    input_shape: SuppliedShapes
