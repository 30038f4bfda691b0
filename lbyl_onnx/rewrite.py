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


def compensated(graph: gs.Graph, facts: GraphFacts, fits: Sequence[Fit]) -> Edits:
    """Fold each delivery into its consumer, in the shapes of the original model.

    With a ~ S a_K + c, a consumer with weight V becomes V S on the kept channels, 0 on the
    removed ones, and its bias grows by the sum over taps of V c.

    Parameters
    ----------
    graph, facts
        The original graph and its constants.
    fits
        The deliveries; several may meet in one consumer, each on channels of its own.

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
        if stored.nbytes > DEFERRED:
            compute = partial(_deliver_stored, facts, name, here, node)
            key = _identity(name, here)
            operands[index, operand] = Deferred(stored.shape, stored.dtype, compute, key)
        else:
            operands[index, operand] = _deliver(stored, here, node)
        shift = _shift(stored, here)
        if np.any(shift):
            _add_shift(facts, node, index, shift, stored.dtype, operands, added)
    return Edits(operands, added, {})


def _identity(name: str, fits: Sequence[Fit]) -> str:
    digest = hashlib.sha256(name.encode())
    for fit in fits:
        digest.update(fit.consumer.positions.tobytes() + fit.delivery.kept.tobytes())
        digest.update(fit.delivery.matrix.tobytes())
    return digest.hexdigest()


def _deliver_stored(facts: GraphFacts, name: str, fits: Sequence[Fit], node: gs.Node) -> Array:
    return _deliver(facts.value(name), fits, node)


def _deliver(stored: Array, fits: Sequence[Fit], node: gs.Node) -> Array:
    """New weight, in stored's shape and type.

    The sums are taken in float64, in blocks of columns: no second copy of the weight is held.
    """
    axis = fits[0].consumer.slot.axis
    weight = np.array(np.moveaxis(stored, axis, 0), order="C")  # -> (in, ..)
    flat = weight.reshape(weight.shape[0], -1)  # a view: (in, out * taps)
    for fit in fits:
        delivery = fit.delivery
        for tap in fit.consumer.positions.T:
            rows = flat[tap]  # a copy: (n, out * taps)
            flat[tap] = 0
            for start in range(0, rows.shape[1], BLOCK):
                block = slice(start, start + BLOCK)
                kept = delivery.matrix.T @ rows[:, block].astype(np.float64)  # (k, block)
                flat[tap[delivery.kept], block] = _store(kept, stored.dtype, node)
    return np.moveaxis(weight, 0, axis)


def _shift(stored: Array, fits: Sequence[Fit]) -> Floats:
    """Growth of the bias, shape (out channels,): the sum over taps of the weight times offsets."""
    weight = np.moveaxis(stored, fits[0].consumer.slot.axis, 0)  # -> (in, out, ..)
    shift = np.zeros(weight.shape[1])
    for fit in fits:
        channels = np.flatnonzero(fit.delivery.offset)
        if channels.size == 0:
            continue
        for tap in fit.consumer.positions[channels].T:
            rows = weight[tap].astype(np.float64)  # (channels, out, ..)
            sums = fit.delivery.offset[channels] @ rows.reshape(len(channels), -1)
            shift += sums.reshape(len(shift), -1).sum(axis=1)  # -> (out, taps) -> (out,)
    return shift


def _store(value: Floats, dtype: np.dtype[np.generic], node: gs.Node) -> Array:
    with np.errstate(over="ignore"):
        stored = value.astype(dtype)
    if not np.all(np.isfinite(stored)):
        raise CompensationError(
            f"the compensated weight of {node_name(node)} overflows {dtype}; "
            f"exclude the layer before it with --exclude, or prune less with --ratio"
        )
    return stored


def _add_shift(
    facts: GraphFacts,
    node: gs.Node,
    index: int,
    shift: Floats,
    dtype: np.dtype[np.generic],
    operands: dict[Operand, Value],
    added: dict[int, Array],
) -> None:
    """Add to a node's output: to its bias where it can take it, else by an Add behind it."""
    alpha, beta = (float(node.attrs.get(name, 1.0)) for name in ("alpha", "beta"))
    takes_bias = node.op == "Conv" or (node.op == "Gemm" and beta != 0.0)
    bias: Array = np.zeros(shift.shape, dtype)
    if takes_bias and len(node.inputs) > 2 and node.inputs[2].name:
        name = node.inputs[2].name
        takes_bias = facts.is_constant(name) and facts.value(name).size in (1, shift.size)
        bias = facts.value(name) if takes_bias else bias
        # A Gemm's bias of shape (M, 1) has one value for each row, even where M is N.
        takes_bias = takes_bias and (bias.size == 1 or bias.shape[-1] == bias.size)
    gain = alpha if node.op == "Gemm" else 1.0
    if not takes_bias:
        spatial = len(facts.value(node.inputs[1].name).shape) - 2  # 0 for a matrix
        per_channel = (gain * shift).reshape(-1, *(1,) * spatial)  # (N,) -> (N, 1, ..)
        added[index] = _store(per_channel, dtype, node)
        return
    shape = bias.shape if bias.size == shift.size else shift.shape
    grown = bias.astype(np.float64).reshape(-1) + gain * shift / beta  # (1, N) or (N,) -> (N,)
    operands[index, 2] = _store(grown.reshape(shape), bias.dtype, node)


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
