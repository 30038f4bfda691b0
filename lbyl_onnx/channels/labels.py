"""The bookkeeping of channel labels: who is coupled to whom, where each label lies, what is frozen.

A label array broadcasts to its tensor's shape. An axis that carries no channel identity has
length 1; label 0 marks a position that stays whatever happens to the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Labels = NDArray[np.int64]
FIXED = 0


class Role(Enum):
    """What an axis of a node's input does for the channels that lie along it."""

    PRODUCER = "producer"
    FOLLOWER = "follower"
    CONSUMER = "consumer"


@dataclass(frozen=True)
class AxisBinding:
    """An axis of a constant input along which channel labels lie: what shrinks when they go.

    Parameters
    ----------
    node
        Index of the node in the graph.
    operand
        Index of the constant among the node's inputs.
    axis
        The axis of the constant.
    labels
        The label at each position of that axis, shape (length of the axis,).
    role
        What the axis does for the channels.
    source
        The constant behind it where several nodes read that as one; "" where it is read alone.
    """

    node: int
    operand: int
    axis: int
    labels: Labels
    role: Role
    source: str = ""

    @property
    def layer(self) -> tuple[str | int, int]:
        """Identifier of the layer: equal for bindings of one shared constant."""
        return (self.source, -1) if self.source else (self.node, self.operand)


@dataclass(frozen=True)
class Freeze:
    """Labels that must stay, with the reason and the node that says so."""

    labels: Labels
    reason: str
    node: int | None


class Coupling:
    """An equivalence over labels: coupled channels are kept or removed together."""

    def __init__(self) -> None:
        self._count = 1  # label 0 is FIXED
        self._edges: list[NDArray[np.int64]] = []
        self._roots: Labels | None = None

    def fresh(self, count: int) -> Labels:
        """Return `count` labels never used before, shape (count,)."""
        labels = np.arange(self._count, self._count + count, dtype=np.int64)
        self._count += count
        self._roots = None
        return labels

    def unite(self, first: Labels, second: Labels) -> None:
        """Couple labels position by position; pairs with a fixed label are left to the caller."""
        pairs = np.stack(np.broadcast_arrays(first, second)).reshape(2, -1)  # -> (2, positions)
        pairs = np.unique(pairs[:, np.all(pairs != FIXED, axis=0)], axis=1)
        pairs = pairs[:, pairs[0] != pairs[1]]
        if pairs.size:
            self._edges.append(pairs)
            self._roots = None

    def roots(self) -> Labels:
        """Return for each label the smallest label coupled to it, shape (labels,)."""
        if self._roots is None:
            component = components(self._count, self._edges)
            first = np.unique(component, return_index=True)[1]  # smallest label of each component
            self._roots = first[component].astype(np.int64)
        return self._roots

    def canonical(self, labels: Labels) -> Labels:
        """Replace each label by its root; the shape stays."""
        return self.roots()[labels]


def components(count: int, edges: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Number the connected parts of a graph, (count,); each array of edges is (2, edges)."""
    pairs = np.concatenate([np.zeros((2, 0), np.int64), *edges], axis=1)
    graph = coo_array((np.ones(pairs.shape[1]), tuple(pairs)), (count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def varying_axes(labels: Labels) -> tuple[int, ...]:
    """Axes along which the labels are not all the same."""
    return tuple(
        axis for axis in range(labels.ndim) if np.any(labels != np.take(labels, [0], axis=axis))
    )


def repeated_part(labels: Labels, axis: int) -> Labels:
    """Cut labels along an axis to the shortest part that is repeated along it, maybe all of it."""
    size = labels.shape[axis]
    for length in range(1, size // 2 + 1):
        if size % length == 0:
            part = np.take(labels, range(length), axis=axis)
            if np.array_equal(np.concatenate([part] * (size // length), axis=axis), labels):
                return part
    return labels


def compress(labels: Labels) -> Labels | None:
    """Cut every axis without identity to length 1; None where no channel identity is left.

    An axis that was selected down to one channel keeps that channel's label.
    """
    index = tuple(
        slice(None) if axis in varying_axes(labels) else slice(0, 1) for axis in range(labels.ndim)
    )
    labels = labels[index]
    return labels if np.any(labels != FIXED) else None


def expand(labels: Labels, shape: tuple[int, ...]) -> Labels:
    """Spread a label array over its tensor's whole shape."""
    return np.broadcast_to(padded(labels, len(shape)), shape)


def padded(labels: Labels, rank: int) -> Labels:
    """Give a label array leading axes of length 1 until it has `rank` axes."""
    return labels.reshape((1,) * (rank - labels.ndim) + labels.shape)  # (C, ..) -> (1, .., C, ..)
