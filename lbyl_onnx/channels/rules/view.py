"""The view of a node that a rule has, and the notes that it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lbyl_onnx.channels.labels import (
    FIXED,
    AxisBinding,
    Coupling,
    Freeze,
    Labels,
    Role,
    varying_axes,
)
from lbyl_onnx.graph.model_graph import Node
from lbyl_onnx.graph.tensor_info import TensorInfo


@dataclass(frozen=True)
class ShapeParameter:
    """Whole numbers at a node that count channels: a target shape, part sizes, bounds, `group`.

    Parameters
    ----------
    node
        Index of the node.
    place
        The input's index, or the attribute's name.
    elements
        Each number: as it is, or the labels that it counts, (n,), or (rows, n) where as many of
        each row stay.
    of
        For indices, the channel that each one names: those of removed channels go.
    scalar
        Whether an attribute is one number.
    replaces
        An attribute that may not stand beside the new numbers.
    also
        Labels that are not counted, but with which a number changes: those along an axis on which
        it is given from the end, those from whose number the graph computes it.
    """

    node: int
    place: int | str
    elements: tuple[int | Labels, ...]
    of: Labels | None = None
    scalar: bool = False
    replaces: str | None = None
    also: Labels | None = None

    @property
    def counted(self) -> list[Labels]:
        """The labels that are counted, each (n,)."""
        return [x.reshape(-1) for x in (*self.elements, self.of) if isinstance(x, np.ndarray)]


@dataclass(frozen=True)
class ShapeDependence:
    """A number in the graph that is computed from the number of channels along an axis.

    Parameters
    ----------
    labels
        The channels, in their order.
    exact
        Whether it is their number, and not only depends on it.
    """

    labels: Labels
    exact: bool


ShapeDependences = tuple[ShapeDependence | None, ...]
"""For each element of a tensor what it counts."""


@dataclass(frozen=True)
class Join:
    """A node that couples channels position by position, of one tensor or of several.

    Parameters
    ----------
    node
        Index of the node.
    terms
        Labels that it adds, compares, chooses from or sets side by side. Their shapes and those of
        what follows broadcast.
    factors
        Labels that it multiplies.
    made
        Labels of the result where it has its own; None where it keeps those of its operands.
    """

    node: int
    terms: tuple[Labels, ...]
    factors: tuple[Labels, ...] = ()
    made: Labels | None = None

    @property
    def coupled(self) -> tuple[Labels, ...]:
        """All labels that it couples."""
        return (*self.terms, *self.factors)


@dataclass(frozen=True)
class Product:
    """A product of two activations that is summed over channels, as that of queries by keys.

    Parameters
    ----------
    node
        Index of the node.
    operand
        Which of its inputs is multiplied by 0 where a channel is gone.
    labels, others
        Of that input, and of the one that it is multiplied by.
    meeting
        Labels of both, each (sums, d), position by position as they meet in each sum.
    added
        An input that the node adds to it, with its labels: it is multiplied by 0 there, too.
    """

    node: int
    operand: int
    labels: Labels
    others: Labels
    meeting: tuple[Labels, Labels]
    added: tuple[int, Labels] | None = None


@dataclass(frozen=True)
class KeptAxis:
    """An axis of labels whose length a node's constants hold: no whole slice of it may go."""

    node: int
    labels: Labels
    axis: int


@dataclass(frozen=True)
class SelectedAxis:
    """An axis of a computed input of a node along which channels lie: those that stay are taken.

    Parameters
    ----------
    node, operand, axis
        The input, and its axis.
    labels
        Along that axis, (n,).
    """

    node: int
    operand: int
    axis: int
    labels: Labels


@dataclass(frozen=True)
class KeptAttribute:
    """A number that a node works out from how many channels there are, and that has to stay."""

    node: int
    name: str
    value: float
    labels: Labels


@dataclass(frozen=True)
class SharedNorm:
    """A normalisation that takes its mean and variance over several channels.

    Parameters
    ----------
    node
        Index of the node.
    labels
        Of its first input; of each set of channels that share statistics as many go.
    groups
        Of a GroupNormalization, whose groups lie on axis 1; None for an InstanceNormalization,
        behind whose axis 1 the channels lie, and for one over the last axis: LayerNormalization,
        RMSNormalization, or the ReduceMean of one in single operators.
    """

    node: int
    labels: Labels
    groups: int | None


@dataclass
class LabelFlow:
    """State of the interpretation of a graph on labels.

    `units` has, for some layers by node, the number of the unit of each channel that they produce:
    channels of one unit are one label from the start. `heads` are the labels of such layers.
    """

    units: Mapping[int, Labels] = field(default_factory=dict)
    coupling: Coupling = field(default_factory=Coupling)
    bindings: list[AxisBinding] = field(default_factory=list)
    freezes: list[Freeze] = field(default_factory=list)
    sizes: list[ShapeParameter] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)
    norms: list[SharedNorm] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    grids: list[Labels] = field(default_factory=list)
    heads: list[Labels] = field(default_factory=list)
    kept_axes: list[KeptAxis] = field(default_factory=list)
    kept_attributes: list[KeptAttribute] = field(default_factory=list)
    selected: list[SelectedAxis] = field(default_factory=list)
    counts: dict[str, ShapeDependences] = field(default_factory=dict)
    reads: list[tuple[int, int]] = field(default_factory=list)
    repeated: dict[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeView:
    """One node as a rule sees it."""

    index: int
    node: Node
    labels: Sequence[Labels | None]
    tensor_info: TensorInfo
    flow: LabelFlow

    @property
    def op_type(self) -> str:
        """The operator's name."""
        return str(self.node.op)

    def int_attribute(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        return int(self.node.attrs.get(name, default))

    def shape(self, operand: int) -> tuple[int, ...] | None:
        """Shape of an input at the first input shapes; None where any of it is unknown."""
        return _static(self.tensor_info.shape(self.node.inputs[operand].name))

    def on_dynamic_axis(self, operand: int) -> bool:
        """Whether an input's labels lie along an axis of dynamic length, which repeats them."""
        labels = self.labels[operand]
        if labels is None or labels.size == 1:
            return False
        static = self.tensor_info.static_shape(self.node.inputs[operand].name) or ()
        pairs = zip(labels.shape, static, strict=False)
        return any(size > 1 and length is None for size, length in pairs)

    def output_shape(self, output: int = 0) -> tuple[int, ...] | None:
        """Shape of an output at the first input shapes; None where unknown."""
        return _static(self.tensor_info.shape(self.node.outputs[output].name))

    def has(self, operand: int) -> bool:
        """Whether an optional input is there."""
        return operand < len(self.node.inputs) and bool(self.node.inputs[operand].name)

    def has_parameter(self, operand: int, attribute: str) -> bool:
        """Whether a parameter is there, as an input or, in older opsets, as an attribute."""
        return attribute in self.node.attrs or self.has(operand)

    def ints(self, operand: int, attribute: str) -> list[int] | None:
        """Return a constant parameter that newer opsets take as an input; None where it is not."""
        if attribute in self.node.attrs:
            return [int(v) for v in self.node.attrs[attribute]]
        return self.ints_of(operand)

    def ints_of(self, operand: int) -> list[int] | None:
        """Return a constant input of whole numbers as a list; None where it is not constant."""
        if not self.has(operand) or not self.is_constant(operand):
            return None
        value = self.tensor_info.value(self.node.inputs[operand].name)
        return [int(v) for v in value.reshape(-1)]  # scalars too

    def is_constant(self, operand: int) -> bool:
        """Whether an input has the same value in every run."""
        return self.tensor_info.is_constant(self.node.inputs[operand].name)

    def computed_from(self, operand: int) -> Labels | None:
        """Return the channels from whose number an input is computed in each run."""
        name = self.node.inputs[operand].name
        if self.tensor_info.is_constant(name):
            return None
        label_sets = [c.labels for c in self.flow.counts.get(name, ()) if c is not None]
        return np.unique(np.concatenate(label_sets)) if label_sets else None

    def freeze(self, labels: Labels | None, reason: str) -> None:
        """Say that labels must stay."""
        if labels is not None:
            self.flow.freezes.append(Freeze(np.unique(labels), reason, self.index))

    def freeze_inputs(self, reason: str) -> list[Labels | None]:
        """Say that all labels that enter must stay; the outputs then carry none."""
        for labels in self.labels:
            self.freeze(labels, reason)
        return []

    def binding(self, operand: int, axis: int, labels: Labels, role: Role) -> None:
        """Say that labels, shape (length of the axis,), lie along an axis of a constant."""
        self.flow.bindings.append(AxisBinding(self.index, operand, axis, labels, role))

    def along(self, labels: Labels, axis: int) -> Labels | None:
        """Labels along one axis, shape (n,); None where they vary along others alone.

        Where they vary along others, too, as the heads of attention do beside their channels, only
        whole slices can go from here on.
        """
        axes = varying_axes(self.flow.coupling.canonical(labels))
        if axes and axis not in axes:
            return None
        for other in axes:
            if other != axis:
                labels = self.couple_along(labels, other)
        return np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)[:, 0]  # -> (n,)

    def varying(self, labels: Labels, axis: int) -> Labels | None:
        """Labels along an axis from which channels go, shape (n,); None for any other.

        That is the last on which they vary; the length of the others stays.
        """
        return self.along(labels, axis) if self._goes(labels, axis) else None

    def counted(self, labels: Labels, axis: int) -> Labels | None:
        """Labels that the length of an axis counts; None where that stays.

        They are (n,), or (rows, n) where they vary along other axes, too: of each row go as many.
        """
        return rows_along(labels, axis) if self._goes(labels, axis) else None

    def _goes(self, labels: Labels, axis: int) -> bool:
        axes = varying_axes(self.flow.coupling.canonical(labels))
        if axis in axes[:-1]:
            self.flow.kept_axes.append(KeptAxis(self.index, labels, axis))
        return bool(axes) and axis == axes[-1]

    def couple(self, first: Labels, second: Labels, multiplies: bool = False) -> None:
        """Couple two label arrays as `meet` does, and note that this node joins them."""
        self.meet(first, second)
        both = (first, second)
        join = Join(self.index, (), both) if multiplies else Join(self.index, both)
        self.flow.joins.append(join)

    def meet(self, first: Labels, second: Labels) -> None:
        """Couple two label arrays position by position; what meets a fixed label must stay."""
        first, second = np.broadcast_arrays(first, second)
        self.flow.coupling.unite(first, second)
        stays = (first == FIXED) != (second == FIXED)
        if np.any(stays):
            reason = f"{self.op_type} joins them to channels that stay"
            self.freeze(np.maximum(first, second)[stays], reason)

    def couple_along(self, labels: Labels, axis: int) -> Labels:
        """Couple all labels along an axis; return them with slices that must stay fixed whole."""
        self.couple(labels, np.take(labels, [0], axis=axis))
        stays = np.any(labels == FIXED, axis=axis, keepdims=True)
        return np.where(stays, FIXED, labels)


Rule = Callable[[NodeView], list[Labels | None]]


def rows_along(labels: Labels, axis: int) -> Labels:
    """Labels along an axis: (n,), or (rows, n) where they vary along others, too."""
    lines = np.moveaxis(labels, axis, -1).reshape(-1, labels.shape[axis])  # -> (others, n)
    rows: Labels = np.unique(lines, axis=0)
    return rows[0] if len(rows) == 1 else rows


def _static(shape: tuple[int | None, ...] | None) -> tuple[int, ...] | None:
    if shape is None or None in shape:
        return None
    return tuple(d for d in shape if d is not None)
