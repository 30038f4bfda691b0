"""Which channels move together: a graph, interpreted on channel labels, becomes channel groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

import numpy as np

from lbyl_onnx.channels.coupling import couple_shared
from lbyl_onnx.channels.groups import ChannelGroup, ChannelMap, GroupBinding, Refusal, Selection
from lbyl_onnx.channels.heads.lines import Lines, couple_slices, find_lines, freeze_kept_axes
from lbyl_onnx.channels.heads.whole import Units, with_whole_heads
from lbyl_onnx.channels.labels import FIXED, Freeze, Labels, Role
from lbyl_onnx.channels.refusals import why_outside_inner
from lbyl_onnx.channels.rules import AT_ANY_LENGTH, RULES, no_rule
from lbyl_onnx.channels.rules.tables import STARTS
from lbyl_onnx.channels.rules.view import LabelFlow, NodeView
from lbyl_onnx.channels.shape_arithmetic import count_channels, counted, freeze_unsized
from lbyl_onnx.errors import OptionError
from lbyl_onnx.graph.layers import is_layer
from lbyl_onnx.graph.model_graph import Graph, Node, bodies, names_read, node_name
from lbyl_onnx.graph.sharing import find_sharing
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.option_types import shown
from lbyl_onnx.types import operator_key


def find_channels(graph: Graph, tensor_info: TensorInfo, selection: Selection) -> ChannelMap:
    """Interpret a graph on channel labels and gather the channel groups.

    Parameters
    ----------
    graph
        The graph; it is not changed. Nodes are meant by their index in it.
    tensor_info
        Shapes and constants of its tensors.
    selection
        What the user included and excluded.

    Returns
    -------
    ChannelMap
        Groups whose channels can be removed, refusals for all others.

    Raises
    ------
    OptionError
        Where a glob of the selection matches no producer.
    """
    interpret = partial(_interpreted, graph, tensor_info, selection)
    channels = interpret({})
    if selection.attention == "dims":
        return channels
    return with_whole_heads(graph, tensor_info, channels, interpret, selection.by_dims)


def _interpreted(
    graph: Graph, tensor_info: TensorInfo, selection: Selection, units: Units
) -> ChannelMap:
    """Interpret a graph once, with some channels of its layers as one from the start."""
    flow = LabelFlow(units)
    tensors: dict[str, Labels] = {}
    for index, node in enumerate(graph.nodes):
        _freeze_captured(flow, tensors, index, node)
        count_channels(flow, tensors, tensor_info, index, node)
        output_labels = _interpret(flow, tensors, tensor_info, index, node)
        for output, labels in zip(node.outputs, output_labels, strict=False):
            if labels is not None and output.name:
                tensors[output.name] = labels
    for output in graph.outputs:
        if output.name in tensors:
            producer = next(i for i, n in enumerate(graph.nodes) if output in n.outputs)
            labels = np.unique(tensors[output.name])
            flow.freezes.append(Freeze(labels, "they are an output of the graph", producer))
    sharing = couple_shared(graph, tensor_info, flow, find_sharing(graph, tensor_info))
    find_lines(flow, tensors)
    freeze_unsized(graph, flow, tensors)
    _check_globs(graph, flow, selection)
    _freeze_overridable(graph, flow, tensor_info)
    lines, sets = _unit_sets(flow, tensors)
    groups, refused = _gather(graph, flow, selection, lines, sets)
    groups, refusals, ties = _untied(groups, refused, lines)
    return ChannelMap(
        tuple(groups),
        tuple(refusals),
        tuple(flow.bindings),
        tuple(flow.sizes),
        tensors,
        flow.coupling.roots(),
        sharing,
        norms=tuple(flow.norms),
        kept_attributes=tuple(flow.kept_attributes),
        selected=tuple(flow.selected),
        ties=ties,
    )


def _check_globs(graph: Graph, flow: LabelFlow, selection: Selection) -> None:
    """Refuse a glob that matches no layer: a typing error would prune another selection."""
    if not (selection.include or selection.exclude):
        return
    bindings = (binding for binding in flow.bindings if binding.role is Role.PRODUCER)
    names = {node_name(graph.nodes[binding.node]) for binding in bindings}
    for option, globs in (("include", selection.include), ("exclude", selection.exclude)):
        for glob in globs:
            if not any(fnmatchcase(name, glob) for name in names):
                raise OptionError(
                    f"--{option} {shown(glob)} matches no layer that produces channels; "
                    "lbyl-onnx inspect lists them"
                )


def _interpret(
    flow: LabelFlow, tensors: Mapping[str, Labels], tensor_info: TensorInfo, index: int, node: Node
) -> list[Labels | None]:
    labels = [tensors.get(tensor.name) for tensor in node.inputs]
    key = operator_key(node.domain or "", node.op)
    # Layers and tables start labels; what an unknown operator of another domain holds is listed.
    starts = is_layer(node) or (key[0] and key not in RULES) or node.op in STARTS
    if not starts and all(x is None for x in labels):
        return []
    if node.outputs and tensor_info.is_constant(node.outputs[0].name):
        return []
    view = NodeView(index, node, labels, tensor_info, flow)
    if key not in AT_ANY_LENGTH and any(view.on_dynamic_axis(i) for i in range(len(labels))):
        return view.freeze_inputs(f"{node.op} takes them along a dynamic dimension")
    return RULES.get(key, no_rule)(view)


def _freeze_captured(
    flow: LabelFlow, tensors: Mapping[str, Labels], index: int, node: Node
) -> None:
    """Freeze what the body of an If or Loop reads from outside: it is not interpreted."""
    for body in bodies(node):
        names = names_read(body)
        for name in sorted(names & tensors.keys()):
            reason = f"the body of {node.op} reads them"
            flow.freezes.append(Freeze(np.unique(tensors[name]), reason, index))
        for name in sorted(names & flow.counts.keys()):
            reason = f"the body of {node.op} reads a size computed from their number"
            flow.freezes.append(Freeze(counted(flow, name), reason, index))


def _freeze_overridable(graph: Graph, flow: LabelFlow, tensor_info: TensorInfo) -> None:
    """Freeze what meets a constant that a caller may override: its type and shape must stay.

    All channels along any constant of such a node stay: what compensates for them might change
    the overridable one, a bias for instance, and a caller who gives it would undo that.
    """
    labels_by_node: dict[int, list[Labels]] = defaultdict(list)
    for binding in flow.bindings:
        labels_by_node[binding.node].append(binding.labels)
    for sizes in flow.sizes:
        labels_by_node[sizes.node] += sizes.counted
    for index, labels in labels_by_node.items():
        named = (tensor_info.overridable(tensor.name) for tensor in graph.nodes[index].inputs)
        name = next((name for name in named if name is not None), None)
        if name is not None:
            touched = np.unique(np.concatenate([np.zeros(0, np.int64), *labels]))
            flow.freezes.append(Freeze(touched, f"a caller may override {name}", index))


@dataclass(frozen=True)
class _UnitSet:
    """Units that occur on the same axes: indices of bindings, and the freezes of any unit."""

    units: Labels
    bindings: tuple[int, ...]
    freezes: tuple[Freeze, ...]


def _unit_sets(flow: LabelFlow, tensors: Mapping[str, Labels]) -> tuple[Lines, list[_UnitSet]]:
    """Find the units that go together as a group, none of which takes part of a line."""
    while True:
        lines = find_lines(flow, tensors)
        freeze_kept_axes(flow)
        sets = _by_occurrences(flow)
        number_of = np.full(len(lines.line_of), -1)
        for number, unit_set in enumerate(sets):
            number_of[unit_set.units] = number
        on_lines = np.flatnonzero((lines.line_of >= 0) & (number_of >= 0))
        pairs = np.unique(np.stack([lines.line_of[on_lines], number_of[on_lines]]), axis=1)
        line, often = np.unique(pairs[0], return_counts=True)
        parted = line[often > 1]
        if not parted.size:
            return lines, sets
        couple_slices(flow, lines.grids[int(lines.tie_of[parted[0]])])


def _by_occurrences(flow: LabelFlow) -> list[_UnitSet]:
    """Gather the units by the axes on which they occur, frozen ones apart from others."""
    roots = flow.coupling.roots()
    frozen: dict[int, list[Freeze]] = {}
    for freeze in flow.freezes:
        for root in np.unique(roots[freeze.labels]).tolist():
            frozen.setdefault(root, []).append(freeze)
    occurrences: dict[int, list[tuple[int, int]]] = defaultdict(list)
    # Numbers that count channels tell groups apart, too, so that no part of a Split goes whole.
    counted = [labels for sizes in flow.sizes if sizes.of is None for labels in sizes.counted]
    for index, labels in enumerate([*(binding.labels for binding in flow.bindings), *counted]):
        distinct, counts = np.unique(roots[labels], return_counts=True)
        for root, count in zip(distinct.tolist(), counts.tolist(), strict=True):
            if root != FIXED:
                occurrences[root].append((index, count))
    by_occurrences: dict[tuple[tuple[tuple[int, int], ...], bool], list[int]] = defaultdict(list)
    for root in sorted(occurrences):
        by_occurrences[tuple(occurrences[root]), root in frozen].append(root)
    return [
        _UnitSet(
            np.asarray(units, np.int64),
            tuple(index for index, _ in axes if index < len(flow.bindings)),
            tuple(freeze for root in units for freeze in frozen.get(root, ())),
        )
        for (axes, _), units in by_occurrences.items()
    ]


def _gather(
    graph: Graph,
    flow: LabelFlow,
    selection: Selection,
    lines: Lines,
    sets: Iterable[_UnitSet],
) -> tuple[list[ChannelGroup], list[tuple[ChannelGroup, Refusal]]]:
    """Make each set of units a group; one that cannot be pruned comes with its refusal."""
    groups: list[ChannelGroup] = []
    refused: list[tuple[ChannelGroup, Refusal]] = []
    for unit_set in sets:
        group = _group(graph, flow, lines, unit_set)
        if unit_set.freezes:
            refusal: Refusal | None = _frozen(graph, group, unit_set.freezes)
        else:
            refusal = _out_of_scope(graph, flow, group, selection)
        if refusal is None:
            groups.append(group)
        else:
            refused.append((group, refusal))
    return groups, refused


def _group(graph: Graph, flow: LabelFlow, lines: Lines, unit_set: _UnitSet) -> ChannelGroup:
    placements: dict[Role, list[GroupBinding]] = {role: [] for role in Role}
    roots, units = flow.coupling.roots(), unit_set.units
    for binding in (flow.bindings[index] for index in unit_set.bindings):
        along = roots[binding.labels]
        indices = np.flatnonzero(np.isin(along, units))
        order = np.argsort(along[indices], kind="stable")  # ascending within each unit
        positions = indices[order].reshape(len(units), -1)  # (n * taps,) -> (n, taps)
        placements[binding.role].append(GroupBinding(binding, positions))
    producers = placements[Role.PRODUCER]
    return ChannelGroup(
        ", ".join(node_name(graph.nodes[p.binding.node]) for p in producers),
        units,
        tuple(producers),
        tuple(placements[Role.FOLLOWER]),
        tuple(placements[Role.CONSUMER]),
        np.unique(lines.line_of[units], return_inverse=True)[1].reshape(-1),  # (n,)
        tuple(p for p in flow.products if np.any(np.isin(roots[p.labels], units))),
        any(p.binding.node in flow.units and p.positions.shape[1] > 1 for p in producers),
        tuple(n for n in flow.norms if np.any(np.isin(roots[n.labels], units))),
    )


def _untied(
    groups: Sequence[ChannelGroup],
    refused: Sequence[tuple[ChannelGroup, Refusal]],
    lines: Lines,
) -> tuple[list[ChannelGroup], list[Refusal], tuple[frozenset[int], ...]]:
    """Refuse groups that keep as many channels as one that stays; return the ties of the others."""

    def ties_of(group: ChannelGroup) -> set[int]:
        on = lines.line_of[group.units]
        return set(lines.tie_of[on[on >= 0]].tolist())

    stay = {tie: r.reason for group, r in refused for tie in ties_of(group)}
    free: list[ChannelGroup] = []
    refusals = [refusal for _, refusal in refused]
    members: dict[int, set[int]] = defaultdict(set)
    for group in groups:
        held = [stay[tie] for tie in ties_of(group) if tie in stay]
        if held:
            reason = (
                f"as many go as of others that lie on an axis with theirs, which stay: {held[0]}"
            )
            refusals.append(Refusal(group.name, group.size, reason, ()))
            continue
        free.append(group)
        for tie in ties_of(group):
            members[tie].add(group.key)
    return free, refusals, tuple(frozenset(keys) for keys in members.values() if len(keys) > 1)


def _frozen(graph: Graph, group: ChannelGroup, freezes: Iterable[Freeze]) -> Refusal:
    reasons: dict[str, dict[str, None]] = {}
    for freeze in freezes:
        nodes = reasons.setdefault(freeze.reason, {})
        if freeze.node is not None:
            nodes[node_name(graph.nodes[freeze.node])] = None
    names = dict.fromkeys(name for nodes in reasons.values() for name in nodes)
    return Refusal(group.name, group.size, "; ".join(reasons), tuple(names))


def _out_of_scope(
    graph: Graph, flow: LabelFlow, group: ChannelGroup, selection: Selection
) -> Refusal | None:
    producers = [node_name(graph.nodes[p.binding.node]) for p in group.producers]
    reason = selection.refuses(producers)
    nodes: tuple[str, ...] = ()
    if reason is None and selection.scope == "inner":
        reason, nodes = why_outside_inner(graph, flow, group)
    if reason is None and not group.producers:
        reason = "no layer with weights produces them"
    if reason is None and not (group.consumers or group.products):
        reason = "no layer with weights reads them"
    if reason is None and group.size < 2:
        reason = "there is no other to leave its information to"
    return None if reason is None else Refusal(group.name, group.size, reason, nodes)
