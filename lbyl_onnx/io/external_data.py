"""External data: tensors that lie in files beside the model, read by our own bounds check.

The rule for where they may lie is ONNX Runtime's: under the folder of the model as it was named,
or, for the symlinked layout of model-hub caches, under the folder that the model's own link leads
to; all links resolved (onnxruntime, `ValidateExternalDataPath`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lbyl_onnx.errors import ModelError
from lbyl_onnx.io.files import open_regular
from lbyl_onnx.types import Array

# A file of external data may be read this many times over, for weights that are tied.
SHARED = 16
# Digits of an offset or a length: 2^64 has as many.
LONGEST_NUMBER = 20
# Characters of a location; no file system in use has longer paths.
LONGEST_LOCATION = 1024
# Types of less than a byte are packed: their size is no multiple of the item size.
_PACKED = {"INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2"}
State = tuple[int, ...]
"""What tells a file from another, and from itself before a change."""


def file_state(status: os.stat_result) -> State:
    """Return what tells whether a file has been changed or replaced.

    The time of the last change of the inode is among it: nobody can set it, and it moves when a
    file is renamed, so that one which was put aside and back is noticed, too.
    """
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def changed(model: Path, file: Path) -> ModelError:
    """Return the error for a file of a model that is no longer what it was."""
    return ModelError(f"{model}: {file.name} changed while it was read; run it again")


def is_external(tensor: TensorProto) -> bool:
    """Whether a tensor's values lie in another file."""
    return tensor.data_location == TensorProto.EXTERNAL


def tensor_bytes(tensor: TensorProto) -> int:
    """Bytes that a tensor's values take by its shape and type."""
    dtype: np.dtype[np.generic] = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return int(math.prod(tensor.dims)) * dtype.itemsize


@dataclass(frozen=True)
class Region:
    """Where a tensor's bytes lie."""

    file: Path
    offset: int
    length: int


@dataclass(frozen=True)
class TensorReader:
    """Reads the tensors of one model.

    Parameters
    ----------
    model
        Path of the model's file.
    states
        What each file of external data was when the model was first read; a file that is another
        one now is not read. None to read whatever is there.
    """

    model: Path
    states: Mapping[Path, State] | None = None

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the path alone: another machine sees other numbers of the same files."""
        return TensorReader, (self.model,)

    def __call__(self, tensor: TensorProto) -> Array:
        """Return a tensor's values; those of external data are mapped, not copied.

        Raises
        ------
        ModelError
            When its external data lies where it may not, is not what its shape says, or is not
            what it was.
        """
        if not is_external(tensor):
            try:
                return numpy_helper.to_array(tensor)
            except (ValueError, TypeError) as error:
                raise ModelError(
                    f"{self.model}: tensor {tensor.name} does not hold what its shape and type say"
                ) from error
        region = self.region(tensor)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        shape = tuple(tensor.dims)
        if region.length == 0:
            return np.empty(shape, dtype)
        try:
            with open_regular(region.file) as stream:
                self._check_state(region.file, file_state(os.fstat(stream.fileno())))
                return np.memmap(stream, dtype, "r", region.offset, shape)
        except OSError as error:
            raise self._wrong(tensor.name, f"cannot be read: {error.strerror}") from error
        except ValueError as error:  # what is mapped lies behind the end
            raise changed(self.model, region.file) from error

    def _check_state(self, file: Path, state: State) -> None:
        if self.states is not None and self.states.get(file) != state:
            raise changed(self.model, file)

    def region(self, tensor: TensorProto) -> Region:
        """Return where a tensor's bytes lie, once it is known that they may be read.

        Raises
        ------
        ModelError
            See the call.
        """
        entries = {entry.key: entry.value for entry in tensor.external_data}
        file = self._file(tensor.name, entries.get("location", ""))
        status = file.stat()
        self._check_state(file, file_state(status))
        size = status.st_size
        needed = self._bytes(tensor)
        offset = self._number(tensor.name, "offset", entries.get("offset", "0"))
        length = self._number(tensor.name, "length", entries.get("length", str(needed)))
        if length != needed:
            raise self._wrong(tensor.name, f"has {length} bytes where its shape takes {needed}")
        if offset + length > size:
            raise self._wrong(tensor.name, f"ends behind the end of {file.name} ({size} bytes)")
        return Region(file, offset, length)

    def _bytes(self, tensor: TensorProto) -> int:
        kind = TensorProto.DataType.Name(tensor.data_type)
        if kind in _PACKED or kind in ("STRING", "UNDEFINED") or min(tensor.dims, default=0) < 0:
            raise self._wrong(tensor.name, f"is of type {kind}, which is not read from files")
        return tensor_bytes(tensor)

    def _number(self, name: str, key: str, text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > LONGEST_NUMBER:
            raise self._wrong(name, f"has {key} {text[:40]!r}, which is no number of at least 0")
        return int(text)

    def _file(self, name: str, location: str) -> Path:
        pure = (PurePosixPath(location), PureWindowsPath(location))
        absolute = any(p.is_absolute() or p.drive or p.root for p in pure)
        if not location or absolute or "\0" in location:
            raise self._wrong(name, f"has location {location!r}, which is no relative path")
        if len(location) > LONGEST_LOCATION:
            raise self._wrong(name, f"has location {location[:40]!r}.., which is no file")
        try:
            file = (self.model.parent / location).resolve()
            folders = {self.model.parent.resolve(), self.model.resolve().parent}
        except (OSError, RuntimeError) as error:  # RuntimeError before Python 3.13
            raise self._wrong(
                name, f"has location {location!r}, a link that leads to itself"
            ) from error
        if not any(file.is_relative_to(folder) for folder in folders):
            raise self._wrong(name, f"has location {location!r}, which leads out of its folder")
        if not file.is_file():
            raise self._wrong(name, f"has location {location!r}, which is no file")
        if file.stat().st_nlink > 1:
            raise self._wrong(
                name, f"lies in {location!r}, which has other names (hard links); copy it"
            )
        return file

    def _wrong(self, name: str, what: str) -> ModelError:
        return ModelError(f"{self.model}: the external data of tensor {name} {what}")


def all_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor stored in a model: in attributes, bodies, functions, sparse ones too."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_attributes(function.attribute_proto)
        for node in function.node:
            yield from _of_attributes(node.attribute)
    for training in model.training_info:
        yield from _of_graph(training.initialization)
        yield from _of_graph(training.algorithm)


def _of_graph(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _of_attributes(node.attribute)


def _of_attributes(attributes: Iterable[onnx.AttributeProto]) -> Iterator[TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        for sparse in attribute.sparse_tensors:
            yield from (sparse.values, sparse.indices)
        if attribute.HasField("g"):
            yield from _of_graph(attribute.g)
        for graph in attribute.graphs:
            yield from _of_graph(graph)


def check_regions(model: Path, regions: Sequence[tuple[str, Region]]) -> set[Path]:
    """Return the data files of a model, once its tensors are known to share them sensibly.

    Several tensors may be one region, as tied weights are. Regions that overlap otherwise, or one
    region many times, are no exporter's work: a small file would become a huge model.

    Parameters
    ----------
    model
        The model's file.
    regions
        Name of each external tensor, and where it lies.

    Raises
    ------
    ModelError
        When they overlap, or are more than `SHARED` times what the files hold.
    """
    end: dict[Path, tuple[int, str]] = {}
    ordered = sorted(regions, key=lambda item: (item[1].offset, item[1].length))
    checked: set[Region] = set()
    for name, region in ordered:
        last, other = end.get(region.file, (0, ""))
        if region.length and region not in checked and region.offset < last:
            raise ModelError(
                f"{model}: the external data of tensor {name} overlaps that of tensor {other}"
            )
        checked.add(region)
        end[region.file] = max((last, other), (region.offset + region.length, name))
    held = sum(file.stat().st_size for file in end)
    taken = sum(region.length for _, region in regions)
    if taken > SHARED * held:
        raise ModelError(
            f"{model}: its tensors take {taken} bytes of external data, but the files hold {held}"
        )
    return set(end)
