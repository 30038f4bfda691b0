"""The instrumented model measures what numpy computes from the model's own activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from lbyl_onnx.graph.layers.linear_layer import Window
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.io.external_data import TensorReader
from lbyl_onnx.io.writer import ModelDraft, write_draft
from lbyl_onnx.observe.graph_builder import outputs_of
from lbyl_onnx.observe.instrument import instrument
from lbyl_onnx.observe.spec import MANY, Centring, MomentSpec, Renormalization, Target
from lbyl_onnx.runtime.execute import run_batches
from lbyl_onnx.types import Array
from tests.support.files import if_body, initializers_as_inputs
from tests.support.models import MODELS
from tests.support.moments import (
    TOLERANCE,
    Moments,
    assert_close,
    expected,
    feeds_of,
    tensor_facts,
)
from tests.support.net import Net
from tests.support.oracle import input_shapes, run, tap

Feeds = Mapping[str, Array]


def raw_probe(
    model: ModelProto,
    views: Mapping[str, MomentSpec],
    feeds: Feeds,
    folder: Path,
    targets: Mapping[str, Target] | None = None,
    batch_statistics: bool = False,
) -> dict[str, Array]:
    """Outputs of the instrumented model by name."""
    draft = instrument(
        ModelDraft.of(model),
        tensor_facts(model),
        views,
        targets or {},
        batch_statistics,
        {},
        "CPUExecutionProvider",
    )
    path = folder / "instrumented.onnx"
    write_draft(draft, path, numpy_helper.to_array, "never")
    outputs = next(iter(run_batches(path, "CPUExecutionProvider", [feeds])))
    return {name: np.asarray(value) for name, value in outputs.items()}


def observed_moments(
    model: ModelProto,
    views: Mapping[str, MomentSpec],
    feeds: Feeds,
    folder: Path,
    targets: Mapping[str, Target] | None = None,
    batch_statistics: bool = False,
) -> dict[str, Moments]:
    outputs = raw_probe(model, views, feeds, folder, targets, batch_statistics)
    moments: dict[str, Moments] = {}
    for key in views:
        named = outputs_of(key, views[key])
        mean = outputs[named["mean"]].reshape(-1).astype(float)
        if views[key].gives_rows:
            centred = outputs[named["centred"]].astype(float)
            by_row = centred if views[key].rows_first else centred.T
            moments[key] = Moments(mean, by_row.T @ by_row, len(by_row))
            continue
        parts = [outputs[named[str(i)]] for i in range(len(views[key].strips))]
        moment = np.zeros((views[key].columns,) * parts[0].ndim)
        for strip, part in zip(views[key].strips, parts, strict=True):
            moment[(strip, slice(strip.start, None))[: moment.ndim]] = part
        if moment.ndim == 2:
            moment = np.triu(moment) + np.triu(moment, 1).T
        moments[key] = Moments(mean, moment, int(outputs[named["shape"]][1]))
    return moments


def assert_same(actual: Moments, reference: Moments, tolerance: float = TOLERANCE) -> None:
    assert actual.rows == reference.rows
    assert_close(actual.mean, reference.mean, tolerance)
    assert_close(actual.moment, reference.moment, tolerance)


def positions(*values: int, places: int = 1) -> NDArray[np.intp]:
    return np.array(values, np.intp).reshape(-1, places)


def plain(plane: tuple[int, ...] = (7, 6), dtype: int = TensorProto.FLOAT, opset: int = 17) -> Net:
    """Conv 3 -> 6, Relu: the view is of relu_1_out."""
    net = Net(("N", 3, *plane), dtype=dtype, opset=opset)
    net.relu(net.conv("x", (3, 6), (3,) * len(plane)))
    return net


def finished(net: Net) -> ModelProto:
    return net.model(net.node("Neg", [net.nodes[-1].output[0]]))


ALL = positions(0, 1, 2, 3, 4, 5)
SOME = positions(5, 0, 3)  # as in a Concat: not side by side, and not in order
PAIRS = positions(0, 3, 1, 4, 2, 5, places=2)


class TestWithoutWindow:
    @pytest.mark.parametrize("cross", [True, False])
    @pytest.mark.parametrize("strides", [(), (1, 1), (2, 1), (2, 3)])
    @pytest.mark.parametrize("index", [ALL, SOME, PAIRS], ids=["all", "some", "pairs"])
    def test_a_plane(
        self, tmp_path: Path, index: NDArray[np.intp], strides: tuple[int, ...], cross: bool
    ) -> None:
        view = MomentSpec("relu_1_out", 1, 4, index, strides=strides, cross=cross)
        check(finished(plain()), view, tmp_path)

    @pytest.mark.parametrize("plane", [(9,), (5, 4, 3)])
    @pytest.mark.parametrize("stride", [1, 2])
    def test_a_line_and_a_volume(self, tmp_path: Path, plane: tuple[int, ...], stride: int) -> None:
        view = MomentSpec("relu_1_out", 1, len(plane) + 2, SOME, strides=(stride,) * len(plane))
        check(finished(plain(plane)), view, tmp_path)

    @pytest.mark.parametrize("stride", [1, 4])
    @pytest.mark.parametrize("joint", [True, False])
    def test_what_a_gemm_sees_behind_flatten(
        self, tmp_path: Path, joint: bool, stride: int
    ) -> None:
        net = plain((2, 2))
        flat = net.node("Flatten", ["relu_1_out"])
        model = net.model(net.gemm(flat, 24, 5))
        places = np.arange(24).reshape(6, 4)
        view = MomentSpec(flat, 1, 2, places[[0, 4, 2]], joint=joint, strides=(stride,))
        check(model, view, tmp_path, count=40)

    @pytest.mark.parametrize("stride", [1, 2, 7])
    @pytest.mark.parametrize("shape", [(5, 6), (2, 5, 6)])
    def test_tokens(self, tmp_path: Path, shape: tuple[int, ...], stride: int) -> None:
        net = Net(("N", *shape))
        x = net.relu(net.node("MatMul", ["x", net.weight("w0", 6, 8)]))
        model = net.model(net.node("MatMul", [x, net.weight("w1", 8, 4)]))
        view = MomentSpec(x, len(shape), len(shape) + 1, positions(1, 7, 2), strides=(stride,))
        check(model, view, tmp_path)

    def test_an_input_of_the_model(self, tmp_path: Path) -> None:
        check(finished(plain()), MomentSpec("x", 1, 4, positions(0, 1, 2)), tmp_path)


WINDOWS = {
    "plain": Window((3, 3), (1, 1), (0,) * 4, (1, 1)),
    "padded": Window((3, 3), (1, 1), (1,) * 4, (1, 1)),
    "one side": Window((3, 3), (1, 1), (0, 1, 2, 0), (1, 1)),
    "strides": Window((3, 3), (2, 3), (1,) * 4, (1, 1)),
    "dilated": Window((3, 2), (1, 1), (2,) * 4, (2, 3)),
    "all": Window((2, 3), (2, 1), (1, 0, 0, 2), (3, 2)),
}


class TestWindow:
    @pytest.mark.parametrize("strides", [(), (2, 1), (2, 2)])
    @pytest.mark.parametrize("name", WINDOWS)
    def test_each_tap_is_a_column(
        self, tmp_path: Path, name: str, strides: tuple[int, ...]
    ) -> None:
        view = MomentSpec("relu_1_out", 1, 4, SOME, window=WINDOWS[name], strides=strides)
        check(finished(plain()), view, tmp_path)

    def test_on_a_line(self, tmp_path: Path) -> None:
        window = Window((5,), (2,), (1, 3), (1,))
        check(finished(plain((9,))), MomentSpec("relu_1_out", 1, 3, SOME, window=window), tmp_path)

    def test_in_a_volume(self, tmp_path: Path) -> None:
        window = Window((2, 2, 2), (1, 2, 1), (0, 1, 0, 1, 0, 1), (1, 1, 2))
        view = MomentSpec("relu_1_out", 1, 5, positions(4, 1), window=window)
        check(finished(plain((5, 4, 5))), view, tmp_path)


def check(
    model: ModelProto, view: MomentSpec, folder: Path, count: int = 6, tolerance: float = TOLERANCE
) -> None:
    """Compare a view's moments with those of the activation that the model itself gives."""
    feeds = feeds_of(model, count)
    if view.tensor in feeds:
        activation = feeds[view.tensor]
    else:
        activation = run(tap(model, view.tensor), feeds)[-1]
    reference = expected(activation, view)
    assert reference.rows > 1
    assert view.columns == len(reference.mean)
    assert_same(observed_moments(model, {"k": view}, feeds, folder)["k"], reference, tolerance)


VIEWS = {
    "plane": MomentSpec("relu_1_out", 1, 4, PAIRS, strides=(2, 2)),
    "window": MomentSpec("relu_1_out", 1, 4, SOME, window=WINDOWS["all"]),
    "alone": MomentSpec("relu_1_out", 1, 4, ALL, cross=False),
}


class TestModels:
    @pytest.mark.parametrize("opset", [7, 11, 13, 17, 18, 20, 22])
    @pytest.mark.parametrize("name", VIEWS)
    def test_every_opset(self, tmp_path: Path, name: str, opset: int) -> None:
        check(finished(plain(opset=opset)), VIEWS[name], tmp_path)

    @pytest.mark.parametrize("opset", [11, 17, 18])
    @pytest.mark.parametrize("name", VIEWS)
    def test_half(self, tmp_path: Path, name: str, opset: int) -> None:
        model = finished(plain(dtype=TensorProto.FLOAT16, opset=opset))
        # Activations are rounded to 5e-4 in both, not always to the same side.
        check(model, VIEWS[name], tmp_path, tolerance=1e-3)

    @pytest.mark.parametrize("opset", [11, 17, 18])
    @pytest.mark.parametrize("stride", [1, 3])
    def test_double(self, tmp_path: Path, stride: int, opset: int) -> None:
        net = Net(("N", 5, 6), dtype=TensorProto.DOUBLE, opset=opset)
        x = net.relu(net.node("MatMul", ["x", net.weight("w", 6, 6)]))
        check(finished(net), MomentSpec(x, 2, 3, SOME, strides=(stride,)), tmp_path)

    def test_several_views_of_several_tensors(self, tmp_path: Path) -> None:
        model = MODELS["inception"]()
        tensors = ("relu_2_out", "concat_9_out", "conv_10_out")
        views = {
            f"{tensor}/{i}": MomentSpec(tensor, 1, 4, positions(*index))
            for tensor in tensors
            for i, index in enumerate([(0, 1, 2), (4, 1)])
        }
        feeds = feeds_of(model)
        activations = dict(zip(tensors, run(tap(model, *tensors), feeds)[1:], strict=True))
        measured = observed_moments(model, views, feeds, tmp_path)
        assert set(measured) == set(views)
        for key, view in views.items():
            assert_same(measured[key], expected(activations[view.tensor], view))

    def test_initializers_among_the_inputs_as_of_ir_version_3(self, tmp_path: Path) -> None:
        model = initializers_as_inputs(lambda: finished(plain(opset=7)), 3)
        check(model, VIEWS["window"], tmp_path)

    def test_a_body_that_reads_from_outside(self, tmp_path: Path) -> None:
        """Behind the If the instrumented model needs what only its bodies read."""
        model = if_body()
        output = model.graph.node[-1].output[0]
        shape = run(model, feeds_of(model))[0].shape
        check(model, MomentSpec(output, 1, len(shape), positions(0, 2)), tmp_path)

    def test_the_model_is_not_changed(self, tmp_path: Path) -> None:
        model = finished(plain())
        before = model.SerializeToString(deterministic=True)
        observed_moments(model, VIEWS, feeds_of(model), tmp_path, batch_statistics=True)
        assert model.SerializeToString(deterministic=True) == before

    def test_weights_in_another_file(self, tmp_path: Path) -> None:
        model = finished(plain())
        folder = tmp_path / "in"
        folder.mkdir()
        onnx.save(
            finished(plain()),
            folder / "m.onnx",
            save_as_external_data=True,
            location="weights.bin",
            size_threshold=0,
        )
        outside = onnx.load(folder / "m.onnx", load_external_data=False)
        assert outside.graph.initializer[0].external_data
        read, shapes = TensorReader(folder / "m.onnx"), input_shapes(outside, 1, 8)
        tensor_info = TensorInfo(outside, shapes, input_shapes(outside, 2, 8), read)
        draft = instrument(
            ModelDraft.of(outside),
            tensor_info,
            {"k": VIEWS["plane"]},
            {},
            False,
            {},
            "CPUExecutionProvider",
        )
        write_draft(draft, tmp_path / "instrumented.onnx", read, "auto")
        session = ort.InferenceSession(
            str(tmp_path / "instrumented.onnx"), providers=["CPUExecutionProvider"]
        )
        feeds = feeds_of(model)
        mean, shape, moment = map(np.asarray, session.run(None, feeds))
        measured = Moments(mean.reshape(-1).astype(float), moment.astype(float), int(shape[1]))
        assert_same(measured, observed_moments(model, {"k": VIEWS["plane"]}, feeds, tmp_path)["k"])


class TestSize:
    def test_only_moments_leave_the_runtime(self, tmp_path: Path) -> None:
        """Whatever the number of samples and the resolution."""
        net = Net(("N", 3, "H", "W"))
        x = net.relu(net.conv("x", (3, 6)))
        model = net.model(net.conv(x, (6, 4)))
        views = {key: replace(view, tensor=x) for key, view in VIEWS.items()}
        small, large = (
            raw_probe(model, views, feeds_of(model, count, size), tmp_path)
            for count, size in ((2, 8), (16, 40))
        )
        shapes = {key: tuple(value.shape) for key, value in small.items()}
        assert shapes == {key: tuple(value.shape) for key, value in large.items()}
        reference = {
            "plane": [(3, 1), (2,), (3, 3)],
            "window": [(18, 1), (2,), (18, 18)],
            "alone": [(6, 1), (2,), (6,)],
        }
        assert shapes == {
            name: shape
            for key, each in reference.items()
            for name, shape in zip(outputs_of(key, views[key]).values(), each, strict=True)
        }

    @pytest.mark.parametrize(("columns", "strips"), [(511, 1), (512, 2), (1023, 3)])
    def test_of_many_columns_half_is_enough(
        self, tmp_path: Path, columns: int, strips: int
    ) -> None:
        net = Net(("N", 3))
        x = net.relu(net.node("MatMul", ["x", net.weight("w0", 3, columns)]))
        model = net.model(net.node("MatMul", [x, net.weight("w1", columns, 2)]))
        view = MomentSpec(x, 1, 2, np.arange(columns)[:, None])
        assert len(view.strips) == strips
        feeds = feeds_of(model, 20)
        outputs = raw_probe(model, {"k": view}, feeds, tmp_path)
        values = [
            v.size for name, v in outputs.items() if name in [*outputs_of("k", view).values()][2:]
        ]
        assert sum(values) <= columns**2 * (strips + 1) / strips / 2 + columns
        measured = observed_moments(model, {"k": view}, feeds, tmp_path)["k"]
        assert_same(measured, expected(run(tap(model, x), feeds)[-1], view))

    @pytest.mark.parametrize("spatial", [False, True])
    def test_of_more_columns_the_rows_leave_as_they_lie(
        self, tmp_path: Path, spatial: bool
    ) -> None:
        net = Net(("N", 3, 2, 2) if spatial else ("N", 3))
        if spatial:
            x = net.relu(net.conv("x", (3, MANY), (1, 1)))
            model = net.model(net.conv(x, (MANY, 2), (1, 1)))
        else:
            x = net.relu(net.node("MatMul", ["x", net.weight("w0", 3, MANY)]))
            model = net.model(net.node("MatMul", [x, net.weight("w1", MANY, 2)]))
        view = MomentSpec(x, 1, 4 if spatial else 2, np.arange(MANY)[:, None])
        assert (view.gives_rows, view.rows_first) == (True, not spatial)
        feeds = feeds_of(model, 5)
        outputs = raw_probe(model, {"k": view}, feeds, tmp_path)
        mean, centred = (outputs[name].shape for name in outputs_of("k", view).values())
        assert (mean, centred) == (((MANY, 1), (MANY, 20)) if spatial else ((1, MANY), (5, MANY)))
        measured = observed_moments(model, {"k": view}, feeds, tmp_path)["k"]
        assert_same(measured, expected(run(tap(model, x), feeds)[-1], view))

    def test_only_the_nodes_that_it_needs_run(self) -> None:
        model = MODELS["chain_2d"]()
        draft = instrument(
            ModelDraft.of(model),
            tensor_facts(model),
            {"k": MomentSpec("relu_2_out", 1, 4, positions(0, 1))},
            {},
            False,
            {},
            "CPUExecutionProvider",
        )
        operators = [node.op_type for node in draft.skeleton.graph.node]
        assert operators.count("Conv") == 1
        assert "Gemm" not in operators
        names = {getattr(t, "name", "") for t in draft.initializers}
        assert "w0" in names
        assert "w3" not in names


class TestBatchStatistics:
    @pytest.mark.parametrize("opset", [7, 11, 17, 18])
    @pytest.mark.parametrize("offset", [0.0, 30.0])
    def test_mean_beta_and_variance_gamma_squared(
        self, tmp_path: Path, opset: int, offset: float
    ) -> None:
        """Whatever the input and the stored statistics, at every depth."""
        model = MODELS["chain_2d" if opset == 17 else f"opset_{opset}"]() if opset != 18 else deep()
        norms = [n for n in model.graph.node if n.op_type == "BatchNormalization"]
        values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        views = {
            norm.output[0]: MomentSpec(
                norm.output[0], 1, 4, np.arange(len(values[norm.input[1]]))[:, None], cross=False
            )
            for norm in norms
        }
        feeds = feeds_of(model, 20, mean=offset)
        measured = observed_moments(model, views, feeds, tmp_path, batch_statistics=True)
        for norm in norms:
            gamma, beta = (values[norm.input[i]].astype(float) for i in (1, 2))
            here = measured[norm.output[0]]
            # float32 rounding of the mean of inputs that are up to 30 deviations off.
            np.testing.assert_allclose(here.mean, beta, atol=1e-4)
            # eps, 1e-5, takes up to 1e-3 of variances of 1e-2 and more.
            np.testing.assert_allclose(here.moment, gamma**2, rtol=2e-3)

    def test_without_it_the_stored_statistics_hold(self, tmp_path: Path) -> None:
        view = MomentSpec("batchnormalization_1_out", 1, 4, positions(*range(8)))
        model = MODELS["chain_2d"]()
        check(model, view, tmp_path)
        feeds = feeds_of(model)
        one, two = (
            observed_moments(model, {"k": view}, feeds, tmp_path, batch_statistics=batch)["k"]
            for batch in (False, True)
        )
        assert np.max(np.abs(one.mean - two.mean)) > 0.1

    def test_behind_flatten_each_number_is_a_channel(self, tmp_path: Path) -> None:
        model = MODELS["bn_after_flatten"]()
        norm = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
        values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        view = MomentSpec(norm.output[0], 1, 2, np.arange(32)[:, None], cross=False)
        feeds = feeds_of(model, 50)
        measured = observed_moments(model, {"k": view}, feeds, tmp_path, batch_statistics=True)["k"]
        np.testing.assert_allclose(measured.mean, values[norm.input[2]], atol=1e-5)
        np.testing.assert_allclose(measured.moment, values[norm.input[1]] ** 2.0, rtol=1e-3)

    @pytest.mark.parametrize("opset", [11, 17])
    def test_in_half(self, tmp_path: Path, opset: int) -> None:
        net = Net(("N", 3, 6, 6), dtype=TensorProto.FLOAT16, opset=opset)
        model = net.model(net.head(net.block("x", (3, 8)), 8))
        values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        view = MomentSpec("batchnormalization_1_out", 1, 4, positions(*range(8)), cross=False)
        feeds = feeds_of(model, 20)
        measured = observed_moments(model, {"k": view}, feeds, tmp_path, batch_statistics=True)["k"]
        # Rounding of float16, 5e-4 a value, and of the mean of squares.
        np.testing.assert_allclose(measured.mean, values["beta1"].astype(float), atol=5e-3)
        np.testing.assert_allclose(measured.moment, values["gamma1"].astype(float) ** 2, rtol=5e-3)

    @pytest.mark.parametrize("opset", [11, 17])
    def test_what_they_read_is_measured_along(self, tmp_path: Path, opset: int) -> None:
        """The first BatchNormalization's input is what the Conv before it gives."""
        model = MODELS["chain_2d" if opset == 17 else "opset_11"]()
        norm = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
        x, feeds = norm.input[0], feeds_of(model, 20, mean=3.0)
        values = run(tap(model, x), feeds)[-1]
        view = MomentSpec(x, 1, 4, np.arange(values.shape[1])[:, None], cross=False)
        outputs = raw_probe(model, {"k": view, "again": view}, feeds, tmp_path, {}, True)
        measured = observed_moments(model, {"k": view, "again": view}, feeds, tmp_path, {}, True)
        for key in ("k", "again"):
            assert_same(measured[key], expected(values, view))
        channels = values.shape[1]
        shapes = [outputs[name].shape for name in outputs_of("k", view).values()]
        assert shapes == [(channels, 1), (2,), (channels,)]

    @pytest.mark.parametrize("opset", [11, 17])
    def test_a_target_that_they_undo_is_left_out(self, opset: int) -> None:
        model = MODELS["chain_2d" if opset == 17 else "opset_11"]()
        norm = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
        x, y = norm.input[0], norm.output[0]
        target = Renormalization(1, 4, np.zeros(8), np.ones(8))
        view = MomentSpec(y, 1, 4, np.arange(8)[:, None], cross=False)

        def nodes(batch_statistics: bool) -> int:
            provider = "CPUExecutionProvider"
            tensor_info, views = tensor_facts(model), {"k": view}
            draft = instrument(
                ModelDraft.of(model),
                tensor_info,
                views,
                {x: target},
                batch_statistics,
                {},
                provider,
            )
            return sum(n.op_type == "BatchNormalization" for n in draft.skeleton.graph.node)

        assert nodes(batch_statistics=True) == 1
        assert nodes(batch_statistics=False) == 2

    def test_a_channel_without_variance_gives_beta(self, tmp_path: Path) -> None:
        model = MODELS["chain_2d"]()
        for tensor in model.graph.initializer:
            if tensor.name == "w0":
                weight = numpy_helper.to_array(tensor).copy()
                weight[2] = 0.0
                tensor.CopyFrom(numpy_helper.from_array(weight, "w0"))
        values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        view = MomentSpec("batchnormalization_1_out", 1, 4, positions(*range(8)), cross=False)
        measured = observed_moments(
            model, {"k": view}, feeds_of(model), tmp_path, batch_statistics=True
        )["k"]
        assert measured.moment[2] < 1e-12  # beta's own rounding, squared
        assert measured.mean[2] == pytest.approx(values["beta1"][2], rel=1e-6)


def deep() -> ModelProto:
    net = Net(("N", 3, 6, 6), opset=18)
    return net.model(net.head(net.block(net.block("x", (3, 8)), (8, 12)), 12))


def brought(net: Net, x: str, behind: str, rank: int, last: bool, folder: Path) -> None:
    """A tensor is measured as it comes, and what follows sees it at its target."""
    model = net.model(net.node("Identity", [net.node("Neg", [behind])]))
    rng = np.random.default_rng(3)
    target = Renormalization(
        rank - 1 if last else 1, rank, rng.normal(size=6), rng.uniform(0.2, 3.0, 6)
    )
    axis = rank - 1 if last else 1
    views = {t: MomentSpec(t, axis, rank, ALL, cross=False) for t in (x, behind)}
    feeds = feeds_of(model, 30)
    raw = run(tap(model, x), feeds)[-1]
    measured = observed_moments(model, views, feeds, folder, {x: target})
    half = raw.dtype == np.float16
    assert_same(measured[x], expected(raw, views[x]), 1e-3 if half else TOLERANCE)
    # What follows is the Neg of it; float16 rounds each value to 5e-4 of up to ten deviations.
    tolerance = 1e-2 if half else 1e-5
    np.testing.assert_allclose(measured[behind].mean, -target.mean, atol=tolerance)
    np.testing.assert_allclose(measured[behind].moment, target.std**2, rtol=tolerance)


class TestTargets:
    @pytest.mark.parametrize("plane", [(), (7,), (5, 4), (3, 4, 2)])
    def test_channels_on_axis_1(self, tmp_path: Path, plane: tuple[int, ...]) -> None:
        net = Net(("N", 3, *plane))
        x = net.conv("x", (3, 6), (1,) * len(plane)) if plane else net.gemm("x", 3, 6)
        brought(net, x, net.node("Neg", [x]), len(plane) + 2, False, tmp_path)

    @pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3)])
    def test_channels_on_the_last_axis(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        net = Net(("N", *shape))
        x = net.node("MatMul", ["x", net.weight("w", 3, 6)])
        brought(net, x, net.node("Neg", [x]), len(shape) + 1, True, tmp_path)

    @pytest.mark.parametrize("opset", [7, 11, 13, 18])
    @pytest.mark.parametrize("last", [False, True])
    def test_every_opset(self, tmp_path: Path, last: bool, opset: int) -> None:
        net = Net(("N", 5, 3) if last else ("N", 3, 5), opset=opset)
        if last:
            x = net.node("MatMul", ["x", net.weight("w", 3, 6)])
        else:
            x = net.conv("x", (3, 6), (1,))
        brought(net, x, net.node("Neg", [x]), 3, last, tmp_path)

    @pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
    @pytest.mark.parametrize("opset", [11, 17])
    @pytest.mark.parametrize("last", [False, True])
    def test_other_types(self, tmp_path: Path, last: bool, opset: int, dtype: int) -> None:
        net = Net(("N", 5, 3) if last else ("N", 3), dtype=dtype, opset=opset)
        x = net.node("MatMul", ["x", net.weight("w", 3, 6)]) if last else net.gemm("x", 3, 6)
        brought(net, x, net.node("Neg", [x]), 3 if last else 2, last, tmp_path)

    def test_all_channels_without_variance_stay_without(self, tmp_path: Path) -> None:
        net = Net(("N", 3, 4, 4))
        net.constant("w", np.zeros((6, 3, 1, 1), np.float32))
        x = net.node("Conv", ["x", "w", net.constant("b", np.arange(6, dtype=np.float32))])
        model = net.model(net.node("Neg", [net.node("Neg", [x])]))
        target = Renormalization(1, 4, np.arange(6.0) + 10.0, np.zeros(6))
        view = MomentSpec("neg_1_out", 1, 4, ALL, cross=False)
        measured = observed_moments(model, {"k": view}, feeds_of(model), tmp_path, {x: target})["k"]
        np.testing.assert_allclose(measured.mean, -target.mean, rtol=1e-6)
        np.testing.assert_allclose(measured.moment, 0.0, atol=1e-12)


class TestCentring:
    """A tensor alone is measured as it comes; pairs, and what follows, see it without its mean."""

    @pytest.mark.parametrize("opset", [11, 18])
    @pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
    @pytest.mark.parametrize("last", [False, True])
    def test_the_mean_goes_and_the_covariance_stays(
        self, tmp_path: Path, last: bool, dtype: int, opset: int
    ) -> None:
        net = Net(("N", 5, 3) if last else ("N", 3, 5, 4), dtype=dtype, opset=opset)
        if last:
            x = net.node("Add", [net.node("MatMul", ["x", net.weight("w", 3, 6)]), _shifts(net)])
        else:
            x = net.conv("x", (3, 6))
        behind = net.node("Relu", [x])
        model = net.model(net.node("Identity", [behind]))
        axis, rank = (2, 3) if last else (1, 4)
        views = {
            "alone": MomentSpec(x, axis, rank, ALL, cross=False),
            "pairs": MomentSpec(x, axis, rank, ALL),
            "behind": MomentSpec(behind, axis, rank, ALL),
        }
        feeds = feeds_of(model, 30)
        raw = run(tap(model, x), feeds)[-1]
        centred = raw.astype(np.float64)
        centred -= centred.mean(axis=tuple(a for a in range(rank) if a != axis), keepdims=True)
        assert np.min(np.abs(expected(raw, views["alone"]).mean)) > 0.01
        found = observed_moments(model, views, feeds, tmp_path, {x: Centring(axis, rank)})
        tolerance = 1e-2 if dtype == TensorProto.FLOAT16 else TOLERANCE
        assert_same(found["alone"], expected(raw, views["alone"]), tolerance)
        np.testing.assert_allclose(
            found["pairs"].mean, 0.0, atol=1e-3 if tolerance > 0.001 else 1e-6
        )
        assert_close(found["pairs"].moment, expected(raw, views["pairs"]).moment, tolerance)
        assert_same(found["behind"], expected(np.maximum(centred, 0.0), views["behind"]), tolerance)


def _shifts(net: Net) -> str:
    return net.constant("b", net.cast(np.arange(6.0) - 2.5))
