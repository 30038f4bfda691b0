"""Which sizes and small values depend on a dynamic dimension: decided by where they come from.

Sizes that differ between the walks of `tensor_info` do. Sizes and values that are equal in all of
them may be so by accident: (H mod 32) + 1 is 1 for 224 and for 256. So every element of a value
that is computed from Shape carries a mark, and so does an axis whose size such an element gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto

from lbyl_onnx.graph.inference import SEQUENCES, Shape, TensorFact, from_type, infer
from lbyl_onnx.types import Array

Facts = Mapping[str, TensorFact]
Evaluate = Callable[[NodeProto, Sequence[Array | None], int], list[Array]]
Marks = NDArray[np.bool_]
# Operators that only move elements, with the operands whose elements they move (None: all).
MOVES: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys("Expand Flatten Gather GatherElements GatherND Identity".split(), (0,)),
    **dict.fromkeys("Reshape Slice Split Squeeze Tile Transpose Unsqueeze".split(), (0,)),
    "Concat": None,
    "ScatterElements": (0, 2),
    "ScatterND": (0, 2),
    "Where": (1, 2),
}
# Operators that work element by element, on operands that broadcast.
ELEMENTWISE = frozenset(
    "Abs Add And Cast CastLike Ceil Clip Div Equal Exp Floor Greater GreaterOrEqual Less "
    "LessOrEqual Log Max Min Mod Mul Neg Not Or Pow Reciprocal Round Sign Sqrt Sub Sum Where "
    "Xor".split()
)
# Operators with an operand that names the size of each output axis.
SIZED = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Tile": 1, "Upsample": 1}
# Operators whose outputs may have any shape where one of these operands is computed.
SHAPED: dict[str, tuple[int, ...]] = {
    **dict.fromkeys("CenterCropPad OneHot SequenceAt Split SplitToSequence".split(), (1,)),
    **dict.fromkeys("Squeeze TopK Unsqueeze".split(), (1,)),
    **dict.fromkeys(("NonZero", "Unique"), (0,)),
    "Col2Im": (1, 2),
    "Compress": (0, 1),
    "MaxUnpool": (2,),
    "NonMaxSuppression": (0, 1, 2, 3, 4),
    "Range": (0, 1, 2),
    **dict.fromkeys(
        (f"Reduce{x}" for x in "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split()),
        (1,),
    ),
}


@dataclass(frozen=True, eq=False)
class Dynamic:
    """What of a tensor depends on a dynamic dimension.

    Parameters
    ----------
    axes
        For each axis whether its size does; None where the rank is not known, or does itself.
    elements
        For each element of the value whether it does; None where the value is not known.
    accidental
        Axes that do, although the size is the same in all walks.
    """

    axes: tuple[bool, ...] | None
    elements: Marks | None
    accidental: tuple[int, ...] = ()


UNKNOWN = Dynamic(None, None)


def other_shapes(
    model: onnx.ModelProto, first: Mapping[str, tuple[int, ...]], second: Mapping[str, Shape]
) -> tuple[dict[str, tuple[int, ...]], ...]:
    """Return more input shapes, for walks that run nothing: further apart, odd, each axis its own.

    Parameters
    ----------
    model
        The model, whose inputs name the dimensions that are equal.
    first, second
        Input shapes that differ in the dynamic dimensions.
    """
    names = {
        (info.name, axis): dim.dim_param or f"{info.name}/{axis}"
        for info in model.graph.input
        for axis, dim in enumerate(info.type.tensor_type.shape.dim)
    }
    pairs = {
        (name, axis): (one, two)
        for name, shape in first.items()
        for axis, (one, two) in enumerate(zip(shape, second[name], strict=True))
        if two is not None and one != two
    }
    numbers = {key: i for i, key in enumerate(dict.fromkeys(names.get(p, "") for p in pairs))}
    if not pairs:
        return ()
    made = []
    for slope, steps, shift, own in ((1, 5, 0, 0), (1, 0, 37, 0), (2, 0, 101, 2)):
        sizes = {
            place: slope * one
            + steps * abs(two - one)
            + shift
            + own * numbers[names.get(place, "")]
            for place, (one, two) in pairs.items()
        }
        made.append(
            {n: tuple(sizes.get((n, a), d) for a, d in enumerate(s)) for n, s in first.items()}
        )
    return tuple(made)


def trace(
    model: onnx.ModelProto, walks: Sequence[Facts], opset: int, evaluate: Evaluate
) -> dict[str, Dynamic]:
    """Mark what depends on a dynamic dimension, tensor by tensor.

    Parameters
    ----------
    model
        The model.
    walks
        What is known of each tensor at several sets of input shapes. Where a later one than the
        second knows nothing, the model may not run at its sizes: that says nothing.
    opset
        Version of the default operator set.
    evaluate
        Computes a node.
    """
    marks: dict[str, Dynamic] = {}
    for name, fact in walks[0].items():
        if fact.constant and fact.shape is not None:
            none = None if fact.value is None else np.zeros(fact.value.shape, np.bool_)
            marks[name] = Dynamic((False,) * len(fact.shape), none)
    for info in model.graph.input:
        marks.setdefault(info.name, Dynamic(_differing(walks, info.name), None))
    for node in model.graph.node:
        names = [name for name in node.output if name and name not in marks]
        if not names:
            continue
        sized = {name: _axes(model, node, name, walks, marks, opset) for name in names}
        elements = _elements(node, walks[0], marks, opset, evaluate)
        for name in names:
            axes, accidental = sized[name]
            marks[name] = Dynamic(axes, _value(name, walks, elements, axes), accidental)
    return marks


def _differing(walks: Sequence[Facts], name: str) -> tuple[bool, ...] | None:
    """Axes whose sizes differ between the walks."""
    shapes = [walk.get(name, TensorFact()).shape for walk in walks]
    first = shapes[0]
    known_shapes = [shape for shape in shapes if shape is not None]
    if (
        first is None
        or None in shapes[:2]
        or any(len(shape) != len(first) for shape in known_shapes)
    ):
        return None
    return tuple(len(set(sizes)) > 1 or None in sizes for sizes in zip(*known_shapes, strict=True))


def _axes(
    model: onnx.ModelProto,
    node: NodeProto,
    name: str,
    walks: Sequence[Facts],
    marks: Mapping[str, Dynamic],
    opset: int,
) -> tuple[tuple[bool, ...] | None, tuple[int, ...]]:
    """Axes of an output that depend on a dynamic dimension, and those of them that seem not to."""
    differing = _differing(walks, name)
    if differing is None:
        return None, ()
    rank = len(differing)
    supplied_axes = _given_sizes(node, rank, walks, marks)
    supplied_axes |= _passed_on(model, node, name, walks[0], marks, opset)
    axes = tuple(differs or axis in supplied_axes for axis, differs in enumerate(differing))
    return axes, tuple(
        axis for axis in sorted(supplied_axes) if axis < rank and not differing[axis]
    )


def _given_sizes(
    node: NodeProto, rank: int, walks: Sequence[Facts], marks: Mapping[str, Dynamic]
) -> set[int]:
    """Axes whose sizes are elements that depend on a dynamic dimension."""
    marked = partial(_marked, node, marks)
    everywhere = set(range(rank))
    if any(any(marked(operand)) for operand in SHAPED.get(node.op_type, ())):
        return everywhere
    if node.op_type in SIZED:
        flags = marked(SIZED[node.op_type])
        supplied = {axis + rank - len(flags) for axis, flag in enumerate(flags) if flag}
        accident = node.op_type == "Reshape" and _by_accident(node.input[1], walks, marks)
        target = walks[0].get(node.input[1], TensorFact()).value if accident else None
        if target is not None:  # what -1 stands for depends on the others
            supplied |= {axis for axis, size in enumerate(target.reshape(-1)) if size == -1}
        return supplied
    if node.op_type == "Resize":
        named = next((list(a.ints) for a in node.attribute if a.name == "axes"), [*range(rank)])
        return _flagged([axis % rank for axis in named], marked(2), marked(3))
    if node.op_type in ("Slice", "Pad"):
        if any(marked(3)) or any(marked(4)):
            return everywhere
        value = walks[0].get(node.input[3], TensorFact()).value if len(node.input) > 3 else None
        axes = [*range(rank)] if value is None else [int(v) % rank for v in value.reshape(-1)]
        if node.op_type == "Pad":
            return _flagged([*axes, *axes], marked(1))
        return _flagged(axes, marked(1), marked(2))
    return set()


def _marked(node: NodeProto, marks: Mapping[str, Dynamic], operand: int) -> list[bool]:
    """Marks of an operand's elements in their order; [] where it is missing or not known."""
    if operand >= len(node.input):
        return []
    elements = marks.get(node.input[operand], UNKNOWN).elements
    return [] if elements is None else [bool(x) for x in elements.reshape(-1)]


def _flagged(axes: Sequence[int], *many: Sequence[bool]) -> set[int]:
    """Axes whose flag is set in one of several lists."""
    return {axis for flags in many for axis, flag in zip(axes, flags, strict=False) if flag}


def _by_accident(name: str, walks: Sequence[Facts], marks: Mapping[str, Dynamic]) -> bool:
    """Whether an element depends on a dynamic dimension and yet is the same in all walks."""
    elements = marks.get(name, UNKNOWN).elements
    if elements is None:
        return False
    return bool(np.any(elements & ~_unequal(name, walks)))


def _unequal(name: str, walks: Sequence[Facts]) -> Marks:
    """Elements of a small value that differ between the walks; all where its shape does."""
    values = [value for walk in walks if (value := walk.get(name, TensorFact()).value) is not None]
    first = values[0]
    if any(value.shape != first.shape for value in values):
        return np.ones(first.shape, np.bool_)
    unequal = np.zeros(first.shape, np.bool_)
    for value in values[1:]:
        unequal |= np.asarray(value != first) & ~(np.asarray(value != value) & (first != first))
    return unequal


def _passed_on(
    model: onnx.ModelProto,
    node: NodeProto,
    name: str,
    first: Facts,
    marks: Mapping[str, Dynamic],
    opset: int,
) -> set[int]:
    """Axes whose size follows from one that is equal in all walks by accident."""
    accidental = {n: marks[n].accidental for n in node.input if n in marks and marks[n].accidental}
    shape = first.get(name, TensorFact()).shape or ()
    if not accidental:
        return set()
    if node.op_type in SEQUENCES:
        return set(range(len(shape)))
    inputs: list[TensorFact | None] = []
    for operand in node.input:
        fact = first.get(operand, TensorFact())
        if operand in accidental and fact.shape is not None:
            sizes = (None if a in accidental[operand] else d for a, d in enumerate(fact.shape))
            fact = replace(fact, shape=tuple(sizes), value=None)
        inputs.append(fact if operand else None)
    types = infer(model, node, inputs, opset)
    left = from_type(types[name]).shape if name in types else None
    if left is None or len(left) != len(shape):
        return set(range(len(shape)))
    return {axis for axis, size in enumerate(left) if size is None}


def _elements(
    node: NodeProto, first: Facts, marks: Mapping[str, Dynamic], opset: int, evaluate: Evaluate
) -> dict[str, Marks]:
    """Marks of the elements of a node's outputs that are known."""
    outputs = {n: fact for n in node.output if (fact := first.get(n)) and fact.value is not None}
    if not outputs:
        return {}
    if node.op_type in ("Shape", "Size"):
        axes = marks.get(node.input[0], UNKNOWN).axes or ()
        start = next((a.i for a in node.attribute if a.name == "start"), 0)
        end = next((a.i for a in node.attribute if a.name == "end"), len(axes))
        marked = np.asarray(axes[start:end] if node.op_type == "Shape" else any(axes), np.bool_)
        return dict.fromkeys(outputs, marked)
    operands = [marks.get(n, UNKNOWN).elements if n else None for n in node.input]
    moved = _moved(node, first, operands, opset, evaluate)
    if moved is not None:
        return dict(zip(node.output, moved, strict=False))
    marks_by_name: dict[str, Marks] = {}
    for name, fact in outputs.items():
        shape = () if fact.value is None else fact.value.shape
        present = [x for x in operands if x is not None]
        if (
            node.op_type in ELEMENTWISE
            and np.broadcast_shapes(*(x.shape for x in present)) == shape
        ):
            spread = [np.broadcast_to(x, shape) for x in present]
            marks_by_name[name] = np.logical_or.reduce(spread, axis=0)
        else:
            marks_by_name[name] = np.full(shape, any(bool(x.any()) for x in present))
    return marks_by_name


def _moved(
    node: NodeProto, first: Facts, operands: Sequence[Marks | None], opset: int, evaluate: Evaluate
) -> list[Marks] | None:
    """Move the marks as the elements are moved; None where that depends on marked ones."""
    if node.op_type not in MOVES or all(x is None or not x.any() for x in operands):
        return None
    moved_operands = MOVES[node.op_type] or range(len(operands))
    inputs: list[Array | None] = []
    for operand, (name, marked) in enumerate(zip(node.input, operands, strict=True)):
        if operand in moved_operands and marked is not None:
            inputs.append(marked.astype(np.int64))
            continue
        # The shape that Reshape is to give does not say where an element goes.
        if marked is not None and marked.any() and node.op_type not in ("Reshape", "Expand"):
            return None
        inputs.append(first[name].value if name else None)
    return [np.asarray(value).astype(np.bool_) for value in evaluate(node, inputs, opset)]


def _value(
    name: str, walks: Sequence[Facts], elements: Mapping[str, Marks], axes: tuple[bool, ...] | None
) -> Marks | None:
    value = walks[0].get(name, TensorFact()).value
    if value is None or name not in elements:
        return None
    if axes is None or any(axes):
        return np.ones(value.shape, np.bool_)
    return elements[name] | _unequal(name, walks)
