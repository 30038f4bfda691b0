"""Why a model, or a part of it, cannot be pruned."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lbyl_onnx.channels.groups import ChannelGroup, Refusal
from lbyl_onnx.channels.rules.view import Join, LabelFlow
from lbyl_onnx.errors import NothingToPruneError
from lbyl_onnx.graph.model_graph import Constant, Graph, Node, Tensor, node_name
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.types import DEFAULT_DOMAINS

# Operators of quantised models, of ONNX and of ONNX Runtime's own domain.
QUANTISED = re.compile(r"Quantize|^QLinear|^QGemm|Integer$|NBits$|^QAttention|^QEmbed")


def refuse_quantised(graph: Graph) -> None:
    """Raise NothingToPruneError for a graph that holds an operator of a quantised model."""
    quantised = [node_name(node) for node in graph.nodes if QUANTISED.search(node.op)]
    if quantised:
        raise NothingToPruneError(
            f"nothing could be pruned: the model is quantised ({quantised[0]} and "
            f"{len(quantised) - 1} other nodes); give the float model, and --quantize int8"
        )


# Operators that are named, those with the most weights first.
NAMED = 4


def why_nothing(graph: Graph, tensor_info: TensorInfo, refusals: Sequence[Refusal]) -> str:
    """Say in one line why nothing could be pruned.

    Parameters
    ----------
    graph, tensor_info
        The model.
    refusals
        Of all its channel groups.
    """
    if refusals:
        reasons = Counter(refusal.reason for refusal in refusals)
        listed = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
        said = f"nothing could be pruned in {len(refusals)} channel groups: {listed}"
        more = held_elsewhere(graph, tensor_info, foreign=True)
        return f"{said}; {more}" if more else said
    held = held_elsewhere(graph, tensor_info)
    return f"nothing could be pruned: {held or 'the model holds no weights'}"


def held_elsewhere(graph: Graph, tensor_info: TensorInfo, foreign: bool = False) -> str | None:
    """Name the operators that hold a model's weights, and what to do; None where none does.

    Parameters
    ----------
    graph, tensor_info
        The model.
    foreign
        Whether only the operators count that are not ONNX's own, and those in bodies.
    """
    nodes, elements = Counter[str](), Counter[str]()
    for name, own, size in _holders(graph, tensor_info):
        if not (own and foreign):
            nodes[name] += 1
            elements[name] += size
    if not nodes:
        return None
    most = [name for name, _ in elements.most_common()]
    listed = ", ".join(f"{name} ({nodes[name]})" for name in most[:NAMED])
    listed += f" and {len(most) - NAMED} more" if len(most) > NAMED else ""
    said = f"weights are held by operators whose channels cannot go: {listed}"
    if any(name.startswith("com.microsoft") for name in most):
        return (
            f"{said}; the model was saved by ONNX Runtime with optimisations: compress the one "
            "that it was made from"
        )
    if any(" in the body of " in name for name in most):
        return f"{said}; export the model without control flow"
    return said


def _holders(graph: Graph, tensor_info: TensorInfo) -> Iterator[tuple[str, bool, int]]:
    """Yield for each node with a weight its operator, whether it is known, and the elements."""
    for node in graph.nodes:
        size = sum(_weight_size(tensor, tensor_info) for tensor in node.inputs)
        if size and not _is_constant(node, tensor_info):
            own = (node.domain or "") in DEFAULT_DOMAINS
            yield _operator(node), own, size
        for body in node.subgraphs(recursive=True):
            for inner in body.nodes:
                size = sum(_weight_size(tensor, tensor_info) for tensor in inner.inputs)
                if size and not all(_is_stored(tensor) for tensor in inner.inputs):
                    yield f"{_operator(inner)} in the body of {node.op}", False, size


def _operator(node: Node) -> str:
    return f"{node.domain}::{node.op}" if node.domain else str(node.op)


def _is_constant(node: Node, tensor_info: TensorInfo) -> bool:
    return all(tensor_info.is_constant(tensor.name) for tensor in node.outputs)


def _is_stored(tensor: Tensor) -> bool:
    """Whether a tensor in a body is a constant there."""
    return isinstance(tensor, Constant) or any(n.op == "Constant" for n in tensor.inputs)


def _weight_size(tensor: Tensor, tensor_info: TensorInfo) -> int:
    """Elements of a constant with two axes or more; 0 for what is no such."""
    shape: Sequence[int | None] | None = None
    if isinstance(tensor, Constant):
        shape = tuple(tensor.shape)
    elif tensor_info.is_constant(tensor.name):
        shape = tensor_info.shape(tensor.name)
    elif tensor.inputs and tensor.inputs[0].op == "Constant":  # in a body
        shape = getattr(tensor.inputs[0].attrs.get("value"), "shape", None)
    size = math.prod(d or 0 for d in shape or ())
    return size if len(shape or ()) > 1 and size > 1 else 0


# Operators that add the outputs of layers to a stream.
ADDING = ("Add", "Mean", "Sub", "Sum")
Layers = frozenset[tuple[str | int, int]]


def why_outside_inner(
    graph: Graph, flow: LabelFlow, group: ChannelGroup
) -> tuple[str | None, tuple[str, ...]]:
    """Return why a group does not belong to scope `inner`, and the nodes that are the reason.

    A gate belongs to it: products alone join its layers. A sum counts where each of its terms comes
    from a layer that the other does not come from; those of x + x * gate, of GELU in single
    operators or of hard-swish do not.

    Parameters
    ----------
    graph, flow
        The graph, and what its interpretation noted.
    group
        Channels that are coupled.

    Returns
    -------
    tuple
        The reason, None where the group belongs to it; names of nodes.
    """
    layers = frozenset(place.binding.layer for place in group.producers)
    if len(layers) < 2:
        return None, ()
    joins, together = _additive(flow, group)
    streams = [join for join in joins if graph.nodes[join.node].op in ADDING]
    if streams:
        return "they lie on a residual stream", _names(graph, (join.node for join in streams))
    if not joins and not _connected(layers, together):
        nodes = _names(graph, (place.binding.node for place in group.producers))
        # Without one, positions couple them: a shuffle that sets channels of layers side by side.
        shared = any(p.binding.source for p in (*group.producers, *group.followers))
        who = "layers that share a constant" if shared else "several layers"
        return f"{who} produce them", nodes
    if joins:
        return "several layers produce them", _names(graph, (join.node for join in joins))
    return None, ()


def _additive(flow: LabelFlow, group: ChannelGroup) -> tuple[list[Join], set[Layers]]:
    """Joins of terms from different layers, and all sets of layers that come together."""
    roots = flow.coupling.roots()
    kinds = np.zeros(len(roots), np.int64)  # for each label the index of its set of layers
    sets: list[Layers] = [frozenset()]
    index_of = {sets[0]: 0}

    def number(layers: Layers) -> int:
        if layers not in index_of:
            index_of[layers] = len(sets)
            sets.append(layers)
        return index_of[layers]

    for place in group.producers:
        kinds[place.binding.labels] = number(frozenset({place.binding.layer}))
    apart: list[Join] = []
    together: set[Layers] = set()
    for join in flow.joins:
        coupled = join.coupled
        if not any(np.any(np.isin(roots[labels], group.units)) for labels in coupled):
            continue
        arrays = np.broadcast_arrays(*coupled, *([] if join.made is None else [join.made]))
        labels = np.stack(arrays).reshape(len(arrays), -1)  # -> (operands, positions)
        labels = labels[:, np.isin(roots[labels[0]], group.units)]
        distinct, inverse = np.unique(kinds[labels[: len(coupled)]], axis=1, return_inverse=True)
        rows = [[sets[kind] for kind in column] for column in distinct.T.tolist()]
        unions = [frozenset[tuple[str | int, int]]().union(*row) for row in rows]
        together.update(unions)
        if join.made is not None:
            kinds[labels[-1]] = np.asarray([number(u) for u in unions], np.int64)[inverse]
        if any(not _nested(row[: len(join.terms)]) for row in rows):
            apart.append(join)
    return apart, together


def _nested(terms: list[Layers]) -> bool:
    """Whether the first set holds each of the others, or is held by it."""
    return all(terms[0] <= other or other <= terms[0] for other in terms)


def _connected(layers: Layers, together: Iterable[Layers]) -> bool:
    """Whether sets that overlap join all layers."""
    reached, waiting = Layers([next(iter(layers))]), set(together)
    while met := {other for other in waiting if other & reached}:
        reached = reached.union(*met)
        waiting -= met
    return layers <= reached


def _names(graph: Graph, nodes: Iterable[int]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(node_name(graph.nodes[node]) for node in nodes))
