"""Weights of layers as (inputs, outputs, ..) of one conv group, however their operator stores them.

A Conv in groups stores (out, in / group, ..): one axis for all outputs, one for the inputs of any
group. A ConvTranspose in groups stores (in, out / group, ..), from which an output channel cannot
be taken along an axis. It is taken for (in / group, out, ..), which is what slots on it mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.graph.model_graph import Node
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.types import Array

Operand = tuple[int, int]  # index of a node, index of one of its inputs


def _input_axis(node: Node) -> int:
    """The axis of a layer's weight along which its input channels lie."""
    if node.op == "Gemm":
        return 1 if node.attrs.get("transB", 0) else 0
    return 1 if node.op == "Conv" else 0


def own_bias(
    tensor_info: TensorInfo, node: Node, outputs: int, dtype: np.dtype[np.generic]
) -> Array | None:
    """Return a node's bias, zeros where it could have one; None where it takes no constant one."""
    if node.op not in ("Conv", "ConvTranspose", "Gemm"):
        return None
    if node.op == "Gemm" and float(node.attrs.get("beta", 1.0)) == 0.0:
        return None
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return np.zeros(outputs, dtype)
    name = node.inputs[2].name
    if not tensor_info.is_constant(name) or tensor_info.value(name).size not in (1, outputs):
        return None
    bias = tensor_info.value(name)
    # A Gemm's bias of shape (M, 1) has one value for each row, even where M is N.
    return bias if bias.size == 1 or bias.shape[-1] == bias.size else None


def conv_window(node: Node, tensor_info: TensorInfo) -> Window | None:
    """Return a Conv's window with explicit pads; None where shapes are not known."""
    weight, data = tensor_info.shape(node.inputs[1].name), tensor_info.shape(node.inputs[0].name)
    output = tensor_info.shape(node.outputs[0].name)
    if weight is None or data is None or output is None or None in (*data, *output, *weight):
        return None
    kernel = tuple(int(d or 0) for d in weight[2:])
    rank = len(kernel)
    strides = tuple(int(s) for s in node.attrs.get("strides", (1,) * rank))
    dilations = tuple(int(d) for d in node.attrs.get("dilations", (1,) * rank))
    pads = tuple(int(p) for p in node.attrs.get("pads", (0,) * 2 * rank))
    auto = str(node.attrs.get("auto_pad", "NOTSET"))
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        spans = zip(data[2:], output[2:], kernel, strides, dilations, strict=True)
        total = [max(0, ((o or 0) - 1) * s + (k - 1) * d + 1 - (i or 0)) for i, o, k, s, d in spans]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = (*small, *large) if auto == "SAME_UPPER" else (*large, *small)
    return Window(kernel, strides, pads, dilations)


@dataclass(frozen=True)
class Window:
    """What a Conv sees at one place: its kernel, with explicit pads."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]


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

    def seen(self, stored: Array) -> Array:
        """Return (in, out / groups, ..) as (in / groups, out, ..)."""
        if self.groups == 1:
            return stored
        # (in, out / groups, ..) -> (groups, in / groups, out / groups, ..)
        split = stored.reshape(self.groups, -1, *stored.shape[1:])
        # -> (in / groups, groups, out / groups, ..) -> (in / groups, out, ..)
        return np.moveaxis(split, 0, 1).reshape(split.shape[1], -1, *stored.shape[2:])

    def stored(self, seen: Array) -> Array:
        """Undo `seen`."""
        if self.groups == 1:
            return seen
        # (in / groups, out, ..) -> (in / groups, groups, out / groups, ..)
        split = seen.reshape(len(seen), self.groups, -1, *seen.shape[2:])
        # -> (groups, in / groups, out / groups, ..) -> (in, out / groups, ..)
        return np.moveaxis(split, 1, 0).reshape(-1, *split.shape[2:])

    def without(self, stored: Array, stays: NDArray[np.bool_], axis: int) -> Array:
        """Drop the positions along an axis of `seen` that do not stay."""
        left = np.compress(stays, self.seen(stored), axis=axis)
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


def layout_of(tensor_info: TensorInfo, node: Node, operand: int) -> Layout:
    """Return how a node's constant operand is stored."""
    groups = int(node.attrs.get("group", 1)) if node.op == "ConvTranspose" else 1
    if operand != 1 or groups == 1:
        return Layout()
    return Layout(groups, (tensor_info.shape(node.inputs[1].name) or (0,))[0] == groups)


def layer_weight(tensor_info: TensorInfo, node: Node, operand: int) -> Array:
    """Return a constant operand with the axes that slots name."""
    return layout_of(tensor_info, node, operand).seen(tensor_info.value(node.inputs[operand].name))
