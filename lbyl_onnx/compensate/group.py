"""Choose the channels that stay and fit what stands in for the others, group by group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.channels.affine import not_finite
from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import ChannelGroup, Refusal, tied_to
from lbyl_onnx.channels.paths import LinearPath, linear_path
from lbyl_onnx.compensate.consumer_loss import consumer_losses, joint_gram
from lbyl_onnx.compensate.fits import (
    ConsumerFit,
    ConsumerMixing,
    NormFit,
    ProducerMixing,
    Repairs,
)
from lbyl_onnx.compensate.linear_mixing import mixture
from lbyl_onnx.compensate.norms import norm_fits
from lbyl_onnx.compensate.outcome import Outcome, by_weights, delivered, notes_of
from lbyl_onnx.compensate.products import (
    product_mixings,
    product_ranking,
    scaled_terms,
    terms_ranking,
)
from lbyl_onnx.compensate.selection import (
    GroupPlan,
    KeptCounts,
    PruningPlan,
    choose_channels,
    evidence_of,
    rank,
)
from lbyl_onnx.compensate.variance import OutputContribution, Statistics, modelled, part
from lbyl_onnx.graph.sharing import same_everywhere
from lbyl_onnx.methods.mixing import reduced_rank
from lbyl_onnx.methods.mixing.blockwise import reduce_blocks
from lbyl_onnx.methods.obs import eliminate
from lbyl_onnx.methods.types import ConsumerLoss, Delivery, Moments, Ranking
from lbyl_onnx.observe.accumulate import SampleMoments
from lbyl_onnx.observe.planning import key_of
from lbyl_onnx.observe.pooling import deliveries
from lbyl_onnx.observe.session import ObservationRound, Prepared

Step = Callable[[int, int], None]
Asked = tuple[GroupPlan, Ranking | None]
"""What a group is to become, and its order of elimination where that is known."""


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
    norms
        New constants of the normalisations over channels of which some go.
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
    norms: tuple[NormFit, ...]
    refusals: tuple[Refusal, ...]
    restored: tuple[str, ...]
    statistics: Statistics | None
    modelled: Repairs
    errors: Mapping[int, float]


NOTHING = Fitted(PruningPlan(()), (), (), (), (), (), (), None, {}, {})


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
    outcomes, before = list[Outcome](), dict[int, SampleMoments]()
    if prepared.run is None or not config.needs_moments:
        for done, entry in enumerate(plan.groups):
            step(done, len(plan.groups))
            outcomes.append(by_weights(analyzed, entry, config))
        return _gathered(prepared, outcomes, None, {})
    norms: dict[int, Moments] = {}
    for round_ in measured:
        step(len(outcomes), len(groups))
        keys = round_.measured.keys()
        before |= {i: round_.measured[str(i)] for i in prepared.outputs if str(i) in keys}
        norms |= round_.norms() if config.method_entry.needs == "moments" else {}
        asked = [(entries[g.key], rankings.get(g.key)) for g in round_.groups]
        shared = prepared.alone, round_
        for outcome in prepared.spread(_by_statistics, shared, asked):
            outcomes.append(outcome)
            step(len(outcomes), len(groups))
    statistics = Statistics(prepared.run, prepared.outputs, before) if before else None
    return _gathered(prepared, outcomes, statistics, norms)


def _gathered(
    prepared: Prepared,
    outcomes: Sequence[Outcome],
    statistics: Statistics | None,
    norms: Mapping[int, Moments],
) -> Fitted:
    bad = [outcome.entry.group.key for outcome in outcomes if outcome.fits is None]
    left_out = tied_to(prepared.analyzed.channels.ties, bad)
    done = [outcome for outcome in outcomes if outcome.entry.group.key not in left_out]
    unfit = [not_finite(o.entry.group) for o in outcomes if o.entry.group.key in left_out]
    parts: dict[int, list[OutputContribution]] = defaultdict(list)
    for index, contribution in (entry for outcome in done for entry in outcome.parts):
        parts[index].append(contribution)
    plan = PruningPlan(tuple(outcome.entry for outcome in done))
    gains = [gain for outcome in done for gain in outcome.gains]
    return Fitted(
        plan,
        tuple(fit for outcome in done for fit in outcome.fits or ()),
        tuple(outcome.mixture for outcome in done if outcome.mixture is not None),
        tuple(mixing for outcome in done for mixing in outcome.product_mixings),
        norm_fits(prepared.analyzed, plan.removed, norms, gains),
        (*prepared.refusals, *unfit),
        tuple(outcome.restored + _parted(prepared.analyzed, outcome) for outcome in done),
        statistics,
        modelled(prepared.analyzed.graph, prepared.analyzed.tensor_info, parts),
        {o.entry.group.key: o.error for o in done if o.error is not None},
    )


def _parted(analyzed: AnalyzedModel, outcome: Outcome) -> str:
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
    prepared: Prepared, round_: ObservationRound, asked: tuple[ChannelGroup, int]
) -> Ranking | None:
    """Rank a group's channels down to a count, with losses; None where it has no moments.

    By `obs` where the user's criterion looks at weights alone, as it predicts no losses. Where the
    group's channels can be mixed, the losses are those of the mixtures.
    """
    group, count = asked
    if group.products:
        factors = round_.factors(group)
        if factors is None:
            return terms_ranking(prepared.analyzed, round_, group, count)
        return product_ranking(group, factors, count)
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


def _ranked_by_moments(
    prepared: Prepared,
    round_: ObservationRound,
    group: ChannelGroup,
    moments: Sequence[Moments],
    count: int,
) -> Ranking:
    """Rank likewise by the moments at each consumer; its weights are let go of afterwards."""
    losses = consumer_losses(prepared.analyzed, group, moments)
    return _ranked(prepared, round_, group, losses, count)


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


def _by_statistics(prepared: Prepared, round_: ObservationRound, asked: Asked) -> Outcome:
    """Choose and fit a group by its moments; by its weights where there are none to go by."""
    entry, ranking = asked
    analyzed, config, group = prepared.analyzed, prepared.config, entry.group
    if group.products:
        return _by_product(prepared, round_, entry)
    moments = round_.moments(group)
    if isinstance(moments, str):
        return by_weights(analyzed, entry, config, moments)
    error: float | None = None
    if config.by_loss:
        channel_path = _path_to_mix(analyzed, group, moments)
        if config.mixes and channel_path is not None and len(entry.kept) < group.size:
            outcome = _by_mixing(analyzed, entry, channel_path, moments, config.method)
            if outcome is not None:
                return outcome
        if ranking is None:
            ranking = _ranked_by_moments(prepared, round_, group, moments, len(entry.kept))
        entry = GroupPlan(group, ranking.kept(len(entry.kept)))
        if ranking.has_losses:
            error = float(np.mean(np.clip(ranking.losses[len(entry.removed)], 0.0, 1.0)))
    method = config.method_entry
    if method.needs != "moments":
        return by_weights(analyzed, entry, config)

    def deliver(here: Moments) -> Delivery:
        return delivered(method, here, entry, config)

    fits = deliveries(deliver, moments, round_.layers[group.key])
    restored = method.name
    if group.whole_heads:
        restored += ", whole heads"
    elif any(m.taps > 1 for m in moments):
        restored += " by window"
    keys = [key_of(group, place) for place in group.consumers]
    restored += ", as Gaussian" if any(round_.observations[key].activation for key in keys) else ""
    restored += notes_of(fits)
    whole = [ConsumerFit(group, place, d) for place, d in zip(group.consumers, fits, strict=True)]
    parts = tuple(
        (fit.consumer.binding.node, part(analyzed.graph, analyzed.tensor_info, fit, m))
        for fit, m in zip(whole, moments, strict=True)
        if fit.consumer.binding.node in prepared.modelled
    )
    return Outcome(entry, tuple(whole), restored, parts=parts, error=error)


def _by_product(prepared: Prepared, round_: ObservationRound, entry: GroupPlan) -> Outcome:
    """Mix the channels of queries and keys, and the like; choose those that cannot be mixed."""
    analyzed, config, group = prepared.analyzed, prepared.config, entry.group
    moments, factors = round_.factors(group), analyzed.factors(group)
    if len(entry.kept) == group.size or not config.mixes:
        return by_weights(analyzed, entry, config)
    if moments is None or factors is None:
        terms = scaled_terms(analyzed, round_, group, len(entry.kept))
        if terms is None:
            return by_weights(analyzed, entry, config)
        scaled = terms.gains or terms.mixings
        how = f"{config.method}, terms scaled" if scaled else "chosen by the product"
        chosen = GroupPlan(group, terms.kept)
        return Outcome(chosen, (), how, None, terms.mixings, terms.gains, error=terms.lost)
    mixed = product_mixings(analyzed, factors, moments, group, len(entry.kept))
    if mixed is None:
        return by_weights(analyzed, entry, config)
    reduction, mixings = mixed
    kept = GroupPlan(group, reduction.kept)
    restored = f"{config.method}, channels mixed"
    return Outcome(kept, (), restored, product_mixings=mixings, error=reduction.lost)


def _by_mixing(
    analyzed: AnalyzedModel,
    entry: GroupPlan,
    channel_path: LinearPath,
    moments: Sequence[Moments],
    method: str,
) -> Outcome | None:
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
    return Outcome(kept, fits, f"{method}, channels mixed", moved, error=error)
