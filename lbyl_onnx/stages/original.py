"""One call: the original as it runs, and the samples that the user gave for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lbyl_onnx.config import Config
from lbyl_onnx.data.array_samples import SamplesLike
from lbyl_onnx.data.calibration import open_own_samples
from lbyl_onnx.data.samples import Samples
from lbyl_onnx.errors import (
    ModelError,
    VerificationError,
)
from lbyl_onnx.evaluate.equivalence import check_written_out
from lbyl_onnx.graph import source as graph_source
from lbyl_onnx.guard.effort import LARGE, Effort
from lbyl_onnx.guard.memory import release
from lbyl_onnx.guard.spread import Spread
from lbyl_onnx.inputs.choices import stated_sizes
from lbyl_onnx.inputs.evidence import with_evidence
from lbyl_onnx.runtime.baseline import (
    Baseline,
    calibration_inputs,
    run_baseline,
    runs_at,
    sampled_sizes,
)
from lbyl_onnx.runtime.sizes.input_shapes import Sizes
from lbyl_onnx.types import Progress


@dataclass(frozen=True)
class Job:
    """One call: the original's files, where the two models are written that must be equal.

    `pruned` is the compressed model before it is quantised, or as it is staged where it is not.
    `samples` are the user's own in memory; `named` is the path that they gave for the model.
    `spread` is where the groups of channels are ranked and fitted.
    """

    files: graph_source.Source
    staged: Path
    pruned: Path
    reference: Path
    config: Config
    provider: str
    progress: Progress
    effort: Effort
    samples: SamplesLike | None
    named: Path | None
    spread: Spread

    @property
    def folder(self) -> Path:
        """Where files lie that are gone afterwards."""
        return self.reference.parent


def own_samples(job: Job) -> tuple[Samples | None, Sizes]:
    """The user's own samples, and the sizes that most of them have along dynamic axes."""
    if job.config.calibration is None and job.samples is None:
        return None, {}
    path, provider = job.files.path, job.provider
    inputs = calibration_inputs(path, provider, job.config.input_shape)
    if any(i.dtype.kind in "iub" for i in inputs):
        inputs = with_evidence(inputs, job.files.load(), job.files.reader)
    accepts = runs_at(path, provider)
    own = open_own_samples(inputs, job.config, job.samples, job.named, accepts)
    return own, {} if own is None else sampled_sizes(inputs, own.most_frequent)


def run_original(job: Job, sampled: Sizes) -> Baseline:
    """Run the original; where something in it is written out, check that it computes the same."""
    files, config = job.files, job.config
    release()
    optimise = files.size <= LARGE
    stated = partial(stated_sizes, config.input, config.layout)
    baseline = run_baseline(
        files.path,
        job.provider,
        config.seed,
        optimise,
        config.input_shape,
        job.effort.at(files.size),
        stated,
        sampled,
        job.progress,
    )
    release()
    if not files.standard:
        check_written_out(files.path, job.folder, baseline)
    return baseline


@contextlib.contextmanager
def change_told(files: graph_source.Source) -> Iterator[None]:
    """Say that the original has changed where that is why it cannot be run again."""
    try:
        yield
    except (ModelError, VerificationError):
        files.check_unchanged()
        raise
