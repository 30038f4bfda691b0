"""Products of two activations: what channels are to them, and the layers that make the factors."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.channels.groups import ChannelGroup, ChannelMap, GroupBinding
from lbyl_onnx.channels.labels import Labels, varying_axes
from lbyl_onnx.channels.paths import HANDS_ON
from lbyl_onnx.graph.layers import linear_layer
from lbyl_onnx.graph.layers.einsum import product_terms
from lbyl_onnx.graph.layers.linear_layer import Operation
from lbyl_onnx.graph.model_graph import Graph, Node
from lbyl_onnx.graph.tensor_info import TensorInfo

ChannelRole = Literal["queries and keys", "values", "whole heads", "hidden"]
_ATTENTION = ("Attention", "MultiHeadAttention", "GroupQueryAttention")


@dataclass(frozen=True, eq=False)
class Factor:
    """One factor of a product: queries, or keys.

    Parameters
    ----------
    producer
        The layer that makes it, and where its n channels lie, (n, taps).
    added
        The constants that are added behind it.
    tensor, axis, rank
        The activation at which it is measured, with all of these added.
    positions
        Where the channels lie there, (n, taps).
    """

    producer: GroupBinding
    added: tuple[GroupBinding, ...]
    tensor: str
    axis: int
    rank: int
    positions: NDArray[np.intp]


def factors_of(
    graph: Graph, tensor_info: TensorInfo, channels: ChannelMap, group: ChannelGroup
) -> tuple[Factor, Factor] | None:
    """Return the factors of a group's product; None where their channels cannot be mixed.

    They can where each comes from one layer, and on the way only constants are added to its
    channels, or all are multiplied by one number.
    """
    if len(group.products) != 1 or group.consumers:
        return None
    product = group.products[0]
    node = graph.nodes[product.node]
    factors: list[Factor] = []
    tensors = channels.carriers(group.units)
    for labels in (product.labels, product.others):
        own = np.unique(labels[np.isin(channels.roots[labels], group.units)])
        labelled = {name for name in tensors if np.any(np.isin(channels.tensors[name], own))}
        carriers = list(_carriers(graph, node, labelled))
        added = list(_placed(group.followers, channels, group, own))
        producers = list(_placed(group.producers, channels, group, own))
        if len(producers) != 1 or {p.binding.node for p in added} - {*carriers}:
            return None
        made = producers[0].binding.node
        layer = linear_layer(tensor_info, graph.nodes[made])
        # Another layer on the way, a depthwise Conv say, has a filter for each channel.
        between = [i for i in carriers if i != made]
        if not all(_is_linear(tensor_info, graph.nodes[i], added, i) for i in between):
            return None
        if layer is None or layer.groups != 1 or not layer.plain:
            return None
        bias = layer.bias_operand
        added = [p for p in added if (p.binding.node, p.binding.operand) != (made, bias)]
        sums = [made, *(p.binding.node for p in added)]
        factor = _measured_at(graph, channels, group, own, max(sums), producers[0], added)
        if factor is None:
            return None
        factors.append(factor)
    return factors[0], factors[1]


def _placed(
    bindings: Collection[GroupBinding], channels: ChannelMap, group: ChannelGroup, own: Labels
) -> Iterator[GroupBinding]:
    """Where some labels of a group lie along constants, without what others of it do."""
    for place in bindings:
        at = np.flatnonzero(np.isin(place.binding.labels, own))
        if at.size and at.size % group.size == 0:
            order = np.argsort(channels.roots[place.binding.labels[at]], kind="stable")
            yield GroupBinding(place.binding, at[order].reshape(group.size, -1))  # -> (n, taps)


def _carriers(graph: Graph, end: Node, tensors: Collection[str]) -> Iterator[int]:
    """Nodes whose outputs are among some tensors, but for the product."""
    for index, node in enumerate(graph.nodes):
        if node is not end and any(tensor.name in tensors for tensor in node.outputs):
            yield index


def _is_linear(
    tensor_info: TensorInfo, node: Node, added: Collection[GroupBinding], index: int
) -> bool:
    """Whether mixing channels before a node is mixing them behind it."""
    if node.op in HANDS_ON:
        return True
    if node.op == "Add" and any(place.binding.node == index for place in added):
        return True
    if node.op in ("Mul", "Div") and len(node.inputs) == 2:
        constant = [t.name for t in node.inputs if tensor_info.is_constant(t.name)]
        return len(constant) == 1 and tensor_info.value(constant[0]).size == 1
    return False


def _measured_at(
    graph: Graph,
    channels: ChannelMap,
    group: ChannelGroup,
    own: Labels,
    index: int,
    producer: GroupBinding,
    added: Collection[GroupBinding],
) -> Factor | None:
    name = graph.nodes[index].outputs[0].name
    labels = channels.tensors.get(name)
    axes = () if labels is None else varying_axes(labels)
    if labels is None or len(axes) != 1 or axes[0] not in (1, labels.ndim - 1):
        return None
    along = labels.reshape(-1)  # (1, .., C, .., 1) -> (C,)
    at = np.flatnonzero(np.isin(along, own))
    if at.size != producer.positions.size:
        return None
    order = np.argsort(channels.roots[along[at]], kind="stable")
    positions = at[order].reshape(group.size, -1)  # -> (n, taps)
    return Factor(producer, tuple(added), name, axes[0], labels.ndim, positions)


def role_of(
    graph: Graph, tensor_info: TensorInfo, channels: ChannelMap, group: ChannelGroup
) -> ChannelRole:
    """Return what a group's channels are.

    Parameters
    ----------
    graph, tensor_info, channels
        The graph, its constants, and where its channels lie.
    group
        One of its groups.

    Returns
    -------
    ChannelRole
        Queries and keys end in a product of two activations; values pass through one, whose other
        factor weighs tokens; whole heads are all of these; all other channels are hidden.
    """
    if group.whole_heads:
        return "whole heads"
    if group.products:
        return "queries and keys"
    return "values" if _weighing(graph, tensor_info, channels, group) else "hidden"


def head_size(
    graph: Graph, tensor_info: TensorInfo, channels: ChannelMap, group: ChannelGroup
) -> int | None:
    """Return how many channels a head has; None for channels of no heads, and if it is not known.

    Parameters
    ----------
    graph, tensor_info, channels, group
        As for `role_of`.
    """
    nodes = [graph.nodes[product.node] for product in group.products]
    nodes = nodes or _weighing(graph, tensor_info, channels, group)
    sizes = {_size_at(tensor_info, node, keys=bool(group.products)) for node in nodes}
    return sizes.pop() if len(sizes) == 1 else None


def _size_at(tensor_info: TensorInfo, node: Node, keys: bool) -> int | None:
    """Channels of each head of the keys, or of the values, at a product."""
    operand = 1 if keys or node.op not in _ATTENTION else 2
    shape = tensor_info.shape(node.inputs[operand].name) or ()
    if node.op in _ATTENTION:
        heads = node.attrs.get("num_heads", node.attrs.get("kv_num_heads", 0))
        last = shape[-1] if shape else None
        if last is None or len(shape) == 4:
            return last
        return last // heads if heads else None
    terms = product_terms(Operation.of(node), tensor_info)
    if isinstance(terms, str):
        return None
    sizes = dict(zip(terms[1], shape, strict=False))
    own = [x for x in terms[1] if (x in terms[0]) == keys and (x in terms[2]) != keys]
    return sizes.get(own[0]) if len(own) == 1 else None


def _weighing(
    graph: Graph, tensor_info: TensorInfo, channels: ChannelMap, group: ChannelGroup
) -> list[Node]:
    """Nodes that weigh tokens by another activation and hand a group's channels on."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if not _weighs_tokens(node, tensor_info):
            continue
        tensors = (channels.tensors.get(t.name) for t in (*node.inputs, *node.outputs))
        carried = [x is not None and _holds(channels, x, group) for x in tensors]
        if any(carried[: len(node.inputs)]) and any(carried[len(node.inputs) :]):
            nodes.append(node)
    return nodes


def _weighs_tokens(node: Node, tensor_info: TensorInfo) -> bool:
    """Whether a node multiplies two activations and sums over an axis."""
    if node.op in _ATTENTION:
        return True
    constant = (tensor_info.is_constant(tensor.name) for tensor in node.inputs)
    return node.op in ("MatMul", "Einsum") and len(node.inputs) == 2 and not any(constant)


def _holds(channels: ChannelMap, labels: Labels, group: ChannelGroup) -> bool:
    return bool(np.any(np.isin(channels.roots[labels], group.units)))
