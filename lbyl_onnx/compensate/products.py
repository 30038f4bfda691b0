"""Groups that end in a product of two activations, as the channels of queries and keys do."""

from __future__ import annotations

import numpy as np

from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import ChannelGroup
from lbyl_onnx.channels.heads.products import Factor
from lbyl_onnx.compensate.fits import ProducerMixing
from lbyl_onnx.compensate.linear_mixing import added_mixing
from lbyl_onnx.methods.mixing.bilinear import BilinearRank, losses, reduce_bilinear
from lbyl_onnx.methods.types import Moments, Ranking
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
