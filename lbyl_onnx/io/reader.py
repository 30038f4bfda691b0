"""Read a model's file within bounds, and check it; a path for a model in memory."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from lbyl_onnx.errors import LbylOnnxError, ModelError, OutputError, first_line
from lbyl_onnx.guard.bounds import bounded, seconds_for
from lbyl_onnx.io.atomic import check_data, scratch
from lbyl_onnx.io.external_data import (
    State,
    TensorReader,
    all_tensors,
    changed,
    check_regions,
    file_state,
    is_external,
)
from lbyl_onnx.io.files import open_regular
from lbyl_onnx.io.limits import check_count
from lbyl_onnx.io.locate import export_hint, find_model
from lbyl_onnx.io.writer import LARGEST_MESSAGE, without_fields, write_message
from lbyl_onnx.types import DEFAULT_DOMAINS

# Initializers with more elements are left out of what the checker sees; none of them is a shape.
LARGE = 4096
# The domain of nodes that the checker passes over.
UNCHECKED = "lbyl_onnx.unchecked"
# A model's file with more bytes than this holds its weights itself.
LARGEST_SKELETON = 1 << 24


def state_of(file: Path) -> State:
    """Return what tells whether a file has been changed; nothing for one that is gone."""
    try:
        return file_state(file.stat())
    except OSError:
        return ()


def check_name(path: Path, kind: type[LbylOnnxError]) -> None:
    """Raise an error of this kind for a path that onnx and ONNX Runtime cannot be given."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:  # bytes that are no text: Python holds them as surrogates
        raise kind(
            f"{path}: its name is not UTF-8, as onnx and ONNX Runtime take it; rename it"
        ) from error


def read_model(
    path: Path, file_states: Mapping[Path, State] | None = None
) -> tuple[onnx.ModelProto, dict[Path, State]]:
    """Read a model; return it and the files that hold it, which must be those that are known."""
    with reading_explained(path):
        with open_regular(path) as file:
            state = file_state(os.fstat(file.fileno()))
            if file_states is not None and file_states.get(path) != state:
                raise changed(path, path)
            if os.fstat(file.fileno()).st_size > LARGEST_MESSAGE:
                larger = "is larger than 2 GiB, the most one message can hold"
                hint = export_hint(path) or "export it with external data"
                raise ModelError(f"{path} {larger}; {hint}")
            model = onnx.ModelProto.FromString(file.read())
        check_count(path, model)
        read = TensorReader(path, file_states)
        external = [tensor for tensor in all_tensors(model) if is_external(tensor)]
        regions = [(tensor.name, read.region(tensor)) for tensor in external]
        states = {file: state_of(file) for file in check_regions(path, regions)} | {path: state}
        stored = {id(tensor) for tensor in model.graph.initializer}
        for tensor in external:
            if id(tensor) not in stored:
                _make_inline(tensor, read)
    if not model.graph.node:
        reason = export_hint(path) or "it holds no nodes"
        raise ModelError(f"{path} is not a valid ONNX model: {reason}")
    return model, states


def _make_inline(tensor: onnx.TensorProto, read: TensorReader) -> None:
    """Bring the external data of an attribute's tensor into the model."""
    tensor.raw_data = read(tensor).tobytes()
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.DEFAULT


def checkable(path: Path, model: onnx.ModelProto) -> Path | onnx.ModelProto:
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
    result = without_fields(model, ("initializer",))
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
def reading_explained(path: Path) -> Iterator[None]:
    """Turn what reading a model raises into one clear error; bound the time that it takes."""
    try:
        with bounded(f"reading {path.name}", seconds_for(path.stat().st_size)):
            yield
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except DecodeError as error:
        reason = export_hint(path) or "its bytes cannot be parsed"
        raise ModelError(f"{path} is not an ONNX model: {reason}") from error
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"{path} is not a valid ONNX model: {first_line(error)}") from error


def check_output(path: Path, source: Path | None, force: bool) -> None:
    """Refuse an output path before any work is done.

    Raises
    ------
    OutputError
        When it is the input, a folder or no regular file, when it exists and `force` is False,
        when its folder does not exist, or when the file for its weights is another's.
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
    check_data(path, force)


@contextmanager
def on_disk(model: onnx.ModelProto | str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to a model: its own, or that of a temporary copy of one held in memory.

    Raises
    ------
    ModelError
        When a path leads to nothing, or to a folder without a model, or with several.
    """
    if not isinstance(model, onnx.ModelProto):
        yield find_model(Path(model))
        return
    with scratch() as folder:
        path = folder / "model.onnx"
        write_message(model, path)
        yield path
