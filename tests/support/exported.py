"""Graphs as PyTorch exports them, kept without their weights, which are drawn anew on loading.

`python -m benchmarks.exports` writes the files. A float initializer of more than a few elements
has its shape there, and no data, unless its values repeat: a mask, the angles of an embedding.
"""

from __future__ import annotations

import math
from pathlib import Path
from zlib import crc32

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

FOLDER = Path(__file__).parent / "exports"
# Scalars, scales of Resize and the like mean something.
SMALL = 16
# Values drawn at random are nearly all distinct; those of a table of angles occur twice.
REPEATED = 0.75


def stripped(model: ModelProto) -> ModelProto:
    """Return a copy without weights and without what only tells where it came from."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and _is_drawn(tensor):
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    for node in copy.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for field in ("metadata_props", "value_info", "doc_string"):
        copy.graph.ClearField(field)
    return copy


def _is_drawn(tensor: TensorProto) -> bool:
    size = math.prod(tensor.dims)
    stored = tensor.raw_data or tensor.float_data
    if size <= SMALL or not stored:
        return False
    return bool(np.unique(numpy_helper.to_array(tensor)).size > REPEATED * size)


def filled(model: ModelProto) -> ModelProto:
    """Draw the weights that a file leaves out, seeded by their names; the model is changed.

    Vectors are scales, shifts, means and variances: positive numbers will do for all. Others are
    He-normal, so that a deep network keeps the size of its input.
    """
    for tensor in model.graph.initializer:
        stored = tensor.raw_data or tensor.float_data
        if tensor.data_type != TensorProto.FLOAT or stored or not math.prod(tensor.dims):
            continue
        rng, shape = np.random.default_rng(crc32(tensor.name.encode())), tuple(tensor.dims)
        value = rng.uniform(0.5, 1.5, shape)
        if len(shape) > 1:
            value = rng.normal(0.0, np.sqrt(2.0 / math.prod(shape[1:])), shape)
        tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))
    return model


def load(name: str) -> ModelProto:
    """Load one of the exports."""
    return filled(onnx.load(FOLDER / f"{name}.onnx"))


def names() -> list[str]:
    """Names of the exports."""
    return sorted(path.stem for path in FOLDER.glob("*.onnx"))
