"""What of a model can be fitted, and the passes in which its statistics are measured."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from lbyl_onnx.channels.affine import finite_groups
from lbyl_onnx.channels.analyzed_model import AnalyzedModel, Layer
from lbyl_onnx.channels.groups import ChannelGroup, Refusal
from lbyl_onnx.config import Config
from lbyl_onnx.data.input_kind import InputKind, InputSpec
from lbyl_onnx.data.samples import Samples
from lbyl_onnx.data.source import (
    LEAST_BATCH,
    SampleSource,
    batch_size,
    rounded,
    sample_count,
)
from lbyl_onnx.errors import ModelError
from lbyl_onnx.guard.effort import USUAL
from lbyl_onnx.guard.spread import Spread, in_threads
from lbyl_onnx.inputs.choices import kinds_of
from lbyl_onnx.inputs.first_layers import sampled_kinds
from lbyl_onnx.methods.types import Moments
from lbyl_onnx.observe.accumulate import SampleMoments
from lbyl_onnx.observe.planning import (
    InputObservation,
    factor_keys,
    factor_spec,
    key_of,
    left_of_bias,
    linear_outputs,
    norm_key,
    norm_spec,
    observation,
    repairable,
    rows_each,
    rows_wanted,
    terms_keys,
    terms_spec,
)
from lbyl_onnx.observe.pooling import pooled_by_layer
from lbyl_onnx.observe.run import ObservationRun, layer_noises, measure
from lbyl_onnx.observe.spec import Centring, MomentSpec
from lbyl_onnx.runtime.baseline import Baseline
from lbyl_onnx.types import untold

T = TypeVar("T")


@dataclass
class Measurement:
    """The rounds of measurement; they are held where one pass has all, else measured anew."""

    prepared: Prepared
    held: list[ObservationRound] = field(default_factory=list)

    def __iter__(self) -> Iterator[ObservationRound]:
        """Yield each round."""
        if self.held:
            yield from self.held
            return
        several = False
        for round_ in rounds(self.prepared):
            several = several or len(round_.groups) < len(self.prepared.groups)
            if not several:
                self.held.append(round_)
            yield round_


# Synthetic samples that tell the mean and variance of a layer's outputs.
ALONE = 48
# Bytes of the largest activation that is held at a time where samples need not be run together.
PART = 16 << 20
# Share of the biases' power that may be left in the means of layers that had mean zero in training.
# A bias that no BatchNormalization was folded into is independent of what it is added to: 1 and up.
LEFT = 0.5


@dataclass(frozen=True, eq=False)
class Prepared:
    """What can be fitted, and what is measured for it.

    Parameters
    ----------
    analyzed, config
        The model and the options.
    groups, refusals
        The groups that can be fitted, and those that cannot.
    run
        Where and on what the model is measured; None where nothing is or can be.
    prior
        The same on synthetic samples, for what the user's own are too few for; None without such.
    outputs
        The outputs that a repair is measured for, by node.
    modelled
        Nodes whose repair the moments have to tell.
    kinds
        What each input takes.
    own
        The user's own samples; None without.
    held
        Bytes of covariances that are held at a time.
    spread
        Where the groups are measured, ranked and fitted.
    """

    analyzed: AnalyzedModel
    config: Config
    groups: tuple[ChannelGroup, ...]
    refusals: tuple[Refusal, ...]
    run: ObservationRun | None
    prior: ObservationRun | None
    outputs: Mapping[int, MomentSpec]
    modelled: frozenset[int]
    kinds: Mapping[str, InputKind]
    own: Samples | None = None
    held: int = USUAL.held_moments
    spread: Spread = in_threads

    @cached_property
    def alone(self) -> Prepared:
        """The same without what measures it: what groups are fitted by, wherever that is."""
        return replace(self, run=None, prior=None, own=None, spread=in_threads)


@dataclass(frozen=True, eq=False)
class ObservationRound:
    """Groups that are measured in one pass, how, and what was found; `layers` by their keys.

    Where the moments of a group are asked for but `once` they are let go of then: of 16,384
    channels they take 2 GB.
    """

    groups: tuple[ChannelGroup, ...]
    layers: Mapping[int, tuple[Layer, ...]]
    observations: Mapping[str, InputObservation]
    measured: dict[str, SampleMoments]
    once: bool = False

    def moments(self, group: ChannelGroup) -> list[Moments] | str:
        """Return the moments at each consumer of a group, or why there are none.

        Consumers that read one weight have theirs pooled.
        """
        keys = [key_of(group, place) for place in group.consumers]
        if any(key not in self.observations for key in keys):
            return "what they become cannot be measured"
        take = self.measured.pop if self.once else self.measured.__getitem__
        each = [self.observations[key].moments(take(key)) for key in keys]
        moments = pooled_by_layer(each, self.layers[group.key])
        if moments is None:
            return "what they become is measured in several ways"
        return moments if all(m.finite for m in moments) else "their statistics are not finite"

    def norms(self) -> dict[int, Moments]:
        """Return the moments of what is normalised, by node, where they are finite."""
        keys = {n.node: norm_key(g, n) for g in self.groups for n in g.norms}
        by_node = {
            node: self.observations[key].moments(self.measured[key])
            for node, key in keys.items()
            if key in self.observations
        }
        return {node: moments for node, moments in by_node.items() if moments.finite}

    def factors(self, group: ChannelGroup) -> tuple[Moments, Moments] | None:
        """Return the moments of both factors of a group's product; None where there are none."""
        return self._pair(factor_keys(group))

    def terms(self, group: ChannelGroup) -> list[tuple[Moments, Moments]] | None:
        """Return the moments of both operands of each of a group's products, likewise."""
        pairs = [self._pair(terms_keys(group, i)) for i in range(len(group.products))]
        measured = [pair for pair in pairs if pair is not None]
        return measured if measured and len(measured) == len(pairs) else None

    def _pair(self, keys: tuple[str, str]) -> tuple[Moments, Moments] | None:
        if any(key not in self.observations for key in keys):
            return None
        first, second = (self.observations[key].moments(self.measured[key]) for key in keys)
        return (first, second) if first.finite and second.finite else None


def prepare(
    analyzed: AnalyzedModel,
    baseline: Baseline,
    config: Config,
    folder: Path,
    measured: bool = False,
    own: Samples | None = None,
    kinds: Mapping[str, InputKind] | None = None,
    more: Sequence[MomentSpec] = (),
) -> Prepared:
    """Find what can be fitted, and decide on what the model is measured.

    Parameters
    ----------
    analyzed, baseline
        The model, and what is known of it from running it.
    config
        The options.
    folder
        For files of the baseline.
    measured
        Whether statistics are wanted where the method needs none, too.
    own
        The user's own samples; None for synthetic ones.
    kinds
        What samples of each input are, as `sampled_kinds` tells; None where that is still to be
        told.
    more
        What is measured where there is no group.
    """
    groups, refusals = finite_groups(analyzed.graph, analyzed.tensor_info, analyzed.channels)
    needs_moments = measured or config.needs_moments
    observations = (
        _observations(analyzed, groups, own is not None, baseline.effort.most_samples)
        if needs_moments
        else {}
    )
    graph, tensor_info = analyzed.graph, analyzed.tensor_info
    run = prior = None
    if kinds is None:  # where nothing is measured, nothing need be fitted
        tell = sampled_kinds if observations or more else kinds_of
        kinds = tell(graph, tensor_info, config, analyzed.read.model)
    views = [s.view for s in observations.values()] or list(more)
    if views:
        run = _run(analyzed, baseline, config, folder, views, kinds, own)
        if run.batch_statistics:
            run = replace(run, centred=_centred(analyzed, run))
        if own is not None:
            prior = _run(analyzed, baseline, config, folder, views, kinds, None)
    outputs, consumers = dict[int, MomentSpec](), _consumers(groups)
    if run is not None and config.method_entry.needs == "moments":
        outputs = repairable(analyzed.graph, analyzed.tensor_info, analyzed.channels, consumers)
    modelled = frozenset[int]()
    if run is not None and run.noises:
        # Noise follows the weights, so a compensated layer would be measured on another.
        modelled, outputs = frozenset(outputs.keys() & consumers), {}
    held = baseline.effort.held_moments
    return Prepared(
        analyzed, config, groups, refusals, run, prior, outputs, modelled, kinds, own, held
    )


def rounds(prepared: Prepared, once: bool = False) -> Iterator[ObservationRound]:
    """Measure the groups, as many at a time as memory holds; nothing where nothing is measured.

    `once` where each group's moments are asked for one time at most.
    """
    analyzed, run = prepared.analyzed, prepared.run
    if run is None:
        return
    outputs = {str(i): view for i, view in prepared.outputs.items()}
    own, count = prepared.own is not None, run.source.count
    waiting = _rounds(prepared, own, count)
    while some := list(islice(waiting, max(1, prepared.spread.processes))):
        observed = [_observations(analyzed, groups, own, count) for groups in some]
        asked = [{key: s.view for key, s in observations.items()} for observations in observed]
        asked[0] |= outputs
        outputs = {}  # they are all measured in the first round
        for groups, observations, moments in zip(
            some, observed, _passes(prepared, run, asked), strict=True
        ):
            layers = {g.key: analyzed.layers(g) for g in groups}
            moments |= _with_prior(prepared, groups, layers, observations, moments)
            yield ObservationRound(tuple(groups), layers, observations, moments, once)


def _passes(
    prepared: Prepared, run: ObservationRun, asked: Sequence[Mapping[str, MomentSpec]]
) -> Iterator[dict[str, SampleMoments]]:
    """Measure what is asked for, a pass for each: one after the other, or wherever they are spread.

    A pass gives the same bytes on each machine, so what goes elsewhere are whole ones.
    """
    if not prepared.spread.processes:
        yield from (_pass(prepared, run, views) for views in asked)
        return
    shared = prepared.alone, replace(run, progress=untold)
    for done, moments in enumerate(prepared.spread(_pass_apart, shared, asked), start=1):
        run.progress("measuring statistics", done, len(asked))
        yield moments


def _pass(
    prepared: Prepared, run: ObservationRun, views: Mapping[str, MomentSpec]
) -> dict[str, SampleMoments]:
    analyzed = prepared.analyzed
    return measure(analyzed.draft, analyzed.tensor_info, analyzed.read, views, {}, run)


def _pass_apart(
    prepared: Prepared, run: ObservationRun, views: Mapping[str, MomentSpec]
) -> dict[str, SampleMoments]:
    """Measure in a folder of its own: another machine has not that of the run."""
    with tempfile.TemporaryDirectory() as folder:
        return _pass(prepared, replace(run, folder=Path(folder)), views)


def _with_prior(
    prepared: Prepared,
    groups: Sequence[ChannelGroup],
    layers: Mapping[int, Sequence[Layer]],
    observations: Mapping[str, InputObservation],
    moments: Mapping[str, SampleMoments],
) -> dict[str, SampleMoments]:
    """Return moments of the user's own samples with those of synthetic ones as a prior, by key."""
    if prepared.prior is None:
        return {}
    scarce = {key: observations[key].view for key in _scarce(groups, layers, observations, moments)}
    if _of_texts(prepared.kinds):
        scarce = {key: entry.view for key, entry in observations.items()}
    prior = _pass(prepared, prepared.prior, scarce) if scarce else {}
    return {key: moments[key].with_prior(prior[key]) for key in scarce}


def _of_texts(kinds: Mapping[str, InputKind]) -> bool:
    """Whether a model reads tokens: rows of the words that a text repeats are no new ones."""
    return any(kind.name == "tokens" for kind in kinds.values())


def _scarce(
    groups: Iterable[ChannelGroup],
    layers: Mapping[int, Sequence[Layer]],
    observations: Mapping[str, InputObservation],
    moments: Mapping[str, SampleMoments],
) -> Iterator[str]:
    """Keys of what has fewer rows than it wants; those of one layer are counted together."""
    for group in groups:
        for layer in layers[group.key]:
            keys = [key_of(group, group.consumers[i]) for i in layer.consumers]
            observed = [key for key in keys if key in observations]
            rows = sum(moments[key].rows for key in observed)
            yield from (key for key in observed if observations[key].is_scarce(rows))


def _consumers(groups: Iterable[ChannelGroup]) -> set[int]:
    return {place.binding.node for group in groups for place in group.consumers}


def _observations(
    analyzed: AnalyzedModel, groups: Iterable[ChannelGroup], own: bool, samples: int
) -> dict[str, InputObservation]:
    """Observations of groups at all their consumers; without groups of which one has none."""
    observations: dict[str, InputObservation] = {}
    for group in groups:
        if (factors := analyzed.factors(group)) is not None:
            specs = [factor_spec(analyzed.tensor_info, factor, samples) for factor in factors]
            observations |= dict(zip(factor_keys(group), specs, strict=True))
        for number, terms in enumerate(() if factors is not None else analyzed.terms(group)):
            for key, columns in zip(
                terms_keys(group, number), (terms.first, terms.second), strict=True
            ):
                spec = terms_spec(analyzed.tensor_info, columns, samples)
                observations |= {} if spec is None else {key: spec}
        for norm in group.norms:
            parts = analyzed.norm_parts(norm)
            whole = None if parts is None else norm_spec(analyzed.tensor_info, parts, samples)
            observations |= {} if whole is None else {norm_key(group, norm): whole}
        consumers = [[group.consumers[i] for i in x.consumers] for x in analyzed.layers(group)]
        candidates = {
            key_of(group, place): observation(
                analyzed.graph,
                analyzed.tensor_info,
                place,
                activation,
                samples,
                uses,
                group.whole_heads,
            )
            for uses in consumers
            for place in uses
            # The user's own samples are believed beyond their second moments.
            for activation in [None if own else analyzed.activation(group, place)]
        }
        complete = {key: entry for key, entry in candidates.items() if entry is not None}
        observations |= complete if len(complete) == len(candidates) else {}
    return observations


def _rounds(prepared: Prepared, own: bool, samples: int) -> Iterator[list[ChannelGroup]]:
    def columns(group: ChannelGroup) -> list[int]:
        observations = _observations(prepared.analyzed, [group], own, samples)
        return [s.view.columns for s in observations.values()]

    return in_rounds(prepared.groups, columns, prepared.held)


def in_rounds(
    measured: Iterable[T], columns: Callable[[T], Iterable[int]], most: int
) -> Iterator[list[T]]:
    """Yield what is measured in one pass, so that the covariances of its columns fit into memory.

    At least one pass, and in each at least one of what is measured, whatever it takes; `most` bytes
    otherwise.
    """
    held, some = 0, list[T]()
    for one in measured:
        size = 16 * sum(count**2 for count in columns(one))
        if some and held + size > most:
            yield some
            held, some = 0, []
        held, some = held + size, [*some, one]
    yield some


def _run(
    analyzed: AnalyzedModel,
    baseline: Baseline,
    config: Config,
    folder: Path,
    views: Sequence[MomentSpec],
    kinds: Mapping[str, InputKind],
    own: Samples | None,
) -> ObservationRun:
    """Decide on what the model is measured, and try it on one mini-batch."""
    macs = analyzed.costs.macs // baseline.batch
    noises = {} if own is not None else layer_noises(analyzed.graph, analyzed.tensor_info)
    effort = baseline.effort
    rows = rows_wanted((v, rows_each(analyzed.tensor_info, v)) for v in views)
    needed = effort.most_samples if noises else max(effort.enough_samples, rows)
    each = sum(math.prod(shape) for shape in baseline.first.values()) // baseline.batch
    count = sample_count(macs, each, needed, effort)
    size = batch_size(analyzed.largest_activation // baseline.batch, count, effort)
    part = max(1, PART // max(1, 4 * analyzed.largest_activation // baseline.batch))
    plain = (replace(view, cross=False, window=None) for view in views)
    everywhere = {view.tensor: view for view in plain}
    shapes = [(baseline.first[name], baseline.second[name]) for name in baseline.first]
    any_batch = all(one[0] != two[0] for one, two in shapes if one)
    for free in (True, False):
        source = sample_source(kinds, baseline, config, count, size, free, own)
        steady = source.supplied is None and source.size >= LEAST_BATCH
        alone = ALONE if source.supplied is None else None  # the user's own may be in any order
        # What takes no batch but its own takes no part of one either.
        parts = part if free else None
        run = ObservationRun(
            folder,
            baseline.provider,
            source,
            steady,
            noises,
            alone,
            part=parts,
            progress=baseline.progress,
        )
        if any_batch:
            return run
        trial = replace(run, source=replace(source, count=source.size), part=None)
        try:
            measure(analyzed.draft, analyzed.tensor_info, analyzed.read, everywhere, {}, trial)
        except ModelError:
            # A graph may hold the number of samples it was declared for, in a Reshape say.
            if not free:
                raise
            continue
        return run
    raise AssertionError("the second try returns or raises")


def _centred(analyzed: AnalyzedModel, run: ObservationRun) -> dict[str, Centring]:
    """Return what brings outputs back to the mean zero that they had in training, by tensor.

    On synthetic samples a bias takes another mean away than they have, and what is left adds up
    along a residual stream. Whether biases take means away at all, as those of a BatchNormalization
    do, is decided once for all layers of the model, by the median of what is left.
    """
    layers = list(linear_outputs(analyzed.graph, analyzed.tensor_info))
    if not layers:
        return {}
    views = {view.tensor: view for _, view in layers}
    moments = measure(analyzed.draft, analyzed.tensor_info, analyzed.read, views, {}, run)
    left = [left_of_bias(bias, moments[view.tensor]) for bias, view in layers]
    centred = np.median(left) <= LEFT
    return {name: Centring(v.axis, v.rank) for name, v in views.items()} if centred else {}


def sample_source(
    kinds: Mapping[str, InputKind],
    baseline: Baseline,
    config: Config,
    count: int,
    size: int,
    free: bool,
    own: Samples | None,
) -> SampleSource:
    """Samples in mini-batches of `size`, or of what the model declares where `free` is False.

    Raises
    ------
    CalibrationError
        When the user's own are too few for one of what the model declares.
    """
    dtypes = {name: feed.dtype for name, feed in baseline.feeds[0].items()}
    dynamic = {
        name
        for name, shape in baseline.first.items()
        if shape and shape[0] != baseline.second[name][0]
    }
    fixed = [baseline.first[name][0] for name in baseline.first if baseline.first[name]]
    if not free:
        dynamic, size = set(), max(fixed, default=1)
    elif not dynamic:
        dynamic = {name for name, shape in baseline.first.items() if shape}
    inputs = {
        name: InputSpec(dtypes[name], (size, *shape[1:]) if name in dynamic else shape, kinds[name])
        for name, shape in baseline.first.items()
    }
    if own is None:
        return SampleSource(inputs, rounded(count, size), size, config.seed, config.layout)
    samples = own if free else own.in_whole(size)
    return SampleSource(inputs, samples.count, size, config.seed, config.layout, samples, not free)
