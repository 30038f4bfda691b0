"""Mean and covariance of what each consumer of each group sees, measured by the model itself."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from lbyl_onnx import runtime
from lbyl_onnx.activation import Activation
from lbyl_onnx.channels import ChannelGroup, Placement
from lbyl_onnx.compensate import Moments
from lbyl_onnx.draft import write_draft
from lbyl_onnx.elimination import Reading
from lbyl_onnx.external_data import TensorReader
from lbyl_onnx.facts import Array, GraphFacts
from lbyl_onnx.gaussian import behind
from lbyl_onnx.probe_graph import PREFIX, probe_model
from lbyl_onnx.rules import PRODUCING
from lbyl_onnx.samples import SampleSource
from lbyl_onnx.views import Noise, Target, View, Window

Floats = NDArray[np.float64]
# Columns of a window up to which they are told apart, and rows for each column to do so.
LARGEST_WINDOW, ROWS_PER_COLUMN = 2304, 4
# Rows that are enough for a covariance: so many for each column, and at least FEWEST_ROWS.
ENOUGH_ROWS, FEWEST_ROWS = 8, 8192
# Rows for each column below which channels are taken for Gaussian before their activation.
GAUSSIAN_BELOW = 8


@dataclass(frozen=True, eq=False)
class Measured:
    """Moments of a view: its rows, the mean, and the covariance or the variance."""

    rows: int
    mean: Floats
    second: Floats

    def merged(self, other: Measured) -> Measured:
        """Return the moments of both sets of rows (Chan, Golub, LeVeque 1979)."""
        rows = self.rows + other.rows
        with np.errstate(invalid="ignore"):
            step = other.mean - self.mean
        share = other.rows / rows
        with np.errstate(invalid="ignore", over="ignore"):  # `Moments.finite` tells of it
            between = np.outer(step, step) if self.second.ndim == 2 else step * step
            second = (1 - share) * self.second + share * other.second
            second += share * (1 - share) * between
            return Measured(rows, self.mean + share * step, second)

    def with_prior(self, prior: Measured) -> Measured:
        """Return these moments with a prior covariance that counts as a row for each column.

        The prior's shape is taken, not its size; a degenerate one is left out.
        """
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            shaped = prior.second * (np.trace(self.second) / np.trace(prior.second))
        if not np.all(np.isfinite(shaped)):
            return self
        rows = self.rows + len(self.mean)
        second = (self.rows * self.second + len(self.mean) * shaped) / rows
        return Measured(rows, self.mean, second)


@dataclass(frozen=True)
class ProbeRun:
    """Where and on what a model is measured."""

    folder: Path
    provider: str
    source: SampleSource
    batch_statistics: bool
    noises: Mapping[str, Noise] = field(default_factory=dict)


def measure(
    model: onnx.ModelProto,
    facts: GraphFacts,
    read: TensorReader,
    views: Mapping[str, View],
    targets: Mapping[str, Target],
    run: ProbeRun,
) -> dict[str, Measured]:
    """Measure the moments of some tensors over all samples, a mini-batch at a time.

    Parameters
    ----------
    model, facts, read
        The model, its facts, and what reads its tensors.
    views
        What to measure, by a key.
    targets
        Tensors that are brought to a mean and deviation on the way.
    run
        Where and on what.

    Returns
    -------
    dict
        The moments, by the same keys; float64 sums of float32 mini-batches.

    Raises
    ------
    ModelError
        When ONNX Runtime cannot run the probe.
    """
    path = run.folder / "probe.onnx"
    draft = probe_model(
        model, facts, views, targets, run.batch_statistics, run.noises, run.provider
    )
    fed = {info.name for info in draft.skeleton.graph.input}
    for name in run.source.inputs:
        free_batch(draft.skeleton, name)
    write_draft(draft, path, read, "auto")
    total: dict[str, Measured] = {}
    for outputs in runtime.run_batches(path, run.provider, feeds_of(run, fed)):
        for key in views:
            mean, second, shape = (
                outputs[f"{PREFIX}{key}/{x}"] for x in ("mean", "moment", "rows")
            )
            rows = int(shape[0])
            moment = second.astype(np.float64) / (rows if second.ndim == 2 else 1)
            here = Measured(rows, mean.astype(np.float64).reshape(-1), moment)  # (1, D) -> (D,)
            total[key] = total[key].merged(here) if key in total else here
    for file in run.folder.glob("probe.onnx*"):
        file.unlink()
    return total


def feeds_of(run: ProbeRun, fed: Collection[str]) -> Iterator[Mapping[str, Array]]:
    """Yield the samples with the noise that goes with them: none for two samples of every four."""
    asked = sorted(
        (noise for noise in run.noises.values() if noise.feed in fed), key=lambda noise: noise.feed
    )
    for number, feeds in enumerate(run.source.batches(run.folder)):
        rows = np.arange(run.source.size) // 2 % 2  # samples alternate in kind, noise in pairs
        more = {
            noise.feed: np.random.default_rng([run.source.seed, number, index])
            .standard_normal((run.source.size, noise.outputs))
            .astype(np.float32)
            * rows[:, None].astype(np.float32)
            for index, noise in enumerate(asked)
        }
        yield {**feeds, **more}


def layer_noises(graph: gs.Graph, facts: GraphFacts) -> dict[str, Noise]:
    """Shape noise for the layers of a model that begins with a Gemm or MatMul; none for others.

    What such a model reads is seldom like a photograph, but training leaves the covariance of a
    layer's input in the inner products of its weight's columns, W^T W. Half of the samples get
    noise of that covariance and of the input's own power at each layer, and the first layer's
    outputs the power that white inputs would give them. Not its own: the rest of the samples, and
    whatever the weights do not know.

    References
    ----------
    Radhakrishnan, Beaglehole, Pandit, Belkin, "Mechanism for feature learning in neural networks",
    Science 2024: the neural feature ansatz.
    """
    layers = [node for node in graph.nodes if node.op in PRODUCING]
    noises: dict[str, Noise] = {}
    for index, node in enumerate(layers):
        shape = facts.shape(node.inputs[0].name)
        fits = node.op in ("Gemm", "MatMul") and shape is not None and len(shape) == 2
        weight_name = node.inputs[1].name
        if not fits or not facts.is_constant(weight_name) or node.attrs.get("transA", 0):
            if index == 0:
                return {}
            continue
        if facts.dtype(node.inputs[0].name) != onnx.TensorProto.FLOAT:
            return {}
        transposed = bool(node.op == "Gemm" and node.attrs.get("transB", 0))
        weight = facts.value(weight_name).astype(np.float64)
        outputs = weight.shape[0 if transposed else 1]
        power = float(np.sum(weight**2)) / outputs if index == 0 else None
        feed = f"{PREFIX}noise/{index:04}"
        noises[node.outputs[0].name] = Noise(feed, outputs, transposed, power)
    return noises


def free_batch(model: onnx.ModelProto, name: str) -> None:
    """Let an input take mini-batches although it was declared for one number of samples."""
    for info in model.graph.input:
        dims = info.type.tensor_type.shape.dim
        if info.name == name and len(dims) and dims[0].HasField("dim_value"):
            dims[0].dim_param = f"{PREFIX}batch"


def key_of(group: ChannelGroup, consumer: Placement) -> str:
    """Return the key of a group's view at one consumer."""
    return f"{int(group.units[0])}/{consumer.slot.node}/{consumer.slot.operand}"


def input_view(
    graph: gs.Graph, facts: GraphFacts, consumer: Placement, samples: int
) -> View | None:
    """Choose how a group is seen at a consumer's input; None where that cannot be told.

    A window's columns are told apart where the samples give enough rows to do so.

    Parameters
    ----------
    graph, facts
        The graph; `facts.shape` is at one sample.
    consumer
        Where the group's channels enter.
    samples
        How many samples there will be.
    """
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
    if node.op == "Conv" and int(node.attrs.get("group", 1)) == 1:
        windowed = _windowed(node, facts, view, samples)
        if windowed is not None:
            return windowed
    places = positions.shape[1]
    if places > 1 and not plane and int(node.attrs.get("group", 1)) == 1:
        joint = replace(view, joint=True)
        if joint.columns <= LARGEST_WINDOW and samples >= ROWS_PER_COLUMN * joint.columns:
            return joint
    stride = _stride(plane, samples * places, view.columns, spatial=not last)
    return replace(view, stride=stride)


def _activation_positions(
    node: gs.Node, facts: GraphFacts, consumer: Placement, channels: int
) -> NDArray[np.intp]:
    """(n, places): where the channels lie in the input; each conv group has its own."""
    if node.op != "Conv":
        return consumer.positions
    group = int(node.attrs.get("group", 1))
    start = np.arange(group) * (channels // group)
    spread = consumer.positions[:, :, None] + start  # (n, places, groups)
    return np.asarray(spread.reshape(len(spread), -1), dtype=np.intp)


def _windowed(node: gs.Node, facts: GraphFacts, view: View, samples: int) -> View | None:
    """View every value that a Conv's window sees, where there are enough rows for so many."""
    window = conv_window(node, facts)
    output = facts.shape(node.outputs[0].name)
    if window is None or output is None or int(np.prod(window.kernel)) == 1:
        return None
    seen = replace(view, window=window)
    plane = [d or 0 for d in output[2:]]
    if seen.columns > LARGEST_WINDOW or view.positions.shape[1] > 1:
        return None
    if samples * int(np.prod(plane)) < ROWS_PER_COLUMN * seen.columns:
        return None
    return replace(seen, stride=_stride(plane, samples, seen.columns, spatial=True))


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


def _stride(plane: Sequence[int], samples: int, columns: int, spatial: bool) -> int:
    """The largest stride that still leaves enough rows."""
    share = ROWS_PER_COLUMN if columns > LARGEST_WINDOW // 2 else ENOUGH_ROWS
    enough = max(FEWEST_ROWS, share * columns)
    stride = 1
    while True:
        wider = stride + 1
        if spatial:
            rows = samples * int(np.prod([-(-d // wider) for d in plane]))
            possible = bool(plane) and wider <= min(plane)
        else:
            rows = samples * int(np.prod(plane)) // wider
            possible = True
        if not possible or rows < enough:
            return stride
        stride = wider


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

    def few(self, measured: Measured) -> bool:
        """Whether there are fewer rows than a covariance of so many columns wants."""
        return measured.rows < ENOUGH_ROWS * self.view.columns

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
) -> Sight | None:
    """Choose how a group is measured at a consumer; None where that cannot be told.

    Directly, where there are rows enough; else before the activation, as Gaussian, if the
    consumer sees nothing but that: fewer rows then tell as much.
    """
    view = input_view(graph, facts, consumer, samples)
    if view is None or activation is None or view.taps > 1:
        return None if view is None else Sight(view)
    if samples * rows_each(facts, view) >= GAUSSIAN_BELOW * view.columns:
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
    graph: gs.Graph, facts: GraphFacts, consumer: Placement, moments: Moments
) -> Reading:
    """How a consumer reads a group: its input's moments, and its weights' inner products.

    Where a BatchNormalization follows, outputs count as it scales them.
    """
    node, slot = graph.nodes[consumer.slot.node], consumer.slot
    stored = np.moveaxis(facts.value(node.inputs[slot.operand].name), slot.axis, 0)
    weight = stored[consumer.positions].astype(np.float64)  # (n, places, out, ..)
    n, places, out = weight.shape[:3]
    weight = weight.reshape(n, places, out, -1) * _output_scale(node, facts, out)[:, None]
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
