"""Moments of tensors, worked out sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from lbyl_onnx.graph.layers.linear_layer import Window
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.observe.spec import MomentSpec
from lbyl_onnx.types import Array
from tests.support.oracle import input_shapes

Floats = NDArray[np.float64]


# Sums of some thousand float32 products, in another order: relative to the largest value.
TOLERANCE = 2e-5


@dataclass(frozen=True)
class Moments:
    """Means, second moments and the number of rows, as the instrumented model gives them."""

    mean: Floats
    moment: Floats
    rows: int


def tensor_facts(model: ModelProto) -> TensorInfo:
    return TensorInfo(model, input_shapes(model, 1, 8), input_shapes(model, 2, 11))


def feeds_of(
    model: ModelProto, count: int = 6, size: int = 8, mean: float = 0.5
) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    types = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
    return {
        name: (rng.standard_normal(shape) + mean).astype(
            helper.tensor_dtype_to_np_dtype(types[name])
        )
        for name, shape in input_shapes(model, count, size).items()
    }


def rows_of(x: Array, view: MomentSpec) -> Floats:
    """(rows, columns) of a view, with plain indexing."""
    values: Floats = x.astype(np.float64)
    if view.window is not None:
        return unfolded(values[:, view.positions[:, 0]], view.window, view.strides)
    last = np.moveaxis(values, view.axis, -1)
    if view.axis == 1 and view.rank > 2:
        plane = [slice(None, None, s) for s in view.strides or (1,) * (view.rank - 2)]
        rows = last[(slice(None), *plane)].reshape(-1, last.shape[-1])  # -> (rows, C)
    else:
        rows = last.reshape(-1, last.shape[-1])[:: max(view.strides, default=1)]  # -> (rows, C)
    picked = rows[:, view.positions]  # (rows, n, places)
    if view.joint:
        return np.asarray(picked.reshape(len(rows), -1))
    return np.moveaxis(picked, 2, 1).reshape(-1, len(view.positions))  # -> (rows * places, n)


def unfolded(x: Floats, window: Window, strides: Sequence[int]) -> Floats:
    """What a window sees at each place: a slice of the padded input for each tap."""
    rank = len(window.kernel)
    pads = [(window.pads[i], window.pads[i + rank]) for i in range(rank)]
    x = np.pad(x, [(0, 0), (0, 0), *pads])
    columns: list[Floats] = []
    for tap_ in product(*(range(k) for k in window.kernel)):
        slices = []
        for axis, t in enumerate(tap_):
            step, dilation = (
                window.strides[axis] * (*strides, 1, 1, 1)[axis],
                window.dilations[axis],
            )
            span = dilation * (window.kernel[axis] - 1) + 1
            places = (x.shape[2 + axis] - span) // step + 1
            slices.append(slice(t * dilation, t * dilation + step * (places - 1) + 1, step))
        columns.append(x[(slice(None), slice(None), *slices)])
    stacked: Floats = np.stack(columns, axis=2)  # (N, n, taps, ..)
    n, taps = stacked.shape[1:3]
    rows = np.moveaxis(stacked.reshape(len(x), n * taps, -1), 1, 2)  # -> (N, places, n * taps)
    return rows.reshape(-1, n * taps)


def expected(x: Array, view: MomentSpec) -> Moments:
    """The centred sums, or the variances where only these are wanted."""
    rows = rows_of(x, view)
    centred = rows - rows.mean(axis=0)
    moment = centred.T @ centred if view.cross else np.mean(centred**2, axis=0)
    return Moments(rows.mean(axis=0), moment, len(rows))


def assert_close(actual: Floats, reference: Floats, tolerance: float = TOLERANCE) -> None:
    assert actual.shape == reference.shape
    assert np.max(np.abs(actual - reference)) <= tolerance * max(np.max(np.abs(reference)), 1e-30)
