"""Einsum with one constant operand, by the letters of its equation.

A letter of the weight is summed over where the activations have it and the output has not; it makes
channels where only the output has it; where both have it, each of its places has a matrix of its
own, as the heads of an attention do.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

from lbyl_onnx.graph.layers.linear_layer import LinearLayer, Operation, TensorShapes

Terms = tuple[str, str, str]
"""Letters of the first operand, the second, the output."""


def einsum(node: Operation, tensors: TensorShapes) -> LinearLayer | str:
    """Einsum of two operands, of which either may be the weight.

    Channels are those of the last letter that the weight alone gives the output; they are read
    along any letter that is summed over, by default the last one of the activations.
    """
    if len(node.inputs) != 2:
        return "Einsum does not read two operands"
    constant = [tensors.is_constant(name) for name in node.inputs]
    operand = 0 if constant == [True, False] else 1
    weight_shape = node.shape(operand, tensors)
    data_shape = tensors.shape(node.inputs[1 - operand])
    if weight_shape is None or data_shape is None:
        return "Einsum of unknown shapes"
    shapes = (weight_shape, data_shape) if operand == 0 else (data_shape, weight_shape)
    terms = _terms(str(node.attributes.get("equation", "")), shapes, operand)
    if isinstance(terms, str):
        return terms
    weight, data, output = terms[operand], terms[1 - operand], terms[2]
    reason = _refused(weight, data, output, weight_shape, data_shape)
    if reason is not None:
        return reason
    summed = [letter for letter in data if letter in weight and letter not in output]
    made = [letter for letter in output if letter in weight and letter not in data]
    return LinearLayer(
        node,
        weight_shape,
        data_axes=_axes(weight, data),
        output_axes=_axes(weight, output),
        rank=len(output),
        in_axis=weight.index(summed[-1]),
        out_axis=weight.index(made[-1]),
        operand=operand,
        data=1 - operand,
        passed=tuple(
            (axis, output.index(letter)) for axis, letter in enumerate(data) if letter not in weight
        ),
    )


def product_terms(node: Operation, tensors: TensorShapes) -> Terms | str:
    """Letters of a product of two activations; the reason where there are none.

    It is MatMul or Einsum. A letter of both operands that the output lacks is summed over.
    """
    shapes = [tensors.shape(name) for name in node.inputs]
    first, second = shapes if len(shapes) == 2 else (None, None)
    if first is None or second is None:
        return f"{node.op_type} of unknown shapes"
    if node.op_type == "Einsum":
        terms = _terms(str(node.attributes.get("equation", "")), (first, second), 1)
        if not isinstance(terms, str) and any(len({*term}) < len(term) for term in terms):
            return "Einsum takes a diagonal"
        return terms
    if min(len(first), len(second)) < 2:
        return f"{node.op_type} of unknown shapes or vectors"
    shared = string.ascii_lowercase[: max(len(first), len(second)) - 2]
    one, two = (shared[len(shared) - len(shape) + 2 :] for shape in (first, second))
    return one + "XY", two + "YZ", shared + "XZ"


def _axes(term: str, other: str) -> tuple[int | None, ...]:
    """For each letter of a term its axis in another, None where that does not have it."""
    return tuple(other.index(letter) if letter in other else None for letter in term)


def _terms(equation: str, shapes: Sequence[Sequence[int | None]], operand: int) -> Terms | str:
    """Split an equation; an ellipsis of the activations becomes letters of its own."""
    left, arrow, output = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != 2:
        return "Einsum has an equation of another number of operands"
    if not arrow:
        letters = sorted({*left} - {",", "."})
        output = "..." * ("..." in left) + "".join(x for x in letters if left.count(x) == 1)
    if "..." in terms[operand]:
        return "the weight of Einsum has an ellipsis"
    data = terms[1 - operand]
    if "..." in data:
        free = [x for x in string.ascii_letters if x not in equation]
        hidden = "".join(free[: max(0, len(shapes[1 - operand]) - len(data) + 3)])
        data, output = data.replace("...", hidden), output.replace("...", hidden)
    terms[1 - operand] = data
    if any(len(term) != len(shape) for term, shape in zip(terms, shapes, strict=True)):
        return "the equation of Einsum does not fit its operands"
    return terms[0], terms[1], output


def _refused(
    weight: str,
    data: str,
    output: str,
    weight_shape: Sequence[int],
    data_shape: Sequence[int | None],
) -> str | None:
    """Return why letters make no linear layer; None where they do."""
    if {*output} - {*data, *weight}:
        return "the equation of Einsum does not fit its operands"
    if any(len({*term}) < len(term) for term in (weight, data, output)):
        return "Einsum takes a diagonal"
    sizes = dict(zip(weight, weight_shape, strict=True))
    met = ((x, d) for x, d in zip(data, data_shape, strict=True) if d is not None)
    if any(sizes.get(x, d) != d for x, d in met):
        return "Einsum repeats an axis of length 1"
    if {*weight} - {*data, *output}:
        return "Einsum sums its weight along an axis that the activations do not have"
    if {*data} - {*weight, *output}:
        return "Einsum sums the activations along an axis that its weight does not have"
    if not {*weight} & {*data} - {*output}:
        return "Einsum sums over no axis of its weight"
    if not {*weight} & {*output} - {*data}:
        return "Einsum takes no axis of its output from its weight alone"
    return None
