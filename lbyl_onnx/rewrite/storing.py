"""Put new constants where the model stores them: in their stored type, once for all readers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from onnx import helper

from lbyl_onnx.graph.model_graph import Graph, Node
from lbyl_onnx.graph.sharing import Axes, Sharing, Use
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.io.lazy_array import Deferred, Value, identity, load
from lbyl_onnx.rewrite.weights import Edits, narrowed
from lbyl_onnx.types import Array

Shapes = Mapping[str, tuple[int | None, ...]]
# Sums of one weight in two layouts are the same but for rounding: so many units in the last place.
_ROUNDING = 16


def as_stored(graph: Graph, tensor_info: TensorInfo, sharing: Sharing, edits: Edits) -> Edits:
    """Round each new constant to the type that it is stored in, in the type that it is read in.

    Raises
    ------
    CompensationError
        When a value overflows the type that it is stored in.
    """
    operands = dict(edits.operands)
    for key, value in edits.operands.items():
        use = sharing.uses.get(key)
        if use is None or not sharing.rewritten(use.base, tensor_info):
            continue
        dtype = _stored_type(tensor_info, use.base)
        if dtype != value.dtype:
            function = partial(_rounded, dtype, graph.nodes[use.node])
            operands[key] = _mapped(value, function, value.shape, value.dtype, f"as {dtype}")
    return replace(edits, operands=operands)


def stored(tensor_info: TensorInfo, sharing: Sharing, edits: Edits) -> tuple[Edits, Shapes]:
    """Move edits from where constants are read to where they are stored.

    A constant that only some readers see changed, or some otherwise, is left where it is read:
    these readers then get one of their own.

    Parameters
    ----------
    tensor_info, sharing
        The original's constants, and who reads them.
    edits
        New constants by reader.

    Returns
    -------
    edits
        New constants by reader of what is stored, and new targets of a Reshape between.
    shapes
        Of the constants between that have shrunk.
    """
    operands = dict(edits.operands)
    shapes: dict[str, tuple[int | None, ...]] = {}
    touched = [use for use in map(sharing.uses.get, edits.operands) if use is not None]
    for base in dict.fromkeys(use.base for use in touched):
        uses = sharing.readers[base]
        keys = [(use.node, use.operand) for use in uses]
        if not sharing.rewritten(base, tensor_info) or any(
            key not in edits.operands for key in keys
        ):
            continue
        values = [_to_base(tensor_info, use, edits.operands[use.node, use.operand]) for use in uses]
        if not all(_alike(values[0], value) for value in values[1:]):
            continue
        for use, key in zip(uses, keys, strict=True):
            if not use.path:
                operands[key] = values[0]
                continue
            del operands[key]
            operands[use.path[0].node, 0] = values[0]
            for step in use.path:
                shape = tuple(1 if a is None else values[0].shape[a] for a in step.axes)
                if shape == tensor_info.shape(step.tensor):
                    continue
                shapes[step.tensor] = shape
                if step.sized:
                    operands[step.node, 1] = np.asarray(shape, np.int64)
    return replace(edits, operands=operands), shapes


def _stored_type(tensor_info: TensorInfo, base: str) -> np.dtype[np.generic]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(tensor_info.dtype(base)))


def _rounded(dtype: np.dtype[np.generic], node: Node, value: Array) -> Array:
    return narrowed(value, dtype, node).astype(value.dtype)


def _to_base(tensor_info: TensorInfo, use: Use, value: Value) -> Value:
    """What the base becomes when a reader is to see a value."""
    shape = [1] * len(tensor_info.shape(use.base) or ())
    for length, axis in zip(value.shape, use.axes, strict=True):
        if axis is not None:
            shape[axis] = length
    dtype = _stored_type(tensor_info, use.base)
    function = partial(_laid_out, use.axes, shape, dtype)
    return _mapped(value, function, tuple(shape), dtype, f"{use.axes} {shape} {dtype}")


def _laid_out(axes: Axes, shape: Sequence[int], dtype: np.dtype[np.generic], value: Array) -> Array:
    order = sorted(range(value.ndim), key=lambda a: (axes[a] is None, axes[a] or 0))
    return np.ascontiguousarray(value.transpose(order)).reshape(shape).astype(dtype)


def _mapped(
    value: Value,
    function: partial[Array],
    shape: tuple[int, ...],
    dtype: np.dtype[np.generic],
    what: str,
) -> Value:
    """Apply a function to a value, later where the value comes later; `what` names its kind."""
    if not isinstance(value, Deferred):
        return np.asarray(function(value))
    key = hashlib.sha256(f"{identity(value)} {what}".encode()).hexdigest()
    return Deferred(shape, dtype, partial(_computed, function, value), key)


def _computed(function: partial[Array], value: Value) -> Array:
    return np.asarray(function(load(value)))


def _alike(one: Value, two: Value) -> bool:
    if one.shape != two.shape:
        return False
    if identity(one) == identity(two):
        return True
    first, second = (load(x).astype(np.float64) for x in (one, two))
    largest = float(np.max(np.abs(first), initial=0.0))
    eps = {2: 2.0**-7, 4: 2.0**-23}.get(one.dtype.itemsize, 2.0**-52)
    return bool(np.max(np.abs(first - second), initial=0.0) <= _ROUNDING * eps * largest)
