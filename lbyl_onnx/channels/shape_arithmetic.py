"""Numbers that count channels, on their way from Shape to where they are read.

The graph may compute a size from the shape of something that shrinks: a Reshape target, the sizes
of a Resize. Where the value is constant it is pinned or rewritten. Where it also depends on a
dynamic dimension it is left to the graph, and then it must count exactly the channels of the axis
that it sizes. What reads such a number in any other way keeps the channels from going.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lbyl_onnx.channels.labels import Freeze, Labels, varying_axes
from lbyl_onnx.channels.rules.view import (
    KeptAxis,
    LabelFlow,
    ShapeDependence,
    ShapeDependences,
)
from lbyl_onnx.graph.model_graph import Graph, Node
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.types import DEFAULT_DOMAINS

SAME_ORDER = ("Identity", "Cast", "CastLike", "Unsqueeze", "Squeeze", "Reshape", "Flatten")
# Operators with an input that names the size of each axis of their output.
SIZED = {"Reshape": 1, "Expand": 1, "Resize": 3}


def count_channels(
    flow: LabelFlow, tensors: Mapping[str, Labels], tensor_info: TensorInfo, index: int, node: Node
) -> None:
    """Note which elements of a node's outputs count channels, or that the node reads such.

    Parameters
    ----------
    flow
        Takes the counts and the reads.
    tensors
        Labels of the activations so far.
    tensor_info
        What is known of the tensors.
    index, node
        The node.
    """
    names = [tensor.name for tensor in node.inputs]
    if node.op in ("Shape", "Size") and (node.domain or "") in DEFAULT_DOMAINS:
        labels = tensors.get(names[0])
        if labels is not None:
            flow.counts[node.outputs[0].name] = _of_shape(flow, labels, index, node)
        return
    constant = all(tensor_info.is_constant(tensor.name) for tensor in node.outputs if tensor.name)
    # Constants are pinned where they enter what is not constant, and so do not change there.
    input_counts = {
        name: flow.counts[name]
        for name in names
        if name in flow.counts and (constant or not tensor_info.is_constant(name))
    }
    if not any(count is not None for counts in input_counts.values() for count in counts):
        return
    moved = _moved(tensor_info, node, names, input_counts)
    outputs_known = all(tensor_info.is_known(tensor.name) for tensor in node.outputs if tensor.name)
    if moved is not None:
        flow.counts[node.outputs[0].name] = moved
    elif outputs_known:
        for output in node.outputs:
            size = _length(tensor_info, output.name) or 1
            flow.counts[output.name] = (
                ShapeDependence(_union(input_counts.values()), False),
            ) * size
    else:
        flow.reads += [
            (index, operand) for operand, name in enumerate(names) if name in input_counts
        ]


def _of_shape(flow: LabelFlow, labels: Labels, index: int, node: Node) -> ShapeDependences:
    if node.op == "Size":
        return (ShapeDependence(np.unique(labels), False),)
    counts: list[ShapeDependence | None] = []
    axes = varying_axes(flow.coupling.canonical(labels))
    for axis in range(labels.ndim):
        lines = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)  # -> (axis, others)
        if len(lines) < 2 or (len(axes) > 1 and axis != axes[-1]):
            # The number of one channel does not say that there is one: Concat may have fixed it.
            # Of channels that lie on several axes those along the last go, of each row as many.
            counts.append(None)
            if axis in axes:
                flow.kept_axes.append(KeptAxis(index, labels, axis))
        elif axis in axes or not axes:
            counts.append(ShapeDependence(lines[:, 0], True))
        else:
            counts.append(ShapeDependence(np.unique(labels), False))
    end = node.attrs.get("end", len(counts))
    return tuple(counts[node.attrs.get("start", 0) : end])


def _moved(
    tensor_info: TensorInfo,
    node: Node,
    names: Sequence[str],
    input_counts: Mapping[str, ShapeDependences],
) -> ShapeDependences | None:
    """Return the counts behind a node that only moves numbers; None for any other."""
    if node.op == "Concat":
        parts: list[ShapeDependence | None] = []
        for name in names:
            size = _length(tensor_info, name)
            if name not in input_counts and size is None:
                return None
            parts += input_counts.get(name, (None,) * (size or 0))
        return tuple(parts)
    if names[0] not in input_counts or any(name in input_counts for name in names[1:]):
        return None
    counts = input_counts[names[0]]
    if node.op in SAME_ORDER:
        return counts
    rest = [
        tensor_info.value(n).reshape(-1) if tensor_info.is_constant(n) else None
        for n in names[1:]
        if n
    ]
    if any(value is None for value in rest):
        return None
    numbers = [[int(v) for v in value] for value in rest if value is not None]
    if node.op == "Gather":
        return tuple(counts[i] for i in numbers[0] if -len(counts) <= i < len(counts))
    if node.op == "Slice":
        starts, ends = numbers[:2] or (node.attrs["starts"], node.attrs["ends"])
        step = numbers[3][0] if len(numbers) > 3 else 1
        return counts[starts[0] : ends[0] : step]
    return None


def _length(tensor_info: TensorInfo, name: str) -> int | None:
    shape = tensor_info.shape(name)
    dims = [d for d in shape or () if d is not None]
    return None if shape is None or len(dims) < len(shape) else math.prod(dims)


def _union(many: Iterable[ShapeDependences]) -> Labels:
    label_sets = [count.labels for counts in many for count in counts if count is not None]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *label_sets]))


def counted(flow: LabelFlow, name: str) -> Labels:
    """Return the labels that a tensor's elements count."""
    return _union([flow.counts.get(name, ())])


def freeze_unsized(graph: Graph, flow: LabelFlow, tensors: Mapping[str, Labels]) -> None:
    """Freeze what a computed number counts where it is neither rewritten nor right by itself.

    Parameters
    ----------
    graph
        The graph.
    flow
        All counts and reads; takes the freezes.
    tensors
        Labels of the activations.
    """
    rewritten = {(sizes.node, sizes.place) for sizes in flow.sizes}
    roots = flow.coupling.roots()
    for index, operand in flow.reads:
        node = graph.nodes[index]
        counts = flow.counts[node.inputs[operand].name]
        labels = tensors.get(node.outputs[0].name) if node.outputs else None
        if (index, operand) in rewritten or _sizes_its_axes(node, operand, counts, labels, roots):
            continue
        touched = [_union([counts])] + ([] if labels is None else [np.unique(labels)])
        reason = f"{node.op} reads a size computed from their number"
        flow.freezes.append(Freeze(np.unique(np.concatenate(touched)), reason, index))
    for output in graph.outputs:
        if output.name in flow.counts:
            reason = "their number is an output of the graph"
            flow.freezes.append(Freeze(counted(flow, output.name), reason, None))


def _sizes_its_axes(
    node: Node, operand: int, counts: ShapeDependences, labels: Labels | None, roots: Labels
) -> bool:
    """Whether each element counts exactly the channels of the axis that it sizes."""
    if SIZED.get(node.op) != operand:
        return False
    rank = len(counts) if labels is None else labels.ndim
    offset = rank - len(counts) if node.op == "Expand" else 0
    axes = [a % rank for a in node.attrs.get("axes", range(offset, rank))]
    if len(axes) != len(counts):
        return False
    by_axis = dict(zip(axes, counts, strict=True))
    varying = () if labels is None else varying_axes(roots[labels])
    for axis in range(rank):
        count = by_axis.get(axis)
        if labels is None or labels.shape[axis] == 1:
            if count is not None:
                return False
            continue
        lines = roots[np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)]
        if count is None and (np.all(lines == lines[:1]) or axis in varying[:-1]):
            continue  # channels that lie on another axis, or go along another
        same = count is not None and count.exact and len(count.labels) == len(lines)
        if count is None or not same or (varying or (axis,))[-1] != axis:
            return False
        if np.any(roots[count.labels] != lines[:, 0]):
            return False
    return True
