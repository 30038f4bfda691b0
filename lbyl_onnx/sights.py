"""How a group is seen where its consumers read it, and their outputs: what is to be measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from lbyl_onnx.activation import Activation
from lbyl_onnx.channels import ChannelGroup, Placement
from lbyl_onnx.compensate import Moments
from lbyl_onnx.elimination import Reading
from lbyl_onnx.facts import GraphFacts
from lbyl_onnx.gaussian import behind
from lbyl_onnx.layers import layer_weight
from lbyl_onnx.statistics import Measured
from lbyl_onnx.views import View, Window

Floats = NDArray[np.float64]
# Columns of a window up to which they are told apart, and rows for each column to do so.
LARGEST_WINDOW, ROWS_PER_COLUMN = 2304, 4
# Rows that are enough for a covariance: so many for each column, and more where they are cheap,
# up to so many rows, or multiply-accumulates for their products.
ENOUGH_ROWS, CHEAP_ROWS, CHEAP_WORK = 8, 32768, 1 << 34
# Rows for each column below which channels are taken for Gaussian before their activation.
GAUSSIAN_BELOW = 8


def key_of(group: ChannelGroup, consumer: Placement) -> str:
    """Return the key of a group's view at one consumer."""
    return f"{int(group.units[0])}/{consumer.slot.node}/{consumer.slot.operand}"


def input_view(
    graph: gs.Graph,
    facts: GraphFacts,
    consumer: Placement,
    samples: int,
    uses: Sequence[Placement] = (),
) -> View | None:
    """Choose how a group is seen at a consumer's input; None where that cannot be told.

    A window's columns are told apart where the samples give enough rows to do so. Consumers that
    read one weight are seen alike, and their rows are counted together.

    Parameters
    ----------
    graph, facts
        The graph; `facts.shape` is at one sample.
    consumer
        Where the group's channels enter.
    samples
        How many samples there will be.
    uses
        All consumers that read the same weight; none where there is only this one.
    """
    nodes = [graph.nodes[place.slot.node] for place in uses or (consumer,)]
    node, slot = graph.nodes[consumer.slot.node], consumer.slot
    tensor = node.inputs[0].name
    shape = facts.shape(tensor)
    if shape is None or None in shape or slot.operand != 1 or len(shape) < 2:
        return None
    sizes = [d or 0 for d in shape]
    if node.op == "Gemm" and int(node.attrs.get("transA", 0)):
        return None
    last = node.op == "MatMul"
    axis = len(sizes) - 1 if last else 1
    positions = _activation_positions(node, facts, consumer, sizes[axis])
    view = View(tensor, axis, len(sizes), positions)
    plane = sizes[1:-1] if last else sizes[2:]
    if all(n.op == "Conv" and int(n.attrs.get("group", 1)) == 1 for n in nodes):
        windowed = _windowed(node, nodes, facts, view, samples)
        if windowed is not None:
            return windowed
    places = positions.shape[1]
    flat = all(_is_flat(n, facts) for n in nodes) and int(node.attrs.get("group", 1)) == 1
    if places > 1 and flat:
        joint, rows = replace(view, joint=True), samples * len(nodes)
        if joint.columns <= LARGEST_WINDOW and rows >= ROWS_PER_COLUMN * joint.columns:
            return joint
    strides = _strides(plane, samples * places, view.columns, spatial=not last)
    return replace(view, strides=strides)


def _activation_positions(
    node: gs.Node, facts: GraphFacts, consumer: Placement, channels: int
) -> NDArray[np.intp]:
    """(n, places): where the channels lie in the input; each conv group has its own."""
    if node.op not in ("Conv", "ConvTranspose"):
        return consumer.positions
    group = int(node.attrs.get("group", 1))
    start = np.arange(group) * (channels // group)
    spread = consumer.positions[:, :, None] + start  # (n, places, groups)
    return np.asarray(spread.reshape(len(spread), -1), dtype=np.intp)


def _is_flat(node: gs.Node, facts: GraphFacts) -> bool:
    """Whether a layer sees each sample at one place."""
    return len(facts.shape(node.inputs[0].name) or ()) == 2


def _windowed(
    node: gs.Node, nodes: Sequence[gs.Node], facts: GraphFacts, view: View, samples: int
) -> View | None:
    """View every value that a Conv's window sees, where there are enough rows for so many.

    `nodes` are all that read its weight, itself among them.
    """
    window = conv_window(node, facts)
    output = facts.shape(node.outputs[0].name)
    if any(conv_window(n, facts) is None for n in nodes):
        return None
    if window is None or output is None or int(np.prod(window.kernel)) == 1:
        return None
    seen = replace(view, window=window)
    plane = [d or 0 for d in output[2:]]
    if seen.columns > LARGEST_WINDOW or view.positions.shape[1] > 1:
        return None
    outputs = [facts.shape(n.outputs[0].name) or () for n in nodes]
    places = sum(math.prod(d or 0 for d in shape[2:]) for shape in outputs)
    if samples * places < ROWS_PER_COLUMN * seen.columns:
        return None
    return replace(seen, strides=_strides(plane, samples, seen.columns, spatial=True))


def conv_window(node: gs.Node, facts: GraphFacts) -> Window | None:
    """Return a Conv's window with explicit pads; None where shapes are not known."""
    weight, data = facts.shape(node.inputs[1].name), facts.shape(node.inputs[0].name)
    output = facts.shape(node.outputs[0].name)
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


def _strides(plane: Sequence[int], samples: int, columns: int, spatial: bool) -> tuple[int, ...]:
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


def output_view(graph: gs.Graph, facts: GraphFacts, index: int) -> View | None:
    """View a consumer's output channels one by one; None where its shape is not known."""
    node = graph.nodes[index]
    tensor = node.outputs[0].name
    shape = facts.shape(tensor)
    if shape is None or len(shape) < 2:
        return None
    axis = len(shape) - 1 if node.op == "MatMul" else 1
    channels = shape[axis]
    if channels is None:
        return None
    return View(tensor, axis, len(shape), np.arange(channels)[:, None], cross=False)


def rows_wanted(views: Iterable[tuple[View, int]]) -> int:
    """Samples that give every view enough rows; each comes with its rows per sample."""
    return max((-(-ENOUGH_ROWS * view.columns // max(1, rows)) for view, rows in views), default=1)


@dataclass(frozen=True, eq=False)
class Sight:
    """How the channels that a consumer sees are measured.

    Parameters
    ----------
    view
        What is measured.
    activation
        Where it lies before an activation, that activation; the moments behind it then follow, as
        if what enters it were Gaussian.
    """

    view: View
    activation: Activation | None = None

    def few(self, rows: int) -> bool:
        """Whether there are fewer rows than a covariance of so many columns wants."""
        return rows < ENOUGH_ROWS * self.view.columns

    def moments(self, measured: Measured) -> Moments:
        """Return the moments at the consumer's input."""
        found = Moments(measured.mean, measured.second, measured.rows, self.view.taps)
        return found if self.activation is None else behind(found, self.activation)


def sight(
    graph: gs.Graph,
    facts: GraphFacts,
    consumer: Placement,
    activation: Activation | None,
    samples: int,
    uses: Sequence[Placement] = (),
) -> Sight | None:
    """Choose how a group is measured at a consumer; None where that cannot be told.

    Directly, where there are rows enough; else before the activation, as Gaussian, if the
    consumer sees nothing but that: fewer rows then tell as much. `uses` as for `input_view`.
    """
    view = input_view(graph, facts, consumer, samples, uses)
    if view is None or activation is None or view.taps > 1:
        return None if view is None else Sight(view)
    if samples * rows_each(facts, view) * max(1, len(uses)) >= GAUSSIAN_BELOW * view.columns:
        return Sight(view)
    node = graph.nodes[activation.place.slot.node]
    shape = facts.shape(activation.tensor)
    if shape is None or len(shape) < 2:
        return Sight(view)
    axis = len(shape) - 1 if node.op == "MatMul" else 1
    return Sight(View(activation.tensor, axis, len(shape), activation.place.positions), activation)


def rows_each(facts: GraphFacts, view: View) -> int:
    """Rows that one sample gives a view without a window."""
    shape = [d or 0 for d in facts.shape(view.tensor) or ()]
    plane = shape[2:] if view.axis == 1 else shape[1:-1]
    return math.prod(plane) * len(view.positions[0])


def reading_of(
    graph: gs.Graph,
    facts: GraphFacts,
    consumer: Placement,
    moments: Moments,
    uses: Sequence[Placement] = (),
) -> Reading:
    """How a consumer reads a group: its input's moments, and its weights' inner products.

    Where a BatchNormalization follows, outputs count as it scales them; where several consumers
    read the weight, as what follows each does in the mean.
    """
    node, slot = graph.nodes[consumer.slot.node], consumer.slot
    stored = np.moveaxis(layer_weight(facts, node, slot.operand), slot.axis, 0)
    weight = stored[consumer.positions].astype(np.float64)  # (n, places, out, ..)
    n, places, out = weight.shape[:3]
    scales = [_output_scale(graph.nodes[p.slot.node], facts, out) for p in uses or (consumer,)]
    scale = scales[0] if len(scales) == 1 else np.sqrt(np.mean(np.square(scales), axis=0))
    weight = weight.reshape(n, places, out, -1) * scale[:, None]
    taps = np.moveaxis(weight, 2, 3)  # (n, places, window, out)
    flat = taps.reshape(n * moments.taps, -1)  # told apart or not: -> (n * taps, ..)
    return Reading(moments, flat @ flat.T)


def _output_scale(node: gs.Node, facts: GraphFacts, out: int) -> Floats:
    readers = node.outputs[0].outputs
    if len(readers) != 1 or readers[0].op != "BatchNormalization":
        return np.ones(out)
    norm = readers[0]
    if not all(facts.is_constant(norm.inputs[i].name) for i in (1, 4)):
        return np.ones(out)
    gamma = facts.value(norm.inputs[1].name).astype(np.float64)
    var = facts.value(norm.inputs[4].name).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = gamma / np.sqrt(var + float(norm.attrs.get("epsilon", 1e-5)))
    return scale if scale.shape == (out,) and np.all(np.isfinite(scale)) else np.ones(out)
