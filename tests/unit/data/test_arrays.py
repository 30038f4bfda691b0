"""The one reader of .npy and .npz: NumPy's own values, and one clear error for all else."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lbyl_onnx.data.arrays import open_arrays
from lbyl_onnx.errors import CalibrationError
from lbyl_onnx.types import Array
from tests.support.archives import ARCHIVES, HEADERS, archive, stored, with_header


def single(folder: Path, content: bytes) -> Path:
    (folder / "a.npy").write_bytes(content)
    return folder / "a.npy"


def everything(path: Path) -> dict[str, Array]:
    """All arrays of a file."""
    file = open_arrays(path)
    return file.read(file.names)


SHAPES = [(), (3,), (0, 4), (2, 3, 4), (1, 0, 5)]
TYPES = ["<f4", ">f8", "<f2", "|u1", "<i8", "|b1", "<c8", "<U3"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_values_are_those_that_numpy_reads(
    dtype: str, shape: tuple[int, ...], order: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(7)
    array = np.asarray(rng.integers(0, 2, shape)).astype(dtype)
    array = np.asfortranarray(array) if order == "F" else array
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", x=array)
    np.savez_compressed(tmp_path / "b.npz", x=array)
    for name, key in (("a.npy", ""), ("a.npz", "x"), ("b.npz", "x")):
        file = open_arrays(tmp_path / name)
        assert file.names == (key,)
        assert file.header(key).shape == array.shape
        actual = file.read([key])[key]
        assert actual.dtype == array.dtype
        np.testing.assert_array_equal(actual, array)


def test_an_npy_is_mapped_and_a_member_that_is_not_asked_for_stays_packed(
    tmp_path: Path,
) -> None:
    np.save(tmp_path / "a.npy", np.zeros(5))
    assert isinstance(open_arrays(tmp_path / "a.npy").read([""])[""], np.memmap)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", stored(np.ones(3)))
        file.writestr("broken.npy", b"no array")
    assert open_arrays(tmp_path / "a.npz").read(["x"])["x"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("version", [b"\1\0", b"\2\0", b"\3\0"])
def test_every_version_of_the_format(version: bytes, tmp_path: Path) -> None:
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3L), }"
    path = single(tmp_path, with_header(text, 24, version))
    assert open_arrays(path).read([""])[""].shape == (2, 3)


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("place", [single, archive])
def test_a_header_that_lies_is_one_clear_error(
    name: str, place: Callable[[Path, bytes], Path], tmp_path: Path
) -> None:
    path = place(tmp_path, HEADERS[name])
    with pytest.raises(CalibrationError, match=r"a\.np[yz] cannot be read: ") as caught:
        everything(path)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_numpy_would_not_write_is_one_clear_error(
    name: str, tmp_path: Path
) -> None:
    make, says = ARCHIVES[name]
    file = open_arrays(make(tmp_path))
    with pytest.raises(CalibrationError, match=says):
        file.read(["x"])


def test_any_byte_may_be_wrong(tmp_path: Path) -> None:
    """Every single byte of an archive and of an array changed: NumPy's values, or our error."""
    array = np.arange(6, dtype=np.float32)
    good = {
        "a.npz": archive(tmp_path, stored(array)).read_bytes(),
        "a.npy": single(tmp_path, stored(array)).read_bytes(),
    }
    rng, read = np.random.default_rng(3), 0
    for name, data in good.items():
        for at in range(len(data)):
            damaged = bytearray(data)
            damaged[at] ^= int(rng.integers(1, 256))
            (tmp_path / name).write_bytes(damaged)
            try:
                arrays = everything(tmp_path / name)
                read += all(array.nbytes <= len(data) for array in arrays.values())
            except CalibrationError:
                pass
    assert read > 50


def test_what_is_asked_for_is_bounded_in_total(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(100), y=np.zeros(100))
    file = open_arrays(tmp_path / "a.npz")
    assert file.read(["x"], largest=1000)["x"].size == 100
    with pytest.raises(CalibrationError, match="unpacks to 1,600 bytes or more, of 1,000 at most"):
        file.read(["x", "y"], largest=1000)


def test_the_list_of_members_is_bounded(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        for number in range(300):
            file.writestr(f"{number}.npy", b"")
    with pytest.raises(CalibrationError, match="list of members takes more than 10,000 bytes"):
        open_arrays(tmp_path / "a.npz", largest_directory=10_000)
    assert len(open_arrays(tmp_path / "a.npz").names) == 300


def test_a_name_twice_is_the_last_one(tmp_path: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        warnings.simplefilter("ignore")
        for value in (1.0, 2.0):
            file.writestr("x.npy", stored(np.full(2, value)))
    assert open_arrays(tmp_path / "a.npz").read(["x"])["x"].tolist() == [2, 2]
