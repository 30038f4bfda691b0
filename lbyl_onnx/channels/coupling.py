"""Couple the channels of all layers that read one weight: its axes shrink once, for all of them.

A small table that only multiplies channels, as the cosines and sines of a rotary embedding do, does
not couple the layers that it is applied to: each gets the part that it needs as its own.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lbyl_onnx.channels.labels import FIXED, AxisBinding, Freeze, Labels, Role
from lbyl_onnx.channels.rules.view import Join, LabelFlow
from lbyl_onnx.graph.model_graph import Graph
from lbyl_onnx.graph.sharing import NAMED, Operand, Sharing, same_everywhere
from lbyl_onnx.graph.tensor_info import TensorInfo

OperandBinding = tuple[Operand, AxisBinding]
# Operators that scale each channel by itself, and how much smaller than the weights that make the
# channels a table must be to be stored for each layer that it scales.
SCALING, SMALLER = ("Div", "Mul"), 16


def couple_shared(
    graph: Graph, tensor_info: TensorInfo, flow: LabelFlow, sharing: Sharing
) -> Sharing:
    """Unite the labels of all bindings that lie along one axis of one constant.

    What cannot shrink for all of its readers alike is frozen, with who needs it. A binding of a
    shared constant gets its name as source: bindings of one source are one axis.

    Parameters
    ----------
    graph, tensor_info, sharing
        The graph, its constants, and who reads them.
    flow
        All bindings; takes couplings and freezes.

    Returns
    -------
    Sharing
        As it was, with the tables that are stored for each reader.
    """
    bindings: dict[Operand, list[AxisBinding]] = defaultdict(list)
    for binding in flow.bindings:
        bindings[binding.node, binding.operand].append(binding)
    shared: dict[Operand, str] = {}
    copied = _small_tables(graph, tensor_info, flow, sharing, bindings)
    for base, uses in sharing.readers.items():
        along: dict[int, list[OperandBinding]] = defaultdict(list)
        for use in uses:
            for binding in bindings.get((use.node, use.operand), ()):
                axis = use.axes[binding.axis]
                if axis is not None:
                    along[axis].append(((use.node, use.operand), binding))
        whole = {w.node: w.how for w in sharing.apart.get(base, ())}
        if not along or len(uses) + len(whole) < 2 or same_everywhere(tensor_info, base):
            continue
        if base in copied:
            continue
        readers = [(use.node, use.operand) for use in uses]
        shared |= dict.fromkeys(readers, base)
        for along_axis in along.values():
            lines = [binding.labels for _, binding in along_axis]
            _couple(flow, lines)
            if all(graph.nodes[s.node].op in SCALING for _, s in along_axis):
                flow.joins.append(Join(along_axis[0][1].node, (), tuple(lines)))
            labels = np.unique(np.concatenate([binding.labels for _, binding in along_axis]))
            labels = labels[labels != FIXED]
            for node, how in whole.items():
                at = uses[0].node if node is None else node
                flow.freezes.append(Freeze(labels, f"the constant {base} stays: {how}", at))
            _check_readers(graph, flow, base, readers, along_axis, labels)
    flow.bindings[:] = [
        replace(s, source=shared.get((s.node, s.operand), "")) for s in flow.bindings
    ]
    return replace(sharing, copied=copied)


def _small_tables(
    graph: Graph,
    tensor_info: TensorInfo,
    flow: LabelFlow,
    sharing: Sharing,
    bindings: Mapping[Operand, Sequence[AxisBinding]],
) -> frozenset[str]:
    """Return the bases that only scale channels, and are small beside what makes these."""
    roots = flow.coupling.roots()
    made = np.zeros(len(roots), np.int64)  # for each label the elements of the weights that make it
    for binding in flow.bindings:
        if binding.role is Role.PRODUCER:
            size = _size(tensor_info, graph.nodes[binding.node].inputs[binding.operand].name)
            made[np.unique(roots[binding.labels])] += size
    tables: set[str] = set()
    for base, uses in sharing.readers.items():
        along = [s for use in uses for s in bindings.get((use.node, use.operand), ())]
        scales = all(graph.nodes[s.node].op in SCALING for s in along)
        if not along or not scales or tensor_info.overridable(base) is not None:
            continue
        labels = np.concatenate([roots[s.labels] for s in along])
        weights = made[labels[labels != FIXED]]
        table = max(_size(tensor_info, use.tensor) for use in uses)
        if weights.size and SMALLER * table <= weights.min():
            tables.add(base)
    return frozenset(tables)


def _size(tensor_info: TensorInfo, name: str) -> int:
    return math.prod(d or 0 for d in tensor_info.shape(name) or ())


def _couple(flow: LabelFlow, lines: Sequence[Labels]) -> None:
    """Couple lines of labels, each (length of the axis,), position by position."""
    for line in lines[1:]:
        flow.coupling.unite(lines[0], line)
    fixed = np.any(np.stack(lines) == FIXED, axis=0)
    stays = np.unique(np.concatenate([line[fixed] for line in lines]))
    if np.any(stays != FIXED):
        reason = "layers that share a weight with theirs keep these channels"
        flow.freezes.append(Freeze(stays[stays != FIXED], reason, None))


def _check_readers(
    graph: Graph,
    flow: LabelFlow,
    base: str,
    readers: Sequence[Operand],
    along: Sequence[OperandBinding],
    labels: Labels,
) -> None:
    """Freeze what one reader needs whole, or what some readers make and others read."""
    shrinking = {operand for operand, _ in along}
    for node, _ in [reader for reader in readers if reader not in shrinking][:NAMED]:
        reason = f"{graph.nodes[node].op} reads the constant {base} along channels that stay"
        flow.freezes.append(Freeze(labels, reason, node))
    consumers = [binding.node for _, binding in along if binding.role is Role.CONSUMER][:NAMED]
    producers = [binding.node for _, binding in along if binding.role is not Role.CONSUMER][:NAMED]
    if consumers and producers:
        # What a weight is given to make up for what goes would change what makes the channels.
        reason = f"the constant {base} both makes and reads them"
        flow.freezes += [Freeze(labels, reason, node) for node in (*producers, *consumers)]
