"""Factor the layers of a model: measure, choose ranks, time them, repair, write, and prove."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.compensate.variance import gain_between, repairs, targets
from lbyl_onnx.evaluate.verify import Verification, verify
from lbyl_onnx.factor.choices import Choice, Counted, cheapest, choices_of, spend
from lbyl_onnx.factor.gate import TimeGate
from lbyl_onnx.factor.layers import FactorLayer, NotFactored, factor_layers
from lbyl_onnx.factor.rewrite import NewWeights, with_weights
from lbyl_onnx.io.writer import ModelDraft, write_draft
from lbyl_onnx.methods.mixing.factors import OutputSpectrum, output_spectrum
from lbyl_onnx.observe.accumulate import SampleMoments
from lbyl_onnx.observe.run import ObservationRun, measure
from lbyl_onnx.observe.sensitivity import layer_sensitivities
from lbyl_onnx.observe.session import HELD, Prepared
from lbyl_onnx.observe.spec import MomentSpec
from lbyl_onnx.rewrite.compared_samples import ComparedSamples
from lbyl_onnx.runtime.baseline import Baseline
from lbyl_onnx.types import Floats

# Rows for each output below which the covariance of its layer is blended with that of white inputs.
SCARCE = 8
# Times that ranks are chosen anew because factors were not faster.
ROUNDS = 6


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
        Of their outputs, and of the model's outputs to errors there, by node.
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
    spectra: Mapping[int, OutputSpectrum]
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
        spectra, alone = _measured(analyzed, able, run)
        finite = {index: spectrum for index, spectrum in spectra.items() if spectrum is not None}
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
            spectrum = self.spectra[index]
            choices[index] = choices_of(layer, spectrum, float(whole), weight, self.block)
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
                if choice.rank is not None and not self.gate.faster(self.layers[index], choice.rank)
            ]
            if not slow:
                return {index: c for index, c in chosen.items() if c.rank is not None}
            for index in slow:
                most = 3 * (chosen[index].rank or 1) // 4
                choices[index] = [c for c in choices[index] if c.rank is None or c.rank <= most]
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
        weights = self._repaired({i: self._factors(i, c.rank or 1) for i, c in chosen.items()})
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
        layer = own.layer
        stored = info.value(layer.weight_name)
        bias = None
        if own.has_offset:
            value = layer.bias(info)
            each = np.zeros(1) if value is None else value.astype(np.float64).reshape(-1)
            bias = np.broadcast_to(layer.beta * each, (layer.channels,)).copy()
        weight = np.asarray(layer.alpha * layer.logical(stored).astype(np.float64))
        return NewWeights(own, weight, None, bias)

    def _factors(self, index: int, rank: int) -> NewWeights:
        """Return a layer's factors of a rank."""
        whole = self._whole(index)
        inputs, outputs, window = whole.first.shape
        # (in, outputs, window) -> (in, window, outputs) -> (in * window, outputs)
        columns = np.moveaxis(whole.first, 1, 2).reshape(-1, outputs)
        factors = self.spectra[index].factors(rank, columns)
        # (in * window, r) -> (in, window, r) -> (in, r, window)
        first = np.moveaxis(factors.first.reshape(inputs, window, rank), 2, 1)
        bias = None if whole.bias is None else factors.bias(whole.bias)
        return NewWeights(whole.layer, first, factors.second, bias)

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
        spectrum = self.spectra[index]
        rank = new.first.shape[1]
        whole = spectrum.kept_variance(len(spectrum.values))
        gain = gain_between(whole, spectrum.kept_variance(rank))
        return new.repaired(gain, spectrum.mean - gain * spectrum.mean)


# Outputs that are moved by less than these shares of their deviation are left as they are.
_NEAR = 1e-3


def _measured(
    analyzed: AnalyzedModel, layers: Sequence[FactorLayer], run: ObservationRun
) -> tuple[dict[int, OutputSpectrum | None], dict[int, SampleMoments]]:
    """Measure layers' outputs: their components, and the mean and variance of each."""
    spectra: dict[int, OutputSpectrum | None] = {}
    alone: dict[int, SampleMoments] = {}
    for some in _rounds(layers):
        views = {f"{x.index}/pairs": x.moments for x in some}
        views |= {f"{x.index}": x.alone for x in some}
        moments = measure(analyzed.draft, analyzed.tensor_info, analyzed.read, views, {}, run)
        for x in some:
            alone[x.index] = moments[f"{x.index}"]
            pairs = replace(moments[f"{x.index}/pairs"], mean=alone[x.index].mean)
            spectra[x.index] = _spectrum(analyzed, x, pairs)
    return spectra, alone


def _rounds(layers: Sequence[FactorLayer]) -> Iterator[list[FactorLayer]]:
    """Layers that are measured in one pass, so that their covariances fit into memory."""
    held, some = 0, list[FactorLayer]()
    for layer in layers:
        size = 16 * layer.layer.channels**2
        if some and held + size > HELD:
            yield some
            held, some = 0, []
        held, some = held + size, [*some, layer]
    yield some


def _moved(gain: Floats, shift: Floats, before: SampleMoments) -> bool:
    """Whether a repair changes the outputs of a layer that is not factored."""
    spread = np.sqrt(np.maximum(before.second, 0.0))
    center = np.abs(shift + (gain - 1.0) * before.mean)
    return bool(np.any(np.abs(gain - 1.0) > _NEAR) or np.any(center > _NEAR * spread))


def _spectrum(
    analyzed: AnalyzedModel, layer: FactorLayer, moments: SampleMoments
) -> OutputSpectrum | None:
    """Decompose a layer's outputs; where rows are few, with white inputs as a prior."""
    if moments.rows < SCARCE * len(moments.mean):
        stored = analyzed.tensor_info.value(layer.layer.weight_name)
        weight = layer.layer.logical(stored).astype(np.float64)
        # (in, outputs, window) -> (outputs, in, window) -> (outputs, in * window)
        rows = np.moveaxis(weight, 1, 0).reshape(weight.shape[1], -1)
        moments = moments.with_prior(replace(moments, second=rows @ rows.T))
    if layer.has_offset:
        return output_spectrum(moments.second, moments.mean)
    return output_spectrum(moments.second + np.outer(moments.mean, moments.mean), None)
