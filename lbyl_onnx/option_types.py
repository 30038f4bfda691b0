"""What type each option has: one table for Python's callers and for files of options.

A reader gives a value its type where there is one obvious meaning, and raises TypeError, whose text
says what to give, for all else.
"""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from lbyl_onnx.shapes import read_shapes

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
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(found, str):
        raise TypeError(
            "the path of an .npz, an .npy or a folder of images; numpy.savez writes arrays by the "
            "names of the model's inputs"
        )
    return _text(found)


def _amount(value: object) -> str | float:
    if not isinstance(value, str | Real):
        raise TypeError("a number or a text, as 50%")
    return _text(value) if isinstance(value, str) else _finite(value)


def _step(value: object) -> int | str:
    if not isinstance(value, str | Integral):
        raise TypeError("a whole number or auto")
    return _text(value) if isinstance(value, str) else _whole(value)


def _entries(values: Any) -> list[Any]:
    found = list(values)
    if len(found) > MOST_ENTRIES:
        raise TypeError(f"at most {MOST_ENTRIES:,} of them")
    return found


def _globs(value: object) -> tuple[str, ...]:
    if isinstance(value, str):  # its letters are no globs
        return (_text(value),)
    if not isinstance(value, list | tuple | set | frozenset):
        raise TypeError("a glob or a list of globs")
    found = sorted(value, key=str) if isinstance(value, set | frozenset) else value
    if not all(isinstance(glob, str) for glob in found):
        raise TypeError("a glob or a list of globs")
    return tuple(_text(glob) for glob in _entries(found))


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
        found = _entries(items)
        for pair in found:
            if not (isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)):
                raise TypeError("a table by glob, or pairs of a glob and a number")
        return tuple((_text(glob), read(item)) for glob, item in found)

    return pairs


def _by_name(value: object) -> tuple[tuple[str, Any], ...]:
    items = value.items() if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping | list | tuple):
        raise TypeError("a table by the names of the method's options")
    found = _entries(items)
    for pair in found:
        named = isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)
        if not (named and isinstance(pair[1], str | Real | np.bool_)):
            raise TypeError("a table of numbers and texts by the names of the method's options")
    # Of each value the method's option tells the type.
    return tuple((_text(name), _text(v) if isinstance(v, str) else v) for name, v in found)


READERS: Mapping[str, Read] = {
    **dict.fromkeys(("ratio", "fidelity", "lambda1", "lambda2"), _number),
    **dict.fromkeys(("cosine_threshold", "cosine_weight"), _number),
    **dict.fromkeys(("macs", "params", "size", "latency"), _amount),
    **dict.fromkeys(("seed", "min_channels"), _whole),
    **dict.fromkeys(("include", "exclude"), _globs),
    **dict.fromkeys(("mean", "std"), _numbers),
    **dict.fromkeys(("allocation", "method", "criterion", "scope"), _text),
    **dict.fromkeys(("provider", "hardware", "layout", "external_data"), _text),
    "round_to": _step,
    "ratio_for": _by_glob(_number),
    "keep_for": _by_glob(_whole),
    "method_options": _by_name,
    "calibration": _path,
    "input_shape": read_shapes,
}
"""By the name of the option."""
