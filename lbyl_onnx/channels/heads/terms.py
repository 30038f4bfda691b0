"""Products whose channels cannot be mixed: where they are measured, channel by channel and head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.channels.groups import ChannelGroup, ChannelMap, GroupBinding
from lbyl_onnx.channels.labels import FIXED, Labels, varying_axes
from lbyl_onnx.channels.paths import HANDS_ON
from lbyl_onnx.channels.rules.view import Product
from lbyl_onnx.graph.layers import linear_layer
from lbyl_onnx.graph.model_graph import Graph, Tensor
from lbyl_onnx.graph.norms.parts import parts_of
from lbyl_onnx.graph.tensor_info import TensorInfo

# Operators behind which a channel that was scaled before is scaled as much; sums of two such.
SCALES = HANDS_ON | {"Add", "Sub", "Mul", "Neg", "Concat"}


@dataclass(frozen=True, eq=False)
class Columns:
    """Where the channels of one operand of a product lie.

    Parameters
    ----------
    tensor, rank
        The operand.
    axes
        Axes on which its channels lie, heads first.
    positions
        (columns,): along these axes, flattened in their order.
    """

    tensor: str
    rank: int
    axes: tuple[int, ...]
    positions: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Terms:
    """The terms that a group's channels add to one product.

    Parameters
    ----------
    first, second
        Both operands, as the product reads them.
    at
        For each place of each sum, (sums, d), the column of each.
    units
        The channel of the group at each place, (sums, d).
    norms
        Nodes of the normalisations on the way of each operand; None without.
    made
        Where the layer that makes the first operand has its channels; None where what lies between
        does not hand on a scale of each channel.
    """

    first: Columns
    second: Columns
    at: tuple[NDArray[np.intp], NDArray[np.intp]]
    units: NDArray[np.intp]
    norms: tuple[int | None, int | None]
    made: GroupBinding | None


def terms_of(
    graph: Graph, tensor_info: TensorInfo, channels: ChannelMap, group: ChannelGroup
) -> tuple[Terms, ...]:
    """Return the terms of each of a group's products; () where not all of one are its own."""
    each = [_terms(graph, tensor_info, channels, group, product) for product in group.products]
    terms = tuple(one for one in each if one is not None)
    return () if group.consumers or len(terms) < len(each) else terms


def _terms(
    graph: Graph,
    tensor_info: TensorInfo,
    channels: ChannelMap,
    group: ChannelGroup,
    product: Product,
) -> Terms | None:
    if product.added is not None:
        return None
    roots = [channels.roots[labels] for labels in product.meeting]
    if not np.array_equal(roots[0], roots[1]) or not np.all(np.isin(roots[0], group.units)):
        return None
    inputs = graph.nodes[product.node].inputs
    operands = inputs[product.operand], inputs[1 - product.operand]
    columns: list[Columns] = []
    at: list[NDArray[np.intp]] = []
    for tensor, labels, met in zip(
        operands, (product.labels, product.others), product.meeting, strict=True
    ):
        axes = varying_axes(labels)
        line = labels[tuple(slice(None) if a in axes else 0 for a in range(labels.ndim))]
        distinct, positions = np.unique(line.reshape(-1), return_index=True)
        if not np.all(np.isin(met, distinct)) or FIXED in distinct:
            return None
        columns.append(Columns(tensor.name, labels.ndim, axes, positions.astype(np.intp)))
        at.append(np.searchsorted(distinct, met).astype(np.intp))
    units = np.searchsorted(group.units, roots[0]).astype(np.intp)
    one, other = (_norm_before(graph, tensor_info, channels, tensor) for tensor in operands)
    made = _made(graph, tensor_info, channels, group, operands[0])
    if made is not None and made.positions.size != columns[0].positions.size:
        made = None  # one weight makes both operands
    return Terms(columns[0], columns[1], (at[0], at[1]), units, (one, other), made)


def _made(
    graph: Graph, tensor_info: TensorInfo, channels: ChannelMap, group: ChannelGroup, last: Tensor
) -> GroupBinding | None:
    """Where the one layer before an operand has its channels, if only linear nodes lie between."""
    index_of = {id(node): index for index, node in enumerate(graph.nodes)}
    makers, waiting = set[int](), [last]
    while waiting:
        tensor = waiting.pop()
        labels = channels.tensors.get(tensor.name)
        if labels is None or not np.any(np.isin(channels.roots[labels], group.units)):
            continue
        node = tensor.inputs[0]
        layer = linear_layer(tensor_info, node)
        if layer is not None:
            if layer.groups != 1 or not layer.plain:
                return None
            makers.add(index_of[id(node)])
            continue
        added = node.op in ("Add", "Sub") and any(
            channels.tensors.get(x.name) is None for x in node.inputs
        )
        if added or node.op not in SCALES:
            return None
        waiting += list(node.inputs)
    bindings = [place for place in group.producers if place.binding.node in makers]
    alone = len(makers) == len(bindings) == 1 and not bindings[0].binding.source
    return bindings[0] if alone else None


def _norm_before(
    graph: Graph, tensor_info: TensorInfo, channels: ChannelMap, operand: Tensor
) -> int | None:
    """Index of the normalisation between an operand and the layers that make it."""
    index_of = {id(node): index for index, node in enumerate(graph.nodes)}
    all_parts = (
        (n.node, parts_of(graph.nodes[n.node], n.labels.shape[-1], tensor_info))
        for n in channels.norms
    )
    norms = {node for node, parts in all_parts if parts is not None}
    waiting, visited = [operand], set[int]()
    while waiting:
        for node in waiting.pop().inputs:
            index = index_of[id(node)]
            if index in visited or linear_layer(tensor_info, node) is not None:
                continue
            if index in norms:
                return index
            visited.add(index)
            waiting += list(node.inputs)
    return None


def along(labels: Labels, roots: Labels, group: ChannelGroup) -> NDArray[np.intp]:
    """Return the channel of the group at each place of a last axis, (C,); -1 for others."""
    line = roots[labels.reshape(-1, labels.shape[-1])[0]]  # (.., C) -> (C,)
    at = np.minimum(np.searchsorted(group.units, line), group.size - 1)
    return np.where(group.units[at] == line, at, -1)
