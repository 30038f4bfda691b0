"""The nodes between a group's producers and a consumer, and what each does to a channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from lbyl_onnx.channels import ChannelGroup, ChannelMap, Placement
from lbyl_onnx.facts import GraphFacts, evaluate
from lbyl_onnx.rules import ELEMENTWISE

Floats = NDArray[np.float64]
# Operators that move or keep values and so leave a channel's scale and shift as they are.
MOVES = frozenset(
    {"Identity", "Dropout", "Cast", "CastLike", "Reshape", "Flatten", "Transpose", "Squeeze"}
    | {"Unsqueeze", "Concat"}
)
# Operators that give back a constant channel as it came (borders of padded pools aside).
KEEPS_CONSTANT = MOVES | {"AveragePool", "GlobalAveragePool", "MaxPool", "GlobalMaxPool"}


@dataclass(frozen=True)
class Affine:
    """Per-channel scale and shift, each of shape (n,)."""

    scale: Floats
    shift: Floats

    def then(self, after: Affine) -> Affine:
        """Return the composition: first this one, then `after`."""
        return Affine(after.scale * self.scale, after.scale * self.shift + after.shift)


@dataclass(frozen=True)
class Way:
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
        if node.op in MOVES:
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


def between(
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


def _along(value: NDArray[np.generic], place: Placement) -> Floats | None:
    moved = np.moveaxis(value.astype(np.float64), place.slot.axis, 0)
    if moved.size != moved.shape[0]:
        return None  # it also varies along another axis
    per_tap = moved.reshape(-1)[place.positions]  # (axis,) -> (n, taps)
    first = np.broadcast_to(per_tap[:, :1], per_tap.shape)
    return per_tap[:, 0] if np.array_equal(per_tap, first, equal_nan=True) else None


def apply(way: Way, index: int, known: dict[str, Floats]) -> Floats | None:
    """Evaluate an elementwise node on known values of its inputs; None where it is no such."""
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
