"""Drop the channels that are gone: the second of the two steps that change a model.

The first, `restore.compensated`, gives each consumer its new weight in the old shape, with zeros
where it read the removed channels. `shrunk` then drops the removed indices everywhere, which must
not change what the model computes. Verification runs both models and compares.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.channels.groups import ChannelMap
from lbyl_onnx.channels.labels import AxisBinding, Labels, Role, varying_axes
from lbyl_onnx.channels.rules.view import ShapeParameter
from lbyl_onnx.graph.layers import layout_of, linear_layer
from lbyl_onnx.graph.layers.linear_layer import Layout, Operand
from lbyl_onnx.graph.model_graph import Graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.io.lazy_array import Deferred, Value, identity, load
from lbyl_onnx.rewrite.weights import AttributeValue, Edits
from lbyl_onnx.types import Array


def shrunk(
    graph: Graph,
    tensor_info: TensorInfo,
    channels: ChannelMap,
    edits: Edits,
    removed: Labels,
    held: int,
) -> Edits:
    """Drop the removed channels from every constant that carries them.

    Parameters
    ----------
    graph, tensor_info, channels
        The original graph, its constants, and where its channels lie.
    edits
        The compensated constants, in the original's shapes.
    removed
        Roots of the removed channels.
    held
        Bytes of a constant up to which it is kept; larger ones are computed when they are written.

    Returns
    -------
    Edits
        All constants that change.
    """
    alive = ~np.isin(channels.roots, removed)
    outputs = {s.node: s for s in channels.bindings if s.role is Role.PRODUCER}
    operands = _cut(graph, tensor_info, channels, edits, alive, held)
    attributes: dict[tuple[int, str], AttributeValue] = dict(edits.attributes)
    for sizes in channels.sizes:
        also = [] if sizes.also is None else [sizes.also]
        if all(np.all(alive[x]) for x in (*sizes.counted, *also)):
            continue
        numbers = _count(sizes, alive)
        if isinstance(sizes.place, str):
            attributes[sizes.node, sizes.place] = numbers[0] if sizes.scalar else numbers
        else:
            operands[sizes.node, sizes.place] = _like(graph, tensor_info, sizes, numbers)
        if sizes.replaces in graph.nodes[sizes.node].attrs:
            attributes[sizes.node, str(sizes.replaces)] = None
    for kept in channels.kept_attributes:
        if not np.all(alive[kept.labels]):
            attributes[kept.node, kept.name] = kept.value
    added = dict(edits.added)
    for index in added.keys() & outputs.keys():
        layer = linear_layer(tensor_info, graph.nodes[index])
        axis = 0 if layer is None else layer.spread_axis
        added[index] = np.compress(alive[outputs[index].labels], added[index], axis=axis)
    operands |= _other_parts(tensor_info, channels, operands)
    operands |= _pinned(graph, tensor_info, channels, alive, operands)
    selected = {
        (s.node, s.operand): (s.axis, np.flatnonzero(alive[s.labels]))
        for s in channels.selected
        if not np.all(alive[s.labels])
    }
    return Edits(operands, added, attributes, selected)


def _cut(
    graph: Graph,
    tensor_info: TensorInfo,
    channels: ChannelMap,
    edits: Edits,
    alive: NDArray[np.bool_],
    held: int,
) -> dict[Operand, Value]:
    """Drop the dead indices of every constant along which channels lie."""
    bindings: dict[Operand, list[AxisBinding]] = defaultdict(list)
    outputs: dict[int, AxisBinding] = {}
    for binding in channels.bindings:
        bindings[binding.node, binding.operand].append(binding)
        if binding.role is Role.PRODUCER:
            outputs[binding.node] = binding
    operands: dict[Operand, Value] = {}
    for key in sorted(bindings.keys() | edits.operands.keys()):
        touched = [s for s in bindings[key] if not np.all(alive[s.labels])]
        if not bindings[key] and key[0] in outputs:
            # A bias that compensation has added lies along the node's output channels.
            touched = [replace(outputs[key[0]], operand=key[1], axis=0)]
        if not touched and key not in edits.operands:
            continue
        value = edits.operands.get(key)
        if value is None:
            value = _stored(tensor_info, graph.nodes[key[0]].inputs[key[1]].name, held)
        for binding in touched:
            layout = layout_of(tensor_info, graph.nodes[key[0]], key[1])
            value = _without(value, alive[binding.labels], binding.axis, layout)
        operands[key] = value
    return operands


def _stored(tensor_info: TensorInfo, name: str, held: int) -> Value:
    value = tensor_info.value(name)
    if value.nbytes <= held:
        return value
    return Deferred(value.shape, value.dtype, partial(tensor_info.value, name), name)


def _without(value: Value, stays: NDArray[np.bool_], axis: int, layout: Layout) -> Value:
    """Drop positions along one axis."""
    if not isinstance(value, Deferred):
        return layout.without(value, stays, axis)
    shape = layout.shape_without(value.shape, stays, axis)
    key = hashlib.sha256(f"{identity(value)} {axis} ".encode() + stays.tobytes()).hexdigest()
    compute = partial(_compressed, value, stays, axis, layout)
    return Deferred(shape, value.dtype, compute, key)


def _compressed(value: Value, stays: NDArray[np.bool_], axis: int, layout: Layout) -> Array:
    return layout.without(load(value), stays, axis)


def new_shape(labels: Labels, alive: NDArray[np.bool_]) -> tuple[int, ...]:
    """Return the shape of a label array once its dead positions are dropped.

    Of channels that lie on several axes those along the last go, of each row as many.
    """
    left, axes = alive[labels], varying_axes(labels)
    whole = [left.any(axis=tuple(b for b in range(left.ndim) if b != axis)) for axis in axes[:-1]]
    kept = {axis: int(np.count_nonzero(x)) for axis, x in zip(axes, whole, strict=False)}
    return tuple(kept.get(axis, int(left.sum(axis=axis).max())) for axis in range(left.ndim))


def _count(sizes: ShapeParameter, alive: NDArray[np.bool_]) -> list[int]:
    """Return the numbers once the removed channels are gone."""
    numbers = [x if isinstance(x, int) else _left(x, alive) for x in sizes.elements]
    if sizes.of is None:
        return numbers
    return [n for n, stays in zip(numbers, alive[sizes.of], strict=True) if stays]


def _left(labels: Labels, alive: NDArray[np.bool_]) -> int:
    """Return how many labels are left, (n,); of (rows, n) how many of each row that is there."""
    return int(alive[labels].sum(axis=-1).max(initial=0))


def _like(
    graph: Graph, tensor_info: TensorInfo, sizes: ShapeParameter, numbers: list[int]
) -> Array:
    """Numbers in the type of the input that they replace."""
    inputs, place = graph.nodes[sizes.node].inputs, int(sizes.place)
    name = inputs[place].name if place < len(inputs) else ""
    traced = tensor_info.traced_value(name) if name else None
    return np.asarray(numbers, np.int64 if traced is None else traced[0].dtype)


def _stored_behind(
    tensor_info: TensorInfo, channels: ChannelMap, operands: Mapping[Operand, Value]
) -> set[str]:
    """Names of what is rewritten where it is stored, and of what lies between there and a node."""
    sharing = channels.sharing
    uses = [sharing.uses[key] for key in operands if key in sharing.uses]
    behind = [use for use in uses if sharing.rewritten(use.base, tensor_info)]
    return {n for use in behind for n in (use.base, *(step.tensor for step in use.path))}


def _other_parts(
    tensor_info: TensorInfo, channels: ChannelMap, operands: Mapping[Operand, Value]
) -> dict[Operand, Value]:
    """Store what is left of a constant of which some parts change: the whole of it goes."""
    sharing = channels.sharing
    bases = [sharing.uses[key].base for key in operands if key in sharing.uses]
    whole = {sharing.cut_from[base] for base in bases if base in sharing.cut_from}
    uses = [
        use
        for base, source in sharing.cut_from.items()
        for use in (sharing.readers[base] if source in whole else ())
    ]
    return {
        (use.node, use.operand): tensor_info.value(use.tensor)
        for use in uses
        if (use.node, use.operand) not in operands
    }


def _pinned(
    graph: Graph,
    tensor_info: TensorInfo,
    channels: ChannelMap,
    alive: NDArray[np.bool_],
    operands: Mapping[Operand, Value],
) -> dict[Operand, Array]:
    """Pin the constants that are computed from the shape of something that shrinks.

    They must keep the value that the original model has: an attention scale taken from Shape, or
    a bias that an exporter expands to the shape of a weight.
    """
    # A bias that compensation has added is no input of the original node.
    shrinking = {t.name for i, j in operands for t in graph.nodes[i].inputs[j : j + 1]}
    shrinking |= {n for n, labels in channels.tensors.items() if not np.all(alive[labels])}
    shrinking |= _stored_behind(tensor_info, channels, operands)
    derived: set[str] = set()
    pinned: dict[Operand, Array] = {}
    for index, node in enumerate(graph.nodes):
        names = [tensor.name for tensor in node.inputs]
        outputs = [tensor.name for tensor in node.outputs if tensor.name]
        reads_shape = node.op in ("Shape", "Size") and names[0] in shrinking
        if reads_shape or not derived.isdisjoint(names):
            # Known, not only constant: [N, C, H, W] depends on N, what is taken of it may not.
            derived.update(n for n in outputs if tensor_info.is_known(n))
        if all(tensor_info.is_constant(name) for name in outputs):
            continue
        for operand, name in enumerate(names):
            if (
                name in derived
                and tensor_info.is_constant(name)
                and (index, operand) not in operands
            ):
                pinned[index, operand] = tensor_info.value(name)
    return pinned
