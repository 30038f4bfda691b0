"""How a group is seen at each consumer, and what is measured there over all samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from lbyl_onnx.channels.analysis import find_channels
from lbyl_onnx.channels.groups import ChannelGroup, GroupBinding, Selection
from lbyl_onnx.compensate.consumer_loss import consumer_loss
from lbyl_onnx.data import source as data_source
from lbyl_onnx.data.input_kind import InputSpec
from lbyl_onnx.data.samples import Samples
from lbyl_onnx.data.source import SampleSource, batch_size, rounded, sample_count
from lbyl_onnx.data.synthetic.feeds import synthetic_feeds
from lbyl_onnx.graph.model_graph import Graph, Node, to_graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.guard.effort import USUAL, Effort
from lbyl_onnx.io.external_data import TensorReader
from lbyl_onnx.io.writer import ModelDraft
from lbyl_onnx.methods.types import Moments
from lbyl_onnx.observe import planning
from lbyl_onnx.observe.accumulate import BLOCKS, MomentAccumulator, SampleMoments
from lbyl_onnx.observe.planning import input_spec, key_of, output_spec, rows_enough, rows_wanted
from lbyl_onnx.observe.run import ObservationRun, measure
from lbyl_onnx.observe.spec import MomentSpec
from lbyl_onnx.types import Array
from tests.support.einsums import EINSUMS
from tests.support.models import MODELS
from tests.support.moments import assert_close, expected, feeds_of, tensor_facts
from tests.support.net import Net
from tests.support.oracle import input_shapes, run, tap
from tests.support.specs import plain_spec

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stored:
    """Samples in memory."""

    arrays: Mapping[str, Array]

    def read(self, rows: NDArray[np.intp]) -> dict[str, Array]:
        return {name: array[rows] for name, array in self.arrays.items()}


def source_of(feeds: Mapping[str, Array], size: int) -> SampleSource:
    """A source that gives these samples, `size` at a time."""
    count = len(next(iter(feeds.values())))
    specs = {name: plain_spec(a.dtype, (size, *a.shape[1:])) for name, a in feeds.items()}
    held = Samples(np.arange(count), Stored(feeds))
    return SampleSource(specs, count, size, 0, supplied=held)


EFFORTS = (USUAL, Effort(pass_macs=10**7, fewest_samples=2, most_samples=32, largest_batch=4))


@dataclass(frozen=True)
class ConsumerCase:
    """A model, and where one of its groups enters a consumer."""

    model: ModelProto
    graph: Graph
    tensor_info: TensorInfo
    group: ChannelGroup
    place: GroupBinding

    def view(self, count: int, largest: int = planning.LARGEST_WINDOW) -> MomentSpec:
        view = input_spec(self.graph, self.tensor_info, self.place, count, largest=largest)
        assert view is not None
        return view

    @property
    def node(self) -> Node:
        return self.graph.nodes[self.place.binding.node]


def consumer_case(model: ModelProto, group: int = 0, consumer: int = 0) -> ConsumerCase:
    tensor_info, graph = tensor_facts(model), to_graph(model)
    actual = find_channels(graph, tensor_info, Selection()).groups[group]
    return ConsumerCase(model, graph, tensor_info, actual, actual.consumers[consumer])


def measured(
    model: ModelProto,
    views: Mapping[str, MomentSpec],
    feeds: Mapping[str, Array],
    folder: Path,
    size: int = 1000,
    alone: int | None = None,
) -> dict[str, SampleMoments]:
    path = folder / "model.onnx"
    onnx.save(model, path)
    run_folder = folder / "run"
    run_folder.mkdir(exist_ok=True)
    here = ObservationRun(
        run_folder, "CPUExecutionProvider", source_of(feeds, size), False, alone=alone
    )
    return measure(ModelDraft.of(model), tensor_facts(model), TensorReader(path), views, {}, here)


def moments(view: MomentSpec, measurement: SampleMoments) -> Moments:
    return Moments(measurement.mean, measurement.second, measurement.rows, view.taps)


def conv_net(
    plane: tuple[int, ...], kernel: tuple[int, ...], attributes: Mapping[str, Any]
) -> ModelProto:
    """Conv 3 -> 4 (1x1), Relu, and a Conv 4 -> 5 with the attributes, which is the consumer."""
    net = Net(("N", 3, *plane))
    x = net.relu(net.conv("x", (3, 4), (1,) * len(plane)))
    inputs = [
        x,
        net.weight("w", 5, 4, *kernel),
        net.constant("b", net.cast(net.rng.normal(size=5))),
    ]
    return net.model(net.head(net.relu(net.node("Conv", inputs, attributes)), 5))


def tokens(rank: int = 3) -> ModelProto:
    net = Net(("N", *(2, 5)[: rank - 2], 6))
    x = net.relu(net.node("MatMul", ["x", net.weight("w0", 6, 8)]))
    return net.model(net.node("MatMul", [x, net.weight("w1", 8, 4)]))


WINDOWED: dict[str, Callable[[], ModelProto]] = {
    "plain": partial(conv_net, (6, 7), (3, 2), {}),
    "pads": partial(conv_net, (6, 7), (3, 3), {"pads": [1, 1, 1, 1]}),
    "uneven pads": partial(conv_net, (6, 7), (3, 2), {"pads": [2, 0, 1, 1]}),
    "strides": partial(conv_net, (7, 8), (3, 3), {"strides": [2, 3], "pads": [1, 1, 1, 1]}),
    "dilations": partial(conv_net, (8, 9), (2, 3), {"dilations": [3, 2], "pads": [1, 2, 1, 2]}),
    "valid": partial(conv_net, (6, 7), (3, 3), {"auto_pad": "VALID", "strides": [2, 2]}),
    "line": partial(conv_net, (12,), (5,), {"pads": [2, 2]}),
    "line, strides": partial(conv_net, (13,), (4,), {"strides": [3], "pads": [0, 2]}),
    "volume": partial(conv_net, (4, 5, 4), (2, 2, 2), {"pads": [0, 1, 0, 1, 0, 1]}),
    **{
        f"{auto}, {strides}, {plane}": partial(
            conv_net, plane, (4, 3), {"auto_pad": auto, "strides": strides}
        )
        for auto in ("SAME_UPPER", "SAME_LOWER")
        for strides, plane in (
            ([1, 1], (6, 7)),
            ([2, 2], (6, 7)),
            ([3, 1], (8, 5)),
        )
    },
}
ENOUGH = 60


def predicted(
    case: ConsumerCase, view: MomentSpec, measurement: SampleMoments
) -> tuple[Floats, Floats]:
    """Mean and covariance of the consumer's output, if the moments are those of its input."""
    node = case.node
    weight = np.moveaxis(case.tensor_info.value(node.inputs[1].name), case.place.binding.axis, 0)
    rows = weight[case.place.positions].astype(np.float64)  # (n, places, out, ..)
    flat = np.moveaxis(rows.reshape(*rows.shape[:3], -1), 2, 3).reshape(-1, rows.shape[2])
    flat = flat * float(node.attrs.get("alpha", 1.0)) if node.op == "Gemm" else flat
    bias: Floats = np.zeros(1)
    if len(node.inputs) > 2:
        bias = case.tensor_info.value(node.inputs[2].name).astype(np.float64).reshape(-1)
        bias = bias * float(node.attrs.get("beta", 1.0)) if node.op == "Gemm" else bias
    assert len(flat) == view.columns
    return measurement.mean @ flat + bias, flat.T @ measurement.second @ flat


def check_prediction(case: ConsumerCase, view: MomentSpec, count: int, folder: Path) -> None:
    """Compare what follows from the moments with the outputs that the consumer really gives."""
    feeds = feeds_of(case.model, count)
    measurement = measured(case.model, {"k": view}, feeds, folder)["k"]
    name = case.node.outputs[0].name
    names = [o.name for o in case.model.graph.output]
    outputs = run(case.model, feeds)[0] if name in names else run(tap(case.model, name), feeds)[-1]
    axis = -1 if case.node.op == "MatMul" else 1
    channels = np.moveaxis(outputs.astype(np.float64), axis, -1)
    rows = channels.reshape(-1, channels.shape[-1])  # -> (rows, out)
    assert measurement.rows == len(rows)
    mean, covariance = predicted(case, view, measurement)
    centred = rows - rows.mean(axis=0)
    assert_close(mean, rows.mean(axis=0))
    assert_close(covariance, centred.T @ centred / len(rows))


class TestWindows:
    @pytest.mark.parametrize("name", WINDOWED)
    def test_the_consumers_output_follows_from_the_moments(self, tmp_path: Path, name: str) -> None:
        case = consumer_case(WINDOWED[name]())
        view = case.view(ENOUGH)
        assert view.window is not None
        assert max(view.strides) == 1
        check_prediction(case, view, ENOUGH, tmp_path)

    def test_they_need_rows_for_their_columns(self) -> None:
        """36 columns, 9 places a sample: 16 samples are the fewest that do."""
        case = consumer_case(conv_net((3, 3), (3, 3), {"pads": [1, 1, 1, 1]}))
        assert case.view(16).window is not None
        assert case.view(15).window is None

    def test_they_have_at_most_so_many_columns(self) -> None:
        case = consumer_case(conv_net((6, 6), (3, 3), {}))
        assert case.view(ENOUGH, largest=36).taps == 9
        assert case.view(ENOUGH, largest=35).taps == 1

    def test_of_one_number_it_is_none(self) -> None:
        assert consumer_case(conv_net((6, 6), (1, 1), {})).view(ENOUGH).window is None

    def test_of_many_places_only_some_are_taken(self, tmp_path: Path) -> None:
        """32,768 rows are enough for a few columns; half of the places give them here."""
        case = consumer_case(conv_net((40, 41), (3, 3), {"pads": [1, 1, 1, 1]}))
        view = case.view(60)
        assert view.strides == (2, 1)
        feeds = {"x": np.random.default_rng(0).standard_normal((60, 3, 40, 41), np.float32)}
        measurement = measured(case.model, {"k": view}, feeds, tmp_path)["k"]
        assert planning.CHEAP_ROWS <= measurement.rows == 60 * 20 * 41
        reference = expected(run(tap(case.model, view.tensor), feeds)[-1], view)
        assert measurement.rows == reference.rows
        assert_close(measurement.second, reference.moment / reference.rows)


PLAIN: dict[str, Callable[[], ModelProto]] = {
    "conv of one": partial(conv_net, (6, 6), (1, 1), {}),
    "mlp": MODELS["mlp"],
    "mlp_not_transposed": MODELS["mlp_not_transposed"],
    "mlp_alpha_beta": MODELS["mlp_alpha_beta"],
    "mlp_row_bias": MODELS["mlp_row_bias"],
    "double": MODELS["double"],
    "tokens": tokens,
    "tokens of rank 4": partial(tokens, 4),
}


class TestOtherConsumers:
    @pytest.mark.parametrize("name", PLAIN)
    def test_the_output_follows_from_the_moments(self, tmp_path: Path, name: str) -> None:
        case = consumer_case(PLAIN[name]())
        view = case.view(ENOUGH)
        assert (view.taps, max(view.strides, default=1)) == (1, 1)
        check_prediction(case, view, ENOUGH, tmp_path)

    @pytest.mark.parametrize("name", ["flatten_spatial", "reshape_from_shape"])
    def test_behind_flatten_each_place_is_a_column_of_its_own(
        self, tmp_path: Path, name: str
    ) -> None:
        case = consumer_case(MODELS[name]())
        count = planning.ROWS_PER_COLUMN * case.place.positions.size
        view = case.view(count)
        assert view.joint
        assert view.taps == case.place.positions.shape[1] > 1
        check_prediction(case, view, count, tmp_path)

    @pytest.mark.parametrize("name", ["flatten_spatial", "reshape_from_shape"])
    def test_with_too_few_samples_places_are_samples(self, tmp_path: Path, name: str) -> None:
        case = consumer_case(MODELS[name]())
        few = planning.ROWS_PER_COLUMN * case.place.positions.size - 1
        assert not case.view(few).joint
        check_activation(case, case.view(few), tmp_path)


def check_activation(case: ConsumerCase, view: MomentSpec, folder: Path, count: int = 20) -> None:
    """Compare a view with the activation that the model gives."""
    feeds = feeds_of(case.model, count)
    reference = expected(run(tap(case.model, view.tensor), feeds)[-1], view)
    measurement = measured(case.model, {"k": view}, feeds, folder)["k"]
    assert measurement.rows == reference.rows
    assert_close(measurement.mean, reference.mean)
    assert_close(measurement.second, reference.moment / reference.rows)


def grouped(groups: int) -> ModelProto:
    """Conv 3 -> 8, Relu, then a Conv of several groups, and classes."""
    net = Net(("N", 3, 6, 6))
    x = net.relu(net.conv("x", (3, 8)))
    inputs = [x, net.weight("w", 12, 8 // groups, 3, 3)]
    x = net.relu(net.node("Conv", inputs, {"group": groups, "pads": [1, 1, 1, 1]}))
    return net.model(net.head(x, 12))


class TestPlaces:
    def test_a_branch_of_a_concat(self, tmp_path: Path) -> None:
        """The second branch, 7 channels, lies behind the first one's 5."""
        case = consumer_case(MODELS["inception"](), group=2)
        view = case.view(1)
        assert view.positions.reshape(-1).tolist() == list(range(5, 12))
        check_activation(case, view, tmp_path)

    def test_a_window_over_a_branch_of_a_concat(self, tmp_path: Path) -> None:
        case = consumer_case(MODELS["inception"](), group=1)
        view = case.view(ENOUGH)
        assert view.taps == 9
        assert view.positions.reshape(-1).tolist() == list(range(5))
        check_activation(case, view, tmp_path)

    @pytest.mark.parametrize("count", [1, ENOUGH])
    def test_one_layer_in_both_halves_of_a_concat(self, tmp_path: Path, count: int) -> None:
        """Two numbers of each channel, which are scaled differently."""
        case = consumer_case(MODELS["forked_scales"]())
        view = case.view(count)
        assert view.positions.tolist() == [[i, i + 8] for i in range(8)]
        check_activation(case, view, tmp_path)

    def test_a_conv_of_several_groups_shares_a_weight_among_channels(self, tmp_path: Path) -> None:
        """Channel i of each conv group takes the same place in the weight."""
        case = consumer_case(grouped(2))
        view = case.view(ENOUGH)
        assert view.window is None
        assert view.positions.tolist() == [[i, i + 4] for i in range(4)]
        check_activation(case, view, tmp_path)

    def test_behind_a_depthwise_conv(self, tmp_path: Path) -> None:
        net = Net(("N", 3, 6, 6))
        x = net.block("x", (3, 8))
        inputs = [x, net.weight("w", 8, 1, 3, 3)]
        x = net.relu(net.node("Conv", inputs, {"group": 8, "pads": [1, 1, 1, 1]}))
        case = consumer_case(net.model(net.head(net.conv(x, (8, 6), (1, 1)), 6)))
        view = case.view(ENOUGH)
        assert view.tensor == x  # and not the depthwise Conv's input
        assert case.node.op == "Conv"
        check_activation(case, view, tmp_path)

    @pytest.mark.parametrize("name", ["squeeze_excite", "dense", "nhwc", "token_mixing"])
    def test_every_consumer_of_every_group_is_seen(self, tmp_path: Path, name: str) -> None:
        model = MODELS[name]()
        tensor_info, graph = tensor_facts(model), to_graph(model)
        groups = find_channels(graph, tensor_info, Selection()).groups
        keys = set()
        for group in groups:
            for place in group.consumers:
                case = ConsumerCase(model, graph, tensor_info, group, place)
                check_activation(case, case.view(20), tmp_path)
                keys.add(key_of(group, place))
        assert len(keys) == sum(len(group.consumers) for group in groups) > 0


class TestStride:
    @pytest.mark.parametrize("samples", [1, 50, 3000, 50_000])
    @pytest.mark.parametrize("name", ["conv of one", "mlp", "tokens"])
    def test_no_larger_one_leaves_enough_rows(self, name: str, samples: int) -> None:
        case = consumer_case(PLAIN[name]())
        view = case.view(samples)
        shape = case.tensor_info.shape(view.tensor) or ()
        sides = [d or 0 for d in (shape[2:] if view.axis == 1 else shape[1:-1])]
        in_plane = view.axis == 1 and bool(sides)

        def rows(strides: Sequence[int]) -> int:
            if in_plane:
                return samples * int(
                    np.prod([-(-d // s) for d, s in zip(sides, strides, strict=True)])
                )
            return samples * int(np.prod(sides)) // max(strides, default=1)

        enough = rows_enough(view.columns)
        assert rows(view.strides) >= min(rows((1,) * len(sides)), enough)
        if not sides:
            assert max(view.strides, default=1) == 1  # a row for each sample: all of them count
        for axis, stride in enumerate(view.strides):
            wider = [s + (i == axis) for i, s in enumerate(view.strides)]
            if not in_plane or (stride == min(view.strides) and stride < sides[axis]):
                assert rows(wider) < enough
        if sides and samples == 50_000:
            assert max(view.strides) > 1


class TestMerging:
    @pytest.mark.parametrize("size", [1, 4, 7, 20])
    @pytest.mark.parametrize("name", ["chain_2d", "mlp", "matmul_chain"])
    def test_mini_batches_are_one_batch(self, tmp_path: Path, name: str, size: int) -> None:
        """Twenty samples; seven at a time leave six for the last mini-batch."""
        case = consumer_case(MODELS[name]())
        output = output_spec(case.graph, case.tensor_info, case.place.binding.node)
        assert output is not None
        views = {"in": case.view(20), "out": output}
        feeds = feeds_of(case.model, 20, mean=3.0)
        measurement = measured(case.model, views, feeds, tmp_path, size)
        whole = measured(case.model, views, feeds, tmp_path)
        for key in views:
            assert measurement[key].rows == whole[key].rows
            assert_close(measurement[key].mean, whole[key].mean)
            assert_close(measurement[key].second, whole[key].second)

    @pytest.mark.parametrize("cross", [True, False])
    @pytest.mark.parametrize("sizes", [(1, 1), (3, 50), (7, 7, 7), (1, 100, 2, 9), (2, 3) * 99])
    def test_it_is_the_moments_of_all_rows(self, sizes: tuple[int, ...], cross: bool) -> None:
        rng = np.random.default_rng(0)
        rows = 1e4 + rng.standard_normal((sum(sizes), 4)) * [1.0, 2.0, 3.0, 0.0]
        rows[: sizes[0]] += 50.0
        parts = np.split(rows, np.cumsum(sizes)[:-1])
        merged, whole = running_of(parts, cross).measured(), running_of([rows], cross).measured()
        assert merged.rows == whole.rows
        # Means of 1e4 in float64; a difference of raw second moments would lose eight digits.
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-14)
        np.testing.assert_allclose(merged.second, whole.second, rtol=1e-11, atol=1e-9)

    def test_what_is_not_finite_stays_so(self) -> None:
        good, bad = np.ones((3, 2)), np.array([[np.nan, 1.0], [0.0, 2.0]])
        for parts in ([good, bad], [bad, good]):
            measurement = running_of(parts, True).measured()
            assert np.isnan(measurement.mean[0])
            assert np.isnan(measurement.second[0, 0])
            assert np.isfinite(measurement.second[1, 1])

    def test_the_means_of_many_blocks_are_not_all_kept(self) -> None:
        running = running_of([np.ones((2, 3))] * 1000, True)
        assert len(running.rows) == len(running.means) <= BLOCKS


def running_of(parts: Sequence[Floats], cross: bool) -> MomentAccumulator:
    columns = np.arange(parts[0].shape[1])[:, None]
    running = MomentAccumulator.of(MomentSpec("x", 1, 2, columns, cross=cross))
    for rows in parts:
        centred = rows - rows.mean(axis=0)
        sums = centred.T @ centred if cross else np.sum(centred**2, axis=0)
        running.add(len(rows), rows.mean(axis=0), [sums])
    return running


class TestFewerSamples:
    def test_columns_that_count_alone_are_measured_on_the_first(self, tmp_path: Path) -> None:
        case = consumer_case(MODELS["chain_2d"]())
        output = output_spec(case.graph, case.tensor_info, case.place.binding.node)
        assert output is not None
        feeds = feeds_of(case.model, 20, mean=3.0)
        views = {"in": case.view(20), "out": output}
        first = {name: value[:10] for name, value in feeds.items()}
        few = measured(case.model, views, feeds, tmp_path, size=5, alone=8)
        for key, those in (("in", feeds), ("out", first)):
            expected = measured(case.model, {key: views[key]}, those, tmp_path)[key]
            assert few[key].rows == expected.rows
            assert_close(few[key].second, expected.second)
        only = measured(case.model, {"out": output}, feeds, tmp_path, size=5, alone=8)["out"]
        np.testing.assert_array_equal(only.second, few["out"].second)


class TestFiles:
    def check(self, model: ModelProto, folder: Path) -> None:
        case = consumer_case(model)
        check_activation(case, case.view(20), folder)

    def test_a_model_of_one_sample_takes_mini_batches(self, tmp_path: Path) -> None:
        net = Net((1, 3, 6, 6))
        case = consumer_case(net.model(net.head(net.block(net.block("x", (3, 8)), (8, 6)), 6)))
        feeds = {"x": np.random.default_rng(0).standard_normal((20, 3, 6, 6), np.float32)}
        view = case.view(20)
        measurement = measured(case.model, {"k": view}, feeds, tmp_path, 10)["k"]
        parts = [{"x": feeds["x"][i : i + 1]} for i in range(20)]
        tapped = tap(case.model, view.tensor)
        activation = np.concatenate([run(tapped, part)[-1] for part in parts])
        reference = expected(activation, view)
        assert measurement.rows == reference.rows
        assert_close(measurement.second, reference.moment / reference.rows)
        assert case.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1

    @pytest.mark.parametrize("opset", [7, 11, 13, 20, 22])
    def test_every_opset(self, tmp_path: Path, opset: int) -> None:
        self.check(MODELS[f"opset_{opset}"](), tmp_path)

    def test_ir_version_3(self, tmp_path: Path) -> None:
        model = MODELS["ir_version_3"]()
        assert model.ir_version == 3
        case, plain = consumer_case(model), consumer_case(MODELS["opset_7"]())
        view = case.view(20)
        feeds = feeds_of(plain.model, 20)
        measurement = measured(model, {"k": view}, feeds, tmp_path)["k"]
        reference = expected(run(tap(plain.model, view.tensor), feeds)[-1], view)
        assert_close(measurement.second, reference.moment / reference.rows)

    @pytest.mark.parametrize("name", ["constant_nodes", "identity_chains", "bfloat16_weights"])
    def test_weights_that_are_computed(self, tmp_path: Path, name: str) -> None:
        self.check(MODELS[name](), tmp_path)

    @pytest.mark.parametrize("build", [MODELS["chain_2d"], MODELS["ir_version_3"]])
    def test_external_data(self, tmp_path: Path, build: Callable[[], ModelProto]) -> None:
        model, folder = build(), tmp_path / "in"
        case = consumer_case(model)
        view = case.view(20)
        feeds = feeds_of(MODELS["chain_2d"](), 20)
        expected = measured(model, {"k": view}, feeds, tmp_path)["k"]
        folder.mkdir()
        onnx.save(
            build(),
            folder / "m.onnx",
            save_as_external_data=True,
            location="w.bin",
            size_threshold=0,
        )
        outside = onnx.load(folder / "m.onnx", load_external_data=False)
        read = TensorReader(folder / "m.onnx")
        shapes = input_shapes(outside, 1, 8), input_shapes(outside, 2, 11)
        tensor_info = TensorInfo(outside, *shapes, read)
        here = ObservationRun(folder, "CPUExecutionProvider", source_of(feeds, 20), False)
        actual = measure(ModelDraft.of(outside), tensor_info, read, {"k": view}, {}, here)["k"]
        np.testing.assert_array_equal(actual.second, expected.second)
        left = sorted(file.name for file in folder.iterdir())
        assert left == ["m.onnx", "w.bin"]  # the instrumented model's own files are gone


class TestOutputs:
    @pytest.mark.parametrize(
        ("name", "axis", "channels"), [("chain_2d", 1, 12), ("mlp", 1, 9), ("matmul_chain", 2, 9)]
    )
    def test_each_channel_alone(self, tmp_path: Path, name: str, axis: int, channels: int) -> None:
        case = consumer_case(MODELS[name]())
        view = output_spec(case.graph, case.tensor_info, case.place.binding.node)
        assert view is not None
        assert (view.axis, view.columns, view.cross) == (axis, channels, False)
        assert view.tensor == case.node.outputs[0].name
        feeds = feeds_of(case.model, 20)
        reference = expected(run(tap(case.model, view.tensor), feeds)[-1], view)
        measurement = measured(case.model, {"k": view}, feeds, tmp_path)["k"]
        assert measurement.second.shape == (channels,)
        assert_close(measurement.mean, reference.mean)
        assert_close(measurement.second, reference.moment)


class TestReading:
    @pytest.mark.parametrize("name", ["pads", "dilations", "line"])
    def test_the_gram_gives_the_variance_of_the_outputs(self, tmp_path: Path, name: str) -> None:
        case = consumer_case(WINDOWED[name]())
        check_reading(case, case.node.outputs[0].name, ENOUGH, tmp_path)

    @pytest.mark.parametrize("name", PLAIN)
    def test_without_a_window(self, tmp_path: Path, name: str) -> None:
        case = consumer_case(PLAIN[name]())
        if name == "mlp_alpha_beta" or name == "mlp_row_bias":
            alpha = float(case.node.attrs["alpha"])
        else:
            alpha = 1.0  # what all outputs are multiplied by says nothing of the channels
        check_reading(case, case.node.outputs[0].name, ENOUGH, tmp_path, alpha)

    def test_joint_places(self, tmp_path: Path) -> None:
        case = consumer_case(MODELS["flatten_spatial"]())
        check_reading(case, case.node.outputs[0].name, 384, tmp_path)

    def test_outputs_count_as_the_batch_normalization_scales_them(self, tmp_path: Path) -> None:
        case = consumer_case(MODELS["chain_2d"]())
        norm = case.node.outputs[0].outputs[0]
        assert norm.op == "BatchNormalization"
        check_reading(case, norm.outputs[0].name, ENOUGH, tmp_path)

    @pytest.mark.parametrize("name", ["tokens", "weight first", "axis 1", "between gemms"])
    def test_an_einsum(self, name: str, tmp_path: Path) -> None:
        case = consumer_case(EINSUMS[name][0]())
        output = case.node.outputs[0].name
        check_reading(case, output, ENOUGH, tmp_path, axis=1 if name == "axis 1" else -1)

    def test_a_batch_normalization_of_another_axis_does_not_scale_outputs(self) -> None:
        """Tokens as many as outputs, and a BatchNormalization over the tokens."""
        net = Net(("N", 4, 6))
        x = net.relu(net.node("MatMul", ["x", net.weight("w0", 6, 8)]))
        x = net.batch_norm(net.node("MatMul", [x, net.weight("w1", 8, 4)]), 4)
        case = consumer_case(net.model(x))
        plain = Moments(np.zeros(8), np.eye(8), 10)
        loss = consumer_loss(case.graph, case.tensor_info, case.place, plain)
        weight = case.tensor_info.value("w1").astype(np.float64)
        np.testing.assert_allclose(loss.gram, weight @ weight.T)

    def test_a_scale_that_is_no_number_is_left_out(self) -> None:
        model = MODELS["chain_2d"]()
        stored = {t.name: t for t in model.graph.initializer}
        var = numpy_helper.to_array(stored["var4"]).copy()
        var[2] = -1.0
        stored["var4"].CopyFrom(numpy_helper.from_array(var, "var4"))
        case = consumer_case(model)
        plain = Moments(np.zeros(8), np.eye(8), 10)
        loss = consumer_loss(case.graph, case.tensor_info, case.place, plain)
        weight = case.tensor_info.value("w3").astype(np.float64)  # (12, 8, 3, 3)
        np.testing.assert_allclose(loss.gram, np.einsum("oikl,ojkl->ij", weight, weight))


def check_reading(
    case: ConsumerCase,
    output: str,
    count: int,
    folder: Path,
    alpha: float = 1.0,
    axis: int | None = None,
) -> None:
    """tr(B^T B C) is the sum of the variances of the consumer's outputs."""
    view, feeds = case.view(count), feeds_of(case.model, count)
    measurement = measured(case.model, {"k": view}, feeds, folder)["k"]
    loss = consumer_loss(case.graph, case.tensor_info, case.place, moments(view, measurement))
    values = run(tap(case.model, output), feeds)[-1].astype(np.float64)
    if axis is None:
        axis = -1 if case.node.op == "MatMul" else 1
    rows = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])  # -> (rows, out)
    total = float(np.sum(np.var(rows, axis=0)))
    assert alpha**2 * np.trace(loss.gram @ measurement.second) == pytest.approx(total, rel=1e-4)


class TestSamples:
    SPECS: Mapping[str, InputSpec] = {
        "x": plain_spec(np.float32, (4, 3, 8, 8)),
        "ids": plain_spec(np.int64, (4, 5)),
        "half": plain_spec(np.float16, (1, 7)),
    }

    def test_they_are_the_same_each_time(self) -> None:
        source = SampleSource(self.SPECS, 12, 4, seed=3)
        first, second = list(source.batches()), list(source.batches())
        assert len(first) == 3
        for one, two in zip(first, second, strict=True):
            for name, spec in self.SPECS.items():
                assert (one[name].dtype, one[name].shape) == (spec.dtype, spec.shape)
                np.testing.assert_array_equal(one[name], two[name])

    def test_they_differ_between_mini_batches_and_seeds(self) -> None:
        one, two = (list(SampleSource(self.SPECS, 8, 4, seed=s).batches()) for s in (0, 1))
        assert not np.array_equal(one[0]["x"], one[1]["x"])
        assert not np.array_equal(one[0]["x"], two[0]["x"])

    def test_more_samples_begin_with_the_fewer(self) -> None:
        few, many = (list(SampleSource(self.SPECS, n, 4, seed=0).batches()) for n in (4, 8))
        np.testing.assert_array_equal(few[0]["x"], many[0]["x"])

    @pytest.mark.parametrize(("first", "files"), [(None, 3), (2, 2), (0, 0)])
    def test_the_first_are_kept_from_one_pass_to_the_next(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int | None, files: int
    ) -> None:
        source = SampleSource(self.SPECS, 12, 4, seed=3)
        made: list[tuple[int, ...]] = []

        def counted(inputs: Mapping[str, InputSpec], *rest: Any) -> object:
            made.extend(spec.shape for spec in inputs.values())
            return synthetic_feeds(inputs, *rest)

        monkeypatch.setattr(data_source, "synthetic_feeds", counted)
        expected = list(source.batches())
        made.clear()
        for passed in (1, 2):
            actual = list(source.batches(tmp_path, first))
            assert len(list(tmp_path.iterdir())) == files
            assert len(made) == len(self.SPECS) * (3 + (passed - 1) * (3 - files))
            for one, two in zip(actual, expected, strict=True):
                assert one.keys() == two.keys()
                for name in one:
                    np.testing.assert_array_equal(one[name], two[name])

    def test_the_users_own_are_all_given(self) -> None:
        x = np.arange(22.0, dtype=np.float32).reshape(11, 2)
        parts = [batch["x"] for batch in source_of({"x": x}, 4).batches()]
        assert [len(part) for part in parts] == [4, 4, 3]
        np.testing.assert_array_equal(np.concatenate(parts), x)

    @pytest.mark.parametrize("elements", [1, 10**4, 10**6, 10**8, 10**12])
    @pytest.mark.parametrize("requested", [1, 64, 10_000])
    @pytest.mark.parametrize("effort", EFFORTS)
    def test_a_mini_batch_fits_into_memory(
        self, elements: int, requested: int, effort: Effort
    ) -> None:
        size = batch_size(elements, requested, effort)
        assert 1 <= size <= min(requested, effort.largest_batch)
        assert size == 1 or 4 * elements * size <= data_source.ACTIVATION

    @pytest.mark.parametrize("macs", [0, 1, 10**6, 10**9, 10**12])
    @pytest.mark.parametrize("requested", [1, 256, 10**6])
    @pytest.mark.parametrize("effort", EFFORTS)
    def test_a_pass_is_affordable(self, macs: int, requested: int, effort: Effort) -> None:
        count = sample_count(macs, 1, requested, effort)
        assert 1 <= count <= min(requested, effort.most_samples)
        assert count <= effort.fewest_samples or count * macs <= effort.pass_macs

    @pytest.mark.parametrize(("values", "count"), [(100, 40), (101, 39), (500, 16), (10**6, 16)])
    def test_large_samples_are_no_more_than_enough(self, values: int, count: int) -> None:
        effort = Effort(drawn_values=4000, enough_samples=16, fewest_samples=2)
        assert sample_count(1, values, 64, effort) == count

    @pytest.mark.parametrize(("count", "size", "whole"), [(1, 8, 8), (8, 8, 8), (9, 8, 16)])
    def test_a_count_is_whole_mini_batches(self, count: int, size: int, whole: int) -> None:
        assert rounded(count, size) == whole

    def test_the_views_decide_how_many_are_wanted(self) -> None:
        """8 rows for each column: 80 of 10 channels at one row a sample, 20 at four."""
        view = MomentSpec("x", 1, 2, np.arange(10)[:, None])
        assert rows_wanted([(view, 1)]) == 80
        assert rows_wanted([(view, 4)]) == 20
        assert rows_wanted([(view, 3), (view, 81)]) == 27
        assert rows_wanted([]) == 1


def test_float16_is_measured_in_float32(tmp_path: Path) -> None:
    """A sum of squares beyond 65,504 would be infinite in float16."""
    net = Net(("N", 3, 8, 8), dtype=TensorProto.FLOAT16)
    case = consumer_case(net.model(net.head(net.relu(net.conv(net.conv("x", (3, 8)), (8, 6))), 6)))
    view = case.view(200)
    feeds = feeds_of(case.model, 200, mean=20.0)
    measurement = measured(case.model, {"k": view}, feeds, tmp_path)["k"]
    reference = expected(run(tap(case.model, view.tensor), feeds)[-1], view)
    assert reference.moment.max() > 65_504
    # Roundings of float16, 5e-4, fall to either side in the two runs.
    assert_close(measurement.second, reference.moment / reference.rows, 2e-3)
