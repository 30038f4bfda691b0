"""A model's files, and the model in standard operators that they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from lbyl_onnx.errors import ModelError, OutputError
from lbyl_onnx.graph.functions import written_out
from lbyl_onnx.graph.fused import is_fused, unfused
from lbyl_onnx.guard.bounds import bounded, seconds_for
from lbyl_onnx.io.atomic import data_name
from lbyl_onnx.io.external_data import State, TensorReader, changed
from lbyl_onnx.io.files import open_regular
from lbyl_onnx.io.reader import (
    LARGEST_SKELETON,
    check_name,
    checkable,
    read_model,
    reading_explained,
    state_of,
)


@dataclass(frozen=True)
class Source:
    """A model's files as they were when they were first read.

    Parameters
    ----------
    path
        Of the model.
    size
        Bytes on disk, those of external data files too.
    files
        Each file with what tells whether it has been changed or replaced.
    standard
        Whether `load_model` gives what is stored, with nothing written out.
    """

    path: Path
    size: int
    files: tuple[tuple[Path, State], ...]
    standard: bool = True

    def load(self) -> onnx.ModelProto:
        """Read the model again; see `load_model`.

        Raises
        ------
        ModelError
            When its file is no longer what was read at first.
        """
        return unfused(
            written_out(self.path, read_model(self.path, dict(self.files))[0]), self.reader
        )

    @property
    def reader(self) -> TensorReader:
        """Reads the tensors of the files that were read at first, and of no others."""
        return TensorReader(self.path, dict(self.files))

    def check_unchanged(self) -> None:
        """Raise ModelError where a file is no longer what was read at first."""
        for file, before in self.files:
            if state_of(file) != before:
                raise changed(self.path, file)

    def check_apart(self, output: Path) -> None:
        """Raise OutputError where an output or its data would take the place of a file of these."""
        for path in (output, output.with_name(data_name(output.name))):
            if path.exists() and any(path.samefile(file) for file, _ in self.files):
                raise OutputError(f"{path} holds weights of {self.path}; give another output")


def check_source(path: Path) -> Source:
    """Return a model's files once it is known to be valid.

    Raises
    ------
    ModelError
        When it is no file, onnx's checker rejects what it holds, or its external data lies where it
        may not.
    """
    source, model = _opened(path)
    with reading_explained(path):
        onnx.checker.check_model(checkable(path, model))
    return source


def open_source(path: Path) -> Source:
    """Return a model's files as they are now, without onnx's checker.

    Raises
    ------
    ModelError
        When it is no file, cannot be parsed, or its external data lies where it may not.
    """
    return _opened(path)[0]


def _opened(path: Path) -> tuple[Source, onnx.ModelProto]:
    check_name(path, ModelError)
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise ModelError(f"{path} {what}; give the path of an .onnx file")
    model, states = read_model(path)
    size = sum(file.stat().st_size for file in states)
    standard = not model.functions and not any(is_fused(node) for node in model.graph.node)
    return Source(path, size, tuple(sorted(states.items())), standard), model


def check_fully(path: Path) -> None:
    """Check a model and infer all its shapes.

    Raises
    ------
    onnx.checker.ValidationError
        When onnx's checker rejects it.
    onnx.shape_inference.InferenceError
        When the shapes it declares are not those that follow.
    """
    model, size = load_model(path)
    with bounded(f"checking {path.name}", seconds_for(size)):
        onnx.checker.check_model(checkable(path, model), full_check=True)


def load_model(path: Path) -> tuple[onnx.ModelProto, int]:
    """Read a model whose channels can be followed: functions and fused nodes are written out.

    External initializers stay where they are, for a `TensorReader` to map.

    Parameters
    ----------
    path
        An .onnx file.

    Returns
    -------
    model
        The model.
    size
        Bytes on disk, those of external data files too.

    Raises
    ------
    ModelError
        When the file cannot be read, holds no nodes or too many, or has external data where it
        may not.
    """
    model, states = read_model(path)
    size = sum(file.stat().st_size for file in states)
    return unfused(written_out(path, model), TensorReader(path)), size


def stored_bytes(path: Path) -> int:
    """Return the bytes on disk of a model that has been loaded before, with its data files."""
    size = path.stat().st_size
    if size > LARGEST_SKELETON:
        return size
    return sum(file.stat().st_size for file in read_model(path)[1])


_BLOCK = 1 << 20


@dataclass(frozen=True)
class FileHash:
    """A file's name, its bytes, and their SHA-256."""

    name: str
    size: int
    sha256: str


def file_hashes(path: Path) -> tuple[FileHash, ...]:
    """Return the hash of a model's file, and of each file that holds external data of it."""
    return tuple(FileHash(f.name, f.stat().st_size, sha256(f)) for f in model_files(path))


def model_files(path: Path) -> Sequence[Path]:
    """Return the files that a model lies in, its own first."""
    files = [file for file, _ in open_source(path).files]
    return [path, *(file for file in files if file != path)]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a regular file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
