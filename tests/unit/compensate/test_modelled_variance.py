"""What moments tell where nothing can be measured: a repair, and what few samples leave open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lbyl_onnx import Config, compress
from lbyl_onnx.compensate.fits import ConsumerFit
from lbyl_onnx.compensate.group import Fitted, fit
from lbyl_onnx.compensate.variance import OutputContribution, modelled, part
from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.methods.lbyl_plus import deliver
from lbyl_onnx.observe import session
from lbyl_onnx.observe.accumulate import SampleMoments
from lbyl_onnx.observe.run import ObservationRun, measure
from lbyl_onnx.rewrite import build
from tests.support.correlated import correlated, moments_of
from tests.support.gemms import gemms
from tests.support.net import Net
from tests.support.oracle import interpret

Floats = NDArray[np.float64]


def fitted_part(
    model: Any, samples: Floats, taps: int
) -> tuple[ConsumerFit, OutputContribution, dict[int, Any]]:
    """Prune the first group by moments of samples, and tell its part in its consumer."""
    analysis = interpret(model)
    group = analysis.channels.groups[0]
    consumer = group.consumers[0]
    delivery, _ = deliver(moments_of(samples, taps), np.arange(0, group.size, 2))
    here = ConsumerFit(group, consumer, delivery)
    contribution = part(to_graph(model), analysis.tensor_info, here, moments_of(samples, taps))
    parts = {consumer.binding.node: [contribution]}
    return here, contribution, dict(modelled(to_graph(model), analysis.tensor_info, parts))


class TestRepair:
    @pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, -2.0)])
    def test_outputs_have_the_mean_and_variance_that_they_had(
        self, alpha: float, beta: float
    ) -> None:
        model = gemms(alpha, beta)
        samples = correlated(300, 12)
        here, _, repairs = fitted_part(model, samples, 1)
        stored = interpret(model).tensor_info
        node = to_graph(model).nodes[here.consumer.binding.node]
        weight, bias = (stored.value(node.inputs[i].name).astype(float) for i in (1, 2))
        before = alpha * samples @ weight.T + beta * bias.reshape(-1)
        kept = samples[:, here.delivery.kept] @ here.delivery.matrix.T + here.delivery.offset
        after = alpha * kept @ weight.T + beta * bias.reshape(-1)
        repair = repairs[here.consumer.binding.node]
        mended = repair.gain * after + repair.shift
        np.testing.assert_allclose(mended.mean(axis=0), before.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(mended.var(axis=0), before.var(axis=0), rtol=1e-9)
        assert np.all(after.var(axis=0) < before.var(axis=0))

    def test_a_window_counts_tap_by_tap(self) -> None:
        net = Net(("n", 3, 8, 8))
        model = net.model(net.head(net.block(net.block("x", (3, 6)), (6, 5)), 5))
        samples = correlated(800, 6 * 9)
        here, contribution, _ = fitted_part(model, samples, 9)
        analysis = interpret(model)
        node = to_graph(model).nodes[here.consumer.binding.node]
        weight = analysis.tensor_info.value(node.inputs[1].name).astype(float).reshape(5, -1)
        outputs = samples @ weight.T
        np.testing.assert_allclose(contribution.mean, outputs.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(contribution.before, outputs.var(axis=0), rtol=1e-9)
        columns = (here.delivery.kept[:, None] * 9 + np.arange(9)).reshape(-1)
        restored = samples[:, columns] @ here.delivery.matrix.T
        np.testing.assert_allclose(contribution.after, (restored @ weight.T).var(axis=0), rtol=1e-9)

    def test_a_layer_that_reads_other_channels_too_is_left_alone(self) -> None:
        model = gemms()
        here, contribution, _ = fitted_part(model, correlated(300, 12), 1)
        analysis = interpret(model)
        half = OutputContribution(
            contribution.mean, contribution.before, contribution.after, contribution.width // 2
        )
        assert (
            modelled(to_graph(model), analysis.tensor_info, {here.consumer.binding.node: [half]})
            == {}
        )
        both = {here.consumer.binding.node: [half, half]}
        assert modelled(to_graph(model), analysis.tensor_info, both).keys() == both.keys()

    def test_models_that_begin_with_a_gemm_get_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fits: list[Fitted] = []

        def fitting(*arguments: Any) -> Fitted:
            fits.append(fit(*arguments))
            return fits[0]

        monkeypatch.setattr(build, "fit", fitting)
        compress(gemms(), config=Config(round_to=1, ratio=0.5, provider="cpu"))
        assert fits[0].statistics is None
        # Four layers read pruned channels; behind the last no layer follows.
        assert len(fits[0].modelled) == 3
        assert all(np.max(r.gain) > 1.0 for r in fits[0].modelled.values())


class TestPrior:
    def test_it_counts_as_a_row_for_each_column_at_the_same_power(self) -> None:
        own, prior = (moments_of(correlated(rows, 5, seed)) for rows, seed in ((20, 0), (400, 1)))
        got = SampleMoments(20, own.mean, own.covariance).with_prior(
            SampleMoments(400, prior.mean, 9.0 * prior.covariance)
        )
        power = np.trace(own.covariance) / np.trace(prior.covariance)
        expected = (20 * own.covariance + 5 * power * prior.covariance) / 25
        np.testing.assert_allclose(got.second, expected, rtol=1e-12)
        np.testing.assert_array_equal(got.mean, own.mean)
        assert got.rows == 25

    @pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
    def test_a_degenerate_one_is_left_out(self, value: float) -> None:
        own = SampleMoments(20, np.zeros(3), np.eye(3))
        assert own.with_prior(SampleMoments(9, np.zeros(3), np.full((3, 3), value))) is own

    @pytest.mark.parametrize(("count", "priors"), [(40, 1), (200, 0)])
    def test_it_is_measured_where_the_users_samples_are_few(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, priors: int
    ) -> None:
        """The widest layer has 12 columns: 96 rows are enough."""
        runs: list[ObservationRun] = []

        def noted(*arguments: Any) -> dict[str, SampleMoments]:
            runs.append(arguments[-1])
            return measure(*arguments)

        monkeypatch.setattr(session, "measure", noted)
        samples = np.random.default_rng(0).standard_normal((count, 6)).astype(np.float32)
        np.save(tmp_path / "x.npy", samples)
        config = Config(round_to=1, ratio=0.5, provider="cpu", calibration=str(tmp_path / "x.npy"))
        compress(gemms(), config=config)
        assert sum(run.source.supplied is None for run in runs) == priors
