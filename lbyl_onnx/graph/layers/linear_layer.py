"""A layer with a constant weight: which axes of it meet which axes of the activations.

A Conv in groups stores (out, in / group, ..): one axis for all outputs, one for the inputs of any
group. A ConvTranspose in groups stores (in, out / group, ..), from which an output channel cannot
be taken along an axis. It is taken for (in / group, out, ..), which is what bindings of it mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from lbyl_onnx.graph.model_graph import Node
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.types import Array, Floats

T = TypeVar("T", bound=np.generic)
Operand = tuple[int, int]  # index of a node, index of one of its inputs


class TensorShapes(Protocol):
    """What a description of a layer asks of the tensors: `TensorInfo`, or less than that."""

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Return a tensor's shape, None for each unknown length; None where the rank is unknown."""

    def is_constant(self, name: str) -> bool:
        """Whether a tensor's value is the same in every run."""


@dataclass(frozen=True)
class Operation:
    """One node, of a graph or of a model, by the names of its tensors and by its attributes."""

    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @staticmethod
    def of(node: Node | NodeProto) -> Operation:
        """Return a node as an operation."""
        if isinstance(node, NodeProto):
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            text = {name: v.decode() for name, v in attributes.items() if isinstance(v, bytes)}
            names = tuple(node.input), tuple(node.output)
            return Operation(node.op_type, node.domain, *names, attributes | text)
        names = tuple(t.name for t in node.inputs), tuple(t.name for t in node.outputs)
        return Operation(str(node.op), node.domain or "", *names, node.attrs)

    def number(self, name: str, default: int) -> int:
        """Return an attribute that is a whole number."""
        return int(self.attributes.get(name, default))

    def has(self, operand: int | None) -> bool:
        """Whether an optional input is there."""
        return operand is not None and operand < len(self.inputs) and bool(self.inputs[operand])

    def shape(self, operand: int, tensors: TensorShapes) -> tuple[int, ...] | None:
        """Return the shape of an input; None where any of it is unknown, or there is none.

        It is what to ask of a weight; of activations the rank may be all that is known.
        """
        shape = tensors.shape(self.inputs[operand]) if self.has(operand) else None
        return None if shape is None or None in shape else tuple(d or 0 for d in shape)

    def rank(self, operand: int, tensors: TensorShapes) -> int | None:
        """Return how many axes an input has; None where that is unknown, or there is none."""
        shape = tensors.shape(self.inputs[operand]) if self.has(operand) else None
        return None if shape is None else len(shape)


@dataclass(frozen=True)
class Window:
    """What a Conv sees at one place.

    Parameters
    ----------
    kernel, strides, dilations
        Of the Conv, by the axes of the plane.
    pads
        At the first input shapes, explicit: before each axis, then behind each.
    auto
        `auto_pad` where the pads are others at other sizes of the plane; empty where they are not.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    auto: str = ""


@dataclass(frozen=True)
class Layout:
    """How a constant is stored.

    Parameters
    ----------
    groups
        Parts of the first axis whose outputs lie side by side; 1 for all but a ConvTranspose.
    whole
        Whether whole groups go, of one input each, where channels do.
    """

    groups: int = 1
    whole: bool = False

    def logical(self, stored: Array) -> Array:
        """Return (in, out / groups, ..) as (in / groups, out, ..)."""
        if self.groups == 1:
            return stored
        # (in, out / groups, ..) -> (groups, in / groups, out / groups, ..)
        split = stored.reshape(self.groups, -1, *stored.shape[1:])
        # -> (in / groups, groups, out / groups, ..) -> (in / groups, out, ..)
        return np.moveaxis(split, 0, 1).reshape(split.shape[1], -1, *stored.shape[2:])

    def stored(self, logical: Array) -> Array:
        """Undo `logical`."""
        if self.groups == 1:
            return logical
        # (in / groups, out, ..) -> (in / groups, groups, out / groups, ..)
        split = logical.reshape(len(logical), self.groups, -1, *logical.shape[2:])
        # -> (groups, in / groups, out / groups, ..) -> (in, out / groups, ..)
        return np.moveaxis(split, 1, 0).reshape(-1, *split.shape[2:])

    def without(self, stored: Array, stays: NDArray[np.bool_], axis: int) -> Array:
        """Drop the positions along an axis of `logical` that do not stay."""
        left = np.compress(stays, self.logical(stored), axis=axis)
        after = left.shape[1] // stored.shape[1] if self.whole else self.groups
        return Layout(after).stored(left)

    def shape_without(
        self, stored: tuple[int, ...], stays: NDArray[np.bool_], axis: int
    ) -> tuple[int, ...]:
        """Return the shape that `without` gives."""
        left = int(stays.sum())
        if self.groups == 1:
            return (*stored[:axis], left, *stored[axis + 1 :])
        if axis == 0:
            return (left * self.groups, *stored[1:])
        if self.whole:
            return (left // stored[1], *stored[1:])
        return (stored[0], left // self.groups, *stored[2:])


@dataclass(frozen=True)
class LinearLayer:
    """A node whose output is linear in its activations, with a weight between the two.

    The axes of the weight are those that bindings name. One that meets an axis of the activations
    and none of the output is summed over; one that meets an axis of the output alone makes it; one
    that meets both has a matrix for each position; one that meets neither is a window's.

    Parameters
    ----------
    node
        The node.
    shape
        Of the weight.
    data_axes, output_axes
        For each axis of the weight the axis of the activations, and that of the output, with which
        it goes; None without one. In groups such an axis goes with a part of it.
    rank
        Number of axes of the output.
    in_axis, out_axis
        The axes of the weight along which the channels lie that are read, and those that are made.
    operand, data, bias_operand
        The inputs that bring the weight, the activations, and the bias: None where the operator
        takes none.
    alpha, beta
        What the product and the bias are multiplied by.
    groups
        Parts of the channels that do not see each other.
    layout
        How the weight is stored.
    window
        What is seen at one place; None where that is not known, or only one position is.
    scattered
        Whether each input is spread over positions of the output, as in a ConvTranspose.
    passed
        Pairs of an axis of the activations and one of the output: it is handed on as it is.
    """

    node: Operation
    shape: tuple[int, ...]
    data_axes: tuple[int | None, ...]
    output_axes: tuple[int | None, ...]
    rank: int
    in_axis: int
    out_axis: int
    operand: int = 1
    data: int = 0
    bias_operand: int | None = None
    alpha: float = 1.0
    beta: float = 1.0
    groups: int = 1
    layout: Layout = Layout()
    window: Window | None = None
    scattered: bool = False
    passed: tuple[tuple[int, int], ...] = ()

    @property
    def weight_name(self) -> str:
        """Name of the weight."""
        return self.node.inputs[self.operand]

    @property
    def data_name(self) -> str:
        """Name of the activations."""
        return self.node.inputs[self.data]

    @property
    def data_axis(self) -> int:
        """The axis of the activations along which the channels lie that are read."""
        return self.data_axes[self.in_axis] or 0

    @property
    def output_axis(self) -> int:
        """The axis of the output along which the channels lie that are made."""
        return self.output_axes[self.out_axis] or 0

    @property
    def data_sizes(self) -> dict[int, int]:
        """Lengths that axes of the activations must have to meet the weight, by axis."""
        pairs = zip(self.shape, self.data_axes, strict=True)
        return {
            met: size * (self.groups if axis == self.in_axis else 1)
            for axis, (size, met) in enumerate(pairs)
            if met is not None
        }

    @property
    def kept_axes(self) -> dict[int, int]:
        """Axes of the activations that are not summed over, each with that of the output."""
        both = zip(self.data_axes, self.output_axes, strict=True)
        kept = {met: made for met, made in both if met is not None and made is not None}
        return dict(self.passed) | kept

    @property
    def has_bias(self) -> bool:
        """Whether a bias is there."""
        return self.node.has(self.bias_operand)

    @property
    def channels(self) -> int:
        """How many channels are made."""
        return self.shape[self.out_axis]

    @property
    def outputs(self) -> int:
        """How many values one place of the output has: the channels, for each matrix of them."""
        return math.prod(self.shape[axis] for axis in self._made)

    @property
    def plain(self) -> bool:
        """Whether there is one value for each channel that is made."""
        return len(self._made) == 1

    @property
    def is_matrix(self) -> bool:
        """Whether the weight is one matrix."""
        return len(self.shape) == 2

    @property
    def sides(self) -> int:
        """How many axes the window has: 1 over signals, 2 over images, 0 where there is none."""
        pairs = zip(self.data_axes, self.output_axes, strict=True)
        return sum(met is None and made is None for met, made in pairs)

    @property
    def _made(self) -> tuple[int, ...]:
        """Axes of the weight that the output has, that of its channels first."""
        axes = (a for a, other in enumerate(self.output_axes) if other is not None)
        return (self.out_axis, *(a for a in axes if a != self.out_axis))

    @property
    def _order(self) -> tuple[int, ...]:
        """The axes of the weight: inputs, outputs, what is summed over."""
        first = (self.in_axis, *self._made)
        return (*first, *(a for a in range(len(self.shape)) if a not in first))

    def along(self, in_axis: int) -> LinearLayer:
        """Return the layer with its input channels along another axis of its weight."""
        return replace(self, in_axis=in_axis)

    def logical(self, stored: Array) -> Array:
        """Return a weight as (in, outputs, window), whatever the order that it is stored in."""
        moved = np.transpose(self.layout.logical(stored), self._order)  # -> (in, out, .., window)
        return moved.reshape(len(moved), self.outputs, -1)

    def stored(self, logical: Array) -> Array:
        """Undo `logical`."""
        order = self._order
        moved = logical.reshape([self.shape[axis] for axis in order])
        return self.layout.stored(np.transpose(moved, np.argsort(order)))

    def rows(self, tensor_info: TensorInfo, positions: NDArray[np.intp]) -> Floats:
        """Return the weight of input channels (n, positions): (n, positions, outputs, window)."""
        return self.logical(tensor_info.value(self.weight_name))[positions].astype(np.float64)

    def bias(self, tensor_info: TensorInfo) -> Array | None:
        """Return the bias, zeros where there could be one; None where no constant one fits.

        It has one value for each channel, or one for all.
        """
        if self.bias_operand is None or self.beta == 0.0:
            return None
        if not self.has_bias:
            dtype = helper.tensor_dtype_to_np_dtype(tensor_info.dtype(self.weight_name))
            return np.zeros(self.channels, dtype)
        name = self.node.inputs[self.bias_operand]
        if not tensor_info.is_constant(name):
            return None
        bias = tensor_info.value(name)
        if bias.size not in (1, self.channels):
            return None
        # A Gemm's bias of shape (M, 1) has one value for each row, even where M is N.
        return bias if bias.size == 1 or bias.shape[-1] == bias.size else None

    def spread(self, values: Floats) -> Floats:
        """Return (outputs,) values in a shape that broadcasts to the output."""
        axes = [self.output_axes[axis] or 0 for axis in self._made]
        grid = values.reshape([self.shape[axis] for axis in self._made])
        grid = np.transpose(grid, np.argsort(axes))  # -> in the order of the output
        sizes = dict(zip(sorted(axes), grid.shape, strict=True))
        return grid.reshape([sizes.get(axis, 1) for axis in range(min(axes), self.rank)])

    @property
    def spread_axis(self) -> int:
        """The axis of what `spread` returns along which the channels lie."""
        return self.output_axis - min(a for a in self.output_axes if a is not None)

    def macs(self, tensor_info: TensorInfo) -> int:
        """Multiply-accumulates of one run; 0 where the shape of the activations is not known."""
        name = self.data_name if self.scattered else self.node.outputs[0]
        shape = tensor_info.shape(name)
        if shape is None or None in shape:
            return 0
        axes = self.data_axes if self.scattered else self.output_axes
        each = math.prod(size for size, axis in zip(self.shape, axes, strict=True) if axis is None)
        # A scattered input meets the outputs of its own group.
        share = self.groups if self.scattered else 1
        return math.prod(d or 0 for d in shape) * each // share


def by_window(rows: NDArray[T]) -> NDArray[T]:
    """Move the window of a weight's rows, (n, positions, outputs, window), before the outputs."""
    return np.moveaxis(rows, 2, 3)
