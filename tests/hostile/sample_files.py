"""Sample files as a stranger could send them."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np

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
    """Some MB that unpack to eight GB."""
    (folder / "bomb.npz").write_bytes(_bomb())
    return "bomb.npz"


@cache
def _bomb() -> bytes:
    """Made once, as fast as can be: it takes a quarter of a minute."""
    made = BytesIO()
    with (
        zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w", force_zip64=True) as file,
    ):
        header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 25, 1, 8, 8)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(1 << 9):
            file.write(bytes(1 << 24))
    return made.getvalue()


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


def pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe.npy")
    return "pipe.npy"


def device(folder: Path) -> str:
    (folder / "zero.npy").symlink_to("/dev/zero")
    return "zero.npy"
