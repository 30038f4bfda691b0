"""Groups that end in a product of two activations, as the channels of queries and keys do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import ChannelGroup
from lbyl_onnx.channels.heads.products import Factor
from lbyl_onnx.channels.heads.terms import Terms, along
from lbyl_onnx.compensate.fits import ProducerMixing
from lbyl_onnx.compensate.linear_mixing import added_mixing
from lbyl_onnx.methods.mixing.bilinear import BilinearRank, losses, reduce_bilinear
from lbyl_onnx.methods.mixing.gains import gains, rank_terms, term_moments
from lbyl_onnx.methods.types import Moments, Ranking
from lbyl_onnx.observe.session import ObservationRound
from lbyl_onnx.types import Floats


def product_mixings(
    analyzed: AnalyzedModel,
    factors: tuple[Factor, Factor],
    moments: tuple[Moments, Moments],
    group: ChannelGroup,
    count: int,
) -> tuple[BilinearRank, tuple[ProducerMixing, ...]] | None:
    """Mix the channels of both factors down to a count; None where the moments are degenerate.

    Parameters
    ----------
    analyzed
        The model.
    factors, moments
        The two factors, and the moments of their channels.
    group, count
        The group, and how many of its channels are left.
    """
    reduction = reduce_bilinear(*moments, group.blocks, count)
    if reduction is None:
        return None
    pairs = zip(factors, (reduction.first, reduction.second), strict=True)
    return reduction, tuple(_mixed(analyzed, f, reduction, weights) for f, weights in pairs)


def _mixed(
    analyzed: AnalyzedModel, factor: Factor, reduction: BilinearRank, weights: Floats
) -> ProducerMixing:
    graph, tensor_info, zeros = analyzed.graph, analyzed.tensor_info, np.zeros(len(weights))
    followers = tuple(
        added_mixing(graph, tensor_info, place, weights, zeros) for place in factor.added
    )
    return ProducerMixing(factor.producer, reduction.kept, weights, zeros, followers)


@dataclass(frozen=True, eq=False)
class ScaledTerms:
    """Terms of products that stay, and what the others' part is made up for by.

    Parameters
    ----------
    kept
        (k,): the channels that stay.
    gains
        For nodes of normalisations, what gamma is multiplied by, (channels,).
    mixings
        What layers that make first operands become: each channel that stays is scaled.
    lost
        Squared error of the products, as a share of their mean square.
    """

    kept: NDArray[np.intp]
    gains: tuple[tuple[int, Floats], ...]
    mixings: tuple[ProducerMixing, ...]
    lost: float


def _terms_of(
    analyzed: AnalyzedModel, round_: ObservationRound, group: ChannelGroup
) -> list[tuple[Terms, Moments]]:
    """Terms of a group's products that cannot be mixed, with their moments; [] without these."""
    measured, each = round_.terms(group), analyzed.terms(group)
    if measured is None or len(measured) != len(each):
        return []
    pairs = zip(each, measured, strict=True)
    return [(terms, term_moments(*two, terms.at, terms.units)) for terms, two in pairs]


def terms_ranking(
    analyzed: AnalyzedModel, round_: ObservationRound, group: ChannelGroup, count: int
) -> Ranking | None:
    """Rank channels that cannot be mixed by the error of their products; None without moments."""
    moments = [here for _, here in _terms_of(analyzed, round_, group)]
    blocks = group.blocks if group.block_count > 1 else None
    return rank_terms(moments, count, blocks) if moments else None


def scaled_terms(
    analyzed: AnalyzedModel, round_: ObservationRound, group: ChannelGroup, count: int
) -> ScaledTerms | None:
    """Choose and scale the terms of products whose channels cannot be mixed; None as above."""
    ranking = terms_ranking(analyzed, round_, group, count)
    if ranking is None:
        return None
    kept = ranking.kept(count)
    gone = np.delete(np.arange(group.size), kept)
    scaled: list[tuple[int, Floats]] = []
    mixings: list[ProducerMixing] = []
    lost: list[float] = []
    for number, (terms, moments) in enumerate(_terms_of(analyzed, round_, group)):
        node = next((node for node in terms.norms if node is not None), None)
        norm = next((norm for norm in group.norms if norm.node == node), None)
        if norm is None and terms.made is None:
            whole = float(moments.covariance.sum()) or 1.0
            lost.append(float(moments.covariance[np.ix_(gone, gone)].sum()) / whole)
            continue
        lost.append(float(ranking.losses[-1, number]))
        factors = gains(moments, kept)
        if norm is not None:
            scales = np.ones(group.size)
            scales[kept] = factors
            at = along(norm.labels, analyzed.channels.roots, group)
            scaled.append((norm.node, np.where(at < 0, 1.0, scales[at])))
        elif terms.made is not None:
            weights = np.zeros((len(kept), group.size))
            weights[np.arange(len(kept)), kept] = factors
            mixings.append(ProducerMixing(terms.made, kept, weights, np.zeros(len(kept)), ()))
    return ScaledTerms(kept, tuple(scaled), tuple(mixings), float(np.mean(lost)))


def product_ranking(
    group: ChannelGroup, moments: tuple[Moments, Moments], count: int
) -> Ranking | None:
    """Rank a group's channels down to a count, with what its products lose; None as above.

    The weakest go first; what is lost is that of the mixtures, whichever channels stand for them.
    """
    lost = losses(*moments, group.blocks)
    if lost is None:
        return None
    power = np.diag(moments[0].covariance) * np.diag(moments[1].covariance)
    order = Ranking.of_scores(power, 1).order
    left = np.setdiff1d(np.arange(group.size), order)
    whole = Ranking(group.size, np.concatenate([order, left])).balanced(group.blocks)
    gone = group.size - count
    shares = np.tile(lost[: gone + 1, None], len(group.readers))
    return Ranking(group.size, whole.order[:gone], shares, np.ones(len(group.readers)))
