"""The model with two nodes in place of each factored layer, and the one that it must equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, helper

from lbyl_onnx.factor.layers import FactorLayer
from lbyl_onnx.graph.model_graph import captured, names_of
from lbyl_onnx.io.writer import ModelDraft, NamedArray, without_fields
from lbyl_onnx.types import Array, Floats


@dataclass(frozen=True, eq=False)
class NewWeights:
    """What is computed in place of a layer.

    Parameters
    ----------
    layer
        The layer.
    first
        Weight (in, r, taps) of the first factor; (in, outputs, window) where there is no second.
    second
        (outputs, r, taps) of the rest of the window, or None.
    bias
        (outputs,); None where the operator takes none.
    split
        Which of the layer's splits the factors are of.
    """

    layer: FactorLayer
    first: Floats
    second: Floats | None
    bias: Floats | None
    split: int = 0

    @property
    def product(self) -> NewWeights:
        """The same in one node, of float64 factors multiplied."""
        if self.second is None:
            return self
        # (in, r, first) by (outputs, r, second) -> (in, first, outputs, second)
        whole = np.moveaxis(np.tensordot(self.first, self.second, axes=(1, 1)), 2, 1)
        # -> (in, outputs, first, second) -> (in, outputs, window)
        return replace(self, first=whole.reshape(*whole.shape[:2], -1), second=None)

    def repaired(self, gain: Floats, shift: Floats) -> NewWeights:
        """Scale and shift the outputs, each (outputs,); where there is no bias, scale alone."""
        bias = None if self.bias is None else gain * self.bias + shift
        if self.second is None:
            return replace(self, first=self.first * gain[:, None], bias=bias)
        return replace(self, second=self.second * gain[:, None, None], bias=bias)


def with_weights(model: onnx.ModelProto, weights: Mapping[int, NewWeights]) -> ModelDraft:
    """Return a model with new weights in place of some layers'; the original is not changed.

    Parameters
    ----------
    model
        The model.
    weights
        By the index of the node. The second factor keeps the node's name and its output's.
    """
    skeleton = without_fields(model, ("node", "initializer"))
    taken = set(names_of(model.graph))
    arrays: list[NamedArray] = []
    for index, node in enumerate(model.graph.node):
        if index not in weights:
            skeleton.graph.node.append(node)
            continue
        nodes, made = _written(node, weights[index], taken)
        skeleton.graph.node.extend(nodes)
        arrays += made
    # What no node read before stays, too.
    before = {name for node in model.graph.node for name in node.input}
    read = {name for node in skeleton.graph.node for name in node.input}
    read |= {name for node in skeleton.graph.node for name in captured(node)} | {
        value.name for value in model.graph.output
    }
    kept = [t for t in model.graph.initializer if t.name in read or t.name not in before]
    stale = {tensor.name for tensor in model.graph.initializer} - {tensor.name for tensor in kept}
    for infos in (skeleton.graph.input, skeleton.graph.value_info):
        left = [info for info in infos if info.name not in stale]
        del infos[:]
        infos.extend(left)
    return ModelDraft(skeleton, (*kept, *arrays))


def _written(
    node: NodeProto, new: NewWeights, taken: set[str]
) -> tuple[list[NodeProto], list[NamedArray]]:
    """Return a layer's new nodes and constants."""
    layer = new.layer.layer
    arrays: list[NamedArray] = []

    def constant(base: str, value: Array) -> str:
        name = _free(base, taken)
        arrays.append(NamedArray(name, np.ascontiguousarray(value, np.float32)))
        return name

    weight = constant(layer.weight_name, _stored_first(new))
    first = NodeProto()
    first.CopyFrom(node)
    _set_inputs(first, [node.input[0], weight])
    if new.second is None:
        if new.bias is not None:
            first.input.append(constant(f"{layer.weight_name}_bias", new.bias))
        return [first], arrays
    hidden = _free(f"{node.output[0]}", taken)
    first.output[:] = [hidden]
    first.name = _free(node.name, taken) if node.name else ""
    inputs = [hidden, constant(f"{layer.weight_name}_second", _stored_second(new))]
    if new.bias is not None:
        inputs.append(constant(f"{layer.weight_name}_bias", new.bias))
    second = helper.make_node(node.op_type, inputs, [node.output[0]], node.name or None)
    if node.op_type == "Gemm" and layer.out_axis == 0:
        second.attribute.append(helper.make_attribute("transB", 1))
    if node.op_type == "Conv":
        axes = new.layer.splits[new.split].axes
        second.attribute.extend(_on_axes(node, range(axes, layer.sides), layer.sides))
        own = _on_axes(node, range(axes), layer.sides)
        del first.attribute[:]
        first.attribute.extend(own)
    return [first, second], arrays


# Attributes of a Conv by the axes of its window, and what an axis has that is not seen.
_BY_AXIS = {"kernel_shape": 1, "strides": 1, "dilations": 1, "pads": 0}


def _on_axes(node: NodeProto, axes: range, sides: int) -> list[AttributeProto]:
    """Return a Conv's attributes for a window that has only some of its axes."""
    attributes = []
    for attribute in node.attribute:
        kept = AttributeProto()
        kept.CopyFrom(attribute)
        if attribute.name in _BY_AXIS:
            unseen = _BY_AXIS[attribute.name]
            pairs = enumerate(attribute.ints)  # pads: before each axis, then behind each
            kept.ints[:] = [n if i % sides in axes else unseen for i, n in pairs]
        attributes.append(kept)
    return attributes


def _set_inputs(node: NodeProto, inputs: list[str]) -> None:
    """Give a node inputs; what multiplied its product and its bias is in the weights."""
    node.input[:] = inputs
    left = [a for a in node.attribute if not (node.op_type == "Gemm" and a.name in _SCALES)]
    del node.attribute[:]
    node.attribute.extend(left)


_SCALES = ("alpha", "beta")


def _stored_first(new: NewWeights) -> Floats:
    """Return the first factor, or the one weight that there is, as its operator stores it."""
    layer = new.layer.layer
    shape = list(layer.shape)
    shape[layer.out_axis] = new.first.shape[1]
    if new.second is not None and layer.sides:
        for axis in range(2 + new.layer.splits[new.split].axes, len(shape)):
            shape[axis] = 1
    return np.asarray(replace(layer, shape=tuple(shape)).stored(new.first))


def _stored_second(new: NewWeights) -> Floats:
    """Return the second factor as its operator stores it."""
    layer, second = new.layer.layer, new.second
    assert second is not None
    if layer.node.op_type == "Conv":
        axes = new.layer.splits[new.split].axes
        # (outputs, r, taps) -> (outputs, r, 1, .., rest of the window)
        return second.reshape(*second.shape[:2], *(1,) * axes, *layer.shape[2 + axes :])
    return second[:, :, 0] if layer.out_axis == 0 else second[:, :, 0].T


def _free(base: str, taken: set[str]) -> str:
    number = 1
    while (name := f"{base}_factor_{number}") in taken:
        number += 1
    taken.add(name)
    return name
