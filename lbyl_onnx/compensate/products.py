"""Groups that end in a product of two activations, as the channels of queries and keys do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import ChannelGroup
from lbyl_onnx.channels.heads.products import Factor
from lbyl_onnx.channels.heads.terms import along
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
    """Terms of a product that stay, and what the others' part is made up for by.

    Parameters
    ----------
    kept
        (k,): the channels that stay.
    gains
        For the node of a normalisation, what its gamma is multiplied by, (channels,); empty where
        no normalisation could take it.
    lost
        Squared error of the product, as a share of its mean square.
    """

    kept: NDArray[np.intp]
    gains: tuple[tuple[int, Floats], ...]
    lost: float


def terms_ranking(
    analyzed: AnalyzedModel, round_: ObservationRound, group: ChannelGroup, count: int
) -> Ranking | None:
    """Rank channels that cannot be mixed by the error of their product; None without moments."""
    measured, terms = round_.terms(group), analyzed.terms(group)
    if measured is None or terms is None:
        return None
    blocks = group.blocks if group.block_count > 1 else None
    return rank_terms(term_moments(*measured, terms.at, terms.units), count, blocks)


def scaled_terms(
    analyzed: AnalyzedModel, round_: ObservationRound, group: ChannelGroup, count: int
) -> ScaledTerms | None:
    """Choose and scale the terms of a product whose channels cannot be mixed; None as above."""
    measured, terms = round_.terms(group), analyzed.terms(group)
    ranking = terms_ranking(analyzed, round_, group, count)
    if measured is None or terms is None or ranking is None:
        return None
    kept = ranking.kept(count)
    moments = term_moments(*measured, terms.at, terms.units)
    norm = next((node for node in terms.norms if node is not None), None)
    found = [n for n in group.norms if n.node == norm]
    if not found:
        gone = np.delete(np.arange(group.size), kept)
        lost = moments.covariance[np.ix_(gone, gone)].sum() / (moments.covariance.sum() or 1.0)
        return ScaledTerms(kept, (), float(lost))
    scales = np.ones(group.size)
    scales[kept] = gains(moments, kept)
    at = along(found[0].labels, analyzed.channels.roots, group)
    scaled = np.where(at < 0, 1.0, scales[at])
    return ScaledTerms(kept, ((found[0].node, scaled),), float(ranking.losses[-1, 0]))


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
