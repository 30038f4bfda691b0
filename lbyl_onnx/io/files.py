"""Untrusted files: regular ones only are opened, of bounded size."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, or what a link leads to, to read its bytes.

    A pipe or a device is not waited for: neither is opened for long, nor read.

    Raises
    ------
    OSError
        When there is no such file, it cannot be read, or is no regular one.
    """
    # Windows knows neither flag; there text would be translated without O_BINARY.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
    except ValueError as error:  # a path with NUL in it
        raise OSError(errno.EINVAL, "its name is none of a file", str(path)) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: Path, most: int) -> bytes:
    """Return the bytes of a regular file.

    Raises
    ------
    OSError
        See `open_regular`; or when it has more bytes than `most`.
    """
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return data
