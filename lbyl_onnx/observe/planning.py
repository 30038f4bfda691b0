"""Views of groups at their consumers' inputs and outputs: what is to be measured."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.channels.groups import ChannelGroup, ChannelMap, GroupBinding, layer_read
from lbyl_onnx.channels.heads.products import Factor
from lbyl_onnx.channels.heads.terms import Columns
from lbyl_onnx.channels.paths import (
    Activation,
    feeds_a_layer,
    layers_behind,
    only_convs_read,
)
from lbyl_onnx.channels.rules.view import SharedNorm
from lbyl_onnx.graph.layers import linear_layer
from lbyl_onnx.graph.layers.linear_layer import LinearLayer
from lbyl_onnx.graph.model_graph import Graph
from lbyl_onnx.graph.norms.normalisations import scale_of_stream
from lbyl_onnx.graph.norms.parts import NormParts
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.methods.gaussian import behind
from lbyl_onnx.methods.types import Moments
from lbyl_onnx.observe.accumulate import SampleMoments
from lbyl_onnx.observe.spec import MomentSpec
from lbyl_onnx.types import Floats


def repairable(
    graph: Graph, tensor_info: TensorInfo, channels: ChannelMap, consumers: Collection[int]
) -> dict[int, MomentSpec]:
    """View the outputs that a repair is for, by node.

    They are those of the consumers, and of the layers behind them, to which what is lost is passed
    on. Outputs that a layer or RMS normalisation scales, as part of a stream maybe, and outputs
    behind which no layer follows are left alone: there the least error counts, and no loss of
    variance is passed on. So are those whose node has a bias that cannot be scaled.

    Parameters
    ----------
    graph, tensor_info, channels
        The graph, its constants, and where its channels lie.
    consumers
        Nodes that read channels of which some go.
    """
    views: dict[int, MomentSpec] = {}
    for index in sorted({*consumers, *layers_behind(graph, channels, consumers)}):
        layer = linear_layer(tensor_info, graph.nodes[index])
        view = output_spec(graph, tensor_info, index)
        if layer is None or view is None or not feeds_a_layer(graph.nodes[index]):
            continue
        if scale_of_stream(graph.nodes[index], layer, tensor_info) is not None:
            continue  # the stream is brought to its spread again
        if not layer.plain:
            continue  # a channel has a shift for each of its matrices, and a repair only one
        has_bias, scaled = layer.has_bias, layer.bias(tensor_info) is not None
        # A consumer's offset may need an Add behind it; another layer is not worth a node.
        if not scaled and (has_bias or index not in consumers):
            continue
        views[index] = view
    return {
        index: view
        for index, view in views.items()
        if _all_uses(graph, tensor_info, channels, index) <= set(views)
    }


def _all_uses(graph: Graph, tensor_info: TensorInfo, channels: ChannelMap, index: int) -> set[int]:
    """Nodes that read a layer's weight, or what it is made of: one repair has to be right for all.

    -1 among them is a reader that takes it whole.
    """
    sharing = channels.sharing
    layer = linear_layer(tensor_info, graph.nodes[index])
    use = sharing.uses[index, 1 if layer is None else layer.operand]
    whole = {-1} if use.base in sharing.apart else set[int]()
    return {other.node for other in sharing.readers[use.base]} | whole


# Columns of a window up to which they are told apart, and rows for each column to do so.
LARGEST_WINDOW, ROWS_PER_COLUMN = 2304, 4
# Rows that are enough for a covariance: so many for each column, and more where they are cheap,
# up to so many rows, or multiply-accumulates for their products.
ENOUGH_ROWS, CHEAP_ROWS, CHEAP_WORK = 8, 32768, 1 << 34
# Rows for each column below which channels are taken for Gaussian before their activation.
GAUSSIAN_BELOW = 8


def key_of(group: ChannelGroup, consumer: GroupBinding) -> str:
    """Return the key of a group's view at one consumer."""
    return f"{int(group.units[0])}/{consumer.binding.node}/{consumer.binding.operand}"


def factor_keys(group: ChannelGroup) -> tuple[str, str]:
    """Return the keys of the views of both factors of a group's product."""
    return f"{group.key}/first", f"{group.key}/second"


def factor_spec(tensor_info: TensorInfo, factor: Factor, samples: int) -> InputObservation:
    """View one factor of a product."""
    shape = [d or 0 for d in tensor_info.shape(factor.tensor) or ()]
    view = MomentSpec(factor.tensor, factor.axis, factor.rank, factor.positions)
    spatial = factor.axis == 1 and factor.rank > 2
    plane = shape[2:] if spatial else shape[1:-1]
    taps = factor.positions.shape[1]
    return InputObservation(
        replace(view, strides=plane_strides(plane, samples * taps, view.columns, spatial))
    )


def terms_keys(group: ChannelGroup, number: int) -> tuple[str, str]:
    """Return the keys of the views of both operands of one of a group's products."""
    return f"{group.key}/terms/{number}/first", f"{group.key}/terms/{number}/second"


def terms_spec(tensor_info: TensorInfo, columns: Columns, samples: int) -> InputObservation | None:
    """View one operand of a product, each channel of each head; None where its shape is unknown."""
    shape = tensor_info.shape(columns.tensor)
    if shape is None or any(shape[axis] is None for axis in columns.axes):
        return None
    *among, axis = columns.axes
    view = MomentSpec(
        columns.tensor, axis, columns.rank, columns.positions[:, None], among=tuple(among)
    )
    rows = samples * rows_each(tensor_info, view)
    return InputObservation(replace(view, strides=(max(1, rows // rows_enough(view.columns)),)))


def norm_key(group: ChannelGroup, norm: SharedNorm) -> str:
    """Return the key of the view of what is normalised over a group's channels."""
    return f"{group.key}/norm/{norm.node}"


def norm_spec(tensor_info: TensorInfo, parts: NormParts, samples: int) -> InputObservation | None:
    """View what is normalised, all channels of the last axis; None where its shape is unknown."""
    shape = tensor_info.shape(parts.tensor.name)
    if shape is None or None in shape or len(shape) < 2:
        return None
    sizes = [d or 0 for d in shape]
    view = MomentSpec(parts.tensor.name, len(sizes) - 1, len(sizes), np.arange(sizes[-1])[:, None])
    return InputObservation(
        replace(view, strides=plane_strides(sizes[1:-1], samples, view.columns, spatial=False))
    )


def input_spec(
    graph: Graph,
    tensor_info: TensorInfo,
    consumer: GroupBinding,
    samples: int,
    uses: Sequence[GroupBinding] = (),
    largest: int = LARGEST_WINDOW,
    whole_heads: bool = False,
) -> MomentSpec | None:
    """Choose the view of a group at a consumer's input; None where it has none.

    A window's columns are told apart where the samples give enough rows to do so. Consumers that
    read one weight are seen alike, and their rows are counted together.

    Parameters
    ----------
    graph, tensor_info
        The graph; `tensor_info.shape` is at one sample.
    consumer
        Where the group's channels enter.
    samples
        How many samples there will be.
    uses
        All consumers that read the same weight; none where there is only this one.
    largest
        Columns of a window up to which they are told apart.
    whole_heads
        Whether a channel is a head, whose values are told apart though each token is a row.
    """
    layers = [layer_read(graph, tensor_info, place) for place in uses or (consumer,)]
    layer = layer_read(graph, tensor_info, consumer)
    shape, axis = tensor_info.shape(layer.data_name), layer.data_axis
    if shape is None or None in shape or not _can_be_viewed(axis, len(shape)):
        return None
    sizes = [d or 0 for d in shape]
    # Rows of a matrix that the operator hands on may be tokens of one sample: some are enough.
    spatial = axis == 1 and (len(sizes) > 2 or not layer.passed)
    positions = _activation_positions(layer, consumer, sizes[axis])
    view = MomentSpec(layer.data_name, axis, len(sizes), positions)
    plane = sizes[2:] if spatial else sizes[1:-1]
    if all(other.window is not None and other.groups == 1 for other in layers):
        windowed = _windowed(layer, layers, tensor_info, view, samples, largest)
        if windowed is not None:
            return windowed
    per_channel = positions.shape[1]
    tokens = sizes[:-1] if whole_heads and axis == len(sizes) - 1 else ()
    flat = bool(tokens) or len(sizes) == 2
    if per_channel > 1 and flat and all(other.is_matrix for other in layers):
        joint, rows = replace(view, joint=True), samples * math.prod(tokens) * len(layers)
        if joint.columns <= largest and rows >= ROWS_PER_COLUMN * joint.columns:
            strides = plane_strides(tokens, samples, joint.columns, spatial=False) if tokens else ()
            return replace(joint, strides=strides)
    strides = plane_strides(plane, samples * per_channel, view.columns, spatial)
    return replace(view, strides=strides)


# Axes of the plane that ONNX Runtime's MaxPool takes every stride-th place of, at most.
_LARGEST_PLANE = 3


def _can_be_viewed(axis: int, rank: int) -> bool:
    """Whether channels on an axis can be measured: on the last, or on axis 1 before a plane."""
    return rank >= 2 and (axis == rank - 1 or (axis == 1 and rank - 2 <= _LARGEST_PLANE))


def _activation_positions(
    layer: LinearLayer, consumer: GroupBinding, channels: int
) -> NDArray[np.intp]:
    """(n, positions): where the channels lie in the input; each conv group has its own."""
    start = np.arange(layer.groups) * (channels // layer.groups)
    spread = consumer.positions[:, :, None] + start  # (n, positions, groups)
    return np.asarray(spread.reshape(len(spread), -1), dtype=np.intp)


def _windowed(
    layer: LinearLayer,
    layers: Sequence[LinearLayer],
    tensor_info: TensorInfo,
    view: MomentSpec,
    samples: int,
    largest: int,
) -> MomentSpec | None:
    """View every value that a Conv's window sees, where there are enough rows for so many.

    `layers` are all that read its weight, itself among them.
    """
    window, output = layer.window, tensor_info.shape(layer.node.outputs[0])
    if window is None or output is None or int(np.prod(window.kernel)) == 1:
        return None
    windowed = replace(view, window=window)
    plane = [d or 0 for d in output[2:]]
    if windowed.columns > largest or view.positions.shape[1] > 1:
        return None
    outputs = [tensor_info.shape(other.node.outputs[0]) or () for other in layers]
    output_positions = sum(math.prod(d or 0 for d in shape[2:]) for shape in outputs)
    if samples * output_positions < ROWS_PER_COLUMN * windowed.columns:
        return None
    return replace(windowed, strides=plane_strides(plane, samples, windowed.columns, spatial=True))


def plane_strides(
    plane: Sequence[int], samples: int, columns: int, spatial: bool
) -> tuple[int, ...]:
    """The largest strides that still leave enough rows, about the same along all axes."""
    enough = rows_enough(columns)
    if not spatial:
        return (max(1, samples * math.prod(plane) // enough),)
    strides = [1] * len(plane)
    while strides:
        axis = min(range(len(plane)), key=lambda i: (strides[i] >= plane[i], strides[i]))
        wider = [s + (i == axis) for i, s in enumerate(strides)]
        rows = samples * math.prod(-(-d // s) for d, s in zip(plane, wider, strict=True))
        if wider[axis] > plane[axis] or rows < enough:
            break
        strides = wider
    return tuple(strides)


def rows_enough(columns: int) -> int:
    """Rows beyond which a covariance of so many columns gains little for what they cost."""
    share = ROWS_PER_COLUMN if columns > LARGEST_WINDOW // 2 else ENOUGH_ROWS
    return max(share * columns, min(CHEAP_ROWS, CHEAP_WORK // columns**2))


def output_spec(graph: Graph, tensor_info: TensorInfo, index: int) -> MomentSpec | None:
    """View a consumer's output channels one by one; None where its shape is not known."""
    layer = linear_layer(tensor_info, graph.nodes[index])
    tensor = graph.nodes[index].outputs[0].name
    shape = tensor_info.shape(tensor)
    if layer is None or shape is None or not _can_be_viewed(layer.output_axis, len(shape)):
        return None
    axis = layer.output_axis
    channels = shape[axis]
    if channels is None:
        return None
    return MomentSpec(tensor, axis, len(shape), np.arange(channels)[:, None], cross=False)


def output_moments_spec(
    graph: Graph, tensor_info: TensorInfo, index: int, samples: int
) -> MomentSpec | None:
    """View all pairs of a layer's output channels; None where its shape is not known."""
    view = output_spec(graph, tensor_info, index)
    if view is None:
        return None
    shape = tensor_info.shape(view.tensor) or ()
    if None in shape:
        return None
    spatial = view.axis == 1 and len(shape) > 2
    plane = [d or 0 for d in (shape[2:] if spatial else shape[1:-1])]
    strides = plane_strides(plane, samples, view.columns, spatial)
    return replace(view, cross=True, strides=strides)


def rows_wanted(views: Iterable[tuple[MomentSpec, int]]) -> int:
    """Samples that give every view enough rows; each comes with its rows per sample."""
    return max((-(-ENOUGH_ROWS * view.columns // max(1, rows)) for view, rows in views), default=1)


@dataclass(frozen=True, eq=False)
class InputObservation:
    """Observation of a consumer's input: its view and the activation behind it.

    Parameters
    ----------
    view
        What is measured.
    activation
        Where it lies before an activation, that activation; the moments behind it then follow, as
        if what enters it were Gaussian.
    """

    view: MomentSpec
    activation: Activation | None = None

    def is_scarce(self, rows: int) -> bool:
        """Whether there are fewer rows than a covariance of so many columns wants."""
        return rows < ENOUGH_ROWS * self.view.columns

    def moments(self, measured: SampleMoments) -> Moments:
        """Return the moments at the consumer's input."""
        moments = Moments(measured.mean, measured.second, measured.rows, self.view.taps)
        return moments if self.activation is None else behind(moments, self.activation)


def observation(
    graph: Graph,
    tensor_info: TensorInfo,
    consumer: GroupBinding,
    activation: Activation | None,
    samples: int,
    uses: Sequence[GroupBinding] = (),
    whole_heads: bool = False,
) -> InputObservation | None:
    """Choose the observation of a group at a consumer; None where it cannot be measured.

    Directly, where there are rows enough; else before the activation, as Gaussian, if the
    consumer sees nothing but that: fewer rows then tell as much. `uses` and `whole_heads` as for
    `input_spec`.
    """
    view = input_spec(graph, tensor_info, consumer, samples, uses, whole_heads=whole_heads)
    if view is None or activation is None or view.taps > 1:
        return None if view is None else InputObservation(view)
    if samples * rows_each(tensor_info, view) * max(1, len(uses)) >= GAUSSIAN_BELOW * view.columns:
        return InputObservation(view)
    layer = linear_layer(tensor_info, graph.nodes[activation.place.binding.node])
    shape = tensor_info.shape(activation.tensor)
    if layer is None or shape is None or not _can_be_viewed(layer.output_axis, len(shape)):
        return InputObservation(view)
    axis, positions = layer.output_axis, activation.place.positions
    return InputObservation(MomentSpec(activation.tensor, axis, len(shape), positions), activation)


def rows_each(tensor_info: TensorInfo, view: MomentSpec) -> int:
    """Rows that one sample gives a view without a window."""
    shape = [d or 0 for d in tensor_info.shape(view.tensor) or ()]
    if view.among is not None:
        own = {0, *view.among, view.axis}
        return math.prod(d for axis, d in enumerate(shape) if axis not in own)
    plane = shape[2:] if view.axis == 1 else shape[1:-1]
    return math.prod(plane) * len(view.positions[0])


# Variances below this share of the layer's largest are of channels that are dead.
_DEAD = 1e-6


def linear_outputs(graph: Graph, tensor_info: TensorInfo) -> Iterator[tuple[Floats, MomentSpec]]:
    """Yield biases (channels,) and views of the Convs that training may have left centred.

    Where the BatchNormalization of a Conv is followed by nothing but additions and other Convs with
    one of their own (the projection of an inverted residual), its shift has no gradient, as the
    next one takes every constant away: it stays at 0, where it began. Folded, the outputs still
    have mean zero on the images that it was trained on, and the bias is what takes the mean away.
    """
    for index, node in enumerate(graph.nodes):
        layer = linear_layer(tensor_info, node) if node.op == "Conv" else None
        if layer is None or not layer.has_bias or not only_convs_read(graph, tensor_info, node):
            continue
        bias, view = layer.bias(tensor_info), output_spec(graph, tensor_info, index)
        if bias is not None and view is not None:
            yield bias.astype(np.float64).reshape(-1), view


def left_of_bias(bias: Floats, measured: SampleMoments) -> float:
    """Power of a layer's mean as a share of its bias's, both in the outputs' deviations.

    Parameters
    ----------
    bias
        (channels,), or (1,) for all.
    measured
        Mean and variance of each output channel.

    Returns
    -------
    float
        Infinity where there is nothing to go by.
    """
    mean, variance = measured.mean, measured.second
    if not (np.all(np.isfinite(mean)) and np.all(np.isfinite(variance))):
        return np.inf
    alive = variance > _DEAD * np.max(variance, initial=0.0)
    spread = np.broadcast_to(bias, mean.shape)[alive]
    power = float(np.sum(spread**2 / variance[alive]))
    return float(np.sum(mean[alive] ** 2 / variance[alive])) / power if power > 0.0 else np.inf
