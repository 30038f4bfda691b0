"""Outputs that had mean zero in training are known by their readers and by their biases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from lbyl_onnx import Config
from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import Selection
from lbyl_onnx.data.array_samples import open_in_memory
from lbyl_onnx.data.samples import Input, Samples
from lbyl_onnx.graph.source import check_source
from lbyl_onnx.io.reader import on_disk
from lbyl_onnx.observe.accumulate import SampleMoments
from lbyl_onnx.observe.planning import left_of_bias
from lbyl_onnx.observe.run import ObservationRun, measure
from lbyl_onnx.observe.session import Prepared, prepare
from lbyl_onnx.observe.spec import Centring, MomentSpec, Renormalization
from lbyl_onnx.runtime.baseline import run_baseline
from tests.support.net import Net
from tests.support.oracle import run, tap

CPU = "CPUExecutionProvider"
SHAPE = (3, 16, 16)


def prepared(model: ModelProto, folder: Path, own: Samples | None = None) -> Prepared:
    config = Config(provider="cpu", ratio=0.3)
    with on_disk(model) as source:
        files = check_source(source)
        baseline = run_baseline(files.path, CPU, 0)
        analyzed = AnalyzedModel.open(files, baseline.shape_sets, Selection())
        return prepare(analyzed, baseline, config, folder, own=own)


def running(model: ModelProto, folder: Path) -> ObservationRun:
    found = prepared(model, folder).run
    assert found is not None
    return found


def inverted_residuals(net: Net, read: Callable[[str], str] = lambda x: x) -> list[str]:
    """Two projections, the second on a skip connection, both behind an expansion; their outputs.

    `read` is what the first projection's readers read.
    """
    first = net.conv(net.relu(net.conv("x", (3, 12))), (12, 6), (1, 1))
    x = read(first)
    second = net.conv(net.relu(net.conv(x, (6, 18), (1, 1))), (18, 6), (1, 1))
    trunk = net.node("Add", [second, x])
    net.head(net.relu(net.conv(trunk, (6, 20), (1, 1))), 20)
    return [first, second]


def trained(model: ModelProto, linear: list[str], mean: float = 0.4) -> ModelProto:
    """The model with the biases that folding leaves: linear layers had a shift of 0, others any.

    On images of another mean than the synthetic ones have, layer by layer, as training does.
    """
    rng = np.random.default_rng(5)
    x = (rng.normal(size=(64, 3, 1, 1)) + rng.normal(size=(64, *SHAPE)) + mean).astype(np.float32)
    held = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and len(node.input) == 3:
            bias = numpy_helper.to_array(held[node.input[2]])
            out = run(tap(model, node.output[0]), {"x": x})[-1]
            shift = 0.0 if node.output[0] in linear else bias
            value = (bias - out.mean(axis=(0, 2, 3)) + shift).astype(np.float32)
            held[node.input[2]].CopyFrom(numpy_helper.from_array(value, node.input[2]))
    return model


def made(read: str = "itself") -> tuple[ModelProto, list[str]]:
    net = Net(("N", *SHAPE))
    ways: dict[str, Callable[[str], str]] = {
        "itself": lambda x: x,
        "Identity": lambda x: net.node("Identity", [x]),
        "Relu": net.relu,
        "a constant added": lambda x: net.node("Add", [x, net.constant("one", np.float32(1.0))]),
    }
    linear = inverted_residuals(net, ways[read])
    return net.model(net.nodes[-1].output[0]), linear


class TestWhichOutputs:
    @pytest.mark.parametrize("read", ["itself", "Identity"])
    def test_those_that_only_convs_read(self, tmp_path: Path, read: str) -> None:
        model, linear = made(read)
        found = running(trained(model, linear), tmp_path).centred
        assert found == {name: Centring(1, 4) for name in linear}

    @pytest.mark.parametrize("read", ["Relu", "a constant added"])
    def test_not_those_that_others_read(self, tmp_path: Path, read: str) -> None:
        model, linear = made(read)
        found = running(trained(model, linear), tmp_path).centred
        assert set(found) == {linear[1]}

    def test_not_the_outputs_of_the_model(self, tmp_path: Path) -> None:
        net = Net(("N", *SHAPE))
        linear = inverted_residuals(net)
        model = net.model(net.nodes[-1].output[0], linear[1])
        found = running(trained(model, [linear[0], "y2"]), tmp_path).centred
        assert set(found) == {linear[0]}

    def test_none_where_biases_do_not_take_means_away(self, tmp_path: Path) -> None:
        model, _ = made()
        assert running(model, tmp_path).centred == {}

    def test_none_where_readers_have_no_bias(self, tmp_path: Path) -> None:
        net = Net(("N", *SHAPE))
        x = net.conv(net.relu(net.conv("x", (3, 12))), (12, 6), (1, 1))
        net.head(net.relu(net.conv(x, (6, 20), (1, 1), bias=False)), 20)
        model = net.model(net.nodes[-1].output[0])
        assert running(trained(model, [x]), tmp_path).centred == {}

    def test_none_on_the_users_own_samples(self, tmp_path: Path) -> None:
        model, linear = made()
        samples = np.random.default_rng(0).normal(size=(32, *SHAPE)).astype(np.float32)
        takes = Input("x", np.dtype(np.float32), (None, *SHAPE))
        own = open_in_memory(samples, [takes], 32, 0)
        found = prepared(trained(model, linear), tmp_path, own).run
        assert found is not None
        assert found.centred == {}


class TestMeasured:
    def test_what_readers_get_has_mean_zero(self, tmp_path: Path) -> None:
        """And a deviation that is asked for, too; without the run's word, the mean asked for."""
        model, linear = made("Identity")
        behind = next(n.output[0] for n in model.graph.node if n.input[0] == linear[0])
        here = prepared(trained(model, linear), tmp_path)
        assert here.run is not None
        view = MomentSpec(behind, 1, 4, np.arange(6)[:, None], cross=False)
        target = Renormalization(1, 4, np.arange(6.0), np.arange(6.0) + 1.0)

        def moments(run: ObservationRun, target: Renormalization | None) -> SampleMoments:
            targets = {} if target is None else {linear[0]: target}
            analyzed = here.analyzed
            read, views = analyzed.read, {"k": view}
            return measure(analyzed.draft, analyzed.tensor_info, read, views, targets, run)["k"]

        plain = moments(replace(here.run, centred={}), None)
        centred = moments(here.run, None)
        both = moments(here.run, target)
        one = moments(replace(here.run, centred={}), target)
        assert np.max(np.abs(plain.mean)) > 0.05
        for found, mean in ((centred, 0.0), (both, 0.0), (one, target.mean)):
            np.testing.assert_allclose(found.mean, mean, atol=1e-5)
        for found in (both, one):
            np.testing.assert_allclose(found.second, target.std**2, rtol=1e-4)
        # Mini-batches differ in their means, which is all that a plain run has more.
        np.testing.assert_allclose(centred.second, plain.second, rtol=0.1)


class TestLeftOfBias:
    def test_both_count_in_deviations(self) -> None:
        moments = SampleMoments(9, np.array([1.0, 2.0, 5.0]), np.array([1.0, 4.0, 0.0]))
        assert left_of_bias(np.array([2.0, 2.0, 7.0]), moments) == pytest.approx(2.0 / 5.0)

    @pytest.mark.parametrize(("bias", "mean"), [(0.0, 1.0), (1.0, np.nan)])
    def test_nothing_to_go_by(self, bias: float, mean: float) -> None:
        moments = SampleMoments(9, np.full(3, mean), np.ones(3))
        assert left_of_bias(np.full(3, bias), moments) == np.inf
