"""Mean and covariance of what each consumer of each group sees, measured by the model itself."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import onnx

from lbyl_onnx.data.source import SampleSource
from lbyl_onnx.errors import ModelError, TooSlowError
from lbyl_onnx.graph.layers import is_layer, linear_layer
from lbyl_onnx.graph.layers.linear_layer import LinearLayer
from lbyl_onnx.graph.model_graph import Graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.guard.spread import threads
from lbyl_onnx.io.external_data import TensorReader
from lbyl_onnx.io.writer import ModelDraft, write_draft
from lbyl_onnx.observe.accumulate import MomentAccumulator, SampleMoments, add_outputs
from lbyl_onnx.observe.batch_statistics import can_take_batch
from lbyl_onnx.observe.graph_builder import PREFIX
from lbyl_onnx.observe.instrument import instrument
from lbyl_onnx.observe.planning import rows_each
from lbyl_onnx.observe.spec import Centring, MomentSpec, Noise, Renormalization, Target
from lbyl_onnx.runtime import execute
from lbyl_onnx.types import Array, Progress, untold


@dataclass(frozen=True)
class ObservationRun:
    """Where and on what a model is measured.

    Parameters
    ----------
    folder, provider
        For files, and what runs the instrumented model.
    source
        The samples.
    batch_statistics
        Whether each BatchNormalization takes those of the mini-batch.
    noises
        What is added on the way, by the output of the layer that it is for.
    alone
        Samples on which columns are measured that count each alone; their moments need fewer than
        those of pairs. None for all.
    centred
        Tensors that are brought to mean zero on the way, whatever else they are brought to.
    part
        Samples of a mini-batch that are run at a time where nothing is taken over the batch; None
        for all.
    progress
        Told of each mini-batch, as it is drawn and as it is measured.
    """

    folder: Path
    provider: str
    source: SampleSource
    batch_statistics: bool
    noises: Mapping[str, Noise] = field(default_factory=dict)
    alone: int | None = None
    centred: Mapping[str, Centring] = field(default_factory=dict)
    part: int | None = None
    progress: Progress = untold

    @property
    def batches_alone(self) -> int | None:
        """Mini-batches that hold the samples for columns alone; None for all."""
        return None if self.alone is None else math.ceil(self.alone / self.source.size)

    def with_centred(self, targets: Mapping[str, Renormalization]) -> dict[str, Target]:
        """Return targets with those of the centred tensors among them, by tensor."""
        brought = {
            name: replace(target, mean=np.zeros_like(target.mean))
            if name in self.centred
            else target
            for name, target in targets.items()
        }
        return {**self.centred, **brought}


def measure(
    draft: ModelDraft,
    tensor_info: TensorInfo,
    read: TensorReader,
    views: Mapping[str, MomentSpec],
    targets: Mapping[str, Renormalization],
    run: ObservationRun,
) -> dict[str, SampleMoments]:
    """Measure the moments of some tensors over all samples, a mini-batch at a time.

    Parameters
    ----------
    draft, tensor_info, read
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
        When ONNX Runtime cannot run the instrumented model.
    """
    pairs = [key for key, view in views.items() if view.cross]
    brought = run.with_centred(targets)
    sums = {key: MomentAccumulator.of(view) for key, view in views.items()}
    path = run.folder / "instrumented.onnx"
    instrumented = instrument(
        draft,
        tensor_info,
        views,
        brought,
        run.batch_statistics,
        run.noises,
        run.provider,
    )
    fed = {info.name for info in instrumented.skeleton.graph.input}
    for name in run.source.inputs:
        free_batch(instrumented.skeleton, name)
    write_draft(instrumented, path, read, "auto")
    whole = bool(brought) or bool(run.noises) or takes_batch(draft.skeleton, tensor_info, run)
    part = None if whole or run.part is None else aligned(run.part, tensor_info, views.values())
    counter = _BatchCounter(run, None if pairs else run.batches_alone)
    batches = _run_batches(path, run, fed, counter, part)
    with threads() as pool:  # BLAS has one thread for the products of each view
        for number, outputs in batches:
            brief = run.batches_alone is not None and number >= run.batches_alone
            added = [
                pool.submit(add_outputs, sums[key], outputs, key, views[key])
                for key in (pairs if brief else views)
            ]
            for future in added:
                future.result()
            outputs.clear()  # else the next run would stand on them
            counter.tell(2 * number + 2)
    for file in run.folder.glob("instrumented.onnx*"):
        file.unlink()
    return {key: running.measured() for key, running in sums.items()}


class _BatchCounter:
    """Tells of each mini-batch twice: once it is drawn, and once it is measured."""

    def __init__(self, run: ObservationRun, batches: int | None) -> None:
        whole = math.ceil(run.source.count / run.source.size)
        self.batches = batches
        self._progress = run.progress
        self._total = 2 * min(whole, batches or whole)
        self.tell(0)

    def tell(self, done: int) -> None:
        """Tell how many were drawn and how many measured, together."""
        # The user's own samples may make more mini-batches, as they differ in shape.
        self._progress("measuring statistics", min(done, self._total), self._total)


def takes_batch(model: onnx.ModelProto, tensor_info: TensorInfo, run: ObservationRun) -> bool:
    """Whether a BatchNormalization of a model is to take the statistics of its mini-batch."""
    return run.batch_statistics and any(can_take_batch(n, tensor_info) for n in model.graph.node)


def _run_batches(
    path: Path,
    run: ObservationRun,
    fed: Collection[str],
    counter: _BatchCounter,
    part: int | None,
) -> Iterator[tuple[int, dict[str, Array]]]:
    """Run a model on the samples; where it does not run on the user's own, say on which.

    Yields the number of the mini-batch and the outputs, of as many mini-batches as are counted,
    which are run `part` samples at a time, None for all.
    """
    shapes: Mapping[str, tuple[int, ...]] = {}
    number = -1

    def noted() -> Iterator[Mapping[str, Array]]:
        nonlocal shapes, number
        for feeds in islice(feeds_of(run, fed), counter.batches):
            number += 1
            shapes = {name: feeds[name].shape for name in run.source.inputs}
            counter.tell(2 * number + 1)
            yield from [feeds] if part is None else divided(feeds, part)

    try:
        for outputs in execute.lent_batches(path, run.provider, noted()):
            yield number, outputs
    except TooSlowError:
        raise
    except ModelError as error:
        if run.source.supplied is None or not shapes:
            raise
        sizes = " ".join(f"{name}:{','.join(map(str, shape))}" for name, shape in shapes.items())
        raise ModelError(
            f"{error}; so it was on calibration samples {sizes}: leave them out, or bring them to "
            "what the model takes"
        ) from error


def aligned(part: int, tensor_info: TensorInfo, views: Iterable[MomentSpec]) -> int:
    """Return about so many samples, of which each part begins where a stride of rows does."""
    strides = [
        (view.strides[0], rows_each(tensor_info, view))
        for view in views
        if not view.is_spatial and view.strides
    ]
    unit = math.lcm(*(stride // math.gcd(stride, rows) for stride, rows in strides))
    return max(unit, part // unit * unit)


def divided(feeds: Mapping[str, Array], size: int) -> Iterator[Mapping[str, Array]]:
    """Yield a mini-batch in parts of so many samples; whole where its inputs differ in their count.

    Examples
    --------
    >>> [part["x"].tolist() for part in divided({"x": np.arange(5)}, 2)]
    [[0, 1], [2, 3], [4]]
    """
    counts = {len(value) if value.ndim else 0 for value in feeds.values()}
    count = max(counts, default=0)
    if len(counts) != 1 or count <= size:
        yield feeds
        return
    for start in range(0, count, size):
        yield {name: value[start : start + size] for name, value in feeds.items()}


def feeds_of(run: ObservationRun, fed: Collection[str]) -> Iterator[Mapping[str, Array]]:
    """Yield the samples with the noise that goes with them: none for two samples of every four."""
    asked = sorted(
        (noise for noise in run.noises.values() if noise.feed in fed), key=lambda noise: noise.feed
    )
    # Only what a repair is measured on is wanted again.
    for number, feeds in enumerate(run.source.batches(run.folder, run.batches_alone)):
        rows = np.arange(run.source.size) // 2 % 2  # samples alternate in kind, noise in pairs
        more = {
            noise.feed: np.random.default_rng([run.source.seed, number, index])
            .standard_normal((run.source.size, noise.outputs))
            .astype(np.float32)
            * rows[:, None].astype(np.float32)
            for index, noise in enumerate(asked)
        }
        yield {**feeds, **more}


def layer_noises(graph: Graph, tensor_info: TensorInfo) -> dict[str, Noise]:
    """Shape noise for the layers of a model that begins with a matrix product; none for others.

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
    layers = [node for node in graph.nodes if is_layer(node)]
    noises: dict[str, Noise] = {}
    for index, node in enumerate(layers):
        layer = linear_layer(tensor_info, node)
        if layer is None or not _takes_noise(layer, tensor_info):
            if index == 0:
                return {}
            continue
        if tensor_info.dtype(layer.data_name) != onnx.TensorProto.FLOAT:
            return {}
        weight = tensor_info.value(layer.weight_name).astype(np.float64)
        power = float(np.sum(weight**2)) / layer.channels if index == 0 else None
        feed = f"{PREFIX}noise/{index:04}"
        operands = (layer.data, layer.operand)
        noises[node.outputs[0].name] = Noise(
            feed, layer.channels, operands, layer.in_axis == 1, power
        )
    return noises


def _takes_noise(layer: LinearLayer, tensor_info: TensorInfo) -> bool:
    """Whether a layer multiplies a matrix of samples, (samples, inputs), by its weight."""
    shape = tensor_info.shape(layer.data_name)
    flat = shape is not None and len(shape) == layer.rank == 2
    return flat and layer.is_matrix and layer.data_axis == layer.output_axis == 1


def free_batch(model: onnx.ModelProto, name: str) -> None:
    """Let an input take mini-batches although it was declared for one number of samples."""
    for info in model.graph.input:
        dims = info.type.tensor_type.shape.dim
        if info.name == name and len(dims) and dims[0].HasField("dim_value"):
            dims[0].dim_param = f"{PREFIX}batch"
