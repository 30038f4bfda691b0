"""A line on a terminal while the child process starts, which its first output replaces."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

_LINE = "lbyl-onnx: starting .."
_CLEAR = "\r\x1b[K"
# Words that ask for no such line.
_QUIET = frozenset(("--quiet", "--help", "-h", "--version"))


def show_start(words: Sequence[str]) -> None:
    """Say on stderr that the work is about to start, where it is a terminal and may be written to.

    Parameters
    ----------
    words
        Of the command line.
    """
    if _can_clear() and words and not _QUIET.intersection(words):
        _write(_LINE)


def clear_start() -> None:
    """Take that line away, where there may be one; what follows begins a line."""
    if _can_clear():
        _write(_CLEAR)


def _write(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody can be told
        sys.stderr.write(text)
        sys.stderr.flush()


def _can_clear() -> bool:
    """Whether stderr is a terminal that knows how to clear a line; shells that complete read it."""
    completes = any(name.endswith("_COMPLETE") for name in os.environ)
    plain = os.environ.get("TERM", "dumb") == "dumb" or sys.platform == "win32"
    return not (completes or plain or sys.stderr is None) and sys.stderr.isatty()
