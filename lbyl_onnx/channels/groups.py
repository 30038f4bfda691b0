"""Channel groups: what passes from the analysis of a graph to all that follows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.channels.labels import AxisBinding, Labels
from lbyl_onnx.channels.rules.view import (
    KeptAttribute,
    Product,
    SelectedAxis,
    ShapeParameter,
    SharedNorm,
)
from lbyl_onnx.graph.layers import linear_layer
from lbyl_onnx.graph.layers.linear_layer import LinearLayer
from lbyl_onnx.graph.model_graph import Graph
from lbyl_onnx.graph.sharing import Sharing
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.option_types import Scope


@dataclass(frozen=True)
class GroupBinding:
    """Positions of a group's n channels along one axis of a constant.

    Parameters
    ----------
    binding
        The constant's axis.
    positions
        Shape (n, taps): row i holds the positions of channel i along the axis, ascending.
    """

    binding: AxisBinding
    positions: NDArray[np.intp]


def layer_read(graph: Graph, tensor_info: TensorInfo, consumer: GroupBinding) -> LinearLayer:
    """Return the layer that a consumer is, by the axis along which it reads the channels."""
    layer = linear_layer(tensor_info, graph.nodes[consumer.binding.node])
    assert layer is not None
    return layer.along(consumer.binding.axis)


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that lie on the same axes and can be removed one by one.

    Parameters
    ----------
    name
        Names of the producing nodes.
    units
        Root label of each channel, shape (n,), in the order of the first producer's output.
    producers, followers, consumers
        Where the channels lie.
    blocks
        Shape (n,): number of the block of each channel, such as its head. Of each go as many.
    products
        The products in which the channels meet others and end, as queries and keys do.
    whole_heads
        Whether each of its channels is a head of attention, with its queries, keys and values.
    norms
        The normalisations that take statistics over them.
    """

    name: str
    units: Labels
    producers: tuple[GroupBinding, ...]
    followers: tuple[GroupBinding, ...]
    consumers: tuple[GroupBinding, ...]
    blocks: NDArray[np.intp]
    products: tuple[Product, ...] = ()
    whole_heads: bool = False
    norms: tuple[SharedNorm, ...] = ()

    @property
    def size(self) -> int:
        """Number of channels."""
        return len(self.units)

    @property
    def readers(self) -> tuple[int, ...]:
        """Nodes that read the channels: consumers, then products."""
        consumers = (place.binding.node for place in self.consumers)
        return (*consumers, *(product.node for product in self.products))

    @property
    def block_count(self) -> int:
        """Number of blocks: counts of channels are multiples of it."""
        return int(self.blocks.max(initial=0)) + 1

    @property
    def key(self) -> int:
        """Identifier of the group within its graph: its first unit."""
        return int(self.units[0])


@dataclass(frozen=True)
class Refusal:
    """Channels that cannot be removed, and why.

    Parameters
    ----------
    name
        Names of the nodes that produce them.
    channels
        How many.
    reason
        Why they stay.
    nodes
        Names of the nodes that are the reason.
    """

    name: str
    channels: int
    reason: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class ChannelMap:
    """Everything the later stages need to know of a graph's channels.

    Parameters
    ----------
    groups, refusals
        What can be pruned, and what cannot.
    bindings
        Every constant axis that carries labels.
    sizes
        Whole numbers in the graph that count channels.
    tensors
        Labels of each activation, by tensor name.
    roots
        Root of each label.
    sharing
        Who reads which constant.
    norms
        Normalisations over several channels.
    kept_attributes
        Numbers of nodes that have to stay what they are.
    selected
        Computed inputs of nodes of which the channels that stay are taken.
    ties
        Keys of the groups, of two or more, whose blocks all keep as many channels.
    """

    groups: tuple[ChannelGroup, ...]
    refusals: tuple[Refusal, ...]
    bindings: tuple[AxisBinding, ...]
    sizes: tuple[ShapeParameter, ...]
    tensors: Mapping[str, Labels]
    roots: Labels
    sharing: Sharing
    norms: tuple[SharedNorm, ...] = ()
    kept_attributes: tuple[KeptAttribute, ...] = ()
    selected: tuple[SelectedAxis, ...] = ()
    ties: tuple[frozenset[int], ...] = ()

    def carriers(self, units: Labels) -> frozenset[str]:
        """Return the names of the tensors that carry channels of some units."""
        one_of = np.zeros(len(self.roots), np.bool_)
        one_of[units] = True
        return frozenset(
            name for name, labels in self.tensors.items() if one_of[self.roots[labels]].any()
        )


def tied_to(ties: Iterable[frozenset[int]], keys: Collection[int]) -> set[int]:
    """Return the keys of groups, and of all that keep as many channels as one of them."""
    return {*keys}.union(*(tie for tie in ties if not tie.isdisjoint(keys)))


@dataclass(frozen=True)
class Selection:
    """Which channels the user wants pruned.

    Parameters
    ----------
    include, exclude
        Globs on the names of producing nodes.
    scope
        `inner`: channels that one layer produces, or several that are multiplied (gates); `all`:
        residual streams and other channels that several layers produce together, too.
    attention
        Whether whole heads are the channels of attention, where they can be, or the dims of heads.
    by_dims
        Layers, by node, that lose dims of heads all the same.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    scope: Scope = "inner"
    attention: Literal["dims", "heads"] = "dims"
    by_dims: frozenset[int] = frozenset()

    def refuses(self, names: Sequence[str]) -> str | None:
        """Return why a group with these producers is skipped; None when it is not."""
        if any(fnmatchcase(name, glob) for name in names for glob in self.exclude):
            return "left out by --exclude"
        if self.include and not any(fnmatchcase(n, glob) for n in names for glob in self.include):
            return "not named by --include"
        return None
