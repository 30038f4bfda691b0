"""Bounds on the time of work with an untrusted model, enforced from outside.

Native code, and Python's own `re`, may hold the interpreter for ever: no thread of the process can
stop them. So a process that works on models writes into a file what it has begun and how long that
may take, and the process that started it looks at the file some times a second and ends the one
that is late. Only the standard library is imported here: the parent process of the command line
needs it, too.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import struct
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lbyl_onnx.guard import breadcrumbs

SECONDS = 20.0
"""What work on a small model may take."""
LATE = 5.0
"""Seconds beyond, where the process itself stops its work first and says so better."""
INTERVAL = 0.25
"""Seconds between two looks at a process."""
# A record: a number that no other piece of work has (0: none), its seconds, what it is.
_RECORD = struct.Struct("<Qd496s")
_NUMBER = struct.Struct("<Q")
_TEXT = 496
# Pieces of work at once, those within others included; what finds no place is bounded by those.
_RECORDS = 64
# A look that comes later than this many seconds after the last one says that the parent itself was
# stopped, as by Ctrl-Z, and most likely its child with it.
_LONGEST_STEP = 1.0
# What part of the time counts in which a process has no processor: it may have to wait for one, on
# a machine with much other work to do, or it may hang.
_WAITING = 0.25


@dataclass(frozen=True)
class Overdue:
    """A piece of work that lasts longer than it may.

    Parameters
    ----------
    what
        What is being done, as "loading m.onnx".
    seconds
        What it was given.
    """

    what: str
    seconds: float

    def __str__(self) -> str:
        """Say so."""
        return f"{self.what} took more than {self.seconds:.0f} seconds"


def seconds_for(size: int, small: float = SECONDS) -> float:
    """Return the seconds that work on so many bytes may take; `small` is for the smallest model."""
    return small * (1.0 + size / (1 << 30))


def late_after(seconds: float, grace: float = LATE) -> float:
    """Return when work is ended from outside that the process itself stops after `seconds`."""
    return seconds + grace


@contextmanager
def bounded(what: str, seconds: float) -> Iterator[None]:
    """Let the process that started this one end it where the block takes longer.

    Where no process watches, as when the package is used from Python, nothing is bounded.

    Parameters
    ----------
    what
        What the block does, as "loading m.onnx".
    seconds
        What it may take.
    """
    table = _table()
    if table is None:
        yield
        return
    place = table.enter(what, seconds)
    try:
        yield
    finally:
        table.leave(place)


def end() -> None:
    """Note that this process ends by itself: native code may call `exit`, too."""
    table = _table()
    if table is not None:
        table.end()


class _Table:
    """The records of this process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # Both are safe between threads: each takes one step of the interpreter.
        self._free = deque(range(_RECORDS))
        self._numbers = itertools.count(1)

    def enter(self, what: str, seconds: float) -> int | None:
        try:
            place = self._free.pop()
        except IndexError:
            return None
        text = what.encode(errors="replace")[:_TEXT]
        self._write(place, _RECORD.pack(next(self._numbers), seconds, text))
        return place

    def leave(self, place: int | None) -> None:
        if place is not None:
            self._write(place, _NUMBER.pack(0))
            self._free.append(place)

    def end(self) -> None:
        self._write(_RECORDS, _NUMBER.pack(1))

    def _write(self, place: int, record: bytes) -> None:
        with contextlib.suppress(OSError):  # the room was taken before; no work fails for this
            if os.name == "posix":
                os.pwrite(self._descriptor, record, place * _RECORD.size)
            else:
                os.lseek(self._descriptor, place * _RECORD.size, os.SEEK_SET)
                os.write(self._descriptor, record)


@functools.cache
def _table() -> _Table | None:
    file = os.environ.get(breadcrumbs.VARIABLE)
    if not file:
        return None
    with contextlib.suppress(OSError):  # no watcher of ours has made it
        return _Table(os.open(_beside(Path(file)), os.O_WRONLY))
    return None


def _beside(file: Path) -> Path:
    return file.with_name(f"{file.name}.bounds")


class Watch:
    """What a process says of itself, as the one that started it sees it.

    Parameters
    ----------
    file
        The process's file of notes; the records lie beside it. Where they cannot be made the
        process is not watched: it cannot write either, and will say so.
    """

    def __init__(self, file: Path) -> None:
        self._file = _beside(file)
        try:
            self._file.write_bytes(bytes((_RECORDS + 1) * _RECORD.size))
        except OSError:
            self._file.unlink(missing_ok=True)
        self._looked = time.monotonic()
        self._spent = 0.0
        # For how long each piece of work has been seen, by its number.
        self._durations: dict[int, float] = {}

    def overdue(self, spent: float | None = None) -> Overdue | None:
        """Look once; return a piece of work that is late.

        Parameters
        ----------
        spent
            Seconds of processor time that the process has had; None where it is not known.
        """
        now = time.monotonic()
        passed = min(now - self._looked, _LONGEST_STEP)
        self._looked = now
        if spent is not None:
            passed = min(passed, max(spent - self._spent, _WAITING * passed))
            self._spent = spent
        records = self._read()[: _RECORDS * _RECORD.size]
        durations: dict[int, float] = {}
        late = None
        for number, seconds, text in _RECORD.iter_unpack(records):
            if not number:
                continue
            durations[number] = (
                self._durations[number] + passed if number in self._durations else 0.0
            )
            if durations[number] > seconds:
                late = Overdue(text.rstrip(b"\0").decode(errors="replace"), seconds)
        self._durations = durations
        return late

    def has_ended(self) -> bool:
        """Whether the process has noted that it ends by itself; True where that is not known."""
        return not self._file.exists() or any(self._read()[_RECORDS * _RECORD.size :])

    def _read(self) -> bytes:
        return self._file.read_bytes() if self._file.exists() else b""
