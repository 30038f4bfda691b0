"""Options from a TOML or JSON file."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lbyl_onnx.config import OPTIONS, hint
from lbyl_onnx.errors import OptionError, first_line
from lbyl_onnx.io.files import read_bounded
from lbyl_onnx.option_types import shown
from lbyl_onnx.text import short

# Bytes of a file of options; a hundred globs take a few thousand.
LARGEST = 1 << 16
# Dots outside of texts, in numbers and between the parts of keys.
MOST_DOTS = 2000


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
        document = _parsed(path, read_bounded(path, LARGEST).decode("utf-8"))
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # of both parsers, and of text that is not UTF-8
        raise OptionError(f"{path} cannot be read: {short(first_line(error))}") from error
    if not isinstance(document, Mapping):
        raise OptionError(f"{path} holds no table of options")
    options: dict[str, Any] = {}
    for key, value in document.items():
        name = str(key).replace("-", "_")
        if name not in OPTIONS:
            raise OptionError(f"{path}: unknown key {shown(key)}; {hint(short(name))}")
        if name in options:
            raise OptionError(f"{path}: {name} is given twice")
        try:
            options[name] = OPTIONS[name].type.read(value)
        except TypeError as error:
            raise OptionError(f"{path}: {key} is {shown(value)}; give {error}") from error
    return options


def _parsed(path: Path, text: str) -> object:
    """Parse a file's text, of bounded depth: both parsers call themselves at each level."""
    try:
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=_once)
        # A key of n parts takes tomllib n^2 steps; options are parts of one table.
        if _STRING.sub("", text).count(".") > MOST_DOTS:
            raise ValueError(f"it holds more than {MOST_DOTS:,} dots")
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {shown(twice)} is given twice")
    return mapping


_STRING = re.compile(r"""'[^'\n]*'|"(?:[^"\\\n]|\\.)*\"""")
