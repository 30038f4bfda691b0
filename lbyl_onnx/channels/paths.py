"""The nodes between a group's producers and a consumer, and what they do to its channels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from lbyl_onnx.channels.groups import ChannelGroup, ChannelMap, GroupBinding
from lbyl_onnx.channels.labels import Role
from lbyl_onnx.channels.rules import ELEMENTWISE
from lbyl_onnx.graph.layers import data_input, is_layer, linear_layer
from lbyl_onnx.graph.layers.linear_layer import Operand
from lbyl_onnx.graph.model_graph import Graph, Node
from lbyl_onnx.graph.norms.batch_norm import scale_of
from lbyl_onnx.graph.tensor_info import TensorInfo, evaluate
from lbyl_onnx.types import DEFAULT_DOMAINS, Floats


def behind(graph: Graph, nodes: Collection[int]) -> set[int]:
    """Nodes that read, near or far, what these nodes give; those that do so of these, too."""
    numbers = {id(node): index for index, node in enumerate(graph.nodes)}
    holders = {
        id(inner): node
        for node in graph.nodes
        for body in node.subgraphs(recursive=True)
        for inner in body.nodes
    }
    starts = [graph.nodes[index] for index in nodes]
    return {numbers[id(reader)] for reader in _readers(starts, holders)}


def _readers(starts: Sequence[Node], holders: Mapping[int, Node]) -> Iterator[Node]:
    """Yield the nodes that read, near or far, what some nodes give.

    What `holders` has by the id of a node in a body stands for it.
    """
    visited: set[int] = set()
    waiting = [*starts]
    while waiting:
        for reader in [x for tensor in waiting.pop().outputs for x in tensor.outputs]:
            node = holders.get(id(reader), reader)
            if id(node) not in visited:
                visited.add(id(node))
                waiting.append(node)
                yield node


def layers_behind(graph: Graph, channels: ChannelMap, consumers: Collection[int]) -> set[int]:
    """Layers behind others whose weight no other reads."""
    weights = {s.node: s.operand for s in channels.bindings if s.role is Role.PRODUCER}
    layers = weights.keys() & behind(graph, consumers)
    return {index for index in layers if channels.sharing.sole(index, weights[index])}


def feeds_a_layer(node: Node) -> bool:
    """Whether a layer reads, near or far, what a node gives."""
    return any(is_layer(reader) for reader in _readers([node], {}))


def only_convs_read(graph: Graph, tensor_info: TensorInfo, node: Node) -> bool:
    """Whether what a node gives reaches Convs with a bias, over additions, and nothing else."""
    outputs = {id(tensor) for tensor in graph.outputs}
    waiting, visited = [*node.outputs], set[int]()
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in outputs or not tensor.outputs:
            return False
        for reader in tensor.outputs:
            if id(reader) in visited:
                continue
            visited.add(id(reader))
            constant = any(tensor_info.is_constant(x.name) for x in reader.inputs)
            if reader.op in ("Add", "Identity") and not constant:
                waiting.extend(reader.outputs)
            elif reader.op != "Conv" or len(reader.inputs) < 3 or reader.inputs[0] is not tensor:
                return False
    return True


# Operators that hand values on as they are, each to its own channel.
HANDS_ON = frozenset(
    {"Identity", "Dropout", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Cast"}
    | {"Expand", "Gather", "SequenceAt", "Slice", "Split", "SplitToSequence"}
)


@dataclass(frozen=True)
class LinearPath:
    """A group between one layer and its consumers.

    Parameters
    ----------
    group
        The group.
    norm
        The BatchNormalization between them; None without.
    added
        A constant that is added between them; None without.
    """

    group: ChannelGroup
    norm: int | None
    added: GroupBinding | None


def linear_path(
    graph: Graph, tensor_info: TensorInfo, channels: ChannelMap, group: ChannelGroup
) -> LinearPath | None:
    """Return the path on which channels may be mixed; None where it is not linear."""
    if len(group.producers) != 1 or group.producers[0].positions.shape[1] != 1 or group.products:
        return None
    place = group.producers[0]
    producer = graph.nodes[place.binding.node]
    layer = linear_layer(tensor_info, producer)
    if layer is None or layer.groups != 1 or not layer.plain:
        return None
    # Where the operator takes no bias, an Add behind it does.
    if layer.bias_operand is not None and layer.bias(tensor_info) is None:
        return None
    tensors = channels.carriers(group.units)
    carriers = [
        index
        for index, node in enumerate(graph.nodes)
        if node is not producer and any(tensor.name in tensors for tensor in node.outputs)
    ]
    norms = [i for i in carriers if graph.nodes[i].op == "BatchNormalization"]
    followers = {(p.binding.node, p.binding.operand): p for p in group.followers}
    followers.pop((place.binding.node, layer.bias_operand or 0), None)
    adds = [i for i in carriers if graph.nodes[i].op == "Add"]
    added = [p for p in followers.values() if p.binding.node in adds and p.positions.shape[1] == 1]
    others = {*carriers} - {*norms, *adds}
    if len(norms) + len(adds) > 1 or len(added) != len(adds):
        return None
    if not all(_hands_on(graph, tensor_info, channels, group, i) for i in others):
        return None
    parameters = {(norms[0], operand) for operand in range(1, 5)} if norms else set[Operand]()
    parameters |= {(p.binding.node, p.binding.operand) for p in added}
    if followers.keys() != parameters:
        return None
    return LinearPath(group, norms[0] if norms else None, added[0] if added else None)


# The inputs that bring values to products of two activations: attention's probabilities act on
# tokens, and leave the channels of a block what they are.
_VALUES = {"MatMul": 1, "Attention": 2}


def _hands_on(
    graph: Graph, tensor_info: TensorInfo, channels: ChannelMap, group: ChannelGroup, index: int
) -> bool:
    """Whether a node hands the channels of each block on as they are, or mixes their places."""
    node = graph.nodes[index]
    if node.op in HANDS_ON:
        return True
    operand = _VALUES.get(node.op)
    if operand is None or linear_layer(tensor_info, node) is not None:
        return False
    others = [t for i, t in enumerate(node.inputs) if i != operand]
    return not any(_carries(channels, group, tensor.name) for tensor in others)


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
class ChannelPath:
    """The nodes between a producer and a consumer that carry a group's channels, in order."""

    nodes: tuple[int, ...]
    tensors: frozenset[str]
    group: ChannelGroup
    graph: Graph
    model: onnx.ModelProto
    tensor_info: TensorInfo

    def values(self, index: int, operand: int) -> Floats | None:
        """Value of a constant operand for each channel, shape (n,); None where it has no such."""
        value = self.tensor_info.value(self.graph.nodes[index].inputs[operand].name)
        if value.size == 1:
            return np.full(self.group.size, value.astype(np.float64).reshape(()))
        place = self.follower(index, operand)
        return None if place is None else _along(value, place)

    def follower(self, index: int, operand: int) -> GroupBinding | None:
        """Where the group lies along a constant operand of a node."""
        at = (index, operand)
        bindings = (p for p in self.group.followers if (p.binding.node, p.binding.operand) == at)
        return next(bindings, None)

    def readers(self, tensor: str) -> list[int]:
        """Return the nodes of the path that read a tensor."""
        nodes = self.graph.nodes
        return [i for i in self.nodes if any(t.name == tensor for t in nodes[i].inputs)]

    def affine(self, index: int) -> Affine | None:
        """Scale and shift that a node applies to each channel; None where it is not affine."""
        node, n = self.graph.nodes[index], self.group.size
        ones, zeros = np.ones(n), np.zeros(n)
        if node.op in MOVES:
            return Affine(ones, zeros)
        if node.op == "BatchNormalization":
            parameters = [self.values(index, operand) for operand in range(1, 5)]
            values = [p for p in parameters if p is not None]
            if len(values) < len(parameters):
                return None  # not one scale for all of a channel, as behind a Flatten
            gamma, beta, mean, var = values
            scale = scale_of(node, gamma, var)
            with np.errstate(invalid="ignore"):  # `respond` sees to these
                return Affine(scale, beta - scale * mean)
        if node.op not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
            return None
        constants = [i for i in (0, 1) if self.tensor_info.is_constant(node.inputs[i].name)]
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
    graph: Graph,
    tensor_info: TensorInfo,
    channels: ChannelMap,
    group: ChannelGroup,
    consumer: GroupBinding,
) -> tuple[tuple[int, ...], list[GroupBinding]]:
    """Nodes on all paths from the producers to the consumer, in graph order; these producers."""
    index_of = {id(node): i for i, node in enumerate(graph.nodes)}
    producers = {place.binding.node: place for place in group.producers}
    indices: set[int] = set()
    reached: set[int] = set()
    waiting = [data_input(tensor_info, graph.nodes[consumer.binding.node])]
    while waiting:
        tensor = waiting.pop()
        if not tensor.inputs:
            continue
        index = index_of[id(tensor.inputs[0])]
        if index in producers:
            reached.add(index)
        elif index not in indices:
            indices.add(index)
            inputs = graph.nodes[index].inputs
            waiting += [t for t in inputs if _carries(channels, group, t.name)]
    return tuple(sorted(indices)), [producers[index] for index in sorted(reached)]


def _carries(channels: ChannelMap, group: ChannelGroup, name: str) -> bool:
    labels = channels.tensors.get(name)
    return labels is not None and bool(np.any(np.isin(channels.roots[labels], group.units)))


def _along(value: NDArray[np.generic], place: GroupBinding) -> Floats | None:
    moved = np.moveaxis(value.astype(np.float64), place.binding.axis, 0)
    if moved.size != moved.shape[0]:
        return None  # it also varies along another axis
    per_tap = moved.reshape(-1)[place.positions]  # (axis,) -> (n, taps)
    first = np.broadcast_to(per_tap[:, :1], per_tap.shape)
    return per_tap[:, 0] if np.array_equal(per_tap, first, equal_nan=True) else None


def apply(channel_path: ChannelPath, index: int, values: dict[str, Floats]) -> Floats | None:
    """Evaluate an elementwise node on values of its inputs; None for any other node."""
    node = channel_path.graph.nodes[index]
    if node.op not in ELEMENTWISE or (node.domain or "") not in DEFAULT_DOMAINS:
        return None
    inputs: list[NDArray[np.generic] | None] = []
    for operand, tensor in enumerate(node.inputs):
        if not tensor.name:
            inputs.append(None)
            continue
        value = values.get(tensor.name)
        if value is None and channel_path.tensor_info.is_constant(tensor.name):
            value = channel_path.values(index, operand)
        if value is None:
            return None
        inputs.append(value.astype(np.float32))
    outputs = evaluate(channel_path.model.graph.node[index], inputs, channel_path.tensor_info.opset)
    return np.asarray(outputs[0], np.float64)


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
    place: GroupBinding
    _path: ChannelPath
    _nodes: tuple[int, ...]

    def __call__(self, values: Floats) -> Floats:
        """Evaluate them on (points, n) values, channel i in column i; NaN where one cannot be."""
        computed = {self.tensor: values}
        last = values
        for index in self._nodes:
            node = self._path.graph.nodes[index]
            source = next(computed[t.name] for t in node.inputs if t.name in computed)
            step = self._path.affine(index)
            applied = (
                step.scale * source + step.shift if step else apply(self._path, index, computed)
            )
            last = np.full_like(source, np.nan) if applied is None else applied
            computed[node.outputs[0].name] = last
        return last


def activation_between(
    model: onnx.ModelProto,
    graph: Graph,
    tensor_info: TensorInfo,
    channels: ChannelMap,
    group: ChannelGroup,
    consumer: GroupBinding,
) -> Activation | None:
    """Return the activation between a group and a consumer; None where there is more than that.

    Several producers that meet, a pooling, a depthwise Conv: what is behind those is no function
    of one channel's value at one place.
    """
    nodes, producers = between(graph, tensor_info, channels, group, consumer)
    if len(producers) != 1 or producers[0].positions.shape[1] != 1:
        return None
    tensor = graph.nodes[producers[0].binding.node].outputs[0].name
    channel_path = ChannelPath(nodes, frozenset(), group, graph, model, tensor_info)
    after = list(nodes)
    while True:
        readers = channel_path.readers(tensor)
        if (
            len(readers) != 1
            or graph.nodes[readers[0]].op in MOVES
            or not channel_path.affine(readers[0])
        ):
            break
        after.remove(readers[0])
        tensor = graph.nodes[readers[0]].outputs[0].name
    activation = Activation(tensor, producers[0], channel_path, tuple(after))
    for index in after:
        op = graph.nodes[index].op
        if op == "Concat" or not (op in MOVES or op in ELEMENTWISE or channel_path.affine(index)):
            return None
    with np.errstate(all="ignore"):
        trial = activation(np.zeros((1, group.size)))
    return activation if trial.shape == (1, group.size) and np.all(np.isfinite(trial)) else None
