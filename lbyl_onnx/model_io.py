"""Read a model safely; put one in its place so that it appears whole or not at all."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from lbyl_onnx.bounds import bounded, seconds_for
from lbyl_onnx.complexity import check_count
from lbyl_onnx.draft import LARGEST_MESSAGE, copy_field, write_message
from lbyl_onnx.errors import LbylOnnxError, ModelError, OutputError
from lbyl_onnx.external_data import (
    State,
    TensorReader,
    all_tensors,
    changed,
    check_regions,
    file_state,
    is_external,
)
from lbyl_onnx.facts import DEFAULT_DOMAINS
from lbyl_onnx.functions import written_out
from lbyl_onnx.fused import is_fused, unfused
from lbyl_onnx.reading import open_regular
from lbyl_onnx.staging import scratch

# Initializers with more elements are left out of what the checker sees; none of them is a shape.
LARGE = 4096
# The domain of nodes that the checker passes over.
UNCHECKED = "lbyl_onnx.unchecked"
# A model's file with more bytes than this holds its weights itself.
LARGEST_SKELETON = 1 << 24


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
        return unfused(written_out(self.path, _load(self.path, dict(self.files))[0]), self.reader)

    @property
    def reader(self) -> TensorReader:
        """Reads the tensors of the files that were read at first, and of no others."""
        return TensorReader(self.path, dict(self.files))

    def check_unchanged(self) -> None:
        """Raise ModelError where a file is no longer what was read at first."""
        for file, before in self.files:
            if _state(file) != before:
                raise changed(self.path, file)

    def check_apart(self, output: Path) -> None:
        """Raise OutputError where an output would take the place of a file of the model."""
        for file, _ in self.files:
            if output.exists() and output.samefile(file):
                raise OutputError(f"{output} holds weights of {self.path}; give another output")


def _state(file: Path) -> State:
    try:
        return file_state(file.stat())
    except OSError:
        return ()


def check_source(path: Path) -> Source:
    """Return a model's files once it is known to be valid.

    Raises
    ------
    ModelError
        When it is no file, onnx's checker rejects what it holds, or its external data lies where it
        may not.
    """
    source, model = _opened(path)
    with _explained(path):
        onnx.checker.check_model(_checkable(path, model))
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
    model, states = _load(path)
    size = sum(file.stat().st_size for file in states)
    standard = not model.functions and not any(is_fused(node) for node in model.graph.node)
    return Source(path, size, tuple(sorted(states.items())), standard), model


def check_name(path: Path, kind: type[LbylOnnxError]) -> None:
    """Raise an error of this kind for a path that onnx and ONNX Runtime cannot be given."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:  # bytes that are no text: Python holds them as surrogates
        raise kind(
            f"{path}: its name is not UTF-8, as onnx and ONNX Runtime take it; rename it"
        ) from error


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
        onnx.checker.check_model(_checkable(path, model), full_check=True)


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
    model, states = _load(path)
    size = sum(file.stat().st_size for file in states)
    return unfused(written_out(path, model), TensorReader(path)), size


def stored_bytes(path: Path) -> int:
    """Return the bytes on disk of a model that has been loaded before, with its data files."""
    size = path.stat().st_size
    if size > LARGEST_SKELETON:
        return size
    return sum(file.stat().st_size for file in _load(path)[1])


def _load(
    path: Path, known: Mapping[Path, State] | None = None
) -> tuple[onnx.ModelProto, dict[Path, State]]:
    """Read a model; return it and the files that hold it, which must be those that are known."""
    with _explained(path):
        with open_regular(path) as file:
            state = file_state(os.fstat(file.fileno()))
            if known is not None and known.get(path) != state:
                raise changed(path, path)
            if os.fstat(file.fileno()).st_size > LARGEST_MESSAGE:
                raise ModelError(
                    f"{path} is larger than 2 GiB, the most one message can hold; export it with "
                    "external data"
                )
            model = onnx.ModelProto.FromString(file.read())
        check_count(path, model)
        read = TensorReader(path, known)
        external = [tensor for tensor in all_tensors(model) if is_external(tensor)]
        regions = [(tensor.name, read.region(tensor)) for tensor in external]
        states = {file: _state(file) for file in check_regions(path, regions)} | {path: state}
        stored = {id(tensor) for tensor in model.graph.initializer}
        for tensor in external:
            if id(tensor) not in stored:
                _make_inline(tensor, read)
    if not model.graph.node:
        raise ModelError(f"{path} is not a valid ONNX model: it holds no nodes")
    return model, states


def _make_inline(tensor: onnx.TensorProto, read: TensorReader) -> None:
    """Bring the external data of an attribute's tensor into the model."""
    tensor.raw_data = read(tensor).tobytes()
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.DEFAULT


def _checkable(path: Path, model: onnx.ModelProto) -> Path | onnx.ModelProto:
    """What to give the checker; it refuses external data behind links, our own rule does not.

    Nor does it take two operators that ONNX Runtime runs, which it is made to pass over.
    """
    external = any(is_external(tensor) for tensor in model.graph.initializer)
    refused = [i for i, node in enumerate(model.graph.node) if _is_refused(model, node)]
    if not external and not refused:
        return path
    small = _without_large(model)
    if refused:
        small.opset_import.append(onnx.helper.make_opsetid(UNCHECKED, 1))
    for index in refused:
        small.graph.node[index].domain = UNCHECKED
    return small


def _is_refused(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Whether the checker takes a node for wrong that is not.

    GroupNormalization before opset 21 is withdrawn; the axes that MeanVarianceNormalization has by
    default are missing in the function that shapes are inferred by.
    """
    if node.domain not in DEFAULT_DOMAINS:
        return False
    if node.op_type == "MeanVarianceNormalization":
        return not node.attribute
    versions = (entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS)
    return node.op_type == "GroupNormalization" and any(18 <= v < 21 for v in versions)


def _without_large(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model whose large initializers are inputs: as valid as it is, and small."""
    result = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            copy_field(result, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            copy_field(result.graph, field.name, value)
    inputs = {info.name for info in model.graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= LARGE and not is_external(tensor):
            result.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            result.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return result


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what reading a model raises into one clear error; bound the time that it takes."""
    try:
        with bounded(f"reading {path.name}", seconds_for(path.stat().st_size)):
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
    check_name(path, OutputError)
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
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
def on_disk(model: onnx.ModelProto | str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to a model: its own, or that of a temporary copy of one held in memory."""
    if not isinstance(model, onnx.ModelProto):
        yield Path(model)
        return
    with scratch() as folder:
        path = folder / "model.onnx"
        write_message(model, path)
        yield path
