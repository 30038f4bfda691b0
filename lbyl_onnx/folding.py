"""What happens to a channel between its producer and a consumer, as numbers per channel.

The way from the producer's output to the consumer's input is cut in three: a *prefix* of
per-channel scales and shifts (bias, BatchNormalization, Mul, Add), which folds into the producer's
rows; the activation and whatever else is not affine; a *suffix* of scales and shifts after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from lbyl_onnx.channels import ChannelGroup, ChannelMap, Placement
from lbyl_onnx.compensate import Delivery, FoldedRows
from lbyl_onnx.facts import GraphFacts, evaluate
from lbyl_onnx.rules import ELEMENTWISE

Floats = NDArray[np.float64]

# Operators that move or keep values and so leave a channel's scale and shift as they are.
_MOVES = frozenset(
    {"Identity", "Dropout", "Cast", "CastLike", "Reshape", "Flatten", "Transpose", "Squeeze"}
    | {"Unsqueeze", "Concat"}
)
# Operators that give back a constant channel as it came (borders of padded pools aside).
_KEEPS_CONSTANT = _MOVES | {"AveragePool", "GlobalAveragePool", "MaxPool", "GlobalMaxPool"}


@dataclass(frozen=True)
class Affine:
    """Per-channel scale and shift, each of shape (n,)."""

    scale: Floats
    shift: Floats

    def then(self, after: Affine) -> Affine:
        """Return the composition: first this one, then `after`."""
        return Affine(after.scale * self.scale, after.scale * self.shift + after.shift)


@dataclass(frozen=True)
class Response:
    """How the channels of a group reach one consumer.

    Parameters
    ----------
    rows
        The producer's rows with the prefix folded in.
    suffix
        Scale and shift after the activation.
    """

    rows: FoldedRows
    suffix: Affine

    def at_consumer(self, delivery: Delivery) -> Delivery:
        """Carry a delivery fitted before the suffix to the consumer's input behind it.

        With a = g r + h and r ~ S r_K + c it is a ~ (g S / g_K) a_K + (g c + h - g S h_K / g_K);
        a kept channel that the suffix multiplies by zero can carry nothing.
        """
        scale, shift, kept = self.suffix.scale, self.suffix.shift, delivery.kept
        if np.all(scale == 1.0) and not np.any(shift):
            return delivery
        usable = scale[kept] != 0.0
        inverse = np.where(usable, 1.0 / np.where(usable, scale[kept], 1.0), 0.0)
        removed = delivery.removed
        rows = scale[removed, None] * delivery.rows * inverse[None, :]
        offset = scale[removed] * delivery.shift + shift[removed] - rows @ shift[kept]
        return Delivery(kept, rows, offset)


@dataclass(frozen=True)
class _Way:
    """The nodes between a producer and a consumer that carry a group's channels, in order."""

    nodes: tuple[int, ...]
    tensors: frozenset[str]
    group: ChannelGroup
    graph: gs.Graph
    model: onnx.ModelProto
    facts: GraphFacts

    def values(self, index: int, operand: int) -> Floats | None:
        """Value of a constant operand for each channel, shape (n,); None where it has no such."""
        value = self.facts.value(self.graph.nodes[index].inputs[operand].name)
        if value.size == 1:
            return np.full(self.group.size, value.astype(np.float64).reshape(()))
        for place in self.group.followers:
            if (place.slot.node, place.slot.operand) == (index, operand):
                return _along(value, place)
        return None

    def affine(self, index: int) -> Affine | None:
        """Scale and shift that a node applies to each channel; None where it is not affine."""
        node, n = self.graph.nodes[index], self.group.size
        ones, zeros = np.ones(n), np.zeros(n)
        if node.op in _MOVES:
            return Affine(ones, zeros)
        if node.op == "BatchNormalization":
            parameters = [self.values(index, operand) for operand in range(1, 5)]
            known = [p for p in parameters if p is not None]
            if len(known) < len(parameters):
                return None  # not one scale for all of a channel, as behind a Flatten
            gamma, beta, mean, var = known
            with np.errstate(invalid="ignore", divide="ignore"):  # `respond` sees to these
                scale = gamma / np.sqrt(var + float(node.attrs.get("epsilon", 1e-5)))
            return Affine(scale, beta - scale * mean)
        if node.op not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
            return None
        constants = [i for i in (0, 1) if self.facts.is_constant(node.inputs[i].name)]
        if len(constants) != 1 or (node.op in ("Sub", "Div") and constants != [1]):
            return None
        value = self.values(index, constants[0])
        if value is None:
            return None
        if node.op in ("Add", "Sub"):
            return Affine(ones, value if node.op == "Add" else -value)
        with np.errstate(divide="ignore"):  # `respond` sees to these
            return Affine(value if node.op == "Mul" else 1.0 / value, zeros)


def producer_rows(
    graph: gs.Graph, facts: GraphFacts, place: Placement
) -> tuple[Floats, Floats | None]:
    """Return a producer's rows as stored and, where it has one, its bias.

    Parameters
    ----------
    graph, facts
        The graph and what is known of it.
    place
        Where the group's n channels lie along the producer's output axis.

    Returns
    -------
    weight
        Shape (n, taps, d): the producer's weight with the output axis first, flattened, float64.
    bias
        Shape (n, taps), or None where the node has none.
    """
    node, slot = graph.nodes[place.slot.node], place.slot
    stored = np.moveaxis(facts.value(node.inputs[slot.operand].name), slot.axis, 0)
    rows = stored[place.positions]  # (n, taps, ..)
    weight = rows.reshape(*place.positions.shape, -1).astype(np.float64)  # -> (n, taps, d)
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return weight, None
    bias = facts.value(node.inputs[2].name).astype(np.float64).reshape(-1)  # (1, N) -> (N,)
    return weight, bias[place.positions]


def respond(
    model: onnx.ModelProto,
    graph: gs.Graph,
    facts: GraphFacts,
    channels: ChannelMap,
    group: ChannelGroup,
    consumer: Placement,
) -> Response | None:
    """Fold what lies between a group's producers and one of its consumers.

    Parameters
    ----------
    model, graph, facts, channels
        The model in its four forms; none is changed.
    group
        A group.
    consumer
        One of its consumers.

    Returns
    -------
    Response or None
        The rows and what follows the activation; None when a weight is not finite or a variance
        is negative. Where several rows make a channel (a residual stream, the groups of a grouped
        Conv) they are stacked, each with its folded bias behind it.
    """
    nodes, producers = _between(graph, channels, group, consumer)
    parts: list[FoldedRows] = []
    folded: set[int] = set()
    for place in producers:
        start = graph.nodes[place.slot.node].outputs[0].name
        tensors = frozenset({start} | {t.name for i in nodes for t in graph.nodes[i].outputs})
        way = _Way(nodes, tensors, group, graph, model, facts)
        single = len(producers) == 1 and place.positions.shape[1] == 1
        part, here = _fold(way, place, consumer, single)
        if part is None:
            return None
        parts.append(part)
        folded |= here
    suffix, _ = _suffix(way, consumer, frozenset(folded))
    rows = parts[0] if single else _stacked(parts)
    finite = np.all(np.isfinite(suffix.scale)) and np.all(np.isfinite(suffix.shift))
    return Response(rows, suffix) if finite else None


@dataclass(frozen=True)
class Activation:
    """The elementwise nodes between one producer's affine prefix and a consumer.

    Parameters
    ----------
    tensor
        What enters them.
    place
        Where the channels lie along the producer's output, and along that tensor.
    """

    tensor: str
    place: Placement
    _way: _Way
    _nodes: tuple[int, ...]

    def __call__(self, values: Floats) -> Floats:
        """Evaluate them on (points, n) values, channel i in column i; NaN where one cannot be."""
        known = {self.tensor: values}
        last = values
        for index in self._nodes:
            node = self._way.graph.nodes[index]
            source = next(known[t.name] for t in node.inputs if t.name in known)
            step = self._way.affine(index)
            applied = step.scale * source + step.shift if step else _apply(self._way, index, known)
            last = np.full_like(source, np.nan) if applied is None else applied
            known[node.outputs[0].name] = last
        return last


def activation_between(
    model: onnx.ModelProto,
    graph: gs.Graph,
    facts: GraphFacts,
    channels: ChannelMap,
    group: ChannelGroup,
    consumer: Placement,
) -> Activation | None:
    """Return the activation between a group and a consumer; None where there is more than that.

    Several producers that meet, a pooling, a depthwise Conv: what is behind those is no function
    of one channel's value at one place.
    """
    nodes, producers = _between(graph, channels, group, consumer)
    if len(producers) != 1 or producers[0].positions.shape[1] != 1:
        return None
    tensor = graph.nodes[producers[0].slot.node].outputs[0].name
    way = _Way(nodes, frozenset(), group, graph, model, facts)
    after = list(nodes)
    while True:
        readers = [i for i in after if any(t.name == tensor for t in graph.nodes[i].inputs)]
        if len(readers) != 1 or graph.nodes[readers[0]].op in _MOVES or not way.affine(readers[0]):
            break
        after.remove(readers[0])
        tensor = graph.nodes[readers[0]].outputs[0].name
    activation = Activation(tensor, producers[0], way, tuple(after))
    for index in after:
        op = graph.nodes[index].op
        if op == "Concat" or not (op in _MOVES or op in ELEMENTWISE or way.affine(index)):
            return None
    with np.errstate(all="ignore"):
        trial = activation(np.zeros((1, group.size)))
    return activation if trial.shape == (1, group.size) and np.all(np.isfinite(trial)) else None


def _fold(
    way: _Way, place: Placement, consumer: Placement, single: bool
) -> tuple[FoldedRows | None, frozenset[int]]:
    """Rows of one producer with its prefix, and the nodes that went into them."""
    producer, n = way.graph.nodes[place.slot.node], way.group.size
    weight, bias = producer_rows(way.graph, way.facts, place)
    taps = weight.shape[1]
    bias = np.zeros((n, taps)) if bias is None else bias
    if producer.op == "Gemm":
        weight = weight * float(producer.attrs.get("alpha", 1.0))
        bias = bias * float(producer.attrs.get("beta", 1.0))
    start = producer.outputs[0].name
    prefix, folded = _prefix(way, start, Affine(np.ones(n), np.zeros(n)))
    shift = prefix.scale[:, None] * bias + prefix.shift[:, None]  # (n, taps)
    weight, prefix, folded = _through_depthwise(
        way, weight.reshape(n, -1), Affine(prefix.scale, shift[:, 0]), folded, single
    )
    constant = np.zeros(n)
    silent = (prefix.scale == 0.0) | ~np.any(weight, axis=1)
    if single and np.any(silent):
        _, after = _suffix(way, consumer, folded)
        middle = [i for i in way.nodes if i not in folded and i not in after]
        end = _evaluate(way, start, folded, middle, prefix.shift)
        if end is not None:  # what is not known is not delivered
            constant[silent] = end[silent]
    normalized = single and any(way.graph.nodes[i].op == "BatchNormalization" for i in folded)
    if not normalized:
        # Without BatchNormalization a plain scale is part of the rows.
        weight = weight * prefix.scale[:, None]
    if not single:
        weight = np.concatenate([weight, shift], axis=1)  # (n, taps * d + taps)
    scale = prefix.scale if normalized else np.ones(n)
    level = prefix.shift if single else np.zeros(n)
    if not all(np.all(np.isfinite(x)) for x in (weight, scale, level, constant)):
        return None, folded
    return FoldedRows(weight, scale, level, normalized, constant), folded


def _stacked(parts: Sequence[FoldedRows]) -> FoldedRows:
    weight = np.concatenate([part.weight for part in parts], axis=1)
    n = len(weight)
    return FoldedRows(weight, np.ones(n), np.zeros(n), False, np.zeros(n))


def _through_depthwise(
    way: _Way, weight: Floats, prefix: Affine, folded: frozenset[int], single: bool
) -> tuple[Floats, Affine, frozenset[int]]:
    """Go on through depthwise Convs: the row of a channel is then the product of both filters.

    The activation between them is passed over, as LBYL's bound does with every activation.
    """
    for index in way.nodes:
        node = way.graph.nodes[index]
        place = next((p for p in way.group.followers if (p.slot.node, p.slot.operand) == (index, 1)
                      and node.op in ("Conv", "ConvTranspose")), None)  # fmt: skip
        if not single or place is None:
            continue
        filters, bias = producer_rows(way.graph, way.facts, place)
        taps = filters.reshape(len(filters), -1)  # (n, multiplier, k) -> (n, multiplier * k)
        weight = weight * prefix.scale[:, None]
        weight = (weight[:, :, None] * taps[:, None, :]).reshape(len(weight), -1)  # -> (n, d * k)
        shift = prefix.shift * taps.sum(axis=1) + (0.0 if bias is None else bias.sum(axis=1))
        start = Affine(np.ones(len(weight)), shift)
        prefix, more = _prefix(way, node.outputs[0].name, start)
        folded = folded | more | {index}
    return weight, prefix, folded


def _along(value: NDArray[np.generic], place: Placement) -> Floats | None:
    moved = np.moveaxis(value.astype(np.float64), place.slot.axis, 0)
    if moved.size != moved.shape[0]:
        return None  # it also varies along another axis
    per_tap = moved.reshape(-1)[place.positions]  # (axis,) -> (n, taps)
    first = np.broadcast_to(per_tap[:, :1], per_tap.shape)
    return per_tap[:, 0] if np.array_equal(per_tap, first, equal_nan=True) else None


def _between(
    graph: gs.Graph, channels: ChannelMap, group: ChannelGroup, consumer: Placement
) -> tuple[tuple[int, ...], list[Placement]]:
    """Nodes on all ways from the producers to the consumer, in graph order; these producers."""
    index_of = {id(node): i for i, node in enumerate(graph.nodes)}
    producers = {place.slot.node: place for place in group.producers}
    found: set[int] = set()
    reached: set[int] = set()
    waiting = [graph.nodes[consumer.slot.node].inputs[0]]
    while waiting:
        tensor = waiting.pop()
        if not tensor.inputs:
            continue
        index = index_of[id(tensor.inputs[0])]
        if index in producers:
            reached.add(index)
        elif index not in found:
            found.add(index)
            inputs = graph.nodes[index].inputs
            waiting += [t for t in inputs if _carries(channels, group, t.name)]
    return tuple(sorted(found)), [producers[index] for index in sorted(reached)]


def _carries(channels: ChannelMap, group: ChannelGroup, name: str) -> bool:
    labels = channels.tensors.get(name)
    return labels is not None and bool(np.any(np.isin(channels.roots[labels], group.units)))


def _prefix(way: _Way, tensor: str, start: Affine) -> tuple[Affine, frozenset[int]]:
    """Compose the affine nodes that follow the producer, until the way forks or bends."""
    total, folded = start, set[int]()
    while True:
        readers = [i for i in way.nodes if any(t.name == tensor for t in way.graph.nodes[i].inputs)]
        step = way.affine(readers[0]) if len(readers) == 1 else None
        if step is None:
            return total, frozenset(folded)
        folded.add(readers[0])
        total = total.then(step)
        tensor = way.graph.nodes[readers[0]].outputs[0].name


def _suffix(
    way: _Way, consumer: Placement, folded: frozenset[int]
) -> tuple[Affine, frozenset[int]]:
    """Compose, from the consumer backwards, the affine nodes behind the activation.

    Pooling is passed: averaging commutes with scale and shift, the maximum up to a sign.
    """
    n = way.group.size
    identity = Affine(np.ones(n), np.zeros(n))
    total, after = identity, set[int]()
    tensor = way.graph.nodes[consumer.slot.node].inputs[0].name
    while True:
        writers = [i for i in way.nodes if way.graph.nodes[i].outputs[0].name == tensor]
        if not writers or writers[0] in folded:
            return total, frozenset(after)
        node = way.graph.nodes[writers[0]]
        step = identity if node.op in _KEEPS_CONSTANT else way.affine(writers[0])
        if step is None:
            return total, frozenset(after)
        sources = {t.name for t in node.inputs if t.name in way.tensors}
        if len(sources) > 1:
            return total, frozenset(after)  # each of the ways that meet here has its own scale
        after.add(writers[0])
        total = step.then(total)
        tensor = sources.pop()


def _evaluate(
    way: _Way,
    start: str,
    folded: frozenset[int],
    middle: Sequence[int],
    shift: Floats,
) -> Floats | None:
    """Value that each channel has behind the activation when it is constant before it."""
    known: dict[str, Floats] = {start: shift}
    for index in sorted(folded):
        known[way.graph.nodes[index].outputs[0].name] = shift
    last: Floats | None = shift
    for index in middle:
        node = way.graph.nodes[index]
        if node.op in _KEEPS_CONSTANT:
            last = _common([known[t.name] for t in node.inputs if t.name in known])
        elif (step := way.affine(index)) is not None:
            source = next((known[t.name] for t in node.inputs if t.name in known), None)
            last = None if source is None else step.scale * source + step.shift
        else:
            last = _apply(way, index, known)
        if last is None:
            return None
        known[node.outputs[0].name] = last
    return last


def _common(values: Sequence[Floats]) -> Floats | None:
    """Return the value that all ways into a node bring, None where they differ."""
    same = bool(values) and all(np.array_equal(value, values[0]) for value in values)
    return values[0] if same else None


def _apply(way: _Way, index: int, known: dict[str, Floats]) -> Floats | None:
    node = way.graph.nodes[index]
    if node.op not in ELEMENTWISE:
        return None
    inputs: list[NDArray[np.generic] | None] = []
    for operand, tensor in enumerate(node.inputs):
        if not tensor.name:
            inputs.append(None)
            continue
        value = known.get(tensor.name)
        if value is None and way.facts.is_constant(tensor.name):
            value = way.values(index, operand)
        if value is None:
            return None
        inputs.append(value.astype(np.float32))
    outputs = evaluate(way.model.graph.node[index], inputs, way.facts.opset)
    return np.asarray(outputs[0], np.float64)
