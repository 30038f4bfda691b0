"""A small model factored, measured, repaired and proven."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import Selection
from lbyl_onnx.config import Config
from lbyl_onnx.errors import VerificationError
from lbyl_onnx.evaluate.verify import verify
from lbyl_onnx.factor.rewrite import with_weights
from lbyl_onnx.factor.stage import FactorStage
from lbyl_onnx.graph.source import check_source
from lbyl_onnx.guard.effort import Effort
from lbyl_onnx.observe.session import prepare
from lbyl_onnx.runtime.baseline import run_baseline
from tests.support.net import Array, Net

CPU = "CPUExecutionProvider"
LITTLE = Effort(pass_macs=10**8, enough_samples=64, fewest_rounds=2, rounds=2)


def stage_of(weight: Array, folder: Path) -> FactorStage:
    """Two Convs, the second from 16 to 24 channels with a weight; all factors count as fast."""
    net = Net(("N", 3, 8, 8))
    x = net.block(net.block("x", (3, 16)), (16, 24))
    model = net.model(net.head(x, 24))
    (stored,) = (t for t in model.graph.initializer if tuple(t.dims) == (24, 16, 3, 3))
    stored.CopyFrom(onnx.numpy_helper.from_array(weight.astype(np.float32), stored.name))
    path = folder / "model.onnx"
    onnx.save(model, path)
    config = Config(macs="50%", provider="cpu")
    baseline = run_baseline(path, CPU, 0, effort=LITTLE)
    analyzed = AnalyzedModel.open(check_source(path), baseline.shape_sets, Selection())
    prepared = prepare(analyzed, baseline, config, folder, measured=True)
    made = FactorStage.of(prepared, baseline, path, 2)
    assert made is not None
    return replace(made, gate=replace(made.gate, most=np.inf))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> FactorStage:
    """A layer whose outputs lie in four dimensions, near enough."""
    rng = np.random.default_rng(0)
    low = rng.standard_normal((24, 4)) @ rng.standard_normal((4, 144)) / 24.0
    value = (low + 0.02 * rng.standard_normal(low.shape)).reshape(24, 16, 3, 3)
    return stage_of(value, tmp_path_factory.mktemp("factored"))


def test_the_layer_of_low_rank_is_factored(stage: FactorStage, tmp_path: Path) -> None:
    whole = stage.prepared.analyzed.costs.macs
    chosen = stage.within("macs", 0.6 * whole)
    made = stage.write(chosen, tmp_path / "two.onnx", tmp_path / "one.onnx")
    assert [(r.name, r.outputs) for r in made.reports] == [("conv_3", 24)]
    assert made.reports[0].rank >= 4
    assert made.reports[0].lost < 0.05
    assert made.proof.deviation < 1e-4
    assert (made.proof.fidelity.nearness or 0.0) > 0.98
    reread = AnalyzedModel.open(check_source(made.path), stage.baseline.shape_sets)
    assert reread.costs.macs <= 0.6 * whole


def test_a_window_of_two_sums_is_split_along_its_axes(tmp_path: Path) -> None:
    """A layer that is k x 1 and then 1 x k loses nothing as that, but as k x k and then 1 x 1."""
    rng = np.random.default_rng(1)
    rows, columns = rng.standard_normal((6, 16, 3)), rng.standard_normal((6, 24, 3))
    stage = stage_of(np.einsum("ria,rob->oiab", rows, columns) / 12.0, tmp_path)
    by_split = [spectrum.lost for spectrum in stage.spectra[3]]
    assert by_split[1][6] < 1e-9
    assert by_split[0][6] > 0.05
    chosen = stage.within("macs", 0.6 * stage.prepared.analyzed.costs.macs)
    made = stage.write(chosen, tmp_path / "two.onnx", tmp_path / "one.onnx")
    windows = [[*t.dims[2:]] for t in onnx.load(made.path).graph.initializer if len(t.dims) == 4]
    assert [3, 1] in windows
    assert [1, 3] in windows
    assert (made.proof.fidelity.nearness or 0.0) > 1.0 - 1e-6


def test_the_same_bytes_again(stage: FactorStage, tmp_path: Path) -> None:
    chosen = stage.within("params", 0.6 * stage.prepared.analyzed.costs.parameters)
    files = []
    for name in ("first", "second"):
        stage.write(chosen, tmp_path / f"{name}.onnx", tmp_path / f"{name}-product.onnx")
        files.append((tmp_path / f"{name}.onnx").read_bytes())
    assert files[0] == files[1]


def test_a_repair_brings_the_variance_back(stage: FactorStage) -> None:
    """The outputs of both layers, on the samples of the statistics, as they were."""
    chosen = {i: c for i, c in stage.within("macs", 0.0).items() if i in (0, 3)}
    assert len(chosen) == 2
    analyzed, run = stage.prepared.analyzed, stage.prepared.run
    assert run is not None
    factors = {i: stage._factors(i, c) for i, c in chosen.items()}
    views = {i: x.alone for i, x in stage.layers.items()}
    errors = []
    for weights in (factors, stage._repaired(factors)):
        draft = with_weights(analyzed.model, {i: new.product for i, new in weights.items()})
        after = stage._measured_again(draft, views, run)
        ratios = [after[i].second / stage.before[i].second for i in chosen]
        errors.append(float(np.max(np.abs(np.log(np.concatenate(ratios))))))
    assert errors[0] > 0.1
    assert errors[1] < 0.01


def test_what_is_not_faster_stays(stage: FactorStage) -> None:
    slow = replace(stage, gate=replace(stage.gate, most=0.0, faster_by_key={}))
    assert slow.within("macs", 0.5 * stage.prepared.analyzed.costs.macs) == {}


def test_each_shape_is_timed_once(stage: FactorStage) -> None:
    gate = replace(stage.gate, faster_by_key={})
    assert gate.faster(stage.layers[3], 4)
    assert len(gate.faster_by_key) == 1
    assert replace(gate, most=0.0).faster(stage.layers[3], 4)
    assert not replace(gate, most=0.0).faster(stage.layers[3], 6)


def test_a_wrong_factor_is_noticed(stage: FactorStage, tmp_path: Path) -> None:
    chosen = stage.within("macs", 0.6 * stage.prepared.analyzed.costs.macs)
    two, one = tmp_path / "two.onnx", tmp_path / "one.onnx"
    stage.write(chosen, two, one)
    model = onnx.load(two)
    (weight,) = (t for t in model.graph.initializer if "_second_factor" in t.name)
    value = onnx.numpy_helper.to_array(weight).copy()
    value *= 1.1
    weight.CopyFrom(onnx.numpy_helper.from_array(value, weight.name))
    onnx.save(model, two)
    feeds = [stage.baseline.feeds[0]]
    with pytest.raises(VerificationError, match="differs from what the plan gives"):
        verify(stage.baseline, stage.source, two, one, feeds)
