"""Moments of samples of different sizes, which are measured a size at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from lbyl_onnx.channels.analysis import find_channels
from lbyl_onnx.channels.groups import Selection
from lbyl_onnx.data.padding import without_padding
from lbyl_onnx.data.samples import Input, Samples, SampleShapes
from lbyl_onnx.data.source import SampleSource
from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.io.external_data import TensorReader
from lbyl_onnx.io.writer import ModelDraft
from lbyl_onnx.observe.accumulate import MomentAccumulator, SampleMoments, add_outputs
from lbyl_onnx.observe.graph_builder import outputs_of
from lbyl_onnx.observe.planning import input_spec, output_spec
from lbyl_onnx.observe.run import ObservationRun, measure
from lbyl_onnx.observe.spec import MomentSpec
from lbyl_onnx.types import Array
from tests.support.moments import assert_close, rows_of, tensor_facts
from tests.support.net import Net
from tests.support.oracle import run, tap
from tests.support.specs import plain_spec

Floats = NDArray[np.float64]
RNG = np.random.default_rng


@dataclass(frozen=True)
class Each:
    """Samples one by one, of any sizes."""

    feeds: tuple[Mapping[str, Array], ...]

    def read(self, rows: NDArray[np.intp]) -> dict[str, Array]:
        return {n: np.stack([self.feeds[row][n] for row in rows]) for n in self.feeds[0]}


def samples_of(*feeds: Mapping[str, Array]) -> Samples:
    shapes = SampleShapes.of([{n: a.shape for n, a in sample.items()} for sample in feeds])
    return Samples(np.arange(len(feeds)), Each(feeds), shapes)


def measured(
    model: ModelProto, view: MomentSpec, samples: Samples, folder: Path, size: int = 2
) -> SampleMoments:
    onnx.save(model, folder / "model.onnx")
    shape = next(samples.batches(1))
    specs = {name: plain_spec(a.dtype, (size, *a.shape[1:])) for name, a in shape.items()}
    source = SampleSource(specs, samples.count, size, 0, supplied=samples)
    here = ObservationRun(folder, "CPUExecutionProvider", source, False)
    read = TensorReader(folder / "model.onnx")
    return measure(ModelDraft.of(model), tensor_facts(model), read, {"k": view}, {}, here)["k"]


def check(
    model: ModelProto, view: MomentSpec, samples: Samples, wanted: Floats, folder: Path
) -> None:
    """Compare with the moments of rows that were gathered sample by sample."""
    found = measured(model, view, samples, folder)
    assert found.rows == len(wanted)
    centred = wanted - wanted.mean(axis=0)
    second = centred.T @ centred if view.cross else np.sum(centred**2, axis=0)
    assert_close(found.mean, wanted.mean(axis=0))
    assert_close(found.second, second / len(wanted))


def view_of(model: ModelProto, count: int) -> MomentSpec:
    tensor_info, graph = tensor_facts(model), to_graph(model)
    group = find_channels(graph, tensor_info, Selection()).groups[0]
    view = input_spec(graph, tensor_info, group.consumers[0], count)
    assert view is not None
    return view


def rows(model: ModelProto, view: MomentSpec, feeds: Mapping[str, Array]) -> Floats:
    """The rows of a view of one sample; the whole of the tensor is read."""
    batch = {name: array[None] for name, array in feeds.items()}
    return rows_of(run(tap(model, view.tensor), batch)[-1], view)


def windowed(strides: tuple[int, int], auto: str) -> ModelProto:
    net = Net(("N", 3, "H", "W"))
    x = net.relu(net.conv("x", (3, 4), (1, 1)))
    attributes = {"strides": list(strides), **({"auto_pad": auto} if auto else {})}
    last = net.node("Conv", [x, net.weight("w", 5, 4, 3, 3)], attributes)
    return net.model(net.head(net.relu(last), 5))


SIZES = ((8, 8), (8, 7), (9, 12), (8, 8), (5, 6))


@pytest.mark.parametrize("auto", ["", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("thinned", [False, True])
def test_images_of_several_sizes(
    tmp_path: Path, auto: str, strides: tuple[int, int], thinned: bool
) -> None:
    """Each window as the layer sees it: the pads of `auto_pad` follow the size of the image."""
    model = windowed(strides, auto)
    view = view_of(model, 200)
    assert view.window is not None
    if thinned:  # as where there are more places than are wanted
        view = MomentSpec(
            view.tensor, view.axis, view.rank, view.positions, strides=(2, 1), window=view.window
        )
    feeds = [{"x": RNG(n).standard_normal((3, *s)).astype("f4")} for n, s in enumerate(SIZES)]
    conv = next(node for node in model.graph.node if node.input[0] == view.tensor)
    each = [_windows(run(tap(model, view.tensor), {"x": f["x"][None]})[-1], conv) for f in feeds]
    kept = [w[:, :: view.strides[0], :: view.strides[1]] for w in each]
    wanted = np.concatenate([w.reshape(len(w), -1).T for w in kept])  # -> (rows, columns)
    check(model, view, samples_of(*feeds), wanted, tmp_path)


def _windows(x: Array, conv: onnx.NodeProto) -> Floats:
    """(columns, height, width) of what a Conv sees: one run of it for each tap."""
    kernel = np.eye(4 * 9).reshape(36, 4, 3, 3).astype(np.float32)
    copy = onnx.NodeProto()
    copy.CopyFrom(conv)
    copy.input[:], copy.output[:] = ["data", "taps"], ["seen"]
    graph = helper.make_graph(
        [copy],
        "taps",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("seen", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(kernel, "taps")],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    seen: Floats = run(model, {"data": x})[0][0].astype(np.float64)
    return seen


def tokens() -> ModelProto:
    """Two layers on (N, T, 6), and a mean over the positions that the mask leaves."""
    net = Net(("N", "T", 6))
    net.inputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", "T"]))
    x = net.relu(net.node("MatMul", ["x", net.weight("w0", 6, 8)]))
    y = net.node("MatMul", [x, net.weight("w1", 8, 4)])
    column = net.node("Unsqueeze", ["mask", net.ints(2)])
    total = net.node("ReduceSum", [net.node("Mul", [y, column]), net.ints(1)], {"keepdims": 0})
    return net.model(total)


LENGTHS = (4, 2, 4, 7, 2, 2)


def test_sequences_of_several_lengths(tmp_path: Path) -> None:
    model = tokens()
    feeds = [
        {"x": RNG(n).standard_normal((t, 6)).astype("f4"), "mask": np.ones(t, np.float32)}
        for n, t in enumerate(LENGTHS)
    ]
    view = view_of(model, 6)
    assert view.cross
    wanted = np.concatenate([rows(model, view, f) for f in feeds])
    check(model, view, samples_of(*feeds), wanted, tmp_path)
    graph, tensor_info = to_graph(model), tensor_facts(model)
    alone = output_spec(graph, tensor_info, 2)
    assert alone is not None
    wanted = np.concatenate([rows(model, alone, f) for f in feeds])
    check(model, alone, samples_of(*feeds), wanted, tmp_path)


def test_padding_does_not_count(tmp_path: Path) -> None:
    """Padded positions hold large values, which would be seen in every moment."""
    model, longest = tokens(), max(LENGTHS)
    own = [RNG(n).standard_normal((t, 6)).astype("f4") for n, t in enumerate(LENGTHS)]
    padded = [
        {
            "x": np.concatenate([x, np.full((longest - len(x), 6), 1e3, np.float32)]),
            "mask": (np.arange(longest) < len(x)).astype(np.float32),
        }
        for x in own
    ]
    inputs = [
        Input("x", np.dtype("f4"), (None, None, 6), symbols=("N", "T", None)),
        Input("mask", np.dtype("f4"), (None, None), symbols=("N", "T")),
    ]
    view = view_of(model, 6)
    whole = [{"x": x, "mask": np.ones(len(x), np.float32)} for x in own]
    wanted = np.concatenate([rows(model, view, f) for f in whole])
    samples = without_padding(samples_of(*padded), inputs)
    check(model, view, samples, wanted, tmp_path)


def test_a_batch_without_rows_adds_nothing() -> None:
    view = MomentSpec("t", 1, 3, np.arange(2)[:, None])
    names = outputs_of("k", view)
    running = MomentAccumulator.of(view)
    empty = {"mean": np.full((2, 1), np.nan), "shape": np.array([2, 0]), "0": np.zeros((2, 2))}
    add_outputs(running, {names[part]: value for part, value in empty.items()}, "k", view)
    full = {"mean": np.ones((2, 1)), "shape": np.array([2, 5]), "0": 5.0 * np.eye(2)}
    add_outputs(running, {names[part]: value for part, value in full.items()}, "k", view)
    found = running.measured()
    assert (found.rows, found.mean.tolist()) == (5, [1.0, 1.0])
    assert np.array_equal(found.second, np.eye(2))


def test_rows_that_wait_for_more_are_copied() -> None:
    """What is lent is written over by the next run."""
    running = MomentAccumulator.of(MomentSpec("t", 1, 3, np.arange(2)[:, None], cross=True))
    blocks = RNG(0).standard_normal((3, 2, 5)).astype(np.float32)
    blocks -= blocks.mean(axis=2, keepdims=True)
    lent = np.empty((2, 5), np.float32)
    for block in blocks:
        lent[...] = block
        running.add_deviations(np.zeros((2, 1)), lent)
    lent[...] = np.nan
    found, rows = running.measured(), np.concatenate(blocks, axis=1).astype(np.float64)
    assert found.rows == 15
    # Products of float32 values, summed in float32.
    np.testing.assert_allclose(found.second, rows @ rows.T / 15, rtol=1e-5, atol=1e-6)


def test_no_rows_at_all_have_no_moments() -> None:
    found = MomentAccumulator.of(MomentSpec("t", 1, 3, np.arange(2)[:, None])).measured()
    assert found.rows == 0
    assert np.all(np.isnan(found.mean))
    assert np.all(np.isnan(found.second))
