"""What happens to a channel between its producer and a consumer, as numbers per channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from lbyl_onnx.channels.groups import (
    ChannelGroup,
    ChannelMap,
    GroupBinding,
    Refusal,
    tied_to,
)
from lbyl_onnx.channels.paths import KEEPS_CONSTANT, Affine, ChannelPath, apply, between
from lbyl_onnx.graph.layers import data_input, layer_weight, linear_layer
from lbyl_onnx.graph.model_graph import Graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.methods.types import Delivery, FoldedRows
from lbyl_onnx.types import Floats


def finite_groups(
    graph: Graph, tensor_info: TensorInfo, channels: ChannelMap
) -> tuple[tuple[ChannelGroup, ...], tuple[Refusal, ...]]:
    """Part the groups whose producers' weights are all finite from the others, which are refused.

    Groups that keep as many channels as one of these are refused with it. Both are in the order
    of the groups.
    """
    bad = {
        group.key
        for group in channels.groups
        if not np.all(np.isfinite(producer_matrix(graph, tensor_info, group)))
    }
    bad = tied_to(channels.ties, bad)
    return (
        tuple(group for group in channels.groups if group.key not in bad),
        tuple(not_finite(group) for group in channels.groups if group.key in bad),
    )


# Rows of a table that are looked at.
TABLE_ROWS = 4096


def producer_matrix(
    graph: Graph, tensor_info: TensorInfo, group: ChannelGroup
) -> NDArray[np.float64]:
    """Rows of all producers side by side, shape (n, all); a Gemm's bias is appended.

    Nodes that read one weight are one producer. Of a table, such as an embedding, at most
    `TABLE_ROWS` of its rows speak, evenly spaced.
    """
    parts, visited = [], set[tuple[str | int, int]]()
    for place in group.producers:
        if place.binding.layer in visited:
            continue
        visited.add(place.binding.layer)
        weight, bias = producer_rows(graph, tensor_info, place)
        parts.append(weight.reshape(len(weight), -1))  # (n, taps, d) -> (n, taps * d)
        layer = linear_layer(tensor_info, graph.nodes[place.binding.node])
        if bias is not None and layer is not None and layer.is_matrix:
            parts.append(bias)
    return np.concatenate(parts, axis=1)


def not_finite(group: ChannelGroup) -> Refusal:
    """Refuse a group because of its weights."""
    return Refusal(group.name, group.size, "its weights are not finite", (group.name,))


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


def producer_rows(
    graph: Graph, tensor_info: TensorInfo, place: GroupBinding
) -> tuple[Floats, Floats | None]:
    """Return a producer's rows as stored and, where it has one, its bias.

    Parameters
    ----------
    graph, tensor_info
        The graph and what is known of it.
    place
        Where the group's n channels lie along the producer's output axis.

    Returns
    -------
    weight
        Shape (n, taps, d): the producer's weight with the output axis first, flattened, float64;
        of a table at most `TABLE_ROWS` of its rows, evenly spaced.
    bias
        Shape (n, taps), or None where the node has none.
    """
    node, binding = graph.nodes[place.binding.node], place.binding
    stored = np.moveaxis(layer_weight(tensor_info, node, binding.operand), binding.axis, 0)
    layer = linear_layer(tensor_info, node)
    if layer is None:
        stored = stored[:, :: -(-stored.shape[1] // TABLE_ROWS)]
    rows = stored[place.positions]  # (n, taps, ..)
    weight = rows.reshape(*place.positions.shape, -1).astype(np.float64)  # -> (n, taps, d)
    if layer is None or layer.bias_operand is None or not layer.has_bias:
        return weight, None
    name = layer.node.inputs[layer.bias_operand]
    bias = tensor_info.value(name).astype(np.float64).reshape(-1)  # (1, N) -> (N,)
    return weight, bias[place.positions]


def respond(
    model: onnx.ModelProto,
    graph: Graph,
    tensor_info: TensorInfo,
    channels: ChannelMap,
    group: ChannelGroup,
    consumer: GroupBinding,
) -> Response | None:
    """Fold what lies between a group's producers and one of its consumers.

    Parameters
    ----------
    model, graph, tensor_info, channels
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
    nodes, producers = between(graph, tensor_info, channels, group, consumer)
    parts: list[FoldedRows] = []
    folded: set[int] = set()
    for place in producers:
        start = graph.nodes[place.binding.node].outputs[0].name
        tensors = frozenset({start} | {t.name for i in nodes for t in graph.nodes[i].outputs})
        channel_path = ChannelPath(nodes, tensors, group, graph, model, tensor_info)
        single = len(producers) == 1 and place.positions.shape[1] == 1
        part, here = _fold(channel_path, place, consumer, single)
        if part is None:
            return None
        parts.append(part)
        folded |= here
    suffix, _ = _suffix(channel_path, consumer, frozenset(folded))
    rows = parts[0] if single else _stacked(parts)
    finite = np.all(np.isfinite(suffix.scale)) and np.all(np.isfinite(suffix.shift))
    return Response(rows, suffix) if finite else None


def _fold(
    channel_path: ChannelPath, place: GroupBinding, consumer: GroupBinding, single: bool
) -> tuple[FoldedRows | None, frozenset[int]]:
    """Rows of one producer with its prefix, and the nodes that went into them."""
    producer, n = channel_path.graph.nodes[place.binding.node], channel_path.group.size
    weight, bias = producer_rows(channel_path.graph, channel_path.tensor_info, place)
    taps = weight.shape[1]
    bias = np.zeros((n, taps)) if bias is None else bias
    layer = linear_layer(channel_path.tensor_info, producer)
    if layer is not None:
        weight, bias = weight * layer.alpha, bias * layer.beta
    start = producer.outputs[0].name
    prefix, folded = _prefix(channel_path, start, Affine(np.ones(n), np.zeros(n)))
    shift = prefix.scale[:, None] * bias + prefix.shift[:, None]  # (n, taps)
    weight, prefix, folded = _through_depthwise(
        channel_path, weight.reshape(n, -1), Affine(prefix.scale, shift[:, 0]), folded, single
    )
    constant = np.zeros(n)
    silent = (prefix.scale == 0.0) | ~np.any(weight, axis=1)
    if single and np.any(silent):
        _, after = _suffix(channel_path, consumer, folded)
        middle = [i for i in channel_path.nodes if i not in folded and i not in after]
        end = _evaluate(channel_path, start, folded, middle, prefix.shift)
        if end is not None:  # what is not known is not delivered
            constant[silent] = end[silent]
    passed = {channel_path.graph.nodes[i].op for i in folded}
    normalized = single and "BatchNormalization" in passed
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
    channel_path: ChannelPath, weight: Floats, prefix: Affine, folded: frozenset[int], single: bool
) -> tuple[Floats, Affine, frozenset[int]]:
    """Go on through depthwise Convs: the row of a channel is then the product of both filters.

    The activation between them is passed over, as LBYL's bound does with every activation.
    """
    for index in channel_path.nodes:
        node = channel_path.graph.nodes[index]
        layer = linear_layer(channel_path.tensor_info, node)
        if not single or layer is None or layer.groups == 1:
            continue
        place = channel_path.follower(index, layer.operand)
        if place is None:
            continue
        filters, bias = producer_rows(channel_path.graph, channel_path.tensor_info, place)
        taps = filters.reshape(len(filters), -1)  # (n, multiplier, k) -> (n, multiplier * k)
        weight = weight * prefix.scale[:, None]
        weight = (weight[:, :, None] * taps[:, None, :]).reshape(len(weight), -1)  # -> (n, d * k)
        shift = prefix.shift * taps.sum(axis=1) + (0.0 if bias is None else bias.sum(axis=1))
        start = Affine(np.ones(len(weight)), shift)
        prefix, more = _prefix(channel_path, node.outputs[0].name, start)
        folded = folded | more | {index}
    return weight, prefix, folded


def _prefix(channel_path: ChannelPath, tensor: str, start: Affine) -> tuple[Affine, frozenset[int]]:
    """Compose the affine nodes that follow the producer, until the path forks or is not affine."""
    total, folded = start, set[int]()
    while True:
        readers = channel_path.readers(tensor)
        step = channel_path.affine(readers[0]) if len(readers) == 1 else None
        if step is None:
            return total, frozenset(folded)
        folded.add(readers[0])
        total = total.then(step)
        tensor = channel_path.graph.nodes[readers[0]].outputs[0].name


def _suffix(
    channel_path: ChannelPath, consumer: GroupBinding, folded: frozenset[int]
) -> tuple[Affine, frozenset[int]]:
    """Compose, from the consumer backwards, the affine nodes behind the activation.

    Pooling is passed: averaging commutes with scale and shift, the maximum up to a sign.
    """
    n = channel_path.group.size
    identity = Affine(np.ones(n), np.zeros(n))
    total, after = identity, set[int]()
    nodes = channel_path.graph.nodes
    tensor = data_input(channel_path.tensor_info, nodes[consumer.binding.node]).name
    while True:
        writers = [i for i in channel_path.nodes if nodes[i].outputs[0].name == tensor]
        if not writers or writers[0] in folded:
            return total, frozenset(after)
        node = nodes[writers[0]]
        step = identity if node.op in KEEPS_CONSTANT else channel_path.affine(writers[0])
        if step is None:
            return total, frozenset(after)
        sources = {t.name for t in node.inputs if t.name in channel_path.tensors}
        if len(sources) > 1:
            return total, frozenset(after)  # each of the paths that meet here has its own scale
        after.add(writers[0])
        total = step.then(total)
        tensor = sources.pop()


def _evaluate(
    channel_path: ChannelPath,
    start: str,
    folded: frozenset[int],
    middle: Sequence[int],
    shift: Floats,
) -> Floats | None:
    """Value that each channel has behind the activation when it is constant before it."""
    values: dict[str, Floats] = {start: shift}
    for index in sorted(folded):
        values[channel_path.graph.nodes[index].outputs[0].name] = shift
    last: Floats | None = shift
    for index in middle:
        node = channel_path.graph.nodes[index]
        if node.op in KEEPS_CONSTANT:
            last = _common([values[t.name] for t in node.inputs if t.name in values])
        elif (step := channel_path.affine(index)) is not None:
            source = next((values[t.name] for t in node.inputs if t.name in values), None)
            last = None if source is None else step.scale * source + step.shift
        else:
            last = apply(channel_path, index, values)
        if last is None:
            return None
        values[node.outputs[0].name] = last
    return last


def _common(values: Sequence[Floats]) -> Floats | None:
    """Return the common value of all inputs of a node, None where they differ."""
    same = bool(values) and all(np.array_equal(value, values[0]) for value in values)
    return values[0] if same else None
