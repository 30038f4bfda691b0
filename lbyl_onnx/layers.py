"""Weights of layers as (inputs, outputs, ..) of one conv group, however their operator stores them.

A Conv in groups stores (out, in / group, ..): one axis for all outputs, one for the inputs of any
group. A ConvTranspose in groups stores (in, out / group, ..), from which an output channel cannot
be taken along an axis. It is taken for (in / group, out, ..), which is what slots on it mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from lbyl_onnx.facts import Array, GraphFacts


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


def layout_of(facts: GraphFacts, node: gs.Node, operand: int) -> Layout:
    """Return how a node's constant operand is stored."""
    groups = int(node.attrs.get("group", 1)) if node.op == "ConvTranspose" else 1
    if operand != 1 or groups == 1:
        return Layout()
    return Layout(groups, (facts.shape(node.inputs[1].name) or (0,))[0] == groups)


def layer_weight(facts: GraphFacts, node: gs.Node, operand: int) -> Array:
    """Return a constant operand with the axes that slots name."""
    return layout_of(facts, node, operand).seen(facts.value(node.inputs[operand].name))
