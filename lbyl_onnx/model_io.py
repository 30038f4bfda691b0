"""Read a model safely; write one so that it appears whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx.numpy_helper
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx.external_data_helper import uses_external_data

from lbyl_onnx.errors import ModelError, OutputError

# One protobuf message holds at most 2 GiB.
LARGEST_MESSAGE = 2**31 - 1


def check_source(path: Path) -> Path:
    """Return a path once it is known to hold a valid ONNX model.

    Raises
    ------
    ModelError
        When it is no file, or onnx's checker rejects what it holds.
    """
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise ModelError(f"{path} {what}; give the path of an .onnx file")
    with _explained(path):
        onnx.checker.check_model(path)
    return path


def load_model(path: Path) -> tuple[onnx.ModelProto, int]:
    """Read a model, its external data too.

    Parameters
    ----------
    path
        An .onnx file.

    Returns
    -------
    model
        The model, with all its weights.
    size
        Bytes on disk, those of external data files too.

    Raises
    ------
    ModelError
        When the file cannot be read or holds no nodes.
    """
    with _explained(path):
        model = onnx.load(path, load_external_data=False)
        tensors = [*model.graph.initializer, *_attribute_tensors(model.graph)]
        files = {path} | {
            path.parent / entry.value
            for tensor in tensors
            if uses_external_data(tensor)
            for entry in tensor.external_data
            if entry.key == "location"
        }
        onnx.load_external_data_for_model(model, str(path.parent))
    if not model.graph.node:
        raise ModelError(f"{path} holds no nodes; give a trained model")
    return model, sum(file.stat().st_size for file in files)


def _attribute_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from attribute.g.initializer
                yield from _attribute_tensors(attribute.g)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what reading a model raises into one clear error."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX model: its bytes cannot be parsed") from error
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"{path} is not a valid ONNX model: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text: libraries append stacks and contexts."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def check_output(path: Path, source: Path | None, force: bool) -> None:
    """Refuse an output path before any work is done.

    Raises
    ------
    OutputError
        When it is the input, a folder or no regular file, when it exists and `force` is False,
        or when its folder does not exist.
    """
    if path.exists():
        if source is not None and source.exists() and path.samefile(source):
            raise OutputError(f"{path} is the input itself; give another output")
        if not path.is_file():
            raise OutputError(f"{path} is not a regular file; give a path for the output")
        if not force:
            raise OutputError(f"{path} exists; give --force to overwrite it")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"the folder {path.parent} cannot be written to; choose another")


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Give a new file beside `path`; it is removed in the end unless `publish` moved it.

    The file gets the mode that any new file gets, not the private one of temporary files.
    """
    stage = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        os.close(os.open(stage, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
    try:
        yield stage
    finally:
        with suppress(FileNotFoundError):
            stage.unlink()


def publish(stage: Path, path: Path) -> None:
    """Move a staged file to its place in one step.

    Raises
    ------
    OutputError
        When the move fails.
    """
    try:
        stage.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


@dataclass(frozen=True, eq=False)
class Draft:
    """A model that is ready to be written, without a second copy of its weights.

    Parameters
    ----------
    skeleton
        The model but for its initializers.
    initializers
        These, in order: a message of the original, or a new array under a name.
    """

    skeleton: onnx.ModelProto
    initializers: tuple[onnx.TensorProto | NamedArray, ...]


@dataclass(frozen=True, eq=False)
class NamedArray:
    """A new initializer: name and value, and the message it replaces, if any."""

    name: str
    value: NDArray[np.generic]
    before: onnx.TensorProto | None = None


def write_model(model: onnx.ModelProto | Draft, path: Path) -> None:
    """Write a model to a file, the same bytes for the same model.

    Raises
    ------
    OutputError
        When it is larger than one protobuf message may be, or the disk refuses it.
    """
    try:
        with path.open("wb") as file:
            if isinstance(model, Draft):
                _write_draft(model, file, path)
            else:
                file.write(model.SerializeToString(deterministic=True))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def _write_draft(draft: Draft, file: BinaryIO, path: Path) -> None:
    """Write the message that a whole ModelProto would give, one initializer at a time."""
    model, graph = _FIELDS["ModelProto"], _FIELDS["GraphProto"]
    before, after = _split(draft.skeleton, model["graph"])
    head, tail = _split(draft.skeleton.graph, graph["initializer"])
    sizes = [_message(tensor).ByteSize() for tensor in draft.initializers]
    prefixes = [_length_prefix(graph["initializer"], size) for size in sizes]
    inner = len(head) + len(tail) + sum(sizes) + sum(len(prefix) for prefix in prefixes)
    outer = _length_prefix(model["graph"], inner)
    if len(before) + len(outer) + inner + len(after) > LARGEST_MESSAGE:
        raise OutputError(f"{path}: the model is larger than 2 GiB, the most one file can hold")
    file.write(before + outer + head)
    for prefix, tensor in zip(prefixes, draft.initializers, strict=True):
        file.write(prefix)
        file.write(_message(tensor).SerializeToString(deterministic=True))
    file.write(tail + after)


_FIELDS = {
    kind.DESCRIPTOR.name: {field.name: field.number for field in kind.DESCRIPTOR.fields}
    for kind in (onnx.ModelProto, onnx.GraphProto)
}


def _message(tensor: onnx.TensorProto | NamedArray) -> onnx.TensorProto:
    if isinstance(tensor, onnx.TensorProto):
        return tensor
    message = onnx.numpy_helper.from_array(tensor.value, tensor.name)
    if tensor.before is not None:
        message.doc_string = tensor.before.doc_string
        message.metadata_props.extend(tensor.before.metadata_props)
    return message


def _split(message: onnx.ModelProto | onnx.GraphProto, number: int) -> tuple[bytes, bytes]:
    """Serialise the fields before and after one field number."""
    parts = []
    for keep_before in (True, False):
        part = type(message)()
        for field, value in message.ListFields():
            if field.number != number and (field.number < number) == keep_before:
                copy_field(part, field.name, value)
        parts.append(part.SerializeToString(deterministic=True))
    return parts[0], parts[1]


def copy_field(message: onnx.ModelProto | onnx.GraphProto, name: str, value: object) -> None:
    """Set a field of a message, whatever its kind, from the same field of another."""
    target = getattr(message, name)
    if hasattr(target, "extend"):
        target.extend(value)
    elif hasattr(target, "CopyFrom"):
        target.CopyFrom(value)
    else:
        setattr(message, name, value)


def _length_prefix(number: int, size: int) -> bytes:
    """Tag and length of an embedded message (protobuf's wire format: 7 bits a byte)."""
    encoded = bytearray()
    for value in (number << 3 | 2, size):
        rest = value
        while rest > 0x7F:
            encoded.append(rest & 0x7F | 0x80)
            rest >>= 7
        encoded.append(rest)
    return bytes(encoded)


@contextmanager
def on_disk(model: onnx.ModelProto | str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to a model: its own, or that of a temporary copy of one held in memory."""
    if not isinstance(model, onnx.ModelProto):
        yield Path(model)
        return
    with tempfile.TemporaryDirectory(prefix="lbyl-onnx-") as folder:
        path = Path(folder) / "model.onnx"
        write_model(model, path)
        yield path
