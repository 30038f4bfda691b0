"""Write a model without a second copy of its weights, one initializer at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray

from lbyl_onnx.errors import OutputError
from lbyl_onnx.io.atomic import data_name
from lbyl_onnx.io.external_data import is_external, tensor_bytes
from lbyl_onnx.io.lazy_array import Deferred, Value, load
from lbyl_onnx.option_types import ExternalData

Reader = Callable[[onnx.TensorProto], NDArray[np.generic]]
# One protobuf message holds at most 2 GiB.
LARGEST_MESSAGE = 2**31 - 1
# Tensors of fewer bytes stay in the model's own file; others begin at a page, to be mapped.
SMALLEST_EXTERNAL, PAGE = 1024, 4096


@dataclass(frozen=True, eq=False)
class ModelDraft:
    """A model that is ready to be written, without a second copy of its weights.

    Parameters
    ----------
    skeleton
        The model but for its initializers.
    initializers
        These, in order: a message of the original, or a new array under a name.
    """

    skeleton: onnx.ModelProto
    initializers: tuple[Initializer, ...]

    @staticmethod
    def of(model: onnx.ModelProto) -> ModelDraft:
        """Return a model as it is; what it is made of is shared."""
        return ModelDraft(model, tuple(model.graph.initializer))

    @property
    def inline_size(self) -> int:
        """Bytes of the model as one message."""
        inner = sum(_inline_size(t) for t in self.initializers)
        return inner + int(self.skeleton.ByteSize())


@dataclass(frozen=True, eq=False)
class NamedArray:
    """A new initializer: name and value, and the message it replaces, if any."""

    name: str
    value: Value
    before: onnx.TensorProto | None = None

    @property
    def was_external(self) -> bool:
        """Whether what it replaces lay in a data file."""
        return self.before is not None and is_external(self.before)


@dataclass(frozen=True, eq=False)
class _Reference:
    """An initializer that lies in the new data file."""

    message: onnx.TensorProto

    @property
    def name(self) -> str:
        """Its name."""
        return self.message.name


Initializer = onnx.TensorProto | NamedArray | _Reference


def write_message(model: onnx.ModelProto, path: Path) -> None:
    """Write a model in one piece, the same bytes for the same model.

    Raises
    ------
    OutputError
        When the disk refuses it.
    """
    with _explained(path), path.open("wb") as file:
        file.write(model.SerializeToString(deterministic=True))


def write_draft(
    draft: ModelDraft, path: Path, read: Reader, external: ExternalData, most: int = LARGEST_MESSAGE
) -> None:
    """Write a draft, the same bytes for the same draft.

    Parameters
    ----------
    draft
        The model.
    path
        Its file. Its data file, if it gets one, lies beside it: `out.onnx_data` for `out.onnx`.
    read
        Reads the original's tensors.
    external
        Whether weights go to a data file; `auto`: as they were, or where one message cannot hold
        them.
    most
        Bytes of one message.

    Raises
    ------
    OutputError
        When it is larger than one message may be, or the disk refuses it.
    """
    was = any(
        t.was_external if isinstance(t, NamedArray) else is_external(t)
        for t in draft.initializers
        if not isinstance(t, _Reference)
    )
    too_large = draft.inline_size > most
    if external == "never" and too_large:
        raise OutputError(
            f"{path.name} is larger than 2 GiB, the most one file can hold; "
            "give --external-data auto or always"
        )
    with _explained(path):
        if external == "always" or (external == "auto" and (was or too_large)):
            draft = _write_data(draft, path, read)
        with path.open("wb") as file:
            _write_draft(draft, file, read)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path.name} cannot be written: {error.strerror or error}") from error


def _write_data(draft: ModelDraft, path: Path, read: Reader) -> ModelDraft:
    """Write the large tensors to a data file; return the draft that refers to it."""
    staged = path.with_name(f"{path.name}.data")
    offsets: dict[int, int] = {}
    references: dict[int, Callable[[str, int], _Reference]] = {}
    with staged.open("wb") as file:
        for index, tensor in enumerate(draft.initializers):
            value = _value(tensor, read)
            if value is None or isinstance(tensor, _Reference) or value.nbytes < SMALLEST_EXTERNAL:
                continue
            references[index] = partial(_reference, tensor, value.shape, value.dtype)
            gap = bytes(-file.tell() % PAGE)
            offsets[index] = file.tell() + len(gap)
            content = np.ascontiguousarray(value).reshape(-1).view(np.uint8)  # -> (bytes,)
            file.write(gap)
            file.write(content.data)
    # A model that was written here before may still be read: its data file is another one.
    name = data_name(path.name)
    staged.replace(path.with_name(name))
    tensors = list(draft.initializers)
    for index, offset in offsets.items():
        tensors[index] = references[index](name, offset)
    return ModelDraft(draft.skeleton, tuple(tensors))


def _value(tensor: Initializer, read: Reader) -> NDArray[np.generic] | None:
    """A tensor's values where they are whole bytes in memory; None for strings and packed ones."""
    if isinstance(tensor, NamedArray):
        return load(tensor.value)
    if isinstance(tensor, _Reference):
        return None
    value = read(tensor)
    packed = value.dtype == object or value.dtype.name.startswith(("int4", "uint4", "float4"))
    return None if packed or value.dtype.name.startswith(("int2", "uint2")) else value


def _reference(
    tensor: onnx.TensorProto | NamedArray,
    shape: tuple[int, ...],
    dtype: np.dtype[np.generic],
    name: str,
    offset: int,
) -> _Reference:
    """An initializer without its values, which lie in a data file."""
    message = _header(tensor, shape, dtype)
    message.data_location = onnx.TensorProto.EXTERNAL
    length = math.prod(shape) * dtype.itemsize
    entries = {"location": name, "offset": str(offset), "length": str(length)}
    for key, text in entries.items():
        message.external_data.add(key=key, value=text)
    return _Reference(message)


def _header(
    tensor: onnx.TensorProto | NamedArray, shape: tuple[int, ...], dtype: np.dtype[np.generic]
) -> onnx.TensorProto:
    """An initializer's message without its values."""
    message = onnx.TensorProto(name=tensor.name, dims=shape)
    message.data_type = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    before = tensor if isinstance(tensor, onnx.TensorProto) else tensor.before
    if before is not None:
        message.doc_string = before.doc_string
        message.metadata_props.extend(before.metadata_props)
    return message


def _inline_size(tensor: Initializer) -> int:
    if isinstance(tensor, NamedArray):
        return tensor.value.nbytes
    message = tensor.message if isinstance(tensor, _Reference) else tensor
    if not is_external(message):
        return int(message.ByteSize())
    return tensor_bytes(message)


def _write_draft(draft: ModelDraft, file: BinaryIO, read: Reader) -> None:
    """Write the message that a whole ModelProto would give, one initializer at a time."""
    model, graph = _FIELDS["ModelProto"], _FIELDS["GraphProto"]
    before, after = _split(draft.skeleton, model["graph"])
    head, tail = _split(draft.skeleton.graph, graph["initializer"])
    sizes = [_message_size(tensor, read) for tensor in draft.initializers]
    prefixes = [_length_prefix(graph["initializer"], size) for size in sizes]
    inner = len(head) + len(tail) + sum(sizes) + sum(len(prefix) for prefix in prefixes)
    file.write(before + _length_prefix(model["graph"], inner) + head)
    for prefix, tensor in zip(prefixes, draft.initializers, strict=True):
        file.write(prefix)
        file.write(_message(tensor, read).SerializeToString(deterministic=True))
    file.write(tail + after)


_RAW_DATA = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
_FIELDS = {
    kind.DESCRIPTOR.name: {field.name: field.number for field in kind.DESCRIPTOR.fields}
    for kind in (onnx.ModelProto, onnx.GraphProto)
}


def _message(tensor: Initializer, read: Reader) -> onnx.TensorProto:
    """The message that goes into the model's file."""
    if isinstance(tensor, _Reference):
        return tensor.message
    if isinstance(tensor, onnx.TensorProto):
        if not is_external(tensor):
            return tensor
        value = read(tensor)
    else:
        value = load(tensor.value)
    message = _header(tensor, value.shape, value.dtype)
    message.raw_data = onnx.numpy_helper.from_array(value).raw_data
    return message


def _message_size(tensor: Initializer, read: Reader) -> int:
    """Size of that message, without computing what was deferred, or copying what need not be."""
    whole_bytes = isinstance(tensor, NamedArray) and (
        isinstance(tensor.value, Deferred) or (tensor.value.dtype.kind == "f" and tensor.value.size)
    )
    if not isinstance(tensor, NamedArray) or not whole_bytes:
        return int(_message(tensor, read).ByteSize())
    header = _header(tensor, tensor.value.shape, tensor.value.dtype)
    length = tensor.value.nbytes
    return int(header.ByteSize()) + len(_length_prefix(_RAW_DATA, length)) + length


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


def without_fields(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """Return a copy of a model without these fields of its graph, which may be large."""
    result = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            copy_field(result, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name not in names:
            copy_field(result.graph, field.name, value)
    return result


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
