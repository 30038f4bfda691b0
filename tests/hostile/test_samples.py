"""The real command on samples for calibration as a stranger could send them."""

from __future__ import annotations

import os
import re
import struct
import zlib
from pathlib import Path

import pytest

from tests.hostile.command import OPTIONS, SECONDS, contents, run
from tests.hostile.sample_files import (
    Make,
    bare_pickle,
    device,
    lying_archive,
    pickled,
    pipe,
    zip_bomb,
)

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(os.name != "posix", reason="memory is measured on POSIX"),
]


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


def pipe_among_images(folder: Path) -> str:
    (folder / "images").mkdir()
    os.mkfifo(folder / "images" / "a.png")
    return "images"


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
    argument = make(folder)
    before = contents(tmp_path)
    ran = run(
        ["compress", "--ratio=0.3", "in.onnx", "out.onnx", "--calibration", argument, *OPTIONS],
        folder,
    )
    assert (ran.code, ran.stdout) == (1, "")
    assert re.fullmatch(rf"lbyl-onnx: error: [^\n]*{re.escape(argument)}[^\n]*\n", ran.stderr)
    assert says in ran.stderr
    assert contents(tmp_path) == before
    assert ran.peak < 1 << 30
    assert ran.seconds < SECONDS
