"""What the user says of an input: its kind, range, normalisation, size, vocabulary."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from lbyl_onnx.errors import OptionError
from lbyl_onnx.text import short

KINDS: tuple[str, ...] = (
    "image",
    "photo",
    "document",
    "tokens",
    "mask",
    "segments",
    "positions",
    "spectrogram",
    "waveform",
    "vector",
    "constant",
)
"""What an input may be said to take."""
PICTURES = ("image", "photo", "document")
_FORM = "NAME=KIND[,range=0..255][,mean=..][,std=..][,size=48x320][,vocab=30522]"
# Largest side and length of an input, and the most rows of a table.
_LONGEST = 1 << 20
_MOST_ROWS = 1 << 31
# Characters of a text that an error shows, and that a text may have.
_SHOWN, _LONGEST_TEXT = 60, 4096


@dataclass(frozen=True)
class InputChoice:
    """What the user says of one input.

    Parameters
    ----------
    name
        Of the input; empty where a model has one.
    kind
        One of `KINDS`.
    range
        Least and largest value: of an image's pixels before they are normalised, of all else as
        the model is fed.
    mean, std
        Of an image what its pixels are normalised with, (pixel - mean) / std, one for each channel
        or one for all; of all else mean and standard deviation of the values.
    size
        Of the axes behind the batch and apart from the channels: height and width, or a length.
    vocab
        How many tokens there are.
    value
        Of a constant.
    """

    name: str
    kind: str
    range: tuple[float, float] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    size: tuple[int, ...] = ()
    vocab: int | None = None
    value: float | None = None


Choices = tuple[InputChoice, ...]
Said = str | InputChoice | Sequence[str | InputChoice] | Mapping[str, str]
"""What is said of inputs, as Python may give it."""


def read_choices(value: object) -> Choices:
    """Read what is said of inputs, as a command line, a file or Python may give it.

    Parameters
    ----------
    value
        NAME=KIND with more behind commas, or a list of such; NAME may be left out where a model
        has one input. Or such texts without the name, by name. Or `InputChoice` themselves.

    Raises
    ------
    TypeError
        For anything else; it says what to give.
    OptionError
        For a kind, a word or a value that there is not; it lists those that there are.
    """
    if isinstance(value, str | InputChoice):
        value = (value,)
    if isinstance(value, Mapping):
        value = [f"{name}={text}" for name, text in value.items()]
    if not isinstance(value, list | tuple):
        raise TypeError(_FORM)
    choices = tuple(v if isinstance(v, InputChoice) else _parsed(v) for v in value)
    names = [choice.name for choice in choices]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise OptionError(f"input says two things of {twice[:_SHOWN] or 'the one input'}; say one")
    return choices


def choices_given(value: object) -> Choices:
    """Read what is said of inputs.

    Raises
    ------
    OptionError
        For what says nothing.
    """
    try:
        return read_choices(value)
    except TypeError as error:
        raise OptionError(f"input is {_shown(str(value))}; give {error}") from error


def _shown(text: str) -> str:
    return repr(short(text, _SHOWN))


def _parsed(text: object) -> InputChoice:
    if not isinstance(text, str) or not text:
        raise TypeError(_FORM)
    if len(text) > _LONGEST_TEXT:
        raise OptionError(f"input {_shown(text)} has more than {_LONGEST_TEXT:,} characters")
    head, *rest = text.split(",")
    name, equals, kind = head.rpartition("=")
    kind, _, constant = kind.partition(":")
    if kind not in KINDS:
        near = get_close_matches(kind, KINDS, 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise OptionError(
            f"input {_shown(text)}: there is no kind {_shown(kind)}{meant}; the kinds are "
            f"{', '.join(KINDS)}"
        )
    if (kind == "constant") != bool(constant):
        raise OptionError(f"input {_shown(text)}: give a constant as constant:VALUE, as constant:1")
    words: dict[str, list[str]] = {}
    word = ""
    for part in rest:
        key, equals, first = part.partition("=")
        if equals:
            if key in words:
                raise OptionError(f"input {_shown(text)} gives {key} twice; give it once")
            word, words[key] = key, [first]
        elif word in ("mean", "std"):
            words[word].append(part)
        else:
            raise OptionError(f"input {_shown(text)}: {_shown(part)} has no meaning; give {_FORM}")
    wrong = [key for key in words if key not in _allowed(kind)]
    if wrong:
        raise OptionError(
            f"input {_shown(text)}: {wrong[0]} says nothing of a {kind}; give "
            f"{', '.join(_allowed(kind)) or 'the kind alone'}"
        )
    try:
        read = {key: _READERS[key](values) for key, values in words.items()}
        value = _finite(constant) if constant else None
    except ValueError as error:
        raise OptionError(f"input {_shown(text)}: {error}") from error
    return InputChoice(name, kind, value=value, **read)


def _allowed(kind: str) -> tuple[str, ...]:
    """Words that say something of a kind."""
    if kind == "constant":
        return ()
    if kind == "tokens":
        return ("size", "vocab")
    if kind in ("mask", "segments", "positions"):
        return ("size",)
    return ("range", "mean", "std", "size")


def _finite(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{_shown(text)} is no finite number")
    return number


def _range(values: list[str]) -> tuple[float, float]:
    low, dots, high = values[0].partition("..")
    if not dots or _finite(low) >= _finite(high):
        raise ValueError(f"range is {_shown(values[0])}; give LOW..HIGH, as 0..255")
    return _finite(low), _finite(high)


def _means(values: list[str]) -> tuple[float, ...]:
    return tuple(map(_finite, values))


def _stds(values: list[str]) -> tuple[float, ...]:
    if any(_finite(value) <= 0.0 for value in values):
        raise ValueError("std is not above 0")
    return tuple(map(_finite, values))


def _size(values: list[str]) -> tuple[int, ...]:
    sides = values[0].split("x")
    if not all(side.isdecimal() and 0 < int(side) <= _LONGEST for side in sides):
        raise ValueError(f"size is {_shown(values[0])}; give HEIGHTxWIDTH or a length, as 48x320")
    return tuple(map(int, sides))


def _rows(values: list[str]) -> int:
    if not values[0].isdecimal() or not 0 < int(values[0]) <= _MOST_ROWS:
        raise ValueError(f"vocab is {_shown(values[0])}; give the number of tokens")
    return int(values[0])


_READERS: Mapping[str, Callable[[list[str]], Any]] = {
    "range": _range,
    "mean": _means,
    "std": _stds,
    "size": _size,
    "vocab": _rows,
}
