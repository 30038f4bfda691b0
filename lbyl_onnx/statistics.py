"""Mean and covariance of what each consumer of each group sees, measured by the model itself."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from lbyl_onnx import runtime
from lbyl_onnx.draft import Draft, write_draft
from lbyl_onnx.external_data import TensorReader
from lbyl_onnx.facts import Array, GraphFacts
from lbyl_onnx.probe_graph import probe_model
from lbyl_onnx.probe_writer import PREFIX, outputs_of
from lbyl_onnx.rules import PRODUCING
from lbyl_onnx.samples import SampleSource
from lbyl_onnx.views import Noise, Target, View

Floats = NDArray[np.float64]
# Blocks of rows whose means are kept before they become one.
BLOCKS = 32


@dataclass(frozen=True, eq=False)
class Measured:
    """Moments of a view: its rows, the mean, and the covariance or the variance."""

    rows: int
    mean: Floats
    second: Floats

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


@dataclass(eq=False)
class Running:
    """Moments of the rows so far, block by block.

    Parameters
    ----------
    rows, means
        Of each block: how many rows it has, and their mean.
    sums
        Sums of (products of) the rows' deviations from the mean of their block, over all blocks.
    strips
        Of the sums of products; what lies before them is left out until the end.
    """

    rows: list[int]
    means: list[Floats]
    sums: Floats
    strips: tuple[slice, ...]

    @staticmethod
    def of(view: View) -> Running:
        """Return those of no rows of a view."""
        return Running([], [], np.zeros((view.columns,) * (2 if view.cross else 1)), view.strips)

    def add(self, rows: int, mean: Array, strips: Sequence[NDArray[np.floating[Any]]]) -> None:
        """Take in a block: its rows, their mean, and their sums, strip by strip."""
        self.rows.append(rows)
        self.means.append(mean.astype(np.float64).reshape(-1))  # (D, 1) -> (D,)
        with np.errstate(invalid="ignore", over="ignore"):  # `Moments.finite` tells of it
            for place, sums in zip(self.strips, strips, strict=True):
                part = self.sums[place]
                (part[:, place.start :] if part.ndim == 2 else part)[...] += sums
        if len(self.rows) == BLOCKS:
            self._unite()

    def measured(self) -> Measured:
        """Return the moments; these sums are spent."""
        self._unite()
        if self.sums.ndim == 2:
            for place in self.strips:  # what lies below the diagonal follows from what lies above
                self.sums[place.stop :, place] = self.sums[place, place.stop :].T
        self.sums /= self.rows[0]
        return Measured(self.rows[0], self.means[0], self.sums)

    def _unite(self) -> None:
        """Make one block of all (Chan, Golub, LeVeque 1979)."""
        means, rows = np.stack(self.means), np.asarray(self.rows)
        with np.errstate(invalid="ignore", over="ignore"):
            mean = rows @ means / rows.sum()
            steps = means - mean
            weighted = steps.T * rows  # (D, blocks)
            self.sums += weighted @ steps if self.sums.ndim == 2 else rows @ steps**2
        self.rows, self.means = [int(rows.sum())], [mean]


@dataclass(frozen=True)
class ProbeRun:
    """Where and on what a model is measured.

    Parameters
    ----------
    folder, provider
        For files, and what runs the probe.
    source
        The samples.
    batch_statistics
        Whether each BatchNormalization takes those of the mini-batch.
    noises
        What is added on the way, by the output of the layer that it is for.
    alone
        Samples on which columns are measured that count each alone; their moments need fewer than
        those of pairs. None for all.
    """

    folder: Path
    provider: str
    source: SampleSource
    batch_statistics: bool
    noises: Mapping[str, Noise] = field(default_factory=dict)
    alone: int | None = None

    @property
    def few(self) -> int | None:
        """Mini-batches that hold the samples for columns alone; None for all."""
        return None if self.alone is None else math.ceil(self.alone / self.source.size)


def measure(
    draft: Draft,
    facts: GraphFacts,
    read: TensorReader,
    views: Mapping[str, View],
    targets: Mapping[str, Target],
    run: ProbeRun,
) -> dict[str, Measured]:
    """Measure the moments of some tensors over all samples, a mini-batch at a time.

    Parameters
    ----------
    draft, facts, read
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
    pairs = [key for key, view in views.items() if view.cross]
    total = {key: Running.of(view) for key, view in views.items()}
    path = run.folder / "probe.onnx"
    probe = probe_model(
        draft, facts, views, targets, run.batch_statistics, run.noises, run.provider
    )
    fed = {info.name for info in probe.skeleton.graph.input}
    for name in run.source.inputs:
        free_batch(probe.skeleton, name)
    write_draft(probe, path, read, "auto")
    batches = runtime.run_batches(path, run.provider, feeds_of(run, fed))
    for number, outputs in enumerate(islice(batches, None if pairs else run.few)):
        brief = run.few is not None and number >= run.few
        for key in pairs if brief else views:
            _add(total[key], outputs, key, views[key])
    batches.close()
    for file in run.folder.glob("probe.onnx*"):
        file.unlink()
    return {key: running.measured() for key, running in total.items()}


def _add(running: Running, outputs: Mapping[str, Array], key: str, view: View) -> None:
    """Take in what a probe's outputs say of a view; of columns alone these give variances."""
    named = {part: outputs[name] for part, name in outputs_of(key, view).items()}
    rows = int(named["shape"][1])
    if view.cross:
        strips = [named[str(i)].astype(np.float32, copy=False) for i in range(len(view.strips))]
        running.add(rows, named["mean"], strips)
    else:
        running.add(rows, named["mean"], [rows * named["0"].astype(np.float64)])


def feeds_of(run: ProbeRun, fed: Collection[str]) -> Iterator[Mapping[str, Array]]:
    """Yield the samples with the noise that goes with them: none for two samples of every four."""
    asked = sorted(
        (noise for noise in run.noises.values() if noise.feed in fed), key=lambda noise: noise.feed
    )
    # Only what a repair is measured on is wanted again.
    for number, feeds in enumerate(run.source.batches(run.folder, run.few)):
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
