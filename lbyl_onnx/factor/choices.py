"""At which rank each layer is factored, so that a budget is met at the least predicted damage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lbyl_onnx.factor.layers import Counted, FactorLayer
from lbyl_onnx.methods.mixing.factors import OutputSpectrum
from lbyl_onnx.observe.sensitivity import damage_of


@dataclass(frozen=True)
class Choice:
    """A layer at one rank.

    Parameters
    ----------
    rank
        Of its factors; None as it is.
    cost
        What it then costs.
    damage, lost
        Predicted damage to the model's outputs, and share of its own outputs that is lost.
    split
        Which of the layer's splits its factors are of.
    """

    rank: int | None
    cost: float
    damage: float
    lost: float
    split: int = 0


def choices_of(
    layer: FactorLayer,
    spectra: Sequence[OutputSpectrum],
    cost: float,
    counted: Counted,
    sensitivity: float,
    block: int,
) -> list[Choice]:
    """Return a layer as it is, and at each rank that costs less, by each of its splits.

    Parameters
    ----------
    layer, spectra
        The layer, and what the spectrum is of each of its splits.
    cost, counted
        What it costs as it is: multiply-accumulates or parameters of its weight.
    sensitivity
        Of the model's outputs to errors in the layer's.
    block
        What ranks are multiples of: half of it for narrow layers.
    """
    outputs = layer.layer.channels
    step = max(1, block // 2) if outputs <= 2 * block else block
    choices = [Choice(None, cost, 0.0, 0.0)]
    for number, (split, spectrum) in enumerate(zip(layer.splits, spectra, strict=True)):
        each, lost = layer.share(split, 1, counted), spectrum.lost
        most = min(len(lost) - 2, int(np.ceil(1.0 / each)) - 1)
        for rank in range(step * (most // step), 0, -step):
            damage = float(damage_of(lost[rank])) * sensitivity
            choices.append(Choice(rank, cost * each * rank, damage, float(lost[rank]), number))
    return choices


def cheapest(choices: Mapping[int, Sequence[Choice]]) -> float:
    """Return what all layers cost at the least."""
    return sum(min(choice.cost for choice in own) for own in choices.values())


def spend(choices: Mapping[int, Sequence[Choice]], budget: float) -> dict[int, Choice]:
    """Choose a rank for each layer, so that all together cost no more than a budget.

    Parameters
    ----------
    choices
        Of each layer, by its node, as `choices_of` gives them.
    budget
        The most that they may cost together; the cheapest ones where that is less.

    Notes
    -----
    On the lower convex hull of each layer's damage by cost, steps are taken in the order of the
    damage that they do for what they save. What the last step saves too much is given back to the
    layers that it spares most.
    """
    hulls = {index: _hull(own) for index, own in choices.items()}
    steps = sorted(
        (_slope(hull[i], hull[i + 1]), index, i + 1)
        for index, hull in hulls.items()
        for i in range(len(hull) - 1)
    )
    chosen = {index: hull[0] for index, hull in hulls.items()}
    total = sum(choice.cost for choice in chosen.values())
    for _, index, position in steps:
        if total <= budget:
            break
        total += hulls[index][position].cost - chosen[index].cost
        chosen[index] = hulls[index][position]
    for index in sorted(chosen, key=lambda i: (-chosen[i].damage, i)):
        slack = budget - total + chosen[index].cost
        fits = [choice for choice in choices[index] if choice.cost <= slack]
        best = min(fits, key=lambda choice: (choice.damage, choice.cost), default=chosen[index])
        if best.damage < chosen[index].damage:
            total += best.cost - chosen[index].cost
            chosen[index] = best
    return chosen


def _hull(choices: Sequence[Choice]) -> list[Choice]:
    """Return the lower convex hull, from the dearest choice to the cheapest."""
    hull: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (-c.cost, c.damage)):
        if hull and choice.cost == hull[-1].cost:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], choice):
            hull.pop()
        hull.append(choice)
    return hull


def _slope(dearer: Choice, cheaper: Choice) -> float:
    """Damage of each unit that is saved from one choice to the next."""
    return (cheaper.damage - dearer.damage) / (dearer.cost - cheaper.cost)
