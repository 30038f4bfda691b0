"""Constants that several nodes read: what is stored behind each, and who reads it.

One layer applied several times is several nodes that read one weight, directly or through
constants that are computed from it: a Transpose, a Cast, a Reshape, Identity.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from lbyl_onnx.bodies import bodies, names_read
from lbyl_onnx.costs import FLOATS
from lbyl_onnx.facts import DEFAULT_DOMAINS, GraphFacts

Operand = tuple[int, int]  # index of a node, index of one of its inputs
Axes = tuple[int | None, ...]
# Operators that read a shape and no value, by the inputs that they read so.
_SHAPE_ALONE = {"Shape": {0}, "Size": {0}, "CastLike": {1}}
# Operators whose output is the first input with axes of length 1 more or less.
_SAME_ORDER = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


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
    wholes
        By each stored constant, who needs it, or what is computed from it, whole.
    origins
        Of each base, the stored constants whose values are in it.
    """

    uses: Mapping[Operand, Use]
    readers: Mapping[str, tuple[Use, ...]]
    wholes: Mapping[str, tuple[Whole, ...]]
    origins: Mapping[str, frozenset[str]]
    _by_origin: Mapping[str, tuple[Use, ...]] = field(default_factory=dict)

    def apart(self, base: str) -> list[Whole]:
        """Return the readers of what a base is made of that do not read it as a view of it."""
        found: dict[Whole, None] = {}
        for origin in sorted(self.origins.get(base, ())):
            found |= dict.fromkeys(self.wholes.get(origin, ()))
            for use in self._by_origin.get(origin, ()):
                if use.base != base:
                    found[Whole(use.node, "another node reads what is computed from it")] = None
        return list(found)

    def sole(self, node: int, operand: int) -> bool:
        """Whether no other reads what a node reads there, nor what that is made of."""
        use = self.uses.get((node, operand))
        return use is None or (len(self.readers[use.base]) == 1 and not self.apart(use.base))

    def rewritten(self, base: str, facts: GraphFacts) -> bool:
        """Whether new values go where a base is stored, and not where they are read.

        So they do where it is stored in another type than it is read in, or read under several
        names. Elsewhere the nodes between are left out: what they computed is stored.
        """
        uses = self.readers.get(base, ())
        if self.origins.get(base) != frozenset((base,)) or not any(use.path for use in uses):
            return False
        cast = any(facts.dtype(use.tensor) != facts.dtype(base) for use in uses)
        return (cast or len({use.tensor for use in uses}) > 1) and not self.apart(base)


def find_sharing(graph: gs.Graph, facts: GraphFacts) -> Sharing:
    """Trace every constant operand back to the constant that it is a view of.

    Parameters
    ----------
    graph, facts
        The graph, and which of its tensors are constant.
    """
    views: dict[str, _View] = {}
    origins: dict[str, frozenset[str]] = {}
    uses: dict[Operand, Use] = {}
    wholes: dict[str, dict[Whole, None]] = defaultdict(dict)

    def made_of(name: str) -> frozenset[str]:
        return origins.get(name, frozenset((name,)))

    for index, node in enumerate(graph.nodes):
        outputs = [t.name for t in node.outputs if t.name]
        for body in bodies(node):
            for name in sorted(names_read(body)):
                for origin in made_of(name) if facts.is_constant(name) else ():
                    wholes[origin][Whole(index, f"the body of {node.op} reads it")] = None
        read = _values_read(node, facts)
        if not outputs or not all(facts.is_constant(name) for name in outputs):
            for operand in read:
                name = node.inputs[operand].name
                view = views.get(name) or _whole_view(facts, name)
                uses[index, operand] = Use(index, operand, name, view.base, view.axes, view.path)
        elif node.inputs:
            moved = _moved(views, facts, index, node)
            of = frozenset().union(*(made_of(node.inputs[i].name) for i in read))
            for name in outputs:
                origins[name] = of
            if moved is not None:
                views[outputs[0]] = moved
    for output in graph.outputs:
        for origin in made_of(output.name) if facts.is_constant(output.name) else ():
            wholes[origin][Whole(None, "it is an output of the graph")] = None
    return _sharing(facts, uses, origins, wholes)


def _sharing(
    facts: GraphFacts,
    uses: Mapping[Operand, Use],
    origins: Mapping[str, frozenset[str]],
    wholes: Mapping[str, Iterable[Whole]],
) -> Sharing:
    readers: dict[str, list[Use]] = defaultdict(list)
    by_origin: dict[str, list[Use]] = defaultdict(list)
    told: dict[str, frozenset[str]] = {}
    for use in uses.values():
        readers[use.base].append(use)
        if use.base not in told:
            made_of = origins.get(use.base, frozenset((use.base,)))
            # Numbers, and constants without a pattern, are the same for all channels.
            told[use.base] = frozenset(n for n in made_of if facts.dtype(n) in FLOATS)
        for origin in told[use.base]:
            if not same_everywhere(facts, origin):
                by_origin[origin].append(use)
    return Sharing(
        uses,
        {base: tuple(found) for base, found in readers.items()},
        {name: tuple(found) for name, found in wholes.items()},
        told,
        {name: tuple(found) for name, found in by_origin.items()},
    )


def same_everywhere(facts: GraphFacts, name: str) -> bool:
    """Whether a constant is a number, or a vector of one number: it tells no channels apart.

    Exporters store such a vector once for all layers of one width: zeros as a bias, ones as a
    scale. That makes them no layer that is applied several times.
    """
    shape = [d or 0 for d in facts.shape(name) or ()]
    if math.prod(shape) <= 1:
        return True
    if math.prod(shape) > max(shape):
        return False  # no vector: a weight
    value = facts.value(name)
    return bool(np.all(value == value.reshape(-1)[0]))


def _values_read(node: gs.Node, facts: GraphFacts) -> list[int]:
    """Inputs of a node that are constants whose values, and not only their shapes, it reads."""
    skipped = _SHAPE_ALONE.get(node.op, set()) if (node.domain or "") in DEFAULT_DOMAINS else set()
    return [
        i
        for i, t in enumerate(node.inputs)
        if t.name and i not in skipped and facts.is_constant(t.name)
    ]


def _whole_view(facts: GraphFacts, name: str) -> _View:
    return _View(name, tuple(range(len(facts.shape(name) or ()))), ())


def _moved(
    views: Mapping[str, _View], facts: GraphFacts, index: int, node: gs.Node
) -> _View | None:
    """The view that a node makes of its first input; None where it does more than move axes."""
    if (node.domain or "") not in DEFAULT_DOMAINS or not node.inputs or len(node.outputs) != 1:
        return None
    names = node.inputs[0].name, node.outputs[0].name
    before, after = (facts.shape(name) for name in names)
    floats = all(facts.dtype(name) in FLOATS for name in names)
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
    view = views.get(names[0]) or _whole_view(facts, names[0])
    composed = tuple(None if a is None else view.axes[a] for a in axes)
    step = Step(index, names[1], composed, node.op == "Reshape")
    return _View(view.base, composed, (*view.path, step))
