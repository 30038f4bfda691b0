"""The options of `Config` as options of a command; each is declared at its field."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from lbyl_onnx import option_types as types
from lbyl_onnx.config import DEFAULTS, OPTIONS, SECTIONS
from lbyl_onnx.errors import OptionError
from lbyl_onnx.input_options.kinds import Choices, read_choices
from lbyl_onnx.input_options.shapes import SuppliedShapes, read_shapes
from lbyl_onnx.option_types import Option, OptionType, number_of, shown

Command = TypeVar("Command", bound=Callable[..., Any])


def config_options(names: Iterable[str] = OPTIONS) -> Callable[[Command], Command]:
    """Return a decorator that gives a command these options of `Config`."""

    def decorated(command: Command) -> Command:
        for name in reversed(list(names)):
            option = OPTIONS[name]
            attributes = _attributes(option, DEFAULTS[name])
            command = click.option(option.flag, name, **attributes)(command)
        return command

    return decorated


def sections() -> dict[str, tuple[str, ...]]:
    """Return the options' names on the command line under the titles of their sections."""
    return {
        title: tuple(option.flag for option in OPTIONS.values() if option.section == title)
        for title in SECTIONS
    }


def given_options(context: click.Context) -> dict[str, Any]:
    """Return the options of `Config` that the command line itself gives, by name."""
    return {
        name: value
        for name, value in context.params.items()
        if name in OPTIONS and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }


@dataclass(frozen=True)
class _Words:
    """How the values of a type are read from the words of a command line.

    Parameters
    ----------
    type
        Click's type of one word.
    callback
        Reads the words once click has.
    multiple
        Whether the option may be repeated.
    """

    type: Any = None
    callback: Callable[..., Any] | None = None
    multiple: bool = False


def _attributes(option: Option, default: Any) -> dict[str, Any]:
    """Return the arguments of `click.option`."""
    words = _WORDS[option.type]
    choice = None if option.choices is None else click.Choice(option.choices())
    return {
        "type": choice or words.type,
        "callback": words.callback,
        "multiple": words.multiple,
        "metavar": option.metavar or (option.type.name if choice is None else None),
        "default": None if default == () else default,  # click would read it as a text
        "show_default": default not in (None, ()),
        "help": option.help.replace("`", ""),
    }


def read_number(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> float | None:
    """Read a number, or one in percent; a callback of Click."""
    try:
        return None if value is None else number_of(value)
    except ValueError as error:
        raise click.BadParameter(f"{shown(value)}: give a number, as 0.3 or 30%") from error


def read_share(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> float | None:
    """Read a number from 0 to 1, or one in percent; a callback of Click."""
    number = read_number(context, parameter, value)
    if number is not None and not 0.0 <= number <= 1.0:
        raise click.BadParameter(f"{shown(value)}: give a number from 0 to 1, or 0% to 100%")
    return number


def _whole_or_auto(context: click.Context, parameter: click.Parameter, value: str) -> int | str:
    if value == "auto":
        return value
    try:
        return int(value)
    except ValueError as error:
        raise click.BadParameter("give a whole number or auto") from error


def _numbers(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[float, ...]:
    """Read numbers separated by commas."""
    try:
        numbers = tuple(float(part) for part in value.split(",")) if value else ()
    except ValueError as error:
        raise click.BadParameter("give numbers with commas between, as 0.5,0.5,0.5") from error
    if not all(map(math.isfinite, numbers)):
        raise click.BadParameter("give finite numbers")
    return numbers


def _moves(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...]:
    """Read names of moves, separated by commas."""
    try:
        names: tuple[str, ...] = types.MOVES.read(value) if value else ()
    except TypeError as error:
        raise click.BadParameter(f"give {error}") from error
    return names


def _pairs(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, float], ...]:
    """Read GLOB=NUMBER, as often as it is given."""
    pairs = []
    for value in values:
        glob, equals, number = value.rpartition("=")
        try:
            pairs.append((glob, number_of(number)))
        except ValueError as error:
            raise click.BadParameter(f"{shown(value)}: give GLOB=NUMBER") from error
        if not (glob and equals and math.isfinite(pairs[-1][1])):
            raise click.BadParameter(f"{shown(value)}: give GLOB=NUMBER, a finite one")
    return tuple(pairs)


def _whole_pairs(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, int], ...]:
    """Read GLOB=WHOLE NUMBER, as often as it is given."""
    pairs = _pairs(context, parameter, values)
    if not all(number.is_integer() for _, number in pairs):
        raise click.BadParameter("give GLOB=N with a whole number N")
    return tuple((glob, int(number)) for glob, number in pairs)


def _named_values(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """Read NAME=VALUE, as often as it is given; the method tells the value's type."""
    parts = [value.partition("=") for value in values]
    for value, (name, equals, _) in zip(values, parts, strict=True):
        if not (name and equals):
            raise click.BadParameter(f"{shown(value)}: give NAME=VALUE")
    return tuple((name, value) for name, _, value in parts)


def _shapes(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> SuppliedShapes:
    """Read NAME:1,3,48,320, as often as it is given."""
    try:
        return read_shapes(values)
    except TypeError as error:
        raise click.BadParameter(f"{' '.join(values)!r}: give {error}") from error


def _choices(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> Choices:
    """Read NAME=KIND with more behind commas, as often as it is given."""
    try:
        return read_choices(values)
    except (TypeError, OptionError) as error:
        raise click.BadParameter(str(error)) from error


_WORDS: Mapping[OptionType, _Words] = {
    types.NUMBER: _Words(str, read_number),
    types.WHOLE: _Words(int),
    types.TEXT: _Words(str),
    types.PATH: _Words(click.Path()),
    types.PATHS: _Words(click.Path(), multiple=True),
    types.AMOUNT: _Words(str),
    types.WHOLE_OR_AUTO: _Words(callback=_whole_or_auto),
    types.GLOBS: _Words(str, multiple=True),
    types.MOVES: _Words(callback=_moves),
    types.NUMBERS: _Words(callback=_numbers),
    types.NUMBER_BY_GLOB: _Words(callback=_pairs, multiple=True),
    types.WHOLE_BY_GLOB: _Words(callback=_whole_pairs, multiple=True),
    types.NAMED_VALUES: _Words(callback=_named_values, multiple=True),
    types.SHAPES: _Words(callback=_shapes, multiple=True),
    types.CHOICES: _Words(callback=_choices, multiple=True),
}
