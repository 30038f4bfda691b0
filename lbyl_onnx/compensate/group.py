"""Choose the channels that stay and fit what stands in for the others, group by group."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.channels.affine import not_finite
from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import ChannelGroup, GroupBinding, Refusal, tied_to
from lbyl_onnx.channels.paths import LinearPath, linear_path
from lbyl_onnx.compensate.consumer_loss import consumer_losses, joint_gram
from lbyl_onnx.compensate.fits import ConsumerFit, ConsumerMixing, ProducerMixing, Repairs
from lbyl_onnx.compensate.linear_mixing import mixture
from lbyl_onnx.compensate.products import product_mixings, product_ranking
from lbyl_onnx.compensate.selection import (
    GroupPlan,
    KeptCounts,
    PruningPlan,
    choose_channels,
    evidence_of,
    rank,
)
from lbyl_onnx.compensate.variance import OutputContribution, Statistics, modelled, part
from lbyl_onnx.config import Config
from lbyl_onnx.errors import OptionError
from lbyl_onnx.graph.sharing import same_everywhere
from lbyl_onnx.methods.mixing import reduced_rank
from lbyl_onnx.methods.mixing.blockwise import reduce_blocks
from lbyl_onnx.methods.obs import eliminate
from lbyl_onnx.methods.registry import Method, find_method
from lbyl_onnx.methods.types import ConsumerLoss, Delivery, FoldedRows, Moments, Ranking
from lbyl_onnx.observe.accumulate import SampleMoments
from lbyl_onnx.observe.planning import key_of
from lbyl_onnx.observe.pooling import averaged, deliveries
from lbyl_onnx.observe.session import ObservationRound, Prepared

Step = Callable[[int, int], None]
# Groups that are fitted at a time: linear algebra of each has one thread, and the memory of several
# covariances.
THREADS = 2


@dataclass(frozen=True, eq=False)
class Fitted:
    """The plan, a delivery for each consumer, and what could not be done.

    Parameters
    ----------
    plan, fits
        Of the groups that are pruned.
    producer_mixings
        What takes the mixing that some of the fits ask for to the producers.
    product_mixings
        What the producers of queries and keys, and the like, become.
    refusals
        Groups that could not be fitted.
    restored
        How each group of the plan was restored.
    statistics
        What a measured repair needs; None where there is nothing to measure.
    modelled
        Repairs that the moments tell, by node.
    errors
        By the group's key, the share of its consumers' outputs that its loss is predicted to take
        along, before repairs; groups of which no moments tell it are left out.
    """

    plan: PruningPlan
    fits: tuple[ConsumerFit, ...]
    producer_mixings: tuple[ProducerMixing, ...]
    product_mixings: tuple[ProducerMixing, ...]
    refusals: tuple[Refusal, ...]
    restored: tuple[str, ...]
    statistics: Statistics | None
    modelled: Repairs
    errors: Mapping[int, float]


def fit(
    prepared: Prepared,
    counts: KeptCounts,
    measured: Iterable[ObservationRound],
    rankings: Mapping[int, Ranking],
    step: Step,
) -> Fitted:
    """Choose and fit every group.

    Parameters
    ----------
    prepared
        What can be fitted.
    counts
        How many channels each group keeps.
    measured
        What `rounds` gives.
    rankings
        Orders of elimination, by group, where they are known.
    step
        Told how many groups of how many are done.
    """
    analyzed, config, groups = prepared.analyzed, prepared.config, prepared.groups
    plan = choose_channels(
        analyzed.graph, analyzed.tensor_info, groups, counts, config.score, config.seed
    )
    entries = {entry.group.key: entry for entry in plan.groups}
    outcomes, before = list[_Outcome](), dict[int, SampleMoments]()
    if prepared.run is None or not config.needs_moments:
        for done, entry in enumerate(plan.groups):
            step(done, len(plan.groups))
            outcomes.append(_by_weights(analyzed, entry, config))
        return _gathered(prepared, outcomes, None)
    for round_ in measured:
        step(len(outcomes), len(groups))
        keys = round_.measured.keys()
        before |= {i: round_.measured[str(i)] for i in prepared.outputs if str(i) in keys}
        by_statistics = partial(_by_statistics, prepared, round_)
        asked = [(entries[g.key], rankings.get(g.key)) for g in round_.groups]
        with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
            outcomes += pool.map(by_statistics, *zip(*asked, strict=True))
    statistics = Statistics(prepared.run, prepared.outputs, before) if before else None
    return _gathered(prepared, outcomes, statistics)


@dataclass(frozen=True, eq=False)
class _Outcome:
    """One group: the channels that stay, its fits (None where they are not finite), and how."""

    entry: GroupPlan
    fits: tuple[ConsumerFit, ...] | None
    restored: str
    mixture: ProducerMixing | None = None
    product_mixings: tuple[ProducerMixing, ...] = ()
    parts: tuple[tuple[int, OutputContribution], ...] = ()
    error: float | None = None


def _gathered(
    prepared: Prepared, outcomes: Sequence[_Outcome], statistics: Statistics | None
) -> Fitted:
    bad = [outcome.entry.group.key for outcome in outcomes if outcome.fits is None]
    left_out = tied_to(prepared.analyzed.channels.ties, bad)
    done = [outcome for outcome in outcomes if outcome.entry.group.key not in left_out]
    unfit = [not_finite(o.entry.group) for o in outcomes if o.entry.group.key in left_out]
    parts: dict[int, list[OutputContribution]] = defaultdict(list)
    for index, contribution in (entry for outcome in done for entry in outcome.parts):
        parts[index].append(contribution)
    return Fitted(
        PruningPlan(tuple(outcome.entry for outcome in done)),
        tuple(fit for outcome in done for fit in outcome.fits or ()),
        tuple(outcome.mixture for outcome in done if outcome.mixture is not None),
        tuple(mixing for outcome in done for mixing in outcome.product_mixings),
        (*prepared.refusals, *unfit),
        tuple(outcome.restored + _parted(prepared.analyzed, outcome) for outcome in done),
        statistics,
        modelled(prepared.analyzed.graph, prepared.analyzed.tensor_info, parts),
        {o.entry.group.key: o.error for o in done if o.error is not None},
    )


def _parted(analyzed: AnalyzedModel, outcome: _Outcome) -> str:
    """Say of a bias that layers with other weights read, too, that it is stored for each."""
    sharing = analyzed.channels.sharing
    for layer in analyzed.layers(outcome.entry.group):
        consumers = [outcome.entry.group.consumers[i] for i in layer.consumers]
        nodes = {place.binding.node for place in consumers}
        shifted = any(np.any(f.offset) for f in outcome.fits or () if f.consumer in consumers)
        for bias in layer.biases if shifted else ():
            readers = {use.node for use in sharing.readers.get(bias, ())}
            if readers - nodes and not same_everywhere(analyzed.tensor_info, bias):
                return ", a bias of several layers stored for each"
    return ""


def ranking_of(
    prepared: Prepared, round_: ObservationRound, group: ChannelGroup, count: int
) -> Ranking | None:
    """Rank a group's channels down to a count, with losses; None where it has no moments.

    By `obs` where the user's criterion looks at weights alone, as it predicts no losses. Where the
    group's channels can be mixed, the losses are those of the mixtures.
    """
    if group.products:
        factors = round_.factors(group)
        return None if factors is None else product_ranking(group, factors, count)
    moments = round_.moments(group)
    if isinstance(moments, str):
        return None
    analyzed, losses = prepared.analyzed, consumer_losses(prepared.analyzed, group, moments)
    if not prepared.config.by_loss:
        blocks = group.blocks if group.block_count > 1 else None
        return eliminate(losses, count, blocks=blocks).spread(_layer_of_each(round_, group))
    ranking = _ranked(prepared, round_, group, losses, count)
    if not prepared.config.mixes or _path_to_mix(analyzed, group, moments) is None:
        return ranking
    lost = reduced_rank.losses(losses[0].moments, joint_gram(losses), group.blocks)
    if lost is None or not ranking.has_losses:
        return ranking
    # Of what all consumers lose, each is given the same part.
    parts = np.tile(lost[: len(ranking.losses), None] / len(losses), len(moments))
    return replace(ranking, losses=parts)


def _ranked(
    prepared: Prepared,
    round_: ObservationRound,
    group: ChannelGroup,
    losses: Sequence[ConsumerLoss],
    count: int,
) -> Ranking:
    """Rank a group's channels by the user's criterion, one that takes moments."""
    analyzed = prepared.analyzed
    evidence = evidence_of(analyzed.graph, analyzed.tensor_info, group, losses)
    number = [other.key for other in prepared.groups].index(group.key)
    seed = (prepared.config.seed, number)
    ranking = rank(prepared.config.criterion_entry, evidence, count, seed)
    return ranking.spread(_layer_of_each(round_, group))


def _path_to_mix(
    analyzed: AnalyzedModel, group: ChannelGroup, moments: Sequence[Moments]
) -> LinearPath | None:
    """Where a group's channels can be mixed; None where they cannot."""
    if any(m.taps > 1 for m in moments):
        return None
    return linear_path(analyzed.graph, analyzed.tensor_info, analyzed.channels, group)


def _layer_of_each(round_: ObservationRound, group: ChannelGroup) -> NDArray[np.intp]:
    """Number of the layer that each consumer of a group is a use of, (consumers,)."""
    numbers = np.zeros(len(group.consumers), dtype=np.intp)
    for number, layer in enumerate(round_.layers[group.key]):
        numbers[list(layer.consumers)] = number
    return numbers


def _by_statistics(
    prepared: Prepared, round_: ObservationRound, entry: GroupPlan, ranking: Ranking | None
) -> _Outcome:
    """Choose and fit a group by its moments; by its weights where there are none to go by."""
    analyzed, config, group = prepared.analyzed, prepared.config, entry.group
    if group.products:
        return _by_product(prepared, round_, entry)
    moments = round_.moments(group)
    if isinstance(moments, str):
        return _by_weights(analyzed, entry, config, moments)
    error: float | None = None
    if config.by_loss:
        channel_path = _path_to_mix(analyzed, group, moments)
        if config.mixes and channel_path is not None and len(entry.kept) < group.size:
            outcome = _by_mixing(analyzed, entry, channel_path, moments, config.method)
            if outcome is not None:
                return outcome
        if ranking is None:
            losses = consumer_losses(analyzed, group, moments)
            ranking = _ranked(prepared, round_, group, losses, len(entry.kept))
        entry = GroupPlan(group, ranking.kept(len(entry.kept)))
        if ranking.has_losses:
            error = float(np.mean(np.clip(ranking.losses[len(entry.removed)], 0.0, 1.0)))
    method = config.method_entry
    if method.needs != "moments":
        return _by_weights(analyzed, entry, config)

    def deliver(here: Moments) -> Delivery:
        return _delivered(method, here, entry, config)

    fits = deliveries(deliver, moments, round_.layers[group.key])
    restored = method.name
    if group.whole_heads:
        restored += ", whole heads"
    elif any(m.taps > 1 for m in moments):
        restored += " by window"
    keys = [key_of(group, place) for place in group.consumers]
    restored += ", as Gaussian" if any(round_.observations[key].activation for key in keys) else ""
    restored += _notes(fits)
    whole = [ConsumerFit(group, place, d) for place, d in zip(group.consumers, fits, strict=True)]
    parts = tuple(
        (fit.consumer.binding.node, part(analyzed.graph, analyzed.tensor_info, fit, m))
        for fit, m in zip(whole, moments, strict=True)
        if fit.consumer.binding.node in prepared.modelled
    )
    return _Outcome(entry, tuple(whole), restored, parts=parts, error=error)


def _by_product(prepared: Prepared, round_: ObservationRound, entry: GroupPlan) -> _Outcome:
    """Mix the channels of queries and keys, and the like; drop those that cannot be mixed."""
    analyzed, config, group = prepared.analyzed, prepared.config, entry.group
    moments, factors = round_.factors(group), analyzed.factors(group)
    if not (config.mixes and moments and factors) or len(entry.kept) == group.size:
        return _by_weights(analyzed, entry, config)
    mixed = product_mixings(analyzed, factors, moments, group, len(entry.kept))
    if mixed is None:
        return _by_weights(analyzed, entry, config)
    reduction, mixings = mixed
    kept = GroupPlan(group, reduction.kept)
    restored = f"{config.method}, channels mixed"
    return _Outcome(kept, (), restored, product_mixings=mixings, error=reduction.lost)


def _by_mixing(
    analyzed: AnalyzedModel,
    entry: GroupPlan,
    channel_path: LinearPath,
    moments: Sequence[Moments],
    method: str,
) -> _Outcome | None:
    """Mix a group's channels in their producer; None where that cannot be done."""
    group = entry.group
    together = joint_gram(consumer_losses(analyzed, group, moments))
    if group.block_count > 1:
        reduction = reduce_blocks(moments[0], together, len(entry.kept), group.blocks)
    else:
        reduction = reduced_rank.reduce_rank(moments[0], together, len(entry.kept))
    if reduction is None:
        return None
    moved = mixture(analyzed.graph, analyzed.tensor_info, channel_path, reduction)
    if moved is None:
        return None
    mixing = ConsumerMixing(reduction.mixing, reduction.shift)
    fits = tuple(ConsumerFit(group, place, reduction.delivery, mixing) for place in group.consumers)
    kept = GroupPlan(group, reduction.delivery.kept)
    # Of what all consumers lose, each is given the same part.
    error = min(1.0, reduction.lost / len(moments))
    return _Outcome(kept, fits, f"{method}, channels mixed", moved, error=error)


def _by_weights(
    analyzed: AnalyzedModel, entry: GroupPlan, config: Config, why: str = ""
) -> _Outcome:
    """Fit a group by its weights alone; None for the fits where these are not finite."""
    method = config.method_entry
    if method.needs == "moments" and method.fallback is not None:
        method = find_method(method.fallback)
    if not entry.group.consumers:
        return _Outcome(entry, (), "dropped: nothing reads them linearly")
    fits = [_fit_one(analyzed, entry, place, config, method) for place in entry.group.consumers]
    restored = f"{method.name} ({why})" if why else method.name
    fitted = [fit for fit in fits if fit is not None]
    if len(fitted) < len(fits):
        return _Outcome(entry, None, restored)
    if method.needs != "nothing":
        shared = averaged([fit.delivery for fit in fitted], analyzed.layers(entry.group))
        fitted = [replace(fit, delivery=d) for fit, d in zip(fitted, shared, strict=True)]
    return _Outcome(entry, tuple(fitted), restored + _notes([fit.delivery for fit in fitted]))


def _fit_one(
    analyzed: AnalyzedModel,
    entry: GroupPlan,
    consumer: GroupBinding,
    config: Config,
    method: Method,
) -> ConsumerFit | None:
    """Fit one consumer; None where the group's weights are not finite."""
    if method.needs == "nothing":
        delivery = _delivered(method, entry.group.size, entry, config)
        return ConsumerFit(entry.group, consumer, delivery)
    response = analyzed.respond(entry.group, consumer)
    if response is None:
        return None
    delivery = _delivered(method, response.rows, entry, config)
    return ConsumerFit(entry.group, consumer, response.at_consumer(delivery))


def _delivered(
    method: Method, evidence: int | FoldedRows | Moments, entry: GroupPlan, config: Config
) -> Delivery:
    """Let a method deliver, and check that what it gives is of these channels."""
    delivery = method.deliver(evidence, entry.kept, **config.options_of(method))
    taps = (1, evidence.taps) if isinstance(evidence, Moments) else (1,)
    valid = (
        isinstance(delivery, Delivery)
        and delivery.size == entry.group.size
        and delivery.taps in taps
    )
    if not valid or not np.array_equal(delivery.kept, entry.kept):
        raise OptionError(
            f"method {method.name} gives no Delivery from {len(entry.kept)} kept channels to all "
            f"{entry.group.size}"
        )
    return delivery


def _notes(deliveries: Iterable[Delivery]) -> str:
    """What the deliveries of a group say of themselves, each once."""
    return "".join(f", {note}" for note in dict.fromkeys(d.note for d in deliveries) if note)
