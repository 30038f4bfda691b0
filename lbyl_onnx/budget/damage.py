"""What the loss of each group's channels is predicted to do to the model's outputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from lbyl_onnx.channels.affine import producer_matrix
from lbyl_onnx.channels.groups import ChannelGroup
from lbyl_onnx.compensate.group import Step, ranking_of
from lbyl_onnx.compensate.selection import KeptCounts
from lbyl_onnx.methods.importance import l2
from lbyl_onnx.methods.types import Ranking
from lbyl_onnx.observe.sensitivity import MOST_LOST, damage_of, layer_sensitivities
from lbyl_onnx.observe.session import ObservationRound, Prepared
from lbyl_onnx.types import Floats


@dataclass(frozen=True, eq=False)
class Curve:
    """Predicted errors of one group once its first channels have gone.

    Attributes
    ----------
    group : ChannelGroup
        The group.
    errors : (m + 1,) float64
        Mean over the consumers of the share of their outputs' variance that is lost, by the number
        of channels that have gone.
    damage : (m + 1,) float64
        What that does to the model's outputs: ``-log(1 - share lost)`` times the sensitivity.
    measured : bool
        Whether statistics tell it; else the producer's weights alone do.
    """

    group: ChannelGroup
    errors: Floats
    damage: Floats
    measured: bool


def rankings(
    prepared: Prepared, measured: Iterable[ObservationRound], least: KeptCounts, step: Step
) -> dict[int, Ranking]:
    """Eliminate each group's channels down to a count; groups without moments are left out."""
    by_group: dict[int, Ranking] = {}
    for round_ in measured:
        asked = [(group, least[group.key]) for group in round_.groups]
        shared = prepared.alone, round_
        for (group, _), ranking in zip(
            asked, prepared.spread(ranking_of, shared, asked), strict=True
        ):
            if ranking is not None:
                by_group[group.key] = ranking
            step(len(by_group), len(prepared.groups))
    return by_group


def curves(
    prepared: Prepared, rankings: Mapping[int, Ranking], least: KeptCounts
) -> dict[int, Curve]:
    """Predict what the loss of each group's channels does to the model's outputs.

    Parameters
    ----------
    prepared
        The groups, and where the model is measured.
    rankings
        How the channels of some of them go.
    least
        How many channels each group keeps at least: where its curve ends.

    Notes
    -----
    The elimination tells which share of its consumer's output a group's channels take along; the
    sensitivity of the model's outputs to errors of that share there makes the groups comparable.
    Shares that are left multiply along the layers, so damages add as their logarithms.
    """
    sensitivity = _sensitivities(prepared)
    usual = float(np.median([*sensitivity.values()])) if sensitivity else 1.0
    totals: dict[int, float] = defaultdict(float)
    for group in prepared.groups:
        if group.key in rankings and rankings[group.key].has_losses:
            for node, total in zip(group.readers, rankings[group.key].totals, strict=True):
                totals[node] += float(total)
    by_group: dict[int, Curve] = {}
    for group in prepared.groups:
        ranking = rankings.get(group.key)
        nodes = group.readers
        if ranking is None or not ranking.has_losses:
            errors = _by_weights(prepared, group, least[group.key])
            weight = sum(sensitivity.get(node, usual) for node in nodes)
            damage = damage_of(errors) * weight
            by_group[group.key] = Curve(group, errors, damage, False)
            continue
        # A consumer may read several groups; each counts for its part of what the output varies.
        parts = [t / (totals[n] or 1.0) for n, t in zip(nodes, ranking.totals, strict=True)]
        shares = np.clip(ranking.losses, 0.0, MOST_LOST) * np.asarray(parts)  # (m + 1, consumers)
        weights = np.asarray([sensitivity.get(node, usual) for node in nodes])
        damage = damage_of(shares) @ weights
        by_group[group.key] = Curve(group, shares.mean(axis=1), damage, True)
    return by_group


def _sensitivities(prepared: Prepared) -> dict[int, float]:
    """Sensitivity of the model's outputs to errors at each consumer, by node; 0 is not known."""
    if prepared.run is None:
        return {}
    nodes = {node for group in prepared.groups for node in group.readers}
    return layer_sensitivities(prepared.analyzed, nodes, prepared.run, prepared.prior)


def _by_weights(prepared: Prepared, group: ChannelGroup, least: int) -> Floats:
    """Share of the producers' squared weights that goes with the smallest channels."""
    rows = producer_matrix(prepared.analyzed.graph, prepared.analyzed.tensor_info, group)
    power = np.sort(l2(rows) ** 2)
    gone = np.concatenate([[0.0], np.cumsum(power)])[: group.size - least + 1]
    return np.asarray(gone / (power.sum() or 1.0), dtype=np.float64)
