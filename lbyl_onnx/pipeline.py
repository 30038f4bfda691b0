"""The stages in order: load, find channels, choose, compensate, rewrite, verify, save."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from lbyl_onnx.budget.solve import Before, Reached, TargetReport, reach
from lbyl_onnx.channels.analysis import find_channels
from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import Refusal, Selection
from lbyl_onnx.channels.refusals import refuse_quantised, why_nothing
from lbyl_onnx.compensate.selection import GroupPlan
from lbyl_onnx.config import Config
from lbyl_onnx.data.source import InputRange
from lbyl_onnx.errors import ModelError, NothingToPruneError, VerificationError
from lbyl_onnx.evaluate.equivalence import check_written_out
from lbyl_onnx.evaluate.layers import Details, examine
from lbyl_onnx.evaluate.verify import Verification, verify
from lbyl_onnx.evaluate.warnings import Timed, warnings_of
from lbyl_onnx.graph import source as graph_source
from lbyl_onnx.graph.costs import Costs, count_costs
from lbyl_onnx.graph.model_graph import Graph, node_name, to_graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.guard.memory import new_objects_only, release
from lbyl_onnx.io import atomic, reader
from lbyl_onnx.observe.session import prepare
from lbyl_onnx.rewrite.compared_samples import ComparedSamples
from lbyl_onnx.runtime import providers, timing
from lbyl_onnx.runtime.baseline import Baseline, run_baseline
from lbyl_onnx.runtime.providers import channel_block
from lbyl_onnx.types import Progress

ModelLike = onnx.ModelProto | str | os.PathLike[str]
# Of models with more bytes ONNX Runtime does not optimise the graph: it would copy the weights.
LARGE = 1 << 30


@dataclass(frozen=True)
class GroupReport:
    """What was done to one channel group.

    Parameters
    ----------
    name
        Names of the producing nodes.
    channels, kept
        How many there were, and how many stay.
    ratio
        The share that went.
    consumers
        Names of the nodes that read them.
    restored
        How they were restored.
    predicted_error
        Share of what the consumers read that the kept channels cannot give, in [0, 1]; None where
        it is not known.
    """

    name: str
    channels: int
    kept: int
    ratio: float
    consumers: tuple[str, ...]
    restored: str
    predicted_error: float | None = None


@dataclass(frozen=True)
class CompressResult:
    """A compressed and verified model, and what the user wants to know of it.

    Parameters
    ----------
    output
        Where it was written; None after a dry run or without an output path.
    model
        The compressed model when no output path was given, else None.
    config
        The options used.
    before, after
        Parameters and multiply-accumulates.
    size_before, size_after
        File sizes in bytes.
    groups, refusals
        What was pruned, what was not and why.
    verification
        The proof.
    target
        What was wanted, and what was reached.
    latency
        Times of the original and of the result, measured in turns.
    details
        The model layer by layer; None unless asked for.
    input_ranges
        The inputs whose range of pixels was read off the graph, for the synthetic samples.
    warnings
        What to know before using it, one line each.
    """

    output: Path | None
    model: onnx.ModelProto | None
    config: Config
    before: Costs
    after: Costs
    size_before: int
    size_after: int
    groups: tuple[GroupReport, ...]
    refusals: tuple[Refusal, ...]
    verification: Verification
    target: TargetReport
    latency: timing.PairedLatency
    details: Details | None = None
    input_ranges: tuple[InputRange, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Rewritten:
    before: Costs
    groups: tuple[GroupReport, ...]
    refusals: tuple[Refusal, ...]
    reached: Reached
    input_ranges: tuple[InputRange, ...]
    samples: ComparedSamples


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
) -> CompressResult:
    """Prune a model's channels, restore what they carried, verify the result, write it.

    Parameters
    ----------
    model
        A path, or a model in memory; it is not changed.
    output
        Where to write; None gives the compressed model in the result.
    config
        The options; `Config()` without.
    dry_run
        Do and verify everything, write nothing.
    force
        Overwrite an existing output.
    progress
        Told of each stage as it begins.
    detailed
        Whether to describe each layer before and after, too, and time it.
    before_writing
        Called with the result before the output takes its place; what it raises keeps the output
        from being written.

    Returns
    -------
    CompressResult
        What was done, and its proof.

    Raises
    ------
    LbylOnnxError
        Its subclasses say what: ModelError, OutputError, OptionError, CompensationError,
        VerificationError, NothingToPruneError. Nothing has been written then.

    Examples
    --------
    >>> from lbyl_onnx import Config, compress
    >>> result = compress("samples/digits.onnx", config=Config(ratio=0.25))
    >>> result.after.parameters < result.before.parameters
    True
    """
    config = config or Config()
    progress = progress or (lambda stage, done, total: None)
    target = None if output is None else Path(output)
    provider = providers.provider_name(config.provider)
    with contextlib.ExitStack() as stack:
        stack.enter_context(new_objects_only())
        source = stack.enter_context(reader.on_disk(model))
        if target is not None and not dry_run:
            reader.check_output(target, source, force)
        scratch = stack.enter_context(atomic.scratch())
        stage, expected = scratch / "compressed.onnx", scratch / "expected.onnx"
        if target is not None and not dry_run:
            stage = stack.enter_context(atomic.staged(target))
        progress("running the original", 0, 1)
        files = graph_source.check_source(source)
        if target is not None and not dry_run:
            files.check_apart(target)
        release()
        baseline = run_baseline(
            source, provider, config.seed, files.size <= LARGE, config.input_shape
        )
        release()
        if not files.standard:
            check_written_out(source, scratch, baseline)
        rewritten = _rewrite(files, stage, expected, baseline, config, progress)
        release()
        progress("verifying", 0, 1)
        samples = rewritten.samples
        with _change_told(files):
            verification = verify(
                baseline, source, stage, expected, samples.batches(), samples.described
            )
            latency = rewritten.reached.target.latency or timing.paired(
                source, stage, provider, baseline.feeds[0], baseline.optimise
            )
        result = CompressResult(
            target if not dry_run else None,
            onnx.load(stage) if target is None and not dry_run else None,
            config,
            rewritten.before,
            rewritten.reached.costs,
            files.size,
            rewritten.reached.size,
            rewritten.groups,
            rewritten.refusals,
            verification,
            rewritten.reached.target,
            latency,
            examine(source, stage, baseline) if detailed else None,
            rewritten.input_ranges,
            _warnings(rewritten, files.size, latency, channel_block(config.hardware, provider)),
        )
        if before_writing is not None:
            before_writing(result)
        files.check_unchanged()
        if target is not None and not dry_run:
            atomic.publish(stage, target)
        return result


@contextlib.contextmanager
def _change_told(files: graph_source.Source) -> Iterator[None]:
    """Say that the original has changed where that is why it cannot be run again."""
    try:
        yield
    except (ModelError, VerificationError):
        files.check_unchanged()
        raise


def _warnings(
    rewritten: _Rewritten, size: int, latency: timing.PairedLatency, block: int
) -> tuple[str, ...]:
    reached = rewritten.reached
    losses = [(group.name, group.channels, group.kept) for group in rewritten.groups]
    timed = Timed(latency, reached.target.round_to, block)
    return warnings_of(rewritten.before, reached.costs, (size, reached.size), losses, timed)


def _rewrite(
    files: graph_source.Source,
    stage: Path,
    expected: Path,
    baseline: Baseline,
    config: Config,
    progress: Progress,
) -> _Rewritten:
    """Write the compressed model and the uncut one that it must equal.

    The models live only in here: ONNX Runtime loads its own copies afterwards.
    """
    progress("finding channel groups", 0, 1)
    model, read = files.load(), files.reader
    tensor_info = TensorInfo(model, baseline.first, baseline.second, read, baseline.others)
    graph = to_graph(model)
    refuse_quantised(graph)
    channels = find_channels(
        graph, tensor_info, Selection(config.include, config.exclude, config.scope)
    )
    analyzed = AnalyzedModel(model, read, graph, tensor_info, channels)
    prepared = prepare(
        analyzed, baseline, config, expected.parent, measured=config.allotted == "auto"
    )
    if not prepared.groups:
        raise NothingToPruneError(
            why_nothing(graph, tensor_info, (*channels.refusals, *prepared.refusals))
        )
    before = Before(count_costs(model, tensor_info), files.size)
    reached = reach(prepared, baseline, before, (files.path, stage, expected), progress)
    plan = reached.fitted.plan
    refusals = (*channels.refusals, *reached.fitted.refusals)
    if not plan.groups:
        raise NothingToPruneError(why_nothing(graph, tensor_info, refusals))
    pairs = zip(plan.groups, reached.fitted.restored, strict=True)
    groups = tuple(_report(graph, e, restored, reached.predicted) for e, restored in pairs)
    samples = ComparedSamples.of(prepared, baseline)
    return _Rewritten(before.costs, groups, refusals, reached, prepared.ranges, samples)


def _report(
    graph: Graph, entry: GroupPlan, restored: str, predicted: Mapping[int, float]
) -> GroupReport:
    consumers = tuple(node_name(graph.nodes[p.slot.node]) for p in entry.group.consumers)
    size, kept = entry.group.size, len(entry.kept)
    error = predicted.get(entry.group.key)
    return GroupReport(entry.group.name, size, kept, 1 - kept / size, consumers, restored, error)
