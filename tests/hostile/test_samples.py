"""The real command on samples for calibration as a stranger could send them."""

from __future__ import annotations

import os
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.hostile.command import OPTIONS, SECONDS, contents, run

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(os.name != "posix", reason="memory is measured on POSIX"),
]
Make = Callable[[Path], str]


class Exploit:
    """What a pickle may do."""

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("open('taken', 'w')",))


def pickled(name: str) -> Make:
    def make(folder: Path) -> str:
        array = np.array([Exploit()] * 4, dtype=object)
        (np.savez if name.endswith("z") else np.save)(folder / name, array)
        return name

    return make


def bare_pickle(name: str) -> Make:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(pickle.dumps(Exploit()))
        return name

    return make


def zip_bomb(folder: Path) -> str:
    """Eight MB that unpack to eight GB."""
    with (
        zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as file,
    ):
        header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 25, 1, 8, 8)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(1 << 9):
            file.write(bytes(1 << 24))
    return "bomb.npz"


def lying_archive(folder: Path) -> str:
    """An array whose header claims more than there is."""
    with (
        zipfile.ZipFile(folder / "lie.npz", "w") as archive,
        archive.open("x.npy", "w") as file,
    ):
        header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 55, 1, 8, 8)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(1000))
    return "lie.npz"


def folder_with(name: str, content: bytes) -> Make:
    def make(folder: Path) -> str:
        (folder / "images").mkdir()
        (folder / "images" / name).write_bytes(content)
        return "images"

    return make


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def png_bomb(side: int) -> bytes:
    """A PNG of side x side black pixels, a thousandth as large."""
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pack = zlib.compressobj(9)
    row = bytes(1 + side)
    packed = b"".join([*(pack.compress(row) for _ in range(side)), pack.flush()])
    chunks = _chunk(b"IHDR", head) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(taken) (w) file\n"


def pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe.npy")
    return "pipe.npy"


def pipe_among_images(folder: Path) -> str:
    (folder / "images").mkdir()
    os.mkfifo(folder / "images" / "a.png")
    return "images"


def device(folder: Path) -> str:
    (folder / "zero.npy").symlink_to("/dev/zero")
    return "zero.npy"


CASES: dict[str, tuple[Make, str]] = {
    "pickled objects in .npy": (pickled("a.npy"), "cannot be read"),
    "pickled objects in .npz": (pickled("a.npz"), "cannot be read"),
    "a pickle named .npy": (bare_pickle("a.npy"), "cannot be read"),
    "a pickle named .npz": (bare_pickle("a.npz"), "cannot be read"),
    "a zip bomb": (zip_bomb, "unpacks to"),
    "an archive that lies": (lying_archive, "cannot be read"),
    "a PNG of 20,000 x 20,000": (folder_with("a.png", png_bomb(20_000)), "pixels"),
    "a PNG of 9,000 x 9,000": (folder_with("a.png", png_bomb(9_000)), "pixels"),
    "PostScript named .png": (folder_with("a.png", EPS), "cannot be decoded"),
    "a pipe": (pipe, "is no .npz"),
    "a pipe among images": (pipe_among_images, "holds no images"),
    "a device": (device, "is no .npz"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_of_error_and_nothing_touched(name: str, sample: Path, tmp_path: Path) -> None:
    make, says = CASES[name]
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "scratch").mkdir()
    (folder / "in.onnx").write_bytes(sample.read_bytes())
    given = make(folder)
    before = contents(tmp_path)
    ran = run(["compress", "in.onnx", "out.onnx", "--calibration", given, *OPTIONS], folder)
    assert (ran.code, ran.stdout) == (1, "")
    assert re.fullmatch(rf"lbyl-onnx: error: [^\n]*{re.escape(given)}[^\n]*\n", ran.stderr)
    assert says in ran.stderr
    assert contents(tmp_path) == before
    assert ran.peak < 1 << 30
    assert ran.seconds < SECONDS
