"""Apply a plan to a model, in two steps that can be checked one against the other.

`compensated` gives each consumer its new weight in the old shape, with zeros where it read the
removed channels. `shrunk` then drops the removed indices everywhere, which must not change what
the model computes. Verification runs both models and compares.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from lbyl_onnx.channels import ChannelGroup, ChannelMap, Placement, node_name
from lbyl_onnx.compensate import Delivery
from lbyl_onnx.errors import CompensationError
from lbyl_onnx.facts import Array, Deferred, GraphFacts, Value, identity, load
from lbyl_onnx.labels import Labels, Role, Slot
from lbyl_onnx.rules import Sizes

Floats = NDArray[np.float64]
# Weights of more bytes are computed when they are written, and not kept.
DEFERRED = 16 << 20
# Columns of a weight that are in float64 at a time.
BLOCK = 4096
Operand = tuple[int, int]  # index of a node, index of one of its inputs


@dataclass(frozen=True)
class Fit:
    """One consumer of one group, with what it is given in place of the removed channels."""

    group: ChannelGroup
    consumer: Placement
    delivery: Delivery


@dataclass(frozen=True, eq=False)
class Repair:
    """Scale and shift, each (out,), that bring a consumer's output back to where it was."""

    gain: Floats
    shift: Floats


Repairs = Mapping[int, Repair]
"""By the index of the consumer's node."""


@dataclass(frozen=True)
class Edits:
    """What changes in a graph.

    Parameters
    ----------
    operands
        New constants for inputs of nodes.
    added
        Constants to add to a node's output, channels on axis 0, where it has no bias to take them.
    attributes
        New attributes, by node and name; None takes one away.
    """

    operands: Mapping[Operand, Value]
    added: Mapping[int, Array]
    attributes: Mapping[tuple[int, str], list[int] | int | None]


def compensated(graph: gs.Graph, facts: GraphFacts, fits: Sequence[Fit], repairs: Repairs) -> Edits:
    """Fold each delivery into its consumer, in the shapes of the original model.

    With a ~ S a_K + c, a consumer with weight V becomes V S on the kept channels, 0 on the
    removed ones, and its bias grows by the sum over taps of V c. A repair then scales and shifts
    its output.

    Parameters
    ----------
    graph, facts
        The original graph and its constants.
    fits
        The deliveries; several may meet in one consumer, each on channels of its own.
    repairs
        What the outputs of some of these consumers are scaled and shifted by.

    Returns
    -------
    Edits
        Float64 sums, stored in each weight's own type.

    Raises
    ------
    CompensationError
        When a value overflows the type that the weight is stored in.
    """
    by_weight: dict[Operand, list[Fit]] = defaultdict(list)
    for fit in fits:
        by_weight[fit.consumer.slot.node, fit.consumer.slot.operand].append(fit)
    operands: dict[Operand, Value] = {}
    added: dict[int, Array] = {}
    for (index, operand), here in by_weight.items():
        node = graph.nodes[index]
        name = node.inputs[operand].name
        stored = facts.value(name)
        outputs = np.moveaxis(stored, here[0].consumer.slot.axis, 0).shape[1]
        repair = repairs.get(index, Repair(np.ones(outputs), np.zeros(outputs)))
        if stored.nbytes > DEFERRED:
            compute = partial(_deliver_stored, facts, name, here, repair.gain, node)
            key = _identity(name, here, repair.gain)
            operands[index, operand] = Deferred(stored.shape, stored.dtype, compute, key)
        else:
            operands[index, operand] = _deliver(stored, here, repair.gain, node)
        growth = Repair(repair.gain, repair.gain * _shift(stored, here, node) + repair.shift)
        if np.any(growth.shift) or np.any(growth.gain != 1.0):
            _move_bias(facts, node, index, growth, stored.dtype, operands, added)
    return Edits(operands, added, {})


def _identity(name: str, fits: Sequence[Fit], gain: Floats) -> str:
    digest = hashlib.sha256(name.encode() + gain.tobytes())
    for fit in fits:
        digest.update(fit.consumer.positions.tobytes() + fit.delivery.kept.tobytes())
        for row in fit.delivery.rows:  # rows of zeros may share their memory
            digest.update(row.tobytes())
    return digest.hexdigest()


def _deliver_stored(
    facts: GraphFacts, name: str, fits: Sequence[Fit], gain: Floats, node: gs.Node
) -> Array:
    return _deliver(facts.value(name), fits, gain, node)


def _deliver(stored: Array, fits: Sequence[Fit], gain: Floats, node: gs.Node) -> Array:
    """New weight, in stored's shape and type.

    The sums are taken in float64, in blocks of columns: no second copy of the weight is held.
    """
    axis = fits[0].consumer.slot.axis
    weight = np.array(np.moveaxis(stored, axis, 0), order="C")  # -> (in, out, ..)
    for fit in fits:
        positions, delivery = fit.consumer.positions, fit.delivery
        kept, removed = positions[delivery.kept], positions[delivery.removed]
        if np.any(delivery.rows):
            values, lost = _by_tap(weight[kept], delivery), _by_tap(weight[removed], delivery)
            for start in range(0, values.shape[1], BLOCK):
                block = slice(start, start + BLOCK)
                grown = delivery.rows.T @ lost[:, block].astype(np.float64)
                grown += values[:, block].astype(np.float64)
                values[:, block] = _store(grown, stored.dtype, node)
            weight[kept] = _from_taps(values, weight[kept].shape, delivery)
        weight[removed] = 0
    if np.any(gain != 1.0):
        per_output = gain.reshape(1, -1, *(1,) * (weight.ndim - 2))  # (out,) -> (1, out, 1, ..)
        for start in range(0, len(weight), BLOCK):
            rows = slice(start, start + BLOCK)
            weight[rows] = _store(weight[rows].astype(np.float64) * per_output, stored.dtype, node)
    return np.moveaxis(weight, 0, axis)


def _by_tap(rows: Array, delivery: Delivery) -> Array:
    """Rows of a weight, (n, places, out, ..), as (n * taps, columns): what is delivered alike."""
    n, places, out = rows.shape[:3]
    if delivery.taps == 1:
        return rows.reshape(n, -1)  # -> (n, places * out * window)
    window = rows.reshape(n, places, out, -1)
    return np.moveaxis(window, 2, 3).reshape(-1, out)  # -> (n * places * window, out)


def _from_taps(values: Array, shape: tuple[int, ...], delivery: Delivery) -> Array:
    """Undo `_by_tap`."""
    if delivery.taps == 1:
        return values.reshape(shape)
    n, places, out = shape[:3]
    window = values.reshape(n, places, -1, out)  # (n * taps, out) -> (n, places, window, out)
    return np.moveaxis(window, 3, 2).reshape(shape)


def _shift(stored: Array, fits: Sequence[Fit], node: gs.Node) -> Floats:
    """Growth of the output, shape (out channels,): the sum over taps of the weight times shifts."""
    weight = np.moveaxis(stored, fits[0].consumer.slot.axis, 0)  # -> (in, out, ..)
    out = weight.shape[1]
    shift = np.zeros(out)
    for fit in fits:
        delivery = fit.delivery
        if not np.any(delivery.shift):
            continue
        rows = weight[fit.consumer.positions[delivery.removed]]
        sums = delivery.shift @ _by_tap(rows, delivery).astype(np.float64)
        if delivery.taps == 1:
            places = rows.shape[1]
            sums = sums.reshape(places, out, -1).sum(
                axis=(0, 2)
            )  # (places * out * window,) -> (out,)
        shift += sums
    return shift * (float(node.attrs.get("alpha", 1.0)) if node.op == "Gemm" else 1.0)


def _store(value: Floats, dtype: np.dtype[np.generic], node: gs.Node) -> Array:
    with np.errstate(over="ignore"):
        stored = value.astype(dtype)
    if not np.all(np.isfinite(stored)):
        raise CompensationError(
            f"the compensated weight of {node_name(node)} overflows {dtype}; "
            f"exclude the layer before it with --exclude, or prune less with --ratio"
        )
    return stored


def _move_bias(
    facts: GraphFacts,
    node: gs.Node,
    index: int,
    growth: Repair,
    dtype: np.dtype[np.generic],
    operands: dict[Operand, Value],
    added: dict[int, Array],
) -> None:
    """Scale and shift what a node adds: its bias where it can take it, else by an Add behind it."""
    shift = growth.shift
    bias = own_bias(facts, node, shift.size, dtype)
    if bias is None:
        if np.any(shift):
            spatial = len(facts.value(node.inputs[1].name).shape) - 2  # 0 for a matrix
            per_channel = shift.reshape(-1, *(1,) * spatial)  # (N,) -> (N, 1, ..)
            added[index] = _store(per_channel, dtype, node)
        return
    beta = float(node.attrs.get("beta", 1.0)) if node.op == "Gemm" else 1.0
    shape = bias.shape if bias.size == shift.size else shift.shape
    moved = growth.gain * bias.astype(np.float64).reshape(-1) + shift / beta  # (1, N) -> (N,)
    operands[index, 2] = _store(moved.reshape(shape), bias.dtype, node)


def own_bias(
    facts: GraphFacts, node: gs.Node, outputs: int, dtype: np.dtype[np.generic]
) -> Array | None:
    """Return a node's bias, zeros where it could have one; None where it takes no constant one."""
    if node.op not in ("Conv", "ConvTranspose", "Gemm"):
        return None
    if node.op == "Gemm" and float(node.attrs.get("beta", 1.0)) == 0.0:
        return None
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return np.zeros(outputs, dtype)
    name = node.inputs[2].name
    if not facts.is_constant(name) or facts.value(name).size not in (1, outputs):
        return None
    bias = facts.value(name)
    # A Gemm's bias of shape (M, 1) has one value for each row, even where M is N.
    return bias if bias.size == 1 or bias.shape[-1] == bias.size else None


def shrunk(
    graph: gs.Graph, facts: GraphFacts, channels: ChannelMap, edits: Edits, removed: Labels
) -> Edits:
    """Drop the removed channels from every constant that carries them.

    Parameters
    ----------
    graph, facts, channels
        The original graph, its constants, and where its channels lie.
    edits
        The compensated constants, in the original's shapes.
    removed
        Roots of the removed channels.

    Returns
    -------
    Edits
        All constants that change.
    """
    alive = ~np.isin(channels.roots, removed)
    outputs = {s.node: s for s in channels.slots if s.role is Role.PRODUCER}
    operands = _cut(graph, facts, channels, edits, alive)
    attributes: dict[tuple[int, str], list[int] | int | None] = {}
    for sizes in channels.sizes:
        also = [] if sizes.also is None else [sizes.also]
        if all(np.all(alive[x]) for x in (*sizes.counted, *also)):
            continue
        numbers = _count(sizes, alive)
        if isinstance(sizes.place, str):
            attributes[sizes.node, sizes.place] = numbers[0] if sizes.scalar else numbers
        else:
            operands[sizes.node, sizes.place] = _like(graph, facts, sizes, numbers)
        if sizes.replaces in graph.nodes[sizes.node].attrs:
            attributes[sizes.node, str(sizes.replaces)] = None
    added = dict(edits.added)
    for index in added.keys() & outputs.keys():
        added[index] = np.compress(alive[outputs[index].labels], added[index], axis=0)
    operands |= _pinned(graph, facts, channels, alive, operands)
    return Edits(operands, added, attributes)


def _cut(
    graph: gs.Graph,
    facts: GraphFacts,
    channels: ChannelMap,
    edits: Edits,
    alive: NDArray[np.bool_],
) -> dict[Operand, Value]:
    """Drop the dead indices of every constant along which channels lie."""
    slots: dict[Operand, list[Slot]] = defaultdict(list)
    outputs: dict[int, Slot] = {}
    for slot in channels.slots:
        slots[slot.node, slot.operand].append(slot)
        if slot.role is Role.PRODUCER:
            outputs[slot.node] = slot
    operands: dict[Operand, Value] = {}
    for key in sorted(slots.keys() | edits.operands.keys()):
        touched = [s for s in slots[key] if not np.all(alive[s.labels])]
        if not slots[key] and key[0] in outputs:
            # A bias that compensation has added lies along the node's output channels.
            touched = [replace(outputs[key[0]], operand=key[1], axis=0)]
        if not touched and key not in edits.operands:
            continue
        value = edits.operands.get(key)
        if value is None:
            value = _stored(facts, graph.nodes[key[0]].inputs[key[1]].name)
        for slot in touched:
            value = _without(value, alive[slot.labels], slot.axis)
        operands[key] = value
    return operands


def _stored(facts: GraphFacts, name: str) -> Value:
    value = facts.value(name)
    if value.nbytes <= DEFERRED:
        return value
    return Deferred(value.shape, value.dtype, partial(facts.value, name), name)


def _without(value: Value, stays: NDArray[np.bool_], axis: int) -> Value:
    """Drop positions along one axis."""
    if not isinstance(value, Deferred):
        return np.compress(stays, value, axis=axis)
    shape = list(value.shape)
    shape[axis] = int(stays.sum())
    key = hashlib.sha256(f"{identity(value)} {axis} ".encode() + stays.tobytes()).hexdigest()
    compute = partial(_compressed, value, stays, axis)
    return Deferred(tuple(shape), value.dtype, compute, key)


def _compressed(value: Value, stays: NDArray[np.bool_], axis: int) -> Array:
    return np.compress(stays, load(value), axis=axis)


def new_shape(labels: Labels, alive: NDArray[np.bool_]) -> tuple[int, ...]:
    """Return the shape of a label array once its dead positions are dropped."""
    left = alive[labels]
    return tuple(int(left.sum(axis=axis).max()) for axis in range(left.ndim))


def _count(sizes: Sizes, alive: NDArray[np.bool_]) -> list[int]:
    """Return the numbers once the removed channels are gone."""
    numbers = [x if isinstance(x, int) else int(alive[x].sum()) for x in sizes.elements]
    if sizes.of is None:
        return numbers
    return [n for n, stays in zip(numbers, alive[sizes.of], strict=True) if stays]


def _like(graph: gs.Graph, facts: GraphFacts, sizes: Sizes, numbers: list[int]) -> Array:
    """Numbers in the type of the input that they replace."""
    inputs, place = graph.nodes[sizes.node].inputs, int(sizes.place)
    name = inputs[place].name if place < len(inputs) else ""
    known = facts.value_at_both(name) if name else None
    return np.asarray(numbers, np.int64 if known is None else known[0].dtype)


def _pinned(
    graph: gs.Graph,
    facts: GraphFacts,
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
    derived: set[str] = set()
    pinned: dict[Operand, Array] = {}
    for index, node in enumerate(graph.nodes):
        names = [tensor.name for tensor in node.inputs]
        outputs = [tensor.name for tensor in node.outputs if tensor.name]
        reads_shape = node.op in ("Shape", "Size") and names[0] in shrinking
        if reads_shape or not derived.isdisjoint(names):
            # Known, not only constant: [N, C, H, W] depends on N, what is taken of it may not.
            derived.update(n for n in outputs if facts.is_known(n))
        if all(facts.is_constant(name) for name in outputs):
            continue
        for operand, name in enumerate(names):
            if name in derived and facts.is_constant(name) and (index, operand) not in operands:
                pinned[index, operand] = facts.value(name)
    return pinned
