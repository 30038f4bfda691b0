"""Operators with weights: labels end at the weight's input axis, new ones start at its output."""

from __future__ import annotations

import math

import numpy as np

from lbyl_onnx.channels.labels import Labels, Role, padded, varying_axes
from lbyl_onnx.channels.rules.view import KeptAxis, NodeView, Product, ShapeParameter
from lbyl_onnx.graph.layers import describe
from lbyl_onnx.graph.layers.einsum import Terms, product_terms
from lbyl_onnx.graph.layers.linear_layer import LinearLayer, Operation


def linear(view: NodeView) -> list[Labels | None]:
    """Cross any layer by its description: Gemm, MatMul, Einsum, those of other domains."""
    layer = describe(view.tensor_info, view.node)
    if isinstance(layer, str):
        unfollowed(view, layer)
        return view.freeze_inputs(layer)
    if not view.is_constant(layer.operand):
        return view.freeze_inputs(f"{view.op_type} multiplies two activations")
    for operand, labels in enumerate(view.labels):
        if operand not in (layer.data, layer.bias_operand):
            view.freeze(labels, f"{view.op_type} reads them as a parameter")
    if layer.groups != 1:
        return _in_groups(view, layer)
    labels = view.labels[layer.data]
    handed_on = None if labels is None else _handed_on(view, layer, labels)
    if handed_on is not None:
        return [handed_on]
    _consume(view, layer)
    return _produce(view, layer)


def _handed_on(view: NodeView, layer: LinearLayer, labels: Labels) -> Labels | None:
    """Labels of the output where channels lie on axes that are not summed over; None elsewhere.

    Each of these channels is multiplied by the same matrix, or by one of its own, which goes with
    it.
    """
    labels = padded(labels, layer.node.rank(layer.data, view.tensor_info) or 0)
    own = {d: a for a, d in enumerate(layer.data_axes) if d is not None}
    pairs = layer.kept_axes
    varying = varying_axes(labels)
    if not pairs or any(axis not in pairs for axis in varying):
        return None
    for axis in varying:
        if axis in own:
            along = view.along(labels, axis)
            if along is None:
                return None
            view.binding(layer.operand, own[axis], along, Role.FOLLOWER)
    left = sorted(pairs, key=lambda axis: pairs[axis])
    rest = [axis for axis in range(labels.ndim) if axis not in pairs]
    moved = np.transpose(labels, (*left, *rest)).reshape(*(labels.shape[a] for a in left), -1)
    shape = [1] * layer.rank
    for axis in left:
        shape[pairs[axis]] = labels.shape[axis]
    return moved[..., 0].reshape(shape)  # what is summed over carries no identity


def conv(view: NodeView) -> list[Labels | None]:
    """Conv or ConvTranspose of any rank, with groups or without."""
    layer = describe(view.tensor_info, view.node)
    if isinstance(layer, str) or not view.is_constant(layer.operand):
        return view.freeze_inputs(f"the weight of {view.op_type} is computed from the input")
    if layer.groups != 1:
        return _in_groups(view, layer)
    _consume(view, layer)
    return _produce(view, layer)


def _in_groups(view: NodeView, layer: LinearLayer) -> list[Labels | None]:
    """Each group has channels of its own: one that is read, or several."""
    one = layer.shape[layer.in_axis] == 1
    return _depthwise(view, layer) if one else _grouped(view, layer)


def _depthwise(view: NodeView, layer: LinearLayer) -> list[Labels | None]:
    """Each input channel makes as many output channels, which go with it."""
    labels = view.labels[layer.data]
    if labels is None:
        return _stays(view, layer, f"a depthwise {view.op_type} reads channels that stay")
    along = view.along(labels, layer.data_axis)
    if along is None:
        reason = f"{view.op_type} reads them along an axis it does not sum over"
        return _stays(view, layer, reason)
    made = np.repeat(along, layer.channels // layer.groups)
    view.binding(layer.operand, layer.out_axis, made, Role.FOLLOWER)
    _follow_bias(view, layer, made)
    view.flow.sizes.append(ShapeParameter(view.index, "group", (along,), scalar=True))
    return [made.reshape(1, -1, *(1,) * (labels.ndim - 2))]  # (C,) -> (1, C, 1, ..)


def _grouped(view: NodeView, layer: LinearLayer) -> list[Labels | None]:
    """The same number goes from each conv group: the j-th channels of all groups go together."""
    labels = view.labels[layer.data]
    if labels is not None:
        along = view.along(labels, layer.data_axis)
        if along is None:
            view.freeze(labels, f"{view.op_type} reads them along an axis it does not sum over")
        else:
            grid = along.reshape(layer.groups, -1)  # (C,) -> (group, C / group)
            view.couple(grid, grid[:1])
            view.binding(layer.operand, layer.in_axis, grid[0], Role.CONSUMER)
    made = _produce(view, layer)
    for labels in made:
        if labels is not None:
            grid = labels.reshape(layer.groups, -1)  # (1, C, 1, ..) -> (group, C / group)
            view.couple(grid, grid[:1])
    return made


def matmul(view: NodeView) -> list[Labels | None]:
    """MatMul or Einsum: a layer where one operand is constant, else a product of activations."""
    two = len(view.node.inputs) == 2
    terms = product_terms(Operation.of(view.node), view.tensor_info) if two else ""
    if two and not isinstance(terms, str) and not view.is_constant(0) and not view.is_constant(1):
        return _product(view, terms)
    layer = describe(view.tensor_info, view.node)
    return view.freeze_inputs(layer) if isinstance(layer, str) else linear(view)


def _product(view: NodeView, terms: Terms) -> list[Labels | None]:
    """Product of two activations, as in attention, by the letters of their axes.

    The channels on an axis that is summed over meet one by one, as those of queries and keys do.
    Those on an axis that the second operand alone gives the output pass, as the values' do.
    """
    reason = f"{view.op_type} multiplies two activations"
    output = terms[2]
    summed = [letter for letter in terms[0] if letter in terms[1] and letter not in output]
    first, second = (
        None if x is None else padded(x, len(term))
        for x, term in zip(view.labels, terms, strict=False)
    )
    ahead = _letters(view, first, terms[0]), _letters(view, second, terms[1])
    shared = {letter for letter in output if letter in terms[0] and letter in terms[1]}
    if any(letters and {*letters} <= shared for letters in ahead):
        return _side_by_side(view, (first, second), terms, shared)
    for labels, term, letters in zip((first, second), terms[:2], ahead, strict=True):
        for letter in letters:
            if labels is not None and letter in output and all(letter in x for x in terms[:2]):
                view.flow.kept_axes.append(KeptAxis(view.index, labels, term.index(letter)))
    met = [{*letters} & {*summed} and {*letters} <= {*terms[0]} & {*terms[1]} for letters in ahead]
    if first is not None and second is not None and all(met):
        order = output + "".join(summed)
        aligned = _aligned(first, terms[0], order), _aligned(second, terms[1], order)
        view.couple(*aligned, multiplies=True)
        spread = np.broadcast_arrays(*aligned)
        size = math.prod(spread[0].shape[len(output) :])
        meeting = spread[0].reshape(-1, size), spread[1].reshape(-1, size)  # (.., d) -> (sums, d)
        view.flow.products.append(Product(view.index, 0, first, second, meeting))
        return []
    view.freeze(first, reason)
    if second is None or not {*ahead[1]} <= {*output}:
        view.freeze(second, reason)
        return []
    return [_aligned(second, terms[1], output)]


def _side_by_side(
    view: NodeView, operands: tuple[Labels | None, Labels | None], terms: Terms, shared: set[str]
) -> list[Labels | None]:
    """Product for each of the channels that lie on axes of both operands, as whole heads do.

    Those of one operand go with those of the other, and with all that lies across these axes.
    """
    whole = [
        None if labels is None else _across(view, labels, term, shared)
        for labels, term in zip(operands, terms, strict=False)
    ]
    varying = [{*_letters(view, x, term)} for x, term in zip(whole, terms, strict=False)]
    for number, term in enumerate(terms[:2]):
        alone = varying[1 - number] - varying[number]
        sizes = dict(zip(term, view.shape(number) or (), strict=False))
        if any(sizes.get(letter) != 1 for letter in alone):
            for labels in whole:
                view.freeze(labels, f"{view.op_type} multiplies them by what stays")
            return []
        if alone and not varying[number]:
            view.freeze(whole[number], f"{view.op_type} multiplies them by whole heads")
            whole[number] = None
    one, two = (
        None if labels is None else _aligned(labels, term, terms[2])
        for labels, term in zip(whole, terms, strict=False)
    )
    if one is None or two is None:
        return [two if one is None else one]
    view.couple(one, two, multiplies=True)
    return [two if varying[0] <= varying[1] else one]


def _across(view: NodeView, labels: Labels, term: str, shared: set[str]) -> Labels:
    """Couple labels along all axes but some."""
    for letter in _letters(view, labels, term):
        if letter not in shared:
            labels = view.couple_along(labels, term.index(letter))
    return labels


def _letters(view: NodeView, labels: Labels | None, term: str) -> str:
    """Letters of the axes along which labels vary."""
    axes = () if labels is None else varying_axes(view.flow.coupling.canonical(labels))
    return "".join(term[axis] for axis in axes)


def _aligned(labels: Labels, term: str, order: str) -> Labels:
    """Labels with an axis for each letter of an order; those without it are 1 long."""
    held = [letter for letter in order if letter in term]
    rest = [axis for axis, letter in enumerate(term) if letter not in order]  # no identity there
    moved = np.transpose(labels, [*(term.index(letter) for letter in held), *rest])
    sizes = dict(zip(held, moved.shape, strict=False))
    return moved.reshape(*moved.shape[: len(held)], -1)[..., 0].reshape(
        [sizes.get(letter, 1) for letter in order]
    )


def _consume(view: NodeView, layer: LinearLayer) -> None:
    """Let the channels on an axis of the activations end at the axis of the weight that meets it.

    It is the layer's own, or another that is summed over.
    """
    labels = view.labels[layer.data]
    if labels is None:
        return
    varying = varying_axes(view.flow.coupling.canonical(labels))
    summed = [a for a, other in enumerate(layer.output_axes) if other is None]
    met = [a for a in summed if layer.data_axes[a] in varying]
    weight_axis = met[0] if met else layer.in_axis
    along = view.along(labels, layer.data_axes[weight_axis] or 0)
    if along is None:
        view.freeze(labels, f"{view.op_type} reads them along an axis it does not sum over")
    else:
        view.binding(layer.operand, weight_axis, along, Role.CONSUMER)


def _produce(view: NodeView, layer: LinearLayer) -> list[Labels | None]:
    """Start new labels at the weight's axis of outputs."""
    if layer.channels < 2:
        return []  # a single channel has no other to leave its information to
    units = view.flow.units.get(view.index, np.arange(layer.channels))
    fresh = view.flow.coupling.fresh(int(units.max()) + 1)[units]
    if view.index in view.flow.units:
        view.flow.heads.append(np.unique(fresh))
    view.binding(layer.operand, layer.out_axis, fresh, Role.PRODUCER)
    _follow_bias(view, layer, fresh)
    shape = [1] * layer.rank
    shape[layer.output_axis] = layer.channels
    return [fresh.reshape(shape)]  # (C,) -> (1, .., C, .., 1)


def _follow_bias(view: NodeView, layer: LinearLayer, labels: Labels) -> None:
    """Let the bias, where there is one, follow its channels."""
    operand = layer.bias_operand
    if operand is None or not layer.has_bias:
        return
    view.freeze(view.labels[operand], f"{view.op_type} reads them as its bias")
    bias = view.shape(operand)
    if bias is None or not view.is_constant(operand) or any(d != 1 for d in bias[:-1]):
        view.freeze(labels, f"the bias of {view.op_type} is not one constant per channel")
    elif bias and bias[-1] == len(labels):
        view.binding(operand, len(bias) - 1, labels, Role.FOLLOWER)
    else:
        view.freeze(labels, f"the bias of {view.op_type} is shared by its channels")


def unfollowed(view: NodeView, reason: str) -> None:
    """Freeze, for the report, what the first axis of a node's first weight stands for."""
    for operand in range(len(view.node.inputs)):
        shape = view.shape(operand) if view.has(operand) and view.is_constant(operand) else None
        if shape is not None and len(shape) > 1 and shape[0] > 1:
            fresh = view.flow.coupling.fresh(shape[0])
            view.binding(operand, 0, fresh, Role.PRODUCER)
            view.freeze(fresh, reason)
            return


def _stays(view: NodeView, layer: LinearLayer, reason: str) -> list[Labels | None]:
    """Freeze what enters and, for the report, the channels that such a node would produce."""
    view.freeze_inputs(reason)
    fresh = view.flow.coupling.fresh(layer.channels)
    view.binding(layer.operand, layer.out_axis, fresh, Role.PRODUCER)
    view.freeze(fresh, reason)
    return []
