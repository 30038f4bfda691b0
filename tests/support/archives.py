"""Archives and headers of NumPy files, broken in many ways."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lbyl_onnx.types import Array


def stored(array: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_header(text: str, values: int = 1000, version: bytes = b"\1\0") -> bytes:
    """The bytes of a .npy with any header."""
    header = text.encode() + b"\n"
    width = 2 if version == b"\1\0" else 4
    return b"\x93NUMPY" + version + len(header).to_bytes(width, "little") + header + bytes(values)


def shaped(shape: str, descr: str = "'<f4'") -> bytes:
    return with_header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}")


def archive(folder: Path, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(folder / "a.npz", "w", method) as file:
        file.writestr("x.npy", content)
    return folder / "a.npz"


HEADERS = {
    "a negative side": shaped("(-1, 3)"),
    "a side of 2^70": shaped("(1180591620717411303424, 3)"),
    "sides that overflow": shaped("(4611686018427387904, 3, 8, 8)"),
    "sides that overflow beside none": shaped("(0, 4611686018427387904, 4611686018427387904)"),
    "a side that is True": shaped("(True, 3)"),
    "a side that is a float": shaped("(3.0,)"),
    "a shape that is no tuple": shaped("3"),
    "axes without end": shaped(f"({'1,' * 100})"),
    "more values than there are": shaped("(100, 100)"),
    "records": shaped("(3,)", "[('a', '<f4')]"),
    "a subarray": shaped("(3,)", "'(1000000,)f4'"),
    "fields": shaped("(3,)", "'f4,f4'"),
    "Python objects": shaped("(3,)", "'|O'"),
    "no type": shaped("(3,)", "'<f3'"),
    "an order that is no truth value": with_header(
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (3,)}"
    ),
    "another key": with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'a': 1}"),
    "no dictionary": with_header("(1, 2)"),
    "a call": with_header("{'descr': open('taken', 'w')}"),
    "brackets without end": with_header("[" * 9000),
    "signs without end": with_header("-" * 9000 + "1"),
    "an unhashable key": with_header("{[]: 1}"),
    "a header of a megabyte": with_header(" " * (1 << 20), version=b"\2\0"),
    "a version of the future": with_header("{}", version=b"\x09\0"),
    "the end within the header": shaped("(3,)")[:30],
    "the end within the length": shaped("(3,)")[:9],
    "nothing but the magic": b"\x93NUMPY",
}


def marked(folder: Path, in_directory: int, in_member: int, value: int) -> Path:
    """An archive with a byte changed in its directory and in the member's own header."""
    path = archive(folder, stored(np.zeros(3)))
    data = bytearray(path.read_bytes())
    data[data.find(b"PK\x01\x02") + in_directory] = value
    data[in_member] = value
    path.write_bytes(data)
    return path


ARCHIVES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "encrypted": (lambda t: marked(t, 8, 6, 1), "is encrypted"),
    "an unknown method": (lambda t: marked(t, 10, 8, 99), "method 99"),
    "bzip2": (lambda t: archive(t, stored(np.zeros(3)), zipfile.ZIP_BZIP2), "method 12"),
    "lzma": (lambda t: archive(t, stored(np.zeros(3)), zipfile.ZIP_LZMA), "method 14"),
    "an empty member": (lambda t: archive(t, b""), "holds no array"),
    "bytes too many": (lambda t: archive(t, stored(np.zeros(3)) + b"more"), "more bytes"),
}
