"""Arrays of NumPy's files, .npy and .npz: within bounds, no more unpacked than is asked for.

The one reader of untrusted arrays, for calibration, `verify` and `sweep`. The format is NumPy's
(numpy.lib.format, versions 1 to 3) in archives as `numpy.savez` and `numpy.savez_compressed` write
them. Nothing is unpickled.
"""

from __future__ import annotations

import ast
import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

import numpy as np

from lbyl_onnx.errors import CalibrationError, first_line
from lbyl_onnx.io.files import open_regular
from lbyl_onnx.text import short
from lbyl_onnx.types import Array

# Bytes to which the arrays of an archive that are asked for may unpack.
LARGEST_ARCHIVE = 1 << 30
# Bytes of an archive's list of members: more than 40,000 arrays.
LARGEST_DIRECTORY = 1 << 22
# Bytes of an array's header, as NumPy bounds it; it names a type and a shape.
LONGEST_HEADER = 10_000
_BLOCK = 1 << 20
# As NumPy bounded them before version 2.
_MOST_AXES = 32
_MAGIC = b"\x93NUMPY"
# Bytes of the header's length by the format's version, and the header's encoding.
_VERSIONS = {(1, 0): (2, "latin1"), (2, 0): (4, "latin1"), (3, 0): (4, "utf8")}
# Plain numbers, texts and bytes; records, subarrays and Python objects are no samples.
_PLAIN = re.compile(r"[<>|=]?(?:[biufcV?]\d{0,2}|[SU]\d{1,6})")
# As NumPy writes arrays; other methods may take memory by what the file says.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1  # of a member's flags
# What `zipfile` raises for what is damaged or made up: offsets before the file, extra fields too
# short, features that it does not know (RuntimeError), names of another encoding (ValueError).
_ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)
_ANEW = (
    "if it is not damaged, write it anew with numpy.savez or numpy.save, as arrays of numbers, not "
    "of Python objects"
)


class _BadArrayError(Exception):
    """What is wrong with an array, and how to mend it; the file is named by who catches it."""

    def __init__(self, what: str, mend: str = _ANEW) -> None:
        super().__init__(f"{what}; {mend}")


@dataclass(frozen=True)
class ArrayHeader:
    """Type, shape and order of an array in a file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def order(self) -> Literal["C", "F"]:
        """Which axis lies densest: the last, or the first."""
        return "F" if self.fortran_order else "C"


@dataclass(frozen=True)
class ArrayFile:
    """A .npy or .npz file whose list of arrays is known.

    Parameters
    ----------
    path
        The file.
    members
        Name of each array in it, and of the archive's member that holds it; the array of a .npy
        has the name "" and no member.
    """

    path: Path
    members: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays, in the order of the file."""
        return tuple(self.members)

    @property
    def mapped(self) -> bool:
        """Whether the array stays in the file and is read as it is used."""
        return "" in self.members and not self.members[""]

    def header(self, name: str) -> ArrayHeader:
        """Return what an array's header says of it; its values stay where they are.

        Raises
        ------
        CalibrationError
            When it is no array of plain values.
        """
        with _explained(self.path), open_regular(self.path) as file:
            if self.mapped:
                return _read_header(file)
            with _archive(file) as archive, _member(archive, name, self.members[name]) as stream:
                return _read_header(stream)

    def read(self, names: Collection[str], largest: int = LARGEST_ARCHIVE) -> dict[str, Array]:
        """Return arrays by name: mapped from a .npy, unpacked from a .npz; others stay packed.

        Raises
        ------
        CalibrationError
            When one is no array of plain values, is not whole, or all of them together unpack to
            more than `largest` bytes.
        """
        requested = dict.fromkeys(names)
        with _explained(self.path), open_regular(self.path) as file:
            if self.mapped:
                return dict.fromkeys(requested, _map(file))
            return _unpack(file, {name: self.members[name] for name in requested}, largest)


def open_arrays(path: Path, largest_directory: int = LARGEST_DIRECTORY) -> ArrayFile:
    """Look at a file of arrays: which there are, by their names.

    Parameters
    ----------
    path
        A .npy, known by its first bytes, or else a .npz.
    largest_directory
        Bytes that the list of members of a .npz may take.

    Raises
    ------
    CalibrationError
        When it is neither.
    """
    with _explained(path), open_regular(path) as file:
        if file.read(len(_MAGIC)) == _MAGIC:
            return ArrayFile(path, {"": ""})
        with _archive(file, largest_directory) as archive:
            held = [info.filename for info in archive.infolist() if not info.is_dir()]
    return ArrayFile(path, {name.removesuffix(".npy"): name for name in held})


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what reading arrays raises into one clear error."""
    try:
        yield
    except _BadArrayError as error:
        raise CalibrationError(f"{path} cannot be read: {error}") from error
    except _ARCHIVE_ERRORS as error:
        raise CalibrationError(f"{path} cannot be read: {_reason(error)}; {_ANEW}") from error


def _reason(error: Exception) -> str:
    """One line; an error of the system by its own words, without number and path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)


class _Bounded(io.BufferedReader):
    """A file of which no more than `largest` bytes are read at once.

    `zipfile` reads an archive's list of members as a whole, of whatever size the archive says, and
    takes a hundred times its bytes for it.
    """

    def __init__(self, raw: io.RawIOBase, largest: int) -> None:
        super().__init__(raw)
        self._largest = largest

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or size > self._largest:
            data = super().read(self._largest + 1)
            if len(data) > self._largest:
                raise zipfile.BadZipFile(
                    f"its list of members takes more than {self._largest:,} bytes"
                )
            return data
        return super().read(size)


def _archive(file: BinaryIO, largest: int = LARGEST_DIRECTORY) -> zipfile.ZipFile:
    """Open an archive whose bytes are read from `file`, which stays open behind it."""
    raw = io.FileIO(file.fileno(), closefd=False)
    raw.seek(0)
    return zipfile.ZipFile(_Bounded(raw, largest))


def _map(file: BinaryIO) -> Array:
    """Map the array of a .npy file."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    header = _read_header(file)
    begin = file.tell()
    if begin + header.size > size:
        raise _BadArrayError(
            f"its header promises {header.size:,} bytes of values, but {size - begin:,} follow"
        )
    if header.size == 0:  # nothing that could be mapped
        return np.empty(header.shape, header.dtype)
    return np.memmap(file, header.dtype, "r", begin, header.shape, header.order)


def _unpack(file: BinaryIO, members: Mapping[str, str], largest: int) -> dict[str, Array]:
    """Unpack the members that are named, by the names of their arrays."""
    arrays: dict[str, Array] = {}
    left = largest
    with _archive(file) as archive:
        for name, member in members.items():
            with _member(archive, name, member) as stream:
                header = _read_header(stream)
                left -= header.size
                if left < 0:
                    raise _BadArrayError(
                        f"it unpacks to {largest - left:,} bytes or more, of {largest:,} at most",
                        "take fewer samples, or save an .npy, which is not read as a whole",
                    )
                held = archive.getinfo(member).file_size
                if header.size > held:
                    raise _BadArrayError(
                        f"the header of array {short(name)} promises {header.size:,} bytes of "
                        f"values, but it has {held:,}"
                    )
                arrays[name] = _read_values(stream, header)
    return arrays


def _member(archive: zipfile.ZipFile, name: str, member: str) -> IO[bytes]:
    """Open an array of an archive, if it is stored as NumPy does."""
    info = archive.getinfo(member)
    if info.flag_bits & _ENCRYPTED:
        raise _BadArrayError(f"array {short(name)} is encrypted")
    if info.compress_type not in _METHODS:
        raise _BadArrayError(
            f"array {short(name)} is packed by method {info.compress_type}, not deflated"
        )
    return archive.open(info)


def _read_header(stream: IO[bytes]) -> ArrayHeader:
    """Read the header of an array; the stream is at its values then."""
    start = stream.read(8)
    if not start.startswith(_MAGIC) or len(start) < 8:
        raise _BadArrayError("it holds no array, but other bytes or Python objects")
    version = (start[6], start[7])
    if version not in _VERSIONS:
        raise _BadArrayError(f"its array is of version {version[0]}.{version[1]} of the format")
    width, encoding = _VERSIONS[version]
    length = int.from_bytes(_exactly(stream, width), "little")
    if length > LONGEST_HEADER:
        raise _BadArrayError(f"a header has {length:,} bytes, of {LONGEST_HEADER:,} at most")
    return _parsed(_exactly(stream, length).decode(encoding, "replace"))


def _parsed(text: str) -> ArrayHeader:
    """Tell type and shape from a header's text, the literal of a Python dictionary."""
    try:
        # Python 2 wrote whole numbers as 3L.
        header = ast.literal_eval(re.sub(r"(?<=\d)L(?=[,)])", "", text))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise _BadArrayError("a header is no dictionary of type and shape") from error
    if not isinstance(header, dict) or header.keys() != {"descr", "fortran_order", "shape"}:
        raise _BadArrayError("a header does not name type, order and shape")
    kind, shape = header["descr"], header["shape"]
    if not isinstance(kind, str) or not _PLAIN.fullmatch(kind):
        raise _BadArrayError(f"its values are of type {str(kind)[:40]!r}, no plain numbers")
    try:
        dtype = np.dtype(kind)
    except (TypeError, ValueError) as error:
        raise _BadArrayError(
            f"its values are of type {kind!r}, which NumPy does not know"
        ) from error
    # bool is a kind of int
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise _BadArrayError("a shape is no list of whole numbers of at least 0")
    # NumPy multiplies the sides that are not 0 into a number of 64 bits.
    whole = math.prod(max(1, side) for side in (*shape, dtype.itemsize))
    if len(shape) > _MOST_AXES or whole >= 1 << 62:
        raise _BadArrayError("a header promises more values than any file could hold")
    if type(header["fortran_order"]) is not bool:
        raise _BadArrayError("a header does not state the order of the values")
    return ArrayHeader(dtype, shape, header["fortran_order"])


def _read_values(stream: IO[bytes], header: ArrayHeader) -> Array:
    """Read the values of an array, of which the archive's member must hold exactly all."""
    values = np.empty(header.size, np.uint8)  # -> (bytes,)
    at = 0
    while at < header.size:
        block = stream.read(min(_BLOCK, header.size - at))
        if not block:
            raise _BadArrayError(f"an array ends after {at:,} of {header.size:,} bytes")
        values[at : at + len(block)] = np.frombuffer(block, np.uint8)
        at += len(block)
    if stream.read(1):  # at the end the checksum is looked at
        raise _BadArrayError("an array has more bytes than its header says")
    if header.dtype.itemsize == 0:
        return np.empty(header.shape, header.dtype)
    return values.view(header.dtype).reshape(header.shape, order=header.order)


def _exactly(stream: IO[bytes], length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise _BadArrayError("it ends within a header")
    return data
