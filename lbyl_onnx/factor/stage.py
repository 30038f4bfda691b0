"""Factor the layers of a model: measure, choose ranks, time them, repair, write, and prove."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.compensate.variance import gain_between, repairs, targets
from lbyl_onnx.evaluate.verify import Verification, verify
from lbyl_onnx.factor.choices import Choice, cheapest, choices_of, spend
from lbyl_onnx.factor.gate import TimeGate
from lbyl_onnx.factor.layers import Counted, FactorLayer, NotFactored, factor_layers
from lbyl_onnx.factor.rewrite import NewWeights, with_weights
from lbyl_onnx.io.writer import ModelDraft, write_draft
from lbyl_onnx.methods.mixing.factors import OutputSpectrum, output_spectrum
from lbyl_onnx.observe.accumulate import SampleMoments
from lbyl_onnx.observe.run import ObservationRun, measure
from lbyl_onnx.observe.sensitivity import layer_sensitivities
from lbyl_onnx.observe.session import Prepared, in_rounds
from lbyl_onnx.observe.spec import MomentSpec
from lbyl_onnx.rewrite.compared_samples import ComparedSamples
from lbyl_onnx.runtime.baseline import Baseline
from lbyl_onnx.types import Floats

# Rows for each output below which the covariance of its layer is blended with that of white inputs.
SCARCE = 8
# Times that ranks are chosen anew because factors were not faster.
ROUNDS = 8


@dataclass(frozen=True)
class FactorReport:
    """One layer that became two.

    Parameters
    ----------
    name
        Of its node.
    outputs, rank
        How many it has, and how many lie between the factors.
    lost
        Share of the variance of its outputs that the rank is predicted to lose.
    """

    name: str
    outputs: int
    rank: int
    lost: float


@dataclass(frozen=True, eq=False)
class Factored:
    """A model with factored layers, written and proven.

    Parameters
    ----------
    path
        Its file.
    reports
        What was factored.
    proof
        That it equals the model whose weights are the products, and how near it is to the original.
    """

    path: Path
    reports: tuple[FactorReport, ...]
    proof: Verification


@dataclass(frozen=True, eq=False)
class FactorStage:
    """What is known of a model's layers, for any number of factored models.

    Parameters
    ----------
    prepared, baseline, source
        The original, how it runs, and its file.
    layers, refused
        Those that can be factored, by node, and the others.
    spectra, sensitivity
        Of each of their splits, and of the model's outputs to errors there, by node.
    before
        Mean and variance of their outputs, by node.
    block
        What ranks are multiples of.
    gate
        Tells which factors are faster.
    """

    prepared: Prepared
    baseline: Baseline
    source: Path
    layers: Mapping[int, FactorLayer]
    refused: tuple[NotFactored, ...]
    spectra: Mapping[int, Sequence[OutputSpectrum]]
    sensitivity: Mapping[int, float]
    before: Mapping[int, SampleMoments]
    block: int
    gate: TimeGate

    @classmethod
    def of(
        cls, prepared: Prepared, baseline: Baseline, source: Path, block: int
    ) -> FactorStage | None:
        """Measure a model's layers; None where nothing is or can be measured."""
        analyzed, run = prepared.analyzed, prepared.run
        if run is None:
            return None
        able, refused = factor_layers(analyzed, prepared.config, run.source.count)
        if not able:
            return None
        spectra, alone = _measured(prepared, able, run)
        finite = {index: own for index, own in spectra.items() if own}
        why = "its outputs are not finite or all zero"
        weak = [NotFactored(x.name, why) for x in able if x.index not in finite]
        layers = {x.index: x for x in able if x.index in finite}
        sensitivity = layer_sensitivities(analyzed, layers, run, prepared.prior)
        before = {index: alone[index] for index in layers}
        gate = TimeGate(
            analyzed.tensor_info, analyzed.model, run.folder, baseline.provider, baseline.effort
        )
        return cls(
            prepared, baseline, source, layers, (*refused, *weak), finite, sensitivity, before,
            block, gate,
        )  # fmt: skip

    def choices(self, counted: Counted) -> dict[int, list[Choice]]:
        """Return what each layer may become, and what it then costs."""
        info = self.prepared.analyzed.tensor_info
        usual = float(np.median([*self.sensitivity.values()])) if self.sensitivity else 1.0
        choices: dict[int, list[Choice]] = {}
        for index, layer in self.layers.items():
            whole = layer.layer.macs(info) if counted == "macs" else np.prod(layer.layer.shape)
            weight = self.sensitivity.get(index, usual)
            choices[index] = choices_of(
                layer, self.spectra[index], float(whole), counted, weight, self.block
            )
        return choices

    def within(self, counted: Counted, budget: float) -> dict[int, Choice]:
        """Choose the layers that are factored, each faster than before, by node.

        Parameters
        ----------
        counted, budget
            What the whole model may cost, at the most; where that cannot be, the least.
        """
        costs = self.prepared.analyzed.costs
        whole = float(costs.macs if counted == "macs" else costs.parameters)
        choices = self.choices(counted)
        rest = whole - sum(own[0].cost for own in choices.values())
        for _ in range(ROUNDS):
            chosen = spend(choices, max(budget - rest, cheapest(choices)))
            slow = [
                index
                for index, choice in chosen.items()
                if choice.rank is not None
                and not self.gate.faster(self.layers[index], choice.rank, choice.split)
            ]
            if not slow:
                return {index: c for index, c in chosen.items() if c.rank is not None}
            for index in slow:
                slower = chosen[index]
                most = 3 * (slower.rank or 1) // 4
                choices[index] = [
                    c
                    for c in choices[index]
                    if c.rank is None or c.split != slower.split or c.rank <= most
                ]
        return {i: c for i, c in chosen.items() if c.rank is not None and i not in slow}

    def write(self, chosen: Mapping[int, Choice], path: Path, reference: Path) -> Factored:
        """Write and prove the model with some layers factored.

        Parameters
        ----------
        chosen
            The layers, by node.
        path, reference
            Of the model, and of the one whose weights are the products.

        Raises
        ------
        VerificationError
            When it computes something else than the products.
        """
        analyzed = self.prepared.analyzed
        weights = self._repaired({i: self._factors(i, c) for i, c in chosen.items()})
        products = {index: new.product for index, new in weights.items()}
        write_draft(with_weights(analyzed.model, products), reference, analyzed.read, "auto")
        external = self.prepared.config.external_data
        write_draft(with_weights(analyzed.model, weights), path, analyzed.read, external)
        samples = ComparedSamples.of(self.prepared, self.baseline)
        proof = verify(
            self.baseline, self.source, path, reference, samples.batches(), samples.described
        )
        reports = tuple(
            FactorReport(self.layers[i].name, self.layers[i].layer.channels, c.rank or 1, c.lost)
            for i, c in sorted(chosen.items())
        )
        return Factored(path, reports, proof)

    def _whole(self, index: int) -> NewWeights:
        """Return a layer's weights as they are, scaled as its operator scales them."""
        own, info = self.layers[index], self.prepared.analyzed.tensor_info
        bias = own.bias(info) if own.has_offset else None
        return NewWeights(own, own.weight(info), None, bias)

    def _factors(self, index: int, choice: Choice) -> NewWeights:
        """Return a layer's factors."""
        whole = self._whole(index)
        split, rank = whole.layer.splits[choice.split], choice.rank or 1
        factors = self.spectra[index][choice.split].factors(rank, split.matrix(whole.first))
        bias = None if whole.bias is None else whole.bias + split.each_output(factors.offset)
        first, second = split.first_weight(factors.first), split.second_weight(factors.second)
        return NewWeights(whole.layer, first, second, bias, choice.split)

    def _repaired(self, weights: Mapping[int, NewWeights]) -> dict[int, NewWeights]:
        """Bring the outputs of factored layers, and of those behind, to the variance they had."""
        analyzed, run = self.prepared.analyzed, self.prepared.run
        if not weights or run is None:
            return dict(weights)
        if run.noises:  # noise follows the weights: another model would be measured
            return {i: self._modelled(i, new) for i, new in weights.items()}
        products = {index: new.product for index, new in weights.items()}
        draft = with_weights(analyzed.model, products)
        views = {i: x.alone for i, x in self.layers.items()}
        after = self._measured_again(draft, views, run)
        repaired = dict(weights)
        for index, repair in repairs(self.before, after).items():
            new = weights.get(index)
            if new is None and not _moved(repair.gain, repair.shift, self.before[index]):
                continue
            repaired[index] = (new or self._whole(index)).repaired(repair.gain, repair.shift)
        return repaired

    def _measured_again(
        self, draft: ModelDraft, views: Mapping[int, MomentSpec], run: ObservationRun
    ) -> dict[int, SampleMoments]:
        """Measure a model in the original's shapes, each layer with all before it repaired."""
        analyzed = self.prepared.analyzed
        keyed = {str(index): view for index, view in views.items()}
        again = partial(measure, draft, analyzed.tensor_info, analyzed.read)
        measured = again(keyed, targets(views, self.before), run)
        return {int(key): value for key, value in measured.items()}

    def _modelled(self, index: int, new: NewWeights) -> NewWeights:
        """Scale a factored layer's outputs by what its rank leaves of their variance."""
        spectrum, split = self.spectra[index][new.split], new.layer.splits[new.split]
        whole, kept = (
            split.each_output(spectrum.kept_variance(rank))
            for rank in (len(spectrum.values), new.first.shape[1])
        )
        gain, mean = gain_between(whole, kept), self.before[index].mean
        return new.repaired(gain, mean - gain * mean)


# Outputs that are moved by less than these shares of their deviation are left as they are.
_NEAR = 1e-3


def _measured(
    prepared: Prepared, layers: Sequence[FactorLayer], run: ObservationRun
) -> tuple[dict[int, list[OutputSpectrum]], dict[int, SampleMoments]]:
    """Measure layers' splits, none where they are not finite, and the outputs one by one."""
    analyzed, spectra = prepared.analyzed, dict[int, list[OutputSpectrum]]()
    alone: dict[int, SampleMoments] = {}
    for some in in_rounds(layers, _columns, prepared.held):
        views = {
            f"{x.index}/{number}": split.moments
            for x in some
            for number, split in enumerate(x.splits)
        }
        views |= {f"{x.index}": x.alone for x in some}
        moments = measure(analyzed.draft, analyzed.tensor_info, analyzed.read, views, {}, run)
        for x in some:
            alone[x.index] = moments[f"{x.index}"]
            split = [moments[f"{x.index}/{number}"] for number in range(len(x.splits))]
            split[0] = replace(split[0], mean=alone[x.index].mean)
            made = [_spectrum(analyzed, x, *pair) for pair in enumerate(split)]
            whole = [spectrum for spectrum in made if spectrum is not None]
            spectra[x.index] = whole if len(whole) == len(made) else []
    return spectra, alone


def _columns(layer: FactorLayer) -> list[int]:
    return [split.moments.columns for split in layer.splits]


def _moved(gain: Floats, shift: Floats, before: SampleMoments) -> bool:
    """Whether a repair changes the outputs of a layer that is not factored."""
    spread = np.sqrt(np.maximum(before.second, 0.0))
    center = np.abs(shift + (gain - 1.0) * before.mean)
    return bool(np.any(np.abs(gain - 1.0) > _NEAR) or np.any(center > _NEAR * spread))


def _spectrum(
    analyzed: AnalyzedModel, own: FactorLayer, number: int, moments: SampleMoments
) -> OutputSpectrum | None:
    """Decompose what a split's first factor can give; where rows are few, with a white prior."""
    info = analyzed.tensor_info
    weight = own.splits[number].matrix(own.weight(info))
    of_outputs = number == 0
    if moments.rows < SCARCE * len(moments.mean):
        white = weight.T @ weight if of_outputs else np.eye(len(weight))
        moments = moments.with_prior(replace(moments, second=white))
    covariance, mean = moments.second, moments.mean
    if of_outputs:
        mean = mean - own.bias(info)
    else:
        covariance, mean = weight.T @ covariance @ weight, weight.T @ mean
    if own.has_offset:
        return output_spectrum(covariance, mean)
    return output_spectrum(covariance + np.outer(mean, mean), None)
