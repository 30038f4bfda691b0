"""Whole heads or dims of heads: which of them goes from each attention layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lbyl_onnx.budget.damage import curves, rankings
from lbyl_onnx.budget.portions import Portion
from lbyl_onnx.budget.search import COARSE
from lbyl_onnx.channels.groups import ChannelGroup
from lbyl_onnx.channels.heads.products import role_of
from lbyl_onnx.compensate.group import Step, fit
from lbyl_onnx.compensate.selection import KeptCounts
from lbyl_onnx.methods.importance import kept_count
from lbyl_onnx.observe.session import Measurement, Prepared
from lbyl_onnx.target import SEARCHED, Target

# Share of the channels that is asked about where the target does not say.
USUAL_SHARE, LARGEST_SHARE = 0.25, 0.7


def share_of(target: Target) -> float:
    """Return the share of channels, about, that a target takes away: in (0, 1)."""
    if target.kind == "ratio":
        return target.value
    if not target.relative or target.kind in SEARCHED:
        return USUAL_SHARE
    return min(LARGEST_SHARE, max(1.0 - target.value, 1e-3))


def cheaper_by_dims(dims: Prepared, heads: Prepared, share: float, step: Step) -> frozenset[int]:
    """Return the attention layers, by node, that lose less when dims of their heads go.

    Parameters
    ----------
    dims, heads
        The same model with dims of heads, and with whole heads for channels.
    share
        Of the channels that go. Where the fewest heads that can go are far more than that, dims go.
    step
        Told how many groups of how many are done.

    Notes
    -----
    Damages are compared at the share of the heads that goes: the predicted error of the fitted
    layers, times how sensitive the model's outputs are to it. A whole head is lost to the output
    projection alone; dims are lost to it as values and to the scores as queries and keys.
    """
    whole = [group for group in heads.groups if group.whole_heads]
    counts = {group.key: kept_count(group.size, share) for group in whole}
    parts = {group.key: [*_dims_of(group, dims)] for group in whole}
    near = [g for g in whole if 1 - counts[g.key] / g.size <= COARSE * share]
    by_heads = _damages(heads, near, counts, step)
    least = {
        part.key: Portion((part,)).kept(1 - counts[group.key] / group.size)
        for group in near
        for part in parts[group.key]
    }
    by_part = _damages(dims, [part for group in near for part in parts[group.key]], least, step)
    nodes: set[int] = set()
    for group in whole:
        mine = parts[group.key]
        damage = sum(by_part.get(part.key, 0.0) for part in mine)
        # Where some of the dims have to stay, the others would have to make up for them.
        lost = damage * _made(group) / max(1, sum(_made(part) for part in mine))
        if mine and (group.key not in by_heads or lost < by_heads[group.key]):
            nodes |= {place.binding.node for place in group.producers}
    return frozenset(nodes)


def _made(group: ChannelGroup) -> int:
    """Outputs of layers that are a group's channels."""
    return sum(place.positions.size for place in group.producers)


def _dims_of(group: ChannelGroup, dims: Prepared) -> Iterator[ChannelGroup]:
    """Yield what the layers of some heads make where dims are the channels."""
    analyzed, made = dims.analyzed, {place.binding.node for place in group.producers}
    where = analyzed.graph, analyzed.tensor_info, analyzed.channels
    for other in dims.groups:
        nodes = {place.binding.node for place in other.producers}
        if made & nodes and role_of(*where, other) != "hidden":
            yield other


def _damages(
    prepared: Prepared, groups: Sequence[ChannelGroup], counts: KeptCounts, step: Step
) -> dict[int, float]:
    """Predict the damage of some groups at given counts, by their keys."""
    if not groups:
        return {}
    asked = replace(prepared, groups=tuple(groups), outputs={}, modelled=frozenset())
    measured = Measurement(asked)
    orders = rankings(asked, measured, counts, step)
    predicted = curves(asked, orders, counts)
    errors = fit(asked, counts, measured, orders, step).errors
    damages: dict[int, float] = {}
    for group in groups:
        curve = predicted[group.key]
        last, fitted = float(curve.errors[-1]), errors.get(group.key)
        share = fitted / last if fitted is not None and last > 0.0 else 1.0
        damages[group.key] = float(curve.damage[-1]) * share
    return damages
