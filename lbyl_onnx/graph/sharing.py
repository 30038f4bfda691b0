"""Constants that several nodes read: what is stored behind each, and who reads it.

One layer applied several times is several nodes that read one weight, directly or through
constants that are computed from it: a Transpose, a Cast, a Reshape, Identity. The parts that one
Split makes of a constant that nothing else reads are constants of their own.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lbyl_onnx.graph.costs import FLOATS
from lbyl_onnx.graph.model_graph import Graph, Node, bodies, names_read
from lbyl_onnx.graph.tensor_info import SMALL, TensorInfo
from lbyl_onnx.types import DEFAULT_DOMAINS

Operand = tuple[int, int]  # index of a node, index of one of its inputs
Axes = tuple[int | None, ...]
# Operators that read a shape and no value, by the inputs that they read so.
_SHAPE_ALONE = {"Shape": {0}, "Size": {0}, "CastLike": {1}}
# Operators whose output is the first input with axes of length 1 more or less.
_SAME_ORDER = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
# Nodes between a constant and a view of it, at most; and readers that are named to explain.
LONGEST_PATH, NAMED = 8, 3


@dataclass(frozen=True)
class Step:
    """A node that makes one view of a constant of another.

    Parameters
    ----------
    node
        Its index.
    tensor
        What it gives.
    axes
        For each axis of that the axis of the base; None for one of length 1 of its own.
    sized
        Whether it reads the sizes of its output.
    """

    node: int
    tensor: str
    axes: Axes
    sized: bool


@dataclass(frozen=True)
class Use:
    """A constant operand of a node, as a view of the constant that it comes from.

    Parameters
    ----------
    node, operand
        Where it is read.
    tensor
        The tensor that is read there.
    base
        The constant that it is a view of: stored, or computed in ways that mix its positions.
    axes
        For each axis of the tensor the axis of the base; None for one of length 1 of its own.
    path
        What makes the one of the other, the base's reader first.
    """

    node: int
    operand: int
    tensor: str
    base: str
    axes: Axes
    path: tuple[Step, ...]


@dataclass(frozen=True)
class Whole:
    """A reader that needs a constant as it is: a graph output, the body of an If or Loop."""

    node: int | None
    how: str


@dataclass(frozen=True)
class _View:
    base: str
    axes: Axes
    path: tuple[Step, ...]


@dataclass(frozen=True)
class Sharing:
    """Who reads which constant.

    Parameters
    ----------
    uses
        Every constant operand of a node that computes from the model's inputs.
    readers
        The uses of each base.
    stored
        The bases that the model holds, and of which it computes nothing but views.
    apart
        Of a base, readers of what it is made of, or of what is made of it, that do not read it as
        a view: a few of them, to be named. Bases without any are left out.
    copied
        Bases of which each reader is given a constant of its own where it needs another.
    cut_from
        For each base that is a part of a constant the name of that, which a Split alone reads.
    """

    uses: Mapping[Operand, Use]
    readers: Mapping[str, tuple[Use, ...]]
    stored: frozenset[str]
    apart: Mapping[str, tuple[Whole, ...]]
    copied: frozenset[str] = frozenset()
    cut_from: Mapping[str, str] = field(default_factory=dict)

    def sole(self, node: int, operand: int) -> bool:
        """Whether no other reads what a node reads there, nor what that is made of."""
        use = self.uses.get((node, operand))
        return use is None or (len(self.readers[use.base]) == 1 and use.base not in self.apart)

    def rewritten(self, base: str, tensor_info: TensorInfo) -> bool:
        """Whether new values go where a base is stored, and not where they are read.

        So they do where it is stored in another type than it is read in, or read under several
        names. Elsewhere the nodes between are left out: what they computed is stored.
        """
        uses = self.readers.get(base, ())
        kept = base in self.apart or base in self.copied
        if base not in self.stored or kept or not any(use.path for use in uses):
            return False
        cast = any(tensor_info.dtype(use.tensor) != tensor_info.dtype(base) for use in uses)
        return cast or len({use.tensor for use in uses}) > 1


@dataclass
class _SharingState:
    """State of the trace of a graph's constants.

    Constants of which one is computed from the other, or both from a third, are kin: `parent`
    leads from each to the one that stands for all.
    """

    tensor_info: TensorInfo
    views: dict[str, _View] = field(default_factory=dict)
    uses: dict[Operand, Use] = field(default_factory=dict)
    wholes: list[tuple[str, Whole]] = field(default_factory=list)
    computed: set[str] = field(default_factory=set)
    mixed: set[str] = field(default_factory=set)
    parent: dict[str, str] = field(default_factory=dict)
    plain: dict[str, bool] = field(default_factory=dict)
    cut_from: dict[str, str] = field(default_factory=dict)

    def kin(self, name: str) -> str:
        """Return the representative of all constants related to one."""
        while (above := self.parent.get(name, name)) != name:
            self.parent[name] = name = self.parent.get(above, above)
        return name

    def unite(self, name: str, source: str) -> None:
        """Note that a constant is computed from another that tells channels apart."""
        if source not in self.plain:
            self.plain[source] = same_everywhere(self.tensor_info, source)
        if not self.plain[source]:
            self.parent[self.kin(name)] = self.kin(source)

    def view(self, name: str) -> _View:
        """Return what a constant is a view of: itself, where nothing else is known."""
        rank = len(self.tensor_info.shape(name) or ())
        return self.views.get(name) or _View(name, tuple(range(rank)), ())


def find_sharing(graph: Graph, tensor_info: TensorInfo) -> Sharing:
    """Trace every constant operand back to the constant that it is a view of.

    Parameters
    ----------
    graph, tensor_info
        The graph, and which of its tensors are constant.
    """
    state = _SharingState(tensor_info)
    often = _how_often_read(graph)
    for index, node in enumerate(graph.nodes):
        for body in bodies(node):
            whole = Whole(index, f"the body of {node.op} reads it")
            names = sorted(names_read(body))
            state.wholes += [(name, whole) for name in names if tensor_info.is_constant(name)]
        read = _values_read(node, tensor_info)
        outputs = [t.name for t in node.outputs if t.name]
        if not outputs or not all(tensor_info.is_constant(name) for name in outputs):
            for operand in read:
                name = node.inputs[operand].name
                view = state.view(name)
                use = Use(index, operand, name, view.base, view.axes, view.path)
                state.uses[index, operand] = use
        elif node.inputs:
            state.computed.update(outputs)
            cuts = node.op == "Split" and _alone(node, often)
            if cuts:
                state.cut_from |= dict.fromkeys(outputs, node.inputs[0].name)
            for operand in read[cuts:]:
                for name in outputs:
                    state.unite(name, node.inputs[operand].name)
            moved = _moved(state, index, node)
            if moved is None:
                state.mixed.update(state.view(node.inputs[operand].name).base for operand in read)
            else:
                state.views[outputs[0]] = moved
                state.parent[state.kin(outputs[0])] = state.kin(moved.base)
    whole = Whole(None, "it is an output of the graph")
    state.wholes += [(t.name, whole) for t in graph.outputs if tensor_info.is_constant(t.name)]
    return _sharing(state)


def _sharing(state: _SharingState) -> Sharing:
    readers: dict[str, list[Use]] = defaultdict(list)
    for use in state.uses.values():
        readers[use.base].append(use)
    bases: dict[str, list[str]] = defaultdict(list)
    for base in readers:
        bases[state.kin(base)].append(base)
    wholes: dict[str, dict[Whole, None]] = defaultdict(dict)
    for name, whole in state.wholes:
        wholes[state.kin(name)][whole] = None
    apart: dict[str, tuple[Whole, ...]] = {}
    for base in readers:
        here = list(wholes.get(state.kin(base), ()))
        for other in bases[state.kin(base)][: NAMED + 1]:
            if other != base:
                node = readers[other][0].node
                here.append(Whole(node, "another node reads what is computed from it"))
        if here:
            apart[base] = tuple(here[:NAMED])
    stored = frozenset(readers) - state.computed - state.mixed
    return Sharing(
        state.uses,
        {b: tuple(u) for b, u in readers.items()},
        stored,
        apart,
        cut_from={base: state.cut_from[base] for base in readers if base in state.cut_from},
    )


def _how_often_read(graph: Graph) -> Counter[str]:
    """For each tensor how many nodes, bodies and outputs of the graph read it."""
    often = Counter(tensor.name for tensor in graph.outputs)
    for node in graph.nodes:
        often.update(tensor.name for tensor in node.inputs)
        for body in bodies(node):
            often.update(names_read(body))
    return often


def _alone(node: Node, often: Mapping[str, int]) -> bool:
    """Whether nothing but a node reads its first input, nor what that is made of."""
    waiting = [node.inputs[0]]
    while waiting:
        tensor = waiting.pop()
        if often[tensor.name] != 1:
            return False
        waiting += [source for maker in tensor.inputs for source in maker.inputs]
    return True


def same_everywhere(tensor_info: TensorInfo, name: str) -> bool:
    """Whether a constant is a number, or a vector of one number: it tells no channels apart.

    Exporters store such a vector once for all layers of one width: zeros as a bias, ones as a
    scale. That makes them no layer that is applied several times. Sizes and indices, too, are
    nothing that belongs to a channel.
    """
    shape = [d or 0 for d in tensor_info.shape(name) or ()]
    if math.prod(shape) <= 1:
        return True
    if tensor_info.dtype(name) not in FLOATS and math.prod(shape) <= SMALL:
        return True
    if math.prod(shape) > max(shape):
        return False  # no vector: a weight
    traced = tensor_info.traced_value(name)
    if traced is None and not tensor_info.is_stored(name):
        return False  # it would have to be computed
    value = tensor_info.value(name) if traced is None else traced[0]
    return bool(np.all(value == value.reshape(-1)[0]))


def _values_read(node: Node, tensor_info: TensorInfo) -> list[int]:
    """Inputs of a node that are constants whose values, and not only their shapes, it reads."""
    skipped = _SHAPE_ALONE.get(node.op, set()) if (node.domain or "") in DEFAULT_DOMAINS else set()
    return [
        i
        for i, t in enumerate(node.inputs)
        if t.name and i not in skipped and tensor_info.is_constant(t.name)
    ]


def _moved(state: _SharingState, index: int, node: Node) -> _View | None:
    """The view that a node makes of its first input; None where it does more than move axes."""
    if (node.domain or "") not in DEFAULT_DOMAINS or not node.inputs or len(node.outputs) != 1:
        return None
    names = node.inputs[0].name, node.outputs[0].name
    before, after = (state.tensor_info.shape(name) for name in names)
    floats = all(state.tensor_info.dtype(name) in FLOATS for name in names)
    if not floats or before is None or after is None or None in (*before, *after):
        return None
    rank = len(before)
    axes: Axes
    if node.op in ("Identity", "Cast", "CastLike"):
        axes = tuple(range(rank))
    elif node.op == "Transpose":
        axes = tuple(int(a) for a in node.attrs.get("perm", range(rank)[::-1]))
    elif node.op in _SAME_ORDER and len(node.inputs) > (node.op == "Reshape"):
        long = [a for a in range(rank) if before[a] != 1]
        if [before[a] for a in long] != [d for d in after if d != 1]:
            return None
        rest = iter(long)
        axes = tuple(None if d == 1 else next(rest) for d in after)
    else:
        return None
    view = state.view(names[0])
    if len(view.path) == LONGEST_PATH:
        return None
    composed = tuple(None if a is None else view.axes[a] for a in axes)
    step = Step(index, names[1], composed, node.op == "Reshape")
    return _View(view.base, composed, (*view.path, step))
