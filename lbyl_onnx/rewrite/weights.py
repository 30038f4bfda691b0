"""Compensated weights of each layer, in the shapes of the original model."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.compensate.fits import ConsumerFit, NormFit, ProducerMixing, Repair, Repairs
from lbyl_onnx.errors import CompensationError
from lbyl_onnx.graph.layers import linear_layer
from lbyl_onnx.graph.layers.linear_layer import LinearLayer, Operand, by_window
from lbyl_onnx.graph.model_graph import Graph, Node, node_name
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.io.lazy_array import Deferred, Value, load
from lbyl_onnx.methods.types import Delivery
from lbyl_onnx.types import Array, Floats

AttributeValue = list[int] | int | float | None
# Columns of a weight that are in float64 at a time.
BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Change:
    """What happens to one layer's weight: in order deliveries, a repair, mixtures.

    Parameters
    ----------
    layer
        The layer, by the axis of its weight along which it reads these channels.
    fits
        The deliveries of the channels that it reads.
    repair
        Scale and shift of its outputs; None to leave them as they are.
    mixtures
        Of the channels that it produces, each of channels of its own.
    """

    layer: LinearLayer
    fits: tuple[ConsumerFit, ...]
    repair: Repair | None
    mixtures: tuple[ProducerMixing, ...]

    @property
    def shared(self) -> bool:
        """Whether several layers read the weight, and all are changed alike."""
        return any(fit.consumer.binding.source for fit in self.fits)

    def outputs(self, values: Array, axis: int) -> Floats:
        """Scale and mix what lies along the layer's outputs on an axis."""
        changed = values.astype(np.float64)
        if self.repair is not None:
            gain = self.repair.gain  # (out,) -> (.., out, ..)
            changed *= gain.reshape(-1, *(1,) * (values.ndim - 1 - axis))
        for mixture in self.mixtures:
            changed = mixture.of(changed, axis)
        return changed

    def added(self, values: Floats) -> Floats:
        """What the layer adds to its outputs, (out,), for what it would have added before."""
        if self.repair is not None:
            values = self.repair.gain * values + self.repair.shift
        for mixture in self.mixtures:
            values = mixture.of(values, axis=0)
            values[mixture.producer.positions[mixture.kept]] += mixture.shift[:, None]
        return values


@dataclass(frozen=True)
class Edits:
    """What changes in a graph.

    Parameters
    ----------
    operands
        New constants for inputs of nodes.
    added
        Constants to add to a node's output, in a shape that broadcasts to it, where it has no bias
        to take them.
    attributes
        New attributes, by node and name; None takes one away.
    selected
        Of computed inputs of nodes, the axis and what is taken along it, (k,).
    """

    operands: Mapping[Operand, Value]
    added: Mapping[int, Array]
    attributes: Mapping[tuple[int, str], AttributeValue]
    selected: Mapping[Operand, tuple[int, NDArray[np.intp]]] = field(default_factory=dict)


def compensated(
    graph: Graph,
    tensor_info: TensorInfo,
    fits: Sequence[ConsumerFit],
    producer_mixings: Sequence[ProducerMixing],
    repairs: Repairs,
    norms: Sequence[NormFit],
    held: int,
) -> Edits:
    """Fold each delivery into its consumer, in the shapes of the original model.

    With a ~ S a_K + c, a consumer with weight V becomes V S on the kept channels, 0 on the
    removed ones, and its bias grows by the sum over taps of V c. A repair then scales and shifts
    its outputs, and a mixture takes their place.

    Parameters
    ----------
    graph, tensor_info
        The original graph and its constants.
    fits
        The deliveries; several may meet in one consumer, each on channels of its own.
    producer_mixings
        Of channels of their own; consumers read these as they come, without mixing.
    repairs
        What the outputs of some layers are scaled and shifted by.
    norms
        New constants of normalisations.
    held
        Bytes of a weight up to which it is kept; larger ones are computed when they are written.

    Returns
    -------
    Edits
        Float64 sums, stored in each weight's own type.

    Raises
    ------
    CompensationError
        When a value overflows the type that the weight is stored in.
    """
    operands: dict[Operand, Value] = {}
    added: dict[int, Array] = {}
    shared: dict[str, Array] = {}
    for (index, operand), change in _changes(
        graph, tensor_info, fits, producer_mixings, repairs
    ).items():
        node = graph.nodes[index]
        name = node.inputs[operand].name
        stored = tensor_info.value(name)
        if stored.nbytes > held:
            compute = partial(_change_stored, tensor_info, name, change, node)
            key = _identity(name, change)
            operands[index, operand] = Deferred(stored.shape, stored.dtype, compute, key)
        elif change.shared:
            key = _identity(name, change)
            if key not in shared:
                shared[key] = _changed(stored, change, node)
            operands[index, operand] = shared[key]
        else:
            operands[index, operand] = _changed(stored, change, node)
        shift = _shift(stored, change)
        if np.any(shift) or change.mixtures or change.repair is not None:
            _move_bias(tensor_info, node, index, change, shift, stored.dtype, operands, added)
    for mixture in producer_mixings:
        for place, values in mixture.followers:
            node, at = graph.nodes[place.binding.node], (place.binding.node, place.binding.operand)
            changed = operands.get(at)
            stored = (
                load(changed) if changed is not None else tensor_info.value(node.inputs[at[1]].name)
            )
            moved = np.moveaxis(stored.copy(), place.binding.axis, 0)  # (.., C) -> (C, ..)
            for positions in place.positions.T:
                new = narrowed(values, stored.dtype, node)
                moved[positions[mixture.kept]] = new.reshape(-1, *(1,) * (moved.ndim - 1))
            operands[at] = np.moveaxis(moved, 0, place.binding.axis)
    return Edits(operands, added, _normalised(graph, tensor_info, norms, operands))


def _normalised(
    graph: Graph, tensor_info: TensorInfo, norms: Sequence[NormFit], operands: dict[Operand, Value]
) -> dict[tuple[int, str], AttributeValue]:
    """Put in new constants of normalisations; return those that are attributes."""
    attributes: dict[tuple[int, str], AttributeValue] = {}
    for fit in norms:
        node = graph.nodes[fit.scale_at[0]]
        gamma = tensor_info.value(node.inputs[fit.scale_at[1]].name)
        operands[fit.scale_at] = narrowed(gamma.astype(np.float64) * fit.scale, gamma.dtype, node)
        index, operand = fit.epsilon_at
        if operand is None:
            attributes[index, "epsilon"] = fit.epsilon
            continue
        epsilon = tensor_info.value(graph.nodes[index].inputs[operand].name)
        new = np.full(epsilon.shape, fit.epsilon)
        operands[index, operand] = narrowed(new, epsilon.dtype, graph.nodes[index])
    return attributes


def _changes(
    graph: Graph,
    tensor_info: TensorInfo,
    fits: Sequence[ConsumerFit],
    producer_mixings: Sequence[ProducerMixing],
    repairs: Repairs,
) -> dict[Operand, Change]:
    by_weight: dict[Operand, list[ConsumerFit]] = defaultdict(list)
    for fit in fits:
        moved = any(m.producer is place for m in producer_mixings for place in fit.group.producers)
        here = replace(fit, mixing=None) if moved else fit
        by_weight[fit.consumer.binding.node, fit.consumer.binding.operand].append(here)
    mixed: dict[Operand, list[ProducerMixing]] = defaultdict(list)
    for m in producer_mixings:
        mixed[m.producer.binding.node, m.producer.binding.operand].append(m)
    needed = {i: r for i, r in repairs.items() if np.any(r.gain != 1.0) or np.any(r.shift)}
    nodes = dict.fromkeys(index for index, _ in (*by_weight, *mixed)) | dict.fromkeys(needed)
    layers = {i: x for i in nodes if (x := linear_layer(tensor_info, graph.nodes[i])) is not None}
    repaired = ((i, layers[i].operand) for i in needed)
    changes: dict[Operand, Change] = {}
    for key in dict.fromkeys([*by_weight, *mixed, *repaired]):
        read = tuple(by_weight.get(key, ()))
        layer = layers[key[0]]
        layer = layer.along(read[0].consumer.binding.axis) if read else layer
        changes[key] = Change(layer, read, needed.get(key[0]), tuple(mixed.get(key, ())))
    return changes


def _identity(name: str, change: Change) -> str:
    digest = hashlib.sha256(name.encode())
    if change.repair is not None:
        digest.update(change.repair.gain.tobytes())
    for mixture in change.mixtures:
        digest.update(mixture.weights.tobytes() + mixture.kept.tobytes())
        digest.update(mixture.producer.positions.tobytes())
    for fit in change.fits:
        digest.update(fit.consumer.positions.tobytes() + fit.delivery.kept.tobytes())
        if fit.delivery.own is not None:
            digest.update(fit.delivery.own[0].tobytes())
        if fit.mixing is not None:
            digest.update(fit.mixing.weights.tobytes())
        for row in fit.delivery.rows:  # rows of zeros may share their memory
            digest.update(row.tobytes())
    return digest.hexdigest()


def _change_stored(tensor_info: TensorInfo, name: str, change: Change, node: Node) -> Array:
    return _changed(tensor_info.value(name), change, node)


def _changed(stored: Array, change: Change, node: Node) -> Array:
    """New weight, in stored's shape and type.

    The sums are taken in float64, in blocks of columns: no second copy of the weight is held.
    """
    weight = np.array(change.layer.logical(stored), order="C")  # -> (in, out, window)
    for fit in change.fits:
        positions, delivery = fit.consumer.positions, fit.delivery
        kept, removed = positions[delivery.kept], positions[delivery.removed]
        if delivery.own is not None:
            values = _by_tap(weight[kept], delivery)
            for start in range(0, values.shape[1], BLOCK):
                block = slice(start, start + BLOCK)
                turned = delivery.own[0].T @ values[:, block].astype(np.float64)
                values[:, block] = narrowed(turned, stored.dtype, node)
            weight[kept] = _from_taps(values, weight[kept].shape, delivery)
        if np.any(delivery.rows):
            values, lost = _by_tap(weight[kept], delivery), _by_tap(weight[removed], delivery)
            for start in range(0, values.shape[1], BLOCK):
                block = slice(start, start + BLOCK)
                grown = delivery.rows.T @ lost[:, block].astype(np.float64)
                grown += values[:, block].astype(np.float64)
                values[:, block] = narrowed(grown, stored.dtype, node)
            weight[kept] = _from_taps(values, weight[kept].shape, delivery)
        weight[removed] = 0
        if fit.mixing is not None:
            flat = weight[kept].reshape(len(kept), -1).astype(np.float64)  # (k, ..) -> (k, all)
            spread = (fit.mixing.weights.T @ flat).reshape(len(positions), *weight[kept].shape[1:])
            weight[positions] = narrowed(spread, stored.dtype, node)  # (n, all) -> (n, ..)
    if change.mixtures or change.repair is not None:
        for start in range(0, len(weight), BLOCK):
            rows = slice(start, start + BLOCK)
            weight[rows] = narrowed(change.outputs(weight[rows], axis=1), stored.dtype, node)
    return change.layer.stored(weight)


def _by_tap(rows: Array, delivery: Delivery) -> Array:
    """Rows of a weight, (n, positions, out, window), as (n * taps, ..): what is delivered alike."""
    if delivery.taps == 1:
        return rows.reshape(len(rows), -1)  # -> (n, positions * out * window)
    return by_window(rows).reshape(-1, rows.shape[2])  # -> (n * positions * window, out)


def _from_taps(values: Array, shape: tuple[int, ...], delivery: Delivery) -> Array:
    """Undo `_by_tap`."""
    if delivery.taps == 1:
        return values.reshape(shape)
    n, per_channel, out = shape[:3]
    window = values.reshape(
        n, per_channel, -1, out
    )  # (n * taps, out) -> (n, positions, window, out)
    return np.moveaxis(window, 3, 2).reshape(shape)


def _shift(stored: Array, change: Change) -> Floats:
    """Growth of the output, shape (out channels,): the sum over taps of the weight times shifts."""
    weight = change.layer.logical(stored)  # -> (in, out, window)
    shift = np.zeros(weight.shape[1])
    for fit in change.fits:
        delivery = fit.delivery
        shift += _summed(weight, fit.consumer.positions[delivery.removed], delivery, fit.offset)
        positions = fit.consumer.positions[delivery.kept]
        shift += _summed(weight, positions, delivery, fit.kept_offset)
    return shift * change.layer.alpha


def _summed(
    weight: Array, positions: NDArray[np.intp], delivery: Delivery, constant: Floats
) -> Floats:
    """What constant channels add to the outputs, (out channels,)."""
    rows = weight[positions]
    _, per_channel, out = rows.shape[:3]
    if not np.any(constant):
        return np.zeros(out)
    sums = constant @ _by_tap(rows, delivery).astype(np.float64)
    # (positions * out * window,) -> (positions, out, window); with taps it is (out,) already
    return sums if delivery.taps > 1 else sums.reshape(per_channel, out, -1).sum(axis=(0, 2))


def narrowed(value: Array, dtype: np.dtype[np.generic], node: Node) -> Array:
    """Return a layer's new values in a type; raise CompensationError where it holds them not."""
    with np.errstate(over="ignore"):
        stored = value.astype(dtype)
    if not np.all(np.isfinite(stored)):
        raise CompensationError(
            f"the compensated weight of {node_name(node)} overflows {dtype}; "
            f"exclude the layer before it with --exclude, or prune less with --ratio"
        )
    return stored


def _move_bias(
    tensor_info: TensorInfo,
    node: Node,
    index: int,
    change: Change,
    shift: Floats,
    dtype: np.dtype[np.generic],
    operands: dict[Operand, Value],
    added: dict[int, Array],
) -> None:
    """Change what a node adds: its bias where it can take it, else by an Add behind it."""
    layer, bias = change.layer, change.layer.bias(tensor_info)
    if bias is None or layer.bias_operand is None:
        grown = change.added(shift)
        if np.any(grown):
            added[index] = narrowed(layer.spread(grown), dtype, node)  # (N,) -> (N, 1, ..)
        return
    shape = bias.shape if bias.size == shift.size else shift.shape
    whole = layer.beta * bias.astype(np.float64).reshape(-1) + shift  # (1, N) -> (N,)
    value = (change.added(whole) / layer.beta).reshape(shape)
    operands[index, layer.bias_operand] = narrowed(value, bias.dtype, node)
