"""Couple the channels of all layers that read one weight: its axes shrink once, for all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lbyl_onnx.channels.labels import FIXED, AxisBinding, Freeze, Labels, Role
from lbyl_onnx.channels.rules.view import LabelFlow
from lbyl_onnx.graph.model_graph import Graph
from lbyl_onnx.graph.sharing import NAMED, Operand, Sharing, same_everywhere
from lbyl_onnx.graph.tensor_info import TensorInfo

OperandBinding = tuple[Operand, AxisBinding]


def couple_shared(graph: Graph, tensor_info: TensorInfo, flow: LabelFlow, sharing: Sharing) -> None:
    """Unite the labels of all bindings that lie along one axis of one constant.

    What cannot shrink for all of its readers alike is frozen, with who needs it. A binding of a
    shared constant gets its name as source: bindings of one source are one axis.

    Parameters
    ----------
    graph, tensor_info, sharing
        The graph, its constants, and who reads them.
    flow
        All bindings; takes couplings and freezes.
    """
    bindings: dict[Operand, list[AxisBinding]] = defaultdict(list)
    for binding in flow.bindings:
        bindings[binding.node, binding.operand].append(binding)
    shared: dict[Operand, str] = {}
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
        readers = [(use.node, use.operand) for use in uses]
        shared |= dict.fromkeys(readers, base)
        for along_axis in along.values():
            _couple(flow, [binding.labels for _, binding in along_axis])
            labels = np.unique(np.concatenate([binding.labels for _, binding in along_axis]))
            labels = labels[labels != FIXED]
            for node, how in whole.items():
                at = uses[0].node if node is None else node
                flow.freezes.append(Freeze(labels, f"the constant {base} stays: {how}", at))
            _check_readers(graph, flow, base, readers, along_axis, labels)
    flow.bindings[:] = [
        replace(s, source=shared.get((s.node, s.operand), "")) for s in flow.bindings
    ]


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
