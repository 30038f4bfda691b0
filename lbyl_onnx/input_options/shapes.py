"""Input shapes as the user gives them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from lbyl_onnx.errors import OptionError

Shapes = Mapping[str, tuple[int, ...]]
Given = tuple[tuple[str, tuple[int, ...]], ...]
"""Shapes that the user gave, by input; the name may be empty where a model has one input."""
_SHAPE = re.compile(r"(?:(?P<name>.*):)?(?P<dims>\d+(?:,\d+)*)", re.ASCII | re.DOTALL)
# A name may hold spaces; what parts two shapes follows a size.
_BETWEEN = re.compile(r"(?<=\d)\s+", re.ASCII)
_WANTED = "[NAME:]1,3,48,320, or whole numbers by name"
# Digits of a size: more are no size of any tensor.
_LONGEST = 18


def read_shapes(value: object) -> Given:
    """Read shapes as a command line, a file of options or Python may give them.

    Parameters
    ----------
    value
        NAME:1,3,48,320, or several with spaces between, or a list of such; the name may be left
        out. Or sizes by name, as a mapping or pairs.

    Raises
    ------
    TypeError
        For anything else; it says what to give.
    """
    if isinstance(value, str):
        return tuple(map(_parsed, _BETWEEN.split(value.strip())))
    if isinstance(value, Mapping):
        return tuple(map(_pair, value.items()))
    if not isinstance(value, list | tuple):
        raise TypeError(_WANTED)
    if all(isinstance(part, str) for part in value):
        return tuple(shape for part in value for shape in read_shapes(part))
    return tuple(map(_pair, value))


def _parsed(text: str) -> tuple[str, tuple[int, ...]]:
    match = _SHAPE.fullmatch(text)
    if match is None or any(len(d) > _LONGEST for d in match["dims"].split(",")):
        raise TypeError(_WANTED)
    return match["name"] or "", tuple(int(d) for d in match["dims"].split(","))


def _pair(value: object) -> tuple[str, tuple[int, ...]]:
    match value:
        case [str(name), list() | tuple() as dims]:
            if all(isinstance(d, int | np.integer) and not isinstance(d, bool) for d in dims):
                return name, tuple(map(int, dims))
    raise TypeError(_WANTED)


def shapes_given(value: object) -> Given:
    """Read shapes, and check them.

    Raises
    ------
    OptionError
        For what are none.
    """
    try:
        given = read_shapes(value)
    except TypeError as error:
        raise OptionError(f"input_shape is {value!r}; give {error}") from error
    check_shapes(given)
    return given


def check_shapes(given: Given) -> None:
    """Raise OptionError for shapes that no model could have."""
    for name, dims in given:
        if any(d < 1 for d in dims):
            raise OptionError(f"input_shape is {shape_text(name, dims)}; give sizes of at least 1")
    names = [name for name, _ in given]
    if len(names) != len(set(names)):
        raise OptionError("input_shape gives one input twice; give each once")


def shape_text(name: str, dims: Sequence[int]) -> str:
    """Return a shape as the command line takes it."""
    sizes = ",".join(map(str, dims))
    return f"{name}:{sizes}" if name else sizes
