"""Attention as one node: its channels dim by dim within heads, or whole heads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lbyl_onnx.channels.labels import Labels, Role, varying_axes
from lbyl_onnx.channels.rules.view import (
    KeptAttribute,
    KeptAxis,
    NodeView,
    Product,
    ShapeParameter,
)


def attention(view: NodeView) -> list[Labels | None]:
    """Attention: queries meet keys channel by channel; the values' channels pass, per head.

    Each is (N, heads, T, d), or (N, T, heads * d) with the numbers of heads as attributes.
    """
    queries, keys, values = view.labels[:3]
    for operand, labels in enumerate(view.labels):
        if operand > 2:
            view.freeze(labels, "Attention reads them as a mask, or as what it keeps")
    if any(view.has(i) for i in (4, 5)) or len([o for o in view.node.outputs if o.name]) > 1:
        return view.freeze_inputs("Attention keeps them for the next run")
    grids = [None if x is None else _by_head(view, x, i) for i, x in enumerate(view.labels[:3])]
    if any(_are_whole(view, grid) for grid in grids):
        return _whole_heads(view, grids, mask=3)
    first, second, third = grids
    if first is not None and second is not None:
        _meet(view, first, second)
    else:
        for labels in (queries, keys):
            view.freeze(labels, "Attention multiplies them by channels that stay")
    if values is None or third is None:
        view.freeze(values, "Attention mixes them")
        return []
    return [_handed_on(view, third)]


def multi_head_attention(view: NodeView) -> list[Labels | None]:
    """MultiHeadAttention of ONNX Runtime: as Attention, each (N, T, heads * d), with one bias.

    The bias holds that of the queries, that of the keys, that of the values.
    """
    kept = any(view.has(i) for i in range(6, len(view.node.inputs)))
    if kept or len([o for o in view.node.outputs if o.name]) > 1:
        return view.freeze_inputs(f"{view.op_type} keeps them for the next run")
    shapes = [view.shape(i) if view.has(i) else None for i in range(3)]
    if any(shape is None or len(shape) != 3 for shape in shapes):
        return view.freeze_inputs(f"{view.op_type} reads them packed")
    grids = [None if x is None else _by_head(view, x, i) for i, x in enumerate(view.labels[:3])]
    made: list[Labels | None] = []
    if any(_are_whole(view, grid) for grid in grids):
        made = _whole_heads(view, grids, mask=5)
        grids = grids if made else [None] * 3
    elif grids[0] is not None and grids[1] is not None:
        _meet(view, grids[0], grids[1], 3 if view.has(3) else None)
    else:
        grids[:2] = [None, None]
        for labels in view.labels[:2]:
            view.freeze(labels, f"{view.op_type} multiplies them by channels that stay")
    if grids[2] is None:
        view.freeze(view.labels[2], f"{view.op_type} mixes them")
    if view.has(3):
        _follow_bias(view, grids, [shape[2] for shape in shapes if shape is not None])
    return made or [None if grids[2] is None else grids[2].reshape(1, 1, -1)]


def _follow_bias(view: NodeView, grids: Sequence[Labels | None], sizes: Sequence[int]) -> None:
    """Let the one bias of queries, keys and values follow their channels, each (heads, d)."""
    parts = [
        np.zeros(size, np.int64) if grid is None else grid.reshape(-1)
        for size, grid in zip(sizes, grids, strict=True)
    ]
    along = np.concatenate(parts)
    if view.is_constant(3):
        view.binding(3, 0, along, Role.FOLLOWER)
    else:
        view.freeze(along, f"the bias of {view.op_type} is no constant")


def _are_whole(view: NodeView, grid: Labels | None) -> bool:
    """Whether the channels of each head, (heads, d), go together, and heads by themselves."""
    return grid is not None and varying_axes(view.flow.coupling.canonical(grid)) == (0,)


def _whole_heads(view: NodeView, grids: Sequence[Labels | None], mask: int) -> list[Labels | None]:
    """Couple the heads of queries, keys and values, each (heads, d); `mask` is added to scores."""
    queries, keys, values = (
        None if grid is None else view.couple_along(grid, 1)[:, 0] for grid in grids
    )
    if queries is None or keys is None or values is None or grids[2] is None:
        for labels in view.labels[:3]:
            view.freeze(labels, f"{view.op_type} multiplies them by what stays")
        return []
    shared = len(queries) // len(keys)
    view.couple(queries, np.repeat(keys, shared), multiplies=True)
    view.couple(queries, np.repeat(values, shared), multiplies=True)
    shape = view.shape(mask) if view.has(mask) else ()
    if shape is None or (len(shape) > 2 and shape[-3] > 1):
        if shape is None or not view.is_constant(mask):
            view.freeze(queries, f"the mask of {view.op_type} may have heads, and is no constant")
        else:
            view.binding(mask, len(shape) - 3, queries, Role.FOLLOWER)
    for name, heads in (("num_heads", queries), ("q_num_heads", queries), ("kv_num_heads", keys)):
        if name in view.node.attrs:
            view.flow.sizes.append(ShapeParameter(view.index, name, (heads,), scalar=True))
    return [_handed_on(view, grids[2])]


def _handed_on(view: NodeView, values: Labels) -> Labels:
    """Labels of the output, for those of the values, (heads, d), by the heads of the queries."""
    shape = view.shape(0) or ()
    name = "num_heads" if "num_heads" in view.node.attrs else "q_num_heads"
    heads = shape[1] if len(shape) == 4 else view.int_attribute(name, len(values))
    repeated = np.repeat(values, heads // len(values), axis=0)
    if len(shape) == 4:
        return repeated[None, :, None]  # (heads, d) -> (1, heads, 1, d)
    return repeated.reshape(1, 1, -1)  # -> (1, 1, heads * d)


def _by_head(view: NodeView, labels: Labels, operand: int) -> Labels | None:
    """Labels of an input of Attention as (heads, d); None where they lie on other axes."""
    axes = varying_axes(view.flow.coupling.canonical(labels))
    if labels.ndim == 4:
        if axes == (1,):
            return labels[0, :, 0]
        if labels.shape[3] == 1 or any(axis in (0, 2) for axis in axes):
            return None
        for axis in axes[:-1]:
            view.flow.kept_axes.append(KeptAxis(view.index, labels, axis))
        return labels[0, :, 0]
    name = "q_num_heads" if operand == 0 else "kv_num_heads"
    heads = view.int_attribute("num_heads", view.int_attribute(name, 0))
    along = view.along(labels, labels.ndim - 1)
    if along is None or not heads or len(along) % heads:
        return None
    grid: Labels = along.reshape(heads, -1)  # (heads * d,) -> (heads, d)
    view.flow.grids.append(grid)
    return grid


def _meet(view: NodeView, queries: Labels, keys: Labels, bias: int | None = None) -> None:
    """Couple the channels of queries and keys, each (heads, d), head by head."""
    shared = len(queries) // len(keys) if len(queries) > 1 else 1
    met = np.repeat(keys, shared, axis=0)
    view.couple(queries, met, multiplies=True)
    first, second = np.broadcast_arrays(queries, met)
    labels, others = view.labels[:2]
    assert labels is not None
    assert others is not None
    added = None
    if bias is not None:  # of the queries, then of keys and values
        rest = np.zeros((view.shape(bias) or (queries.size,))[0] - queries.size, np.int64)
        added = bias, np.concatenate([queries.reshape(-1), rest])
    view.flow.products.append(Product(view.index, 0, labels, others, (first, second), added))
    if "scale" not in view.node.attrs:
        scale = 1.0 / math.sqrt(queries.shape[1])
        view.flow.kept_attributes.append(KeptAttribute(view.index, "scale", scale, queries))
