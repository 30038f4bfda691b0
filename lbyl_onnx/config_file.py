"""Options from a TOML or JSON file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lbyl_onnx.config import Config
from lbyl_onnx.errors import OptionError
from lbyl_onnx.input_shapes import read_shapes

Read = Callable[[object], Any]
"""Gives a value its type; raises TypeError for another one."""


def read_options(path: Path) -> dict[str, Any]:
    """Read options from a file; their names are those of `Config`, with - or _.

    Parameters
    ----------
    path
        TOML, or JSON where it ends so. ``ratio-for`` and ``keep-for`` are tables by glob.

    Returns
    -------
    dict
        Arguments of `Config`.

    Raises
    ------
    OptionError
        When the file cannot be read, or holds a key or a type that it may not.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # of both parsers, and of text that is not UTF-8
        raise OptionError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, Mapping):
        raise OptionError(f"{path} holds no table of options")
    options: dict[str, Any] = {}
    for key, value in document.items():
        name = str(key).replace("-", "_")
        if name not in _READ:
            near = get_close_matches(name, _READ, 1)
            hint = f"did you mean {near[0]}?" if near else f"it may hold {', '.join(_READ)}"
            raise OptionError(f"{path}: unknown key {key!r}; {hint}")
        if name in options:
            raise OptionError(f"{path}: {name} is given twice")
        try:
            options[name] = _READ[name](value)
        except TypeError as error:
            raise OptionError(f"{path}: {key} is {value!r}; give {error}") from error
    return options


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a number")
    return float(value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("a whole number")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a text")
    return value


def _amount(value: object) -> str | float:
    return value if isinstance(value, str) else _number(value)


def _step(value: object) -> int | str:
    return value if isinstance(value, str) else _whole(value)


def _list(read: Read) -> Read:
    def items(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise TypeError("a list")
        return tuple(read(item) for item in value)

    return items


def _table(read: Read) -> Read:
    def pairs(value: object) -> tuple[tuple[str, Any], ...]:
        if not isinstance(value, Mapping):
            raise TypeError("a table by glob")
        return tuple((str(glob), read(item)) for glob, item in value.items())

    return pairs


_TYPES: dict[str, Read] = {
    **dict.fromkeys(("seed", "min_channels"), _whole),
    **dict.fromkeys(("macs", "params", "size", "latency"), _amount),
    **dict.fromkeys(("include", "exclude"), _list(_text)),
    **dict.fromkeys(("mean", "std"), _list(_number)),
    "input_shape": read_shapes,
    "round_to": _step,
    "ratio_for": _table(_number),
    "keep_for": _table(_whole),
}
_NUMBERS = ("ratio", "fidelity", "lambda1", "lambda2", "cosine_threshold", "cosine_weight")
_READ: dict[str, Read] = {
    field.name: _TYPES.get(field.name, _number if field.name in _NUMBERS else _text)
    for field in fields(Config)
}
