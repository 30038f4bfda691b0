"""Text files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from lbyl_onnx.errors import OutputError
from lbyl_onnx.io import atomic


def check_writable(
    option: str, path: Path, others: tuple[Path, ...] = (), opening: bytes = b""
) -> None:
    """Refuse a path for a report before any work is done.

    A report may take the place of an older one, never that of a model or its weights.

    Parameters
    ----------
    option
        The option that named it.
    path
        Where the report is to be.
    others
        Files of the same command, which it must not replace.
    opening
        What a report of this kind may begin with, byte by byte; a file that begins otherwise is
        none.

    Raises
    ------
    OutputError
        When no file can be written there.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise OutputError(f"{option} {path} cannot be written; give a file in an existing folder")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{option} {path} cannot be written; its folder is read-only")
    if any(_resolved(option, path) == _resolved(option, other) for other in others):
        raise OutputError(f"{option} {path} is another file of this command; give its own")
    if path.exists() and not _begins(path, opening):
        raise OutputError(f"{option} {path} exists and is no report; give another file")


def _resolved(option: str, path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError before Python 3.13
        raise OutputError(
            f"{option}: {path} is a link that leads to itself; give another file"
        ) from error


def _begins(path: Path, opening: bytes) -> bool:
    """Whether a file is empty, or begins with one of these bytes."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(1) in {b"", *(bytes([byte]) for byte in opening)}
    except OSError:
        return False


@dataclass(frozen=True)
class StagedText:
    """A text file that is written in a folder of its own, and put in its place later.

    Parameters
    ----------
    staged, path
        Where it is written, and where it goes.
    """

    staged: Path
    path: Path

    def write(self, text: str) -> None:
        """Write it whole; raise OutputError where that fails."""
        with _explained(self.path):
            # A file's name may be no text of Unicode.
            self.staged.write_text(text, encoding="utf-8", errors="backslashreplace")

    def put(self) -> None:
        """Put it in its place in one step; raise OutputError where that fails."""
        with _explained(self.path):
            self.staged.replace(self.path)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def staged_text(path: Path) -> Iterator[StagedText]:
    """Give a text file to write; what was not put in its place goes in the end.

    The folder that it is written in has a name that nobody can foresee and is nobody else's, so
    that no link lies in wait there; the next run takes away what a killed one leaves.

    Raises
    ------
    OutputError
        When the folder cannot be made.
    """
    with atomic.staged(path) as staged:
        yield StagedText(staged, path)


def write_whole(text: str, path: Path) -> None:
    """Write a text file so that it appears whole or not at all.

    Raises
    ------
    OutputError
        When it cannot be written.
    """
    with staged_text(path) as file:
        file.write(text)
        file.put()


def discard(stream: TextIO) -> None:
    """Lead a stream that cannot be written to nowhere: in the end Python flushes it once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
