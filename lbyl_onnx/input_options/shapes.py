"""Input shapes as the user gives them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from lbyl_onnx.errors import OptionError

Shapes = Mapping[str, tuple[int, ...]]
SuppliedShapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Shapes that the user gave, by input; the name may be empty where a model has one input."""
_SHAPE = re.compile(r"(?:(?P<name>.*):)?(?P<dims>\d+(?:,\d+)*)", re.ASCII | re.DOTALL)
# A name may hold spaces; what parts two shapes follows a size.
_BETWEEN = re.compile(r"(?<=\d)\s+", re.ASCII)
_FORM = "[NAME:]1,3,48,320, or whole numbers by name"
# Digits of a size: more are no size of any tensor.
_LONGEST = 18


def read_shapes(value: object) -> SuppliedShapes:
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
        raise TypeError(_FORM)
    if all(isinstance(part, str) for part in value):
        return tuple(shape for part in value for shape in read_shapes(part))
    return tuple(map(_pair, value))


def _parsed(text: str) -> tuple[str, tuple[int, ...]]:
    match = _SHAPE.fullmatch(text)
    if match is None or any(len(d) > _LONGEST for d in match["dims"].split(",")):
        raise TypeError(_FORM)
    return match["name"] or "", tuple(int(d) for d in match["dims"].split(","))


def _pair(value: object) -> tuple[str, tuple[int, ...]]:
    match value:
        case [str(name), list() | tuple() as dims]:
            if all(isinstance(d, int | np.integer) and not isinstance(d, bool) for d in dims):
                return name, tuple(map(int, dims))
    raise TypeError(_FORM)


def checked_shapes(value: object) -> SuppliedShapes:
    """Read shapes, and check them.

    Raises
    ------
    OptionError
        For what are none.
    """
    try:
        shapes = read_shapes(value)
    except TypeError as error:
        raise OptionError(f"input_shape is {value!r}; give {error}") from error
    check_shapes(shapes)
    return shapes


def check_shapes(shapes: SuppliedShapes) -> None:
    """Raise OptionError for shapes that no model could have."""
    for name, dims in shapes:
        if any(d < 1 for d in dims):
            raise OptionError(f"input_shape is {shape_text(name, dims)}; give sizes of at least 1")
    names = [name for name, _ in shapes]
    if len(names) != len(set(names)):
        raise OptionError("input_shape gives one input twice; give each once")


def shape_text(name: str, dims: Sequence[int]) -> str:
    """Return a shape as the command line takes it."""
    sizes = ",".join(map(str, dims))
    return f"{name}:{sizes}" if name else sizes
