"""The stages in order: load, find channels, choose, compensate, rewrite, verify, save."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import onnx

from lbyl_onnx.budget.attention import cheaper_by_dims, share_of
from lbyl_onnx.budget.moves import Moves
from lbyl_onnx.budget.solve import Before, Reached, TargetReport, reach
from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import Refusal, Selection
from lbyl_onnx.channels.refusals import why_nothing
from lbyl_onnx.compensate.group import NOTHING
from lbyl_onnx.compensate.selection import GroupPlan
from lbyl_onnx.config import OPTIONS, Config, combined, hint
from lbyl_onnx.data.array_samples import SamplesLike
from lbyl_onnx.data.calibration import open_own_samples
from lbyl_onnx.data.samples import Samples
from lbyl_onnx.data.source import SampleSource
from lbyl_onnx.errors import ModelError, NothingToPruneError, OptionError, VerificationError
from lbyl_onnx.evaluate.equivalence import check_written_out
from lbyl_onnx.evaluate.layers import examine
from lbyl_onnx.evaluate.metrics import Fidelity
from lbyl_onnx.evaluate.verify import sampled_fidelity, verify
from lbyl_onnx.factor.layers import factor_views
from lbyl_onnx.factor.stage import FactorReport
from lbyl_onnx.graph import source as graph_source
from lbyl_onnx.graph.costs import Costs
from lbyl_onnx.graph.model_graph import Graph, node_name
from lbyl_onnx.guard.effort import USUAL, Effort
from lbyl_onnx.guard.memory import new_objects_only, release
from lbyl_onnx.inputs.choices import stated_sizes
from lbyl_onnx.inputs.evidence import is_folded, with_evidence
from lbyl_onnx.io import atomic, reader
from lbyl_onnx.io.writer import write_draft
from lbyl_onnx.observe.session import Prepared, prepare
from lbyl_onnx.option_types import Options
from lbyl_onnx.quantise.int8 import QuantisationJob, Quantised, to_int8
from lbyl_onnx.results.compressed import CompressResult
from lbyl_onnx.results.groups import GroupReport
from lbyl_onnx.results.inputs import InputReport, input_reports, input_warnings
from lbyl_onnx.results.warnings import Timed, warnings_of
from lbyl_onnx.rewrite.compared_samples import ComparedSamples
from lbyl_onnx.runtime import providers, timing
from lbyl_onnx.runtime.baseline import (
    Baseline,
    calibration_inputs,
    run_baseline,
    runs_at,
    sampled_sizes,
)
from lbyl_onnx.runtime.providers import channel_block
from lbyl_onnx.runtime.sizes.input_shapes import Sizes
from lbyl_onnx.target import Target
from lbyl_onnx.types import Progress

ModelLike = onnx.ModelProto | str | os.PathLike[str]
# Of models with more bytes ONNX Runtime does not optimise the graph: it would copy the weights.
LARGE = 1 << 30


@dataclass(frozen=True)
class _Job:
    """One call: the original's files, where the two models are written that must be equal.

    `pruned` is the compressed model before it is quantised, or as it is staged where it is not.
    `samples` are the user's own in memory; `named` is the path that they gave for the model.
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

    @property
    def folder(self) -> Path:
        """Where files lie that are gone afterwards."""
        return self.reference.parent


@dataclass(frozen=True)
class _Rewritten:
    before: Costs
    groups: tuple[GroupReport, ...]
    refusals: tuple[Refusal, ...]
    reached: Reached
    inputs: tuple[InputReport, ...]
    doubts: tuple[str, ...]
    samples: ComparedSamples
    statistics: SampleSource
    factors: tuple[FactorReport, ...] = ()


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
    **options: Unpack[Options],
) -> CompressResult:
    """Prune a model's channels, restore what they carried, verify the result, write it.

    Parameters
    ----------
    model
        A path, or a model in memory; it is not changed.
    output
        Where to write; None gives the compressed model in the result.
    config
        The options together; `Config()` without.
    dry_run
        Do and verify everything, write nothing.
    force
        Overwrite an existing output.
    progress
        Called with each stage as it begins.
    detailed
        Whether to describe each layer before and after, too, and time it.
    before_writing
        Called with the result before the output takes its place; what it raises keeps the output
        from being written.
    effort
        How much to spend on what is measured; less for a result that need not be as good.
    samples
        Unlabelled samples in memory, in place of the option `calibration`: an array for a model
        with one input, or arrays by the names of the inputs, whose first axis counts samples; or
        an iterable of such batches, which may differ in size along dynamic axes.
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
    progress = progress or (lambda stage, done, total: None)
    place = None if output is None or dry_run else Path(output)
    named = None if isinstance(model, onnx.ModelProto) else Path(model)
    provider = providers.provider_name(config.provider)
    with contextlib.ExitStack() as stack:
        stack.enter_context(new_objects_only())
        source = stack.enter_context(reader.on_disk(model))
        if place is not None:
            reader.check_output(place, source, force)
        scratch = stack.enter_context(atomic.scratch())
        staged = scratch / "compressed.onnx"
        if place is not None:
            staged = stack.enter_context(atomic.staged(place))
        progress("running the original", 0, 1)
        files = graph_source.check_source(source)
        if place is not None:
            files.check_apart(place)
        reference = scratch / "expected.onnx"
        pruned = staged if config.quantize is None else scratch / "pruned.onnx"
        job = _Job(
            files, staged, pruned, reference, config, provider, progress, effort, samples, named
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


def _compressed(job: _Job, detailed: bool) -> CompressResult:
    """Write the compressed model where it is staged, and prove it."""
    config, provider = job.config, job.provider
    own, sampled = _own_samples(job)
    baseline = _baseline(job, sampled)
    rewritten = _rewrite(job, baseline, own)
    release()
    job.progress("verifying", 0, 1)
    samples, source, reached = rewritten.samples, job.files.path, rewritten.reached
    with _change_told(job.files):
        verification = verify(
            baseline, source, job.pruned, job.reference, samples.batches(), samples.described
        )
        quantised, size = None, reached.size
        if config.quantize is not None:
            quantised, size, near = _quantise(job, baseline, rewritten)
            verification = replace(verification, fidelity=near)
        timed = reached.target.latency if quantised is None else None
        latency = timed or timing.paired(
            source, job.staged, provider, baseline.feeds[0], baseline.optimise, job.effort
        )
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
        _warnings(rewritten, (job.files.size, size), latency, block, quantised is not None),
        quantised,
        rewritten.factors,
    )


def _quantise(
    job: _Job, baseline: Baseline, rewritten: _Rewritten
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


def _own_samples(job: _Job) -> tuple[Samples | None, Sizes]:
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


def _baseline(job: _Job, sampled: Sizes) -> Baseline:
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
        job.effort,
        stated,
        sampled,
    )
    release()
    if not files.standard:
        check_written_out(files.path, job.folder, baseline)
    return baseline


@contextlib.contextmanager
def _change_told(files: graph_source.Source) -> Iterator[None]:
    """Say that the original has changed where that is why it cannot be run again."""
    try:
        yield
    except (ModelError, VerificationError):
        files.check_unchanged()
        raise


def _warnings(
    rewritten: _Rewritten,
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


def _rewrite(job: _Job, baseline: Baseline, own: Samples | None) -> _Rewritten:
    """Write the compressed model and the reference that it must equal.

    The models live only in here: ONNX Runtime loads its own copies afterwards.
    """
    files, config = job.files, job.config
    job.progress("finding channel groups", 0, 1)
    analyzed = _analyzed(job, baseline, own)
    graph, tensor_info, frozen = analyzed.graph, analyzed.tensor_info, analyzed.channels.refusals
    measured = config.allotted == "auto" or config.factors
    views = factor_views(analyzed, config, baseline.effort.most_samples) if config.factors else ()
    prepared = prepare(
        analyzed, baseline, config, job.folder, measured=measured, own=own, more=views
    )
    untouched = config.target == Target("ratio", 0.0, True) or config.moves == ("int8",)
    if config.quantize is not None and untouched:
        return _whole(job, prepared, baseline)
    if config.factors:
        return _moved(job, prepared, baseline)
    if not prepared.groups:
        raise NothingToPruneError(why_nothing(graph, tensor_info, (*frozen, *prepared.refusals)))
    before = Before(analyzed.costs, files.size)
    reached = reach(
        prepared, baseline, before, (files.path, job.pruned, job.reference), job.progress
    )
    plan = reached.fitted.plan
    refusals = (*frozen, *reached.fitted.refusals)
    if not plan.groups:
        raise NothingToPruneError(why_nothing(graph, tensor_info, refusals))
    return _described(prepared, baseline, before.costs, _reports(graph, reached), refusals, reached)


def _moved(job: _Job, prepared: Prepared, baseline: Baseline) -> _Rewritten:
    """Reach the target by factors, or by pruning, or by both."""
    files, before = job.files, Before(prepared.analyzed.costs, job.files.size)
    written = (files.path, job.pruned, job.reference)

    def opened(source: graph_source.Source) -> AnalyzedModel:
        return _analyzed(replace(job, files=source), baseline, prepared.own)

    if prepared.run is None:
        refusals = (*prepared.analyzed.channels.refusals, *prepared.refusals)
        graph, tensor_info = prepared.analyzed.graph, prepared.analyzed.tensor_info
        raise NothingToPruneError(why_nothing(graph, tensor_info, refusals))
    moved = Moves(prepared, baseline, before, written, opened, job.progress).best()
    analyzed, reached = moved.prepared.analyzed, moved.reached
    groups = _reports(analyzed.graph, reached)
    refusals = (*analyzed.channels.refusals, *reached.fitted.refusals)
    made = _described(prepared, baseline, before.costs, groups, refusals, reached)
    return replace(made, factors=moved.factors)


def _reports(graph: Graph, reached: Reached) -> tuple[GroupReport, ...]:
    """Report the groups that were pruned."""
    pairs = zip(reached.fitted.plan.groups, reached.fitted.restored, strict=True)
    return tuple(_report(graph, e, restored, reached.predicted) for e, restored in pairs)


def _whole(job: _Job, prepared: Prepared, baseline: Baseline) -> _Rewritten:
    """Write the model as it is, twice: nothing is pruned."""
    analyzed, size = prepared.analyzed, job.files.size
    for path in (job.pruned, job.reference):
        write_draft(analyzed.draft, path, analyzed.read, "auto")
    target = TargetReport("ratio", 0.0, 0.0, str(job.config.target), "uniform", 1)
    reached = Reached(NOTHING, analyzed.costs, size, target, {})
    return _described(prepared, baseline, analyzed.costs, (), (), reached)


def _described(
    prepared: Prepared,
    baseline: Baseline,
    before: Costs,
    groups: tuple[GroupReport, ...],
    refusals: tuple[Refusal, ...],
    reached: Reached,
) -> _Rewritten:
    """Add what the result says of the inputs, and the samples on which it is compared."""
    samples, run = ComparedSamples.of(prepared, baseline), prepared.run
    inputs = input_reports(prepared.kinds, baseline.first, prepared.own is not None)
    doubted = run is not None or prepared.config.quantize is not None
    folded = is_folded(prepared.analyzed.graph)
    doubts = tuple(input_warnings(inputs, folded)) if doubted else ()
    statistics = replace(samples.source, seed=prepared.config.seed) if run is None else run.source
    return _Rewritten(before, groups, refusals, reached, inputs, doubts, samples, statistics)


def _analyzed(job: _Job, baseline: Baseline, own: Samples | None) -> AnalyzedModel:
    """Find the channels, whole heads where the options want them."""
    config = job.config
    automatic = config.attention == "auto"
    by_dims = config.attention == "dims" or (automatic and not config.needs_moments)
    selection = Selection(
        config.include, config.exclude, config.scope, "dims" if by_dims else "heads"
    )
    analyzed = AnalyzedModel.open(job.files, baseline.shape_sets, selection)
    if not automatic or not any(group.whole_heads for group in analyzed.channels.groups):
        return analyzed
    job.progress("weighing heads against dims", 0, 1)
    dims, heads = (
        prepare(candidate, baseline, config, job.folder, own=own)
        for candidate in (analyzed.selected(replace(selection, attention="dims")), analyzed)
    )
    step = partial(job.progress, "weighing heads against dims")
    nodes = cheaper_by_dims(dims, heads, share_of(config.target), step)
    return analyzed.selected(replace(selection, by_dims=nodes)) if nodes else analyzed


def _report(
    graph: Graph, entry: GroupPlan, restored: str, predicted: Mapping[int, float]
) -> GroupReport:
    consumers = tuple(node_name(graph.nodes[index]) for index in entry.group.readers)
    size, kept = entry.group.size, len(entry.kept)
    error = predicted.get(entry.group.key)
    return GroupReport(entry.group.name, size, kept, 1 - kept / size, consumers, restored, error)
