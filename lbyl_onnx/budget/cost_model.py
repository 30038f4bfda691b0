"""What a model costs as a function of how many channels each of its groups keeps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import ChannelGroup
from lbyl_onnx.channels.labels import AxisBinding, Labels, Role, varying_axes
from lbyl_onnx.graph.costs import FLOATS, constants, macs_in_parts
from lbyl_onnx.graph.layers import is_layer, linear_layer
from lbyl_onnx.graph.layers.einsum import product_terms
from lbyl_onnx.graph.layers.linear_layer import Operand, Operation
from lbyl_onnx.graph.model_graph import Tensor
from lbyl_onnx.types import Floats

Counts = NDArray[np.int64]
"""How many channels each group keeps, in the order of the groups."""


@dataclass(frozen=True, eq=False)
class CountedCost:
    """A sum of products of axis lengths, each of which is linear in the kept counts.

    Attributes
    ----------
    fixed : float
        What no group changes.
    scale : (terms,) float64
        Cost of one combination of positions along a term's axes.
    factors : (terms, f) intp
        The axes of each term; axis 0 has length 1, whatever is kept.
    lengths : (axes,) float64
        Positions along each axis that belong to no group.
    taps : (axes, groups) float64
        Positions along each axis for one channel of each group.
    """

    fixed: float
    scale: Floats
    factors: NDArray[np.intp]
    lengths: Floats
    taps: Floats

    def at(self, counts: Counts) -> float:
        """Return the cost when the groups keep so many channels."""
        along = self.lengths + self.taps @ counts
        return float(self.fixed + self.scale @ np.prod(along[self.factors], axis=1))

    def slopes(self, counts: Counts) -> Floats:
        """Return (groups,): how the cost changes with one channel of each group."""
        along = (self.lengths + self.taps @ counts)[self.factors]  # (terms, f)
        slopes = np.zeros(self.taps.shape[1])
        for one in range(along.shape[1]):
            others = self.scale * np.prod(np.delete(along, one, axis=1), axis=1)
            slopes += others @ self.taps[self.factors[:, one]]
        return slopes


@dataclass
class _Terms:
    """Axes and terms in the making."""

    groups: Sequence[ChannelGroup]
    roots: Labels
    axes: dict[bytes, int] = field(default_factory=dict)
    lengths: list[float] = field(default_factory=lambda: [1.0])
    taps: list[Floats] = field(default_factory=list)
    terms: list[tuple[float, list[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.taps.append(np.zeros(len(self.groups)))
        self.owner = {int(u): i for i, group in enumerate(self.groups) for u in group.units}

    def axis(self, labels: Labels) -> int:
        """Return the number of the axis along which these labels lie, (length,)."""
        along = self.roots[labels]
        key = along.tobytes()
        if key not in self.axes:
            owners = [self.owner.get(root, -1) for root in along.tolist()]
            owner_counts = np.bincount(np.asarray(owners) + 1, minlength=len(self.groups) + 1)
            sizes = np.asarray([group.size for group in self.groups], dtype=np.float64)
            self.axes[key] = len(self.lengths)
            self.lengths.append(float(owner_counts[0]))
            self.taps.append(owner_counts[1:] / np.maximum(sizes, 1.0))
        return self.axes[key]

    def add(self, whole: float, along: Iterable[Labels]) -> None:
        """Add a term that costs so much when everything is kept."""
        labels = list(along)
        self.terms.append((whole / math.prod(map(len, labels)), [self.axis(x) for x in labels]))

    def cost(self, fixed: float) -> CountedCost:
        width = max((1, *(len(axes) for _, axes in self.terms)))
        factors = [axes + [0] * (width - len(axes)) for _, axes in self.terms]
        return CountedCost(
            fixed,
            np.asarray([scale for scale, _ in self.terms]),
            np.asarray(factors, dtype=np.intp).reshape(-1, width),
            np.asarray(self.lengths),
            np.stack(self.taps),
        )


def counted_macs(analyzed: AnalyzedModel, groups: Sequence[ChannelGroup]) -> CountedCost:
    """Return the multiply-accumulates as `costs.count_costs` counts them.

    Parameters
    ----------
    model, tensor_info, channels
        The model, its facts, and where its channels lie.
    groups
        Those whose counts are given, in this order.
    """
    terms = _Terms(groups, analyzed.channels.roots)
    bindings = analyzed.channels.bindings
    weights = {(s.node, s.operand): s for s in bindings if s.role is Role.CONSUMER}
    fixed = 0.0
    for index, node in enumerate(analyzed.model.graph.node):
        # Of Attention's products the first is as large as the queries, the last as the output.
        *first, last = macs_in_parts(node, analyzed.tensor_info) or (0,)
        queries = analyzed.channels.tensors.get(node.input[0]) if first else None
        parts = [(macs, _axes(analyzed, queries)) for macs in first]
        parts.append((last, list(_multiplied(analyzed, node, index, weights)) if last else []))
        for macs, along in parts:
            if along and macs:
                terms.add(macs, along)
            else:
                fixed += macs
    return terms.cost(fixed)


def _axes(analyzed: AnalyzedModel, labels: Labels | None) -> list[Labels]:
    """Labels along each axis of a tensor along which they lie."""
    roots = analyzed.channels.roots
    return [] if labels is None else [along for _, along in _by_axis(roots[labels])]


def _multiplied(
    analyzed: AnalyzedModel, node: NodeProto, index: int, weights: Mapping[Operand, AxisBinding]
) -> Iterable[Labels]:
    """Labels along each axis that a node's multiply-accumulates are the product of."""
    roots = analyzed.channels.roots
    names = [*node.input, *node.output[:1]]
    tensors = {n: roots[x] for n in names if (x := analyzed.channels.tensors.get(n)) is not None}
    yield from _axes(analyzed, analyzed.channels.tensors.get(node.output[0]))
    layer = linear_layer(analyzed.tensor_info, node)
    if layer is not None:
        inputs = weights.get((index, layer.operand))
        yield from [] if inputs is None else [inputs.labels]
    elif is_layer(node) and len(node.input) > 1:  # a product of two activations
        terms = product_terms(Operation.of(node), analyzed.tensor_info)
        summed: list[Labels] = []
        factors = () if isinstance(terms, str) else terms[:2]
        for term, name in zip(factors, node.input, strict=False):
            for axis, along in _by_axis(tensors[name]) if name in tensors else ():
                if term[axis - tensors[name].ndim] not in terms[2]:
                    summed.append(along)
        yield from summed[:1]


def _by_axis(labels: Labels) -> Iterable[tuple[int, Labels]]:
    """Yield each axis along which labels lie; only the last of rows from which as many go."""
    for axis in varying_axes(labels)[-1:]:
        yield axis, np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)[:, 0]


def counted_parameters(
    analyzed: AnalyzedModel, groups: Sequence[ChannelGroup], with_biases: bool, in_bytes: bool
) -> CountedCost:
    """Return the parameters as `costs.count_costs` counts them, or their bytes as stored.

    Parameters
    ----------
    model, tensor_info, channels, groups
        As for `counted_macs`.
    graph
        The same model as a graph.
    with_biases
        Whether each consumer without a bias is given one.
    """
    tensor_info, channels = analyzed.tensor_info, analyzed.channels
    terms = _Terms(groups, channels.roots)
    operands: dict[Operand, list[AxisBinding]] = {}
    for binding in channels.bindings:
        operands.setdefault((binding.node, binding.operand), []).append(binding)

    def each(dtype: int) -> int:
        return int(helper.tensor_dtype_to_np_dtype(dtype).itemsize) if in_bytes else 1

    counted: set[tuple[str, bytes]] = set()
    replaced: set[str] = set()
    for (index, operand), bindings in operands.items():
        name, axes = _stored_as(analyzed, (index, operand))
        dtype = tensor_info.dtype(name)
        # An axis whose channels all stay may carry labels for one reader and none for another.
        bound = [
            (axes.get(s.axis, s.axis), channels.roots[s.labels].tobytes(), s.labels)
            for s in bindings
            if not terms.owner.keys().isdisjoint(channels.roots[s.labels].tolist())
        ]
        along = sorted(bound, key=lambda entry: entry[0])
        roots = b"/".join(b"%d:%b" % (axis, line) for axis, line, _ in along)
        if dtype not in FLOATS or (name, roots) in counted:
            continue
        counted.add((name, roots))
        size = math.prod(d or 0 for d in tensor_info.shape(name) or (0,))
        if size > 0:
            replaced |= _computed_from(analyzed.graph.nodes[index].inputs[operand])
            terms.add(size * each(dtype), [labels for _, _, labels in along])
    for labels, values, dtype in _new_biases(analyzed, groups) if with_biases else ():
        terms.add(len(labels) * values * each(dtype), [labels])
    stored = dict(constants(analyzed.model))
    left = [tensor for name, tensor in stored.items() if name not in replaced]
    return terms.cost(float(sum(math.prod(t.dims) * each(t.data_type) for t in left)))


def _stored_as(analyzed: AnalyzedModel, at: Operand) -> tuple[str, dict[int, int]]:
    """Name of the constant that holds what a node reads, and its axes by those that are read."""
    sharing = analyzed.channels.sharing
    use = sharing.uses.get(at)
    if use is None or not sharing.rewritten(use.base, analyzed.tensor_info):
        return analyzed.graph.nodes[at[0]].inputs[at[1]].name, {}
    return use.base, {a: b for a, b in enumerate(use.axes) if b is not None}


def _computed_from(constant: Tensor) -> set[str]:
    """Names of a constant and of all that it is computed from."""
    names, waiting = set[str](), [constant]
    while waiting:
        tensor = waiting.pop()
        names.add(tensor.name)
        waiting += [x for node in tensor.inputs for x in node.inputs if x.name not in names]
    return names


def _new_biases(
    analyzed: AnalyzedModel, groups: Sequence[ChannelGroup]
) -> Iterable[tuple[Labels, int, int]]:
    """Labels of the biases that consumers are given, values for each label, and their type."""
    tensor_info, bindings = analyzed.tensor_info, analyzed.channels.bindings
    outputs = {s.node: s for s in bindings if s.role is Role.PRODUCER}
    consumers = {p.binding.node for group in groups for p in group.consumers}
    layers_with_bias: set[tuple[str | int, int]] = set()
    for index in sorted(consumers & outputs.keys()):
        node = analyzed.graph.nodes[index]
        layer = linear_layer(tensor_info, node)
        biased = layer is not None and layer.has_bias
        if not biased and outputs[index].layer not in layers_with_bias:
            layers_with_bias.add(outputs[index].layer)
            dtype = tensor_info.dtype(node.inputs[outputs[index].operand].name)
            labels = outputs[index].labels
            each = 1 if layer is None else layer.outputs // layer.channels
            yield labels, each, dtype if dtype in FLOATS else TensorProto.FLOAT
