"""The stages in order: load, find channels, choose, compensate, rewrite, verify, save."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import onnx

from lbyl_onnx.config import OPTIONS, Config, combined, hint
from lbyl_onnx.data.array_samples import SamplesLike
from lbyl_onnx.errors import (
    OptionError,
)
from lbyl_onnx.evaluate.layers import examine
from lbyl_onnx.evaluate.metrics import Fidelity
from lbyl_onnx.evaluate.prediction.predict import Prediction, predicted
from lbyl_onnx.evaluate.verify import sampled_fidelity, verify
from lbyl_onnx.graph import source as graph_source
from lbyl_onnx.guard.effort import USUAL, Effort
from lbyl_onnx.guard.memory import new_objects_only, release
from lbyl_onnx.io import atomic, reader
from lbyl_onnx.option_types import Options
from lbyl_onnx.quantise.int8 import QuantisationJob, Quantised, to_int8
from lbyl_onnx.results.compressed import CompressResult
from lbyl_onnx.results.stages import stages_of
from lbyl_onnx.results.warnings import Timed, run_from_file, warnings_of
from lbyl_onnx.rewrite.compared_samples import ComparedSamples
from lbyl_onnx.runtime import providers, timing
from lbyl_onnx.runtime.baseline import (
    Baseline,
)
from lbyl_onnx.runtime.providers import channel_block
from lbyl_onnx.signature import with_options
from lbyl_onnx.stages.cluster import spread_over
from lbyl_onnx.stages.original import Job, change_told, own_samples, run_original
from lbyl_onnx.stages.rewritten import Rewritten, rewrite
from lbyl_onnx.types import Progress, numbered

ModelLike = onnx.ModelProto | str | os.PathLike[str]


@with_options
def compress(
    model: ModelLike,
    output: str | os.PathLike[str] | None = None,
    *,
    config: Config | None = None,
    dry_run: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    detailed: bool = False,
    before_writing: Callable[[CompressResult], None] | None = None,
    effort: Effort = USUAL,
    samples: SamplesLike | None = None,
    scheduler: str | None = None,
    **options: Unpack[Options],
) -> CompressResult:
    """Prune a model's channels, restore what they carried, verify the result, write it.

    Parameters
    ----------
    model : path or ModelProto
        The model's file, a folder that holds one, or a model in memory; it is not changed.
    output : path, default=None
        Where to write; None gives the compressed model in the result.
    config : Config, default=None
        The options together; `Config()` without.
    dry_run : bool, default=False
        Do and verify everything, write nothing.
    force : bool, default=False
        Overwrite an existing output.
    progress : callable, default=None
        Called with each stage as it begins and goes on: what is being done, a `Stage`, how much of
        it is done, and how much there is, 0 where that is not known. What it raises stops the work,
        and nothing is written.
    detailed : bool, default=False
        Whether to describe each layer before and after, too, and time it.
    before_writing : callable, default=None
        Called with the result before the output takes its place; what it raises keeps the output
        from being written.
    effort : Effort, default=Effort()
        How much to spend on what is measured; less for a result that need not be as good.
    samples : array, dict of arrays, or iterable of these, default=None
        Unlabelled samples in memory, in place of the option `calibration`: an array for a model
        with one input, or arrays by the names of the inputs, whose first axis counts samples; or
        an iterable of such batches, which may differ in size along dynamic axes.
    scheduler : str, default=None
        Address of a Dask scheduler, ``tcp://HOST:PORT``, on whose workers the groups of channels
        are ranked and fitted: the same bytes as in this process. External data must lie under the
        same paths there.
    **options
        Options of `Config` one by one; they replace those of `config`, a target whatever target or
        ratio it has.

    Returns
    -------
    CompressResult
        What was done, and its proof.

    Raises
    ------
    LbylOnnxError
        Its subclasses say what: ModelError, OutputError, OptionError, CalibrationError,
        CompensationError, VerificationError, NothingToPruneError. Nothing has been written then.
    TypeError
        For a keyword that is no option.

    Examples
    --------
    >>> from lbyl_onnx import compress
    >>> result = compress("samples/digits.onnx", ratio=0.25, method="lbyl")
    >>> result.after.parameters < result.before.parameters
    True
    """
    config = _configured(config, options)
    if samples is not None:
        config.check_samples("samples")
        if config.calibration is not None:
            raise OptionError("samples and calibration are given; give one of them")
    progress = numbered(progress or (lambda stage, done, total: None), stages_of(config))
    place = None if output is None or dry_run else Path(output)
    provider = providers.provider_name(config.provider)
    with contextlib.ExitStack() as stack:
        stack.enter_context(new_objects_only())
        source = stack.enter_context(reader.on_disk(model))
        named = None if isinstance(model, onnx.ModelProto) else source
        if place is not None:
            reader.check_output(place, source, force)
        scratch = stack.enter_context(atomic.scratch())
        staged = scratch / "compressed.onnx"
        if place is not None:
            staged = stack.enter_context(atomic.staged(place))
        spread = stack.enter_context(spread_over(scheduler))
        progress("running the original", 0, 1)
        files = graph_source.check_source(source)
        if place is not None:
            files.check_apart(place)
        reference = scratch / "expected.onnx"
        pruned = staged if config.quantize is None else scratch / "pruned.onnx"
        job = Job(
            *(files, staged, pruned, reference, config, provider, progress, effort, samples, named),
            spread,
        )
        result = replace(
            _compressed(job, detailed),
            output=place,
            model=onnx.load(staged) if output is None and not dry_run else None,
        )
        if before_writing is not None:
            before_writing(result)
        files.check_unchanged()
        if place is not None:
            atomic.publish(staged, place)
        return result


def _configured(config: Config | None, options: Mapping[str, Any]) -> Config:
    """Return the options of one call."""
    unknown = next((name for name in options if name not in OPTIONS), None)
    if unknown is not None:
        raise TypeError(f"compress() has no option {unknown!r}; {hint(unknown)}")
    if config is None:
        return combined({}, options)
    return combined(vars(config), options) if options else config


def _compressed(job: Job, detailed: bool) -> CompressResult:
    """Write the compressed model where it is staged, and prove it."""
    config, provider = job.config, job.provider
    own, sampled = own_samples(job)
    baseline = run_original(job, sampled)
    rewritten = rewrite(job, baseline, own)
    release()
    job.progress("verifying", 0, 1)
    samples, source, reached = rewritten.samples, job.files.path, rewritten.reached
    with change_told(job.files):
        verification = verify(
            baseline, source, job.pruned, job.reference, samples.batches(), samples.described
        )
        quantised, size = None, reached.size
        if config.quantize is not None:
            quantised, size, near = _quantise(job, baseline, rewritten)
            verification = replace(verification, fidelity=near)
        job.progress("predicting", 0, 1)
        prediction = _prediction(job, baseline, samples)
        timed = reached.target.latency if quantised is None else None
        latency = timed or baseline.times(source, job.staged)
    block = channel_block(config.hardware, provider)
    return CompressResult(
        None,
        None,
        config,
        rewritten.before,
        reached.costs,
        job.files.size,
        size,
        rewritten.groups,
        rewritten.refusals,
        verification,
        reached.target,
        latency,
        examine(source, job.pruned, baseline) if detailed else None,
        rewritten.inputs,
        (
            *_warnings(rewritten, (job.files.size, size), latency, block, quantised is not None),
            *run_from_file(job.files.size, baseline.effort),
        ),
        quantised,
        prediction,
        rewritten.factors,
    )


def _prediction(job: Job, baseline: Baseline, samples: ComparedSamples) -> Prediction | None:
    """Predict how near the result is on real inputs; None where the user's own were compared."""
    source = samples.unseen(baseline.effort)
    return None if source is None else predicted(job.files.path, job.staged, baseline, source)


def _quantise(
    job: Job, baseline: Baseline, rewritten: Rewritten
) -> tuple[Quantised, int, Fidelity]:
    """Quantise the pruned model; return how, the bytes, and how near it is to the original."""
    job.progress("quantising", 0, 1)
    quantised = to_int8(
        QuantisationJob(
            job.pruned, job.staged, job.folder, job.config, baseline, rewritten.statistics
        )
    )
    samples = rewritten.samples
    near = sampled_fidelity(
        job.files.path, job.staged, baseline, samples.batches(), samples.described
    )
    return quantised, graph_source.stored_bytes(job.staged), near


def _warnings(
    rewritten: Rewritten,
    sizes: tuple[int, int],
    latency: timing.PairedLatency,
    block: int,
    quantised: bool,
) -> tuple[str, ...]:
    reached = rewritten.reached
    losses = [(group.name, group.channels, group.kept) for group in rewritten.groups]
    timed = Timed(latency, reached.target.round_to, block, quantised)
    return (
        *warnings_of(rewritten.before, reached.costs, sizes, losses, timed),
        *rewritten.doubts,
    )
