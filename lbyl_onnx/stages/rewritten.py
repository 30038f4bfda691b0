"""One model made of another: find channels, choose, compensate, rewrite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lbyl_onnx.budget.attention import cheaper_by_dims, share_of
from lbyl_onnx.budget.moves import Moves
from lbyl_onnx.budget.reached import Before, Reached, TargetReport
from lbyl_onnx.budget.solve import reach
from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import Refusal, Selection
from lbyl_onnx.channels.refusals import why_nothing
from lbyl_onnx.compensate.group import NOTHING
from lbyl_onnx.compensate.selection import GroupPlan
from lbyl_onnx.data.samples import Samples
from lbyl_onnx.data.source import SampleSource
from lbyl_onnx.errors import (
    NothingSafeError,
    NothingToPruneError,
)
from lbyl_onnx.factor.layers import factor_views
from lbyl_onnx.factor.stage import FactorReport
from lbyl_onnx.graph import source as graph_source
from lbyl_onnx.graph.costs import Costs
from lbyl_onnx.graph.model_graph import Graph, node_name
from lbyl_onnx.inputs.evidence import is_folded
from lbyl_onnx.io.writer import write_draft
from lbyl_onnx.observe.session import Prepared, prepare
from lbyl_onnx.quantise.int8 import QuantisationJob, to_int8
from lbyl_onnx.results.groups import GroupReport
from lbyl_onnx.results.inputs import InputReport, input_reports, input_warnings
from lbyl_onnx.rewrite.compared_samples import ComparedSamples
from lbyl_onnx.rewrite.deployment import Deployment
from lbyl_onnx.runtime.baseline import (
    Baseline,
)
from lbyl_onnx.stages.original import Job
from lbyl_onnx.target import Target


@dataclass(frozen=True)
class Rewritten:
    """What was written, and what is told of it.

    Parameters
    ----------
    before
        What the original costs.
    groups, refusals
        What was pruned, what was not and why.
    reached
        What was made, and how that compares with the target.
    inputs, doubts
        What each input was taken for, and what to know of that.
    samples, statistics
        What the result is compared on, and what it was fitted on.
    factors
        Layers that became two of lower rank.
    """

    before: Costs
    groups: tuple[GroupReport, ...]
    refusals: tuple[Refusal, ...]
    reached: Reached
    inputs: tuple[InputReport, ...]
    doubts: tuple[str, ...]
    samples: ComparedSamples
    statistics: SampleSource
    factors: tuple[FactorReport, ...] = ()


def rewrite(job: Job, baseline: Baseline, own: Samples | None) -> Rewritten:
    """Write the compressed model and the reference that it must equal.

    The models live only in here: ONNX Runtime loads its own copies afterwards.

    Parameters
    ----------
    job, baseline
        What is asked for, and the original as it runs.
    own
        The user's own samples; None without.

    Raises
    ------
    NothingToPruneError
        When nothing can go, or, without a goal, nothing that is safe.
    TargetError
        When the target cannot be reached.
    """
    config = job.config
    job.progress("finding channel groups", 0, 1)
    analyzed = _analyzed(job, baseline, own)
    job.progress("choosing samples", 0, 1)
    measured = config.allotted == "auto" or config.factors
    views = factor_views(analyzed, config, baseline.effort.most_samples) if config.factors else ()
    prepared = prepare(
        analyzed, baseline, config, job.folder, measured=measured, own=own, more=views
    )
    prepared = replace(prepared, spread=job.spread)
    untouched = config.target == Target("ratio", 0.0, True) or config.moves == ("int8",)
    if config.quantize is not None and untouched:
        return _whole(job, prepared, baseline, _unpruned(str(config.target)))
    deploy = None if config.quantize is None else partial(_deployed, job, prepared, baseline)
    deployment = Deployment.prepare(prepared, baseline, job.files.path, deploy)
    made = _moved if config.factors else _pruned
    try:
        return made(job, prepared, deployment)
    except NothingSafeError:
        if config.quantize is None:
            raise
        nothing = _unpruned("no channels are predicted safe to remove")
        return _whole(job, prepared, baseline, nothing)


def _pruned(job: Job, prepared: Prepared, deployment: Deployment) -> Rewritten:
    """Reach the target by pruning."""
    analyzed, baseline = prepared.analyzed, deployment.baseline
    graph, tensor_info, frozen = analyzed.graph, analyzed.tensor_info, analyzed.channels.refusals
    if not prepared.groups:
        raise NothingToPruneError(why_nothing(graph, tensor_info, (*frozen, *prepared.refusals)))
    before, written = Before(analyzed.costs, job.files.size), (job.pruned, job.reference)
    reached = reach(prepared, deployment, before, written, job.progress)
    refusals = (*frozen, *reached.fitted.refusals)
    if not reached.fitted.plan.groups:
        if deployment.deploy is not None:
            return _whole(job, prepared, baseline, reached.target)
        raise NothingToPruneError(why_nothing(graph, tensor_info, refusals))
    return _described(prepared, baseline, before.costs, _reports(graph, reached), refusals, reached)


def _moved(job: Job, prepared: Prepared, deployment: Deployment) -> Rewritten:
    """Reach the target by factors, or by pruning, or by both."""
    before, baseline = Before(prepared.analyzed.costs, job.files.size), deployment.baseline
    written = (job.pruned, job.reference)

    def opened(source: graph_source.Source) -> AnalyzedModel:
        return _analyzed(replace(job, files=source), baseline, prepared.own)

    if prepared.run is None:
        refusals = (*prepared.analyzed.channels.refusals, *prepared.refusals)
        graph, tensor_info = prepared.analyzed.graph, prepared.analyzed.tensor_info
        raise NothingToPruneError(why_nothing(graph, tensor_info, refusals))
    moved = Moves(prepared, deployment, before, written, opened, job.progress).best()
    analyzed, reached = moved.prepared.analyzed, moved.reached
    groups = _reports(analyzed.graph, reached)
    refusals = (*analyzed.channels.refusals, *reached.fitted.refusals)
    made = _described(prepared, baseline, before.costs, groups, refusals, reached)
    return replace(made, factors=moved.factors)


def _reports(graph: Graph, reached: Reached) -> tuple[GroupReport, ...]:
    """Report the groups that were pruned."""
    pairs = zip(reached.fitted.plan.groups, reached.fitted.restored, strict=True)
    return tuple(_report(graph, e, restored, reached.predicted) for e, restored in pairs)


def _unpruned(text: str) -> TargetReport:
    return TargetReport("ratio", 0.0, 0.0, text, "uniform", 1)


def _whole(job: Job, prepared: Prepared, baseline: Baseline, target: TargetReport) -> Rewritten:
    """Write the model as it is, twice: nothing is pruned."""
    analyzed, size = prepared.analyzed, job.files.size
    for path in (job.pruned, job.reference):
        write_draft(analyzed.draft, path, analyzed.read, "auto")
    reached = Reached(NOTHING, analyzed.costs, size, target, {})
    return _described(prepared, baseline, analyzed.costs, (), (), reached)


def _described(
    prepared: Prepared,
    baseline: Baseline,
    before: Costs,
    groups: tuple[GroupReport, ...],
    refusals: tuple[Refusal, ...],
    reached: Reached,
) -> Rewritten:
    """Add what the result says of the inputs, and the samples on which it is compared."""
    samples, run = ComparedSamples.of(prepared, baseline), prepared.run
    inputs = input_reports(prepared.kinds, baseline.first, prepared.own is not None)
    doubted = run is not None or prepared.config.quantize is not None
    folded = is_folded(prepared.analyzed.graph)
    doubts = tuple(input_warnings(inputs, folded)) if doubted else ()
    statistics = _statistics(prepared, baseline)
    return Rewritten(before, groups, refusals, reached, inputs, doubts, samples, statistics)


def _statistics(prepared: Prepared, baseline: Baseline) -> SampleSource:
    """Samples of the statistics, or such as these would be of."""
    if prepared.run is not None:
        return prepared.run.source
    compared = ComparedSamples.of(prepared, baseline).source
    return replace(compared, seed=prepared.config.seed)


def _deployed(job: Job, prepared: Prepared, baseline: Baseline, made: Path) -> Path:
    """Quantise a model that was made, and return where that was written."""
    job.progress("quantising", 0, 1)
    samples = _statistics(prepared, baseline)
    to_int8(QuantisationJob(made, job.staged, job.folder, job.config, baseline, samples))
    return job.staged


def _analyzed(job: Job, baseline: Baseline, own: Samples | None) -> AnalyzedModel:
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
