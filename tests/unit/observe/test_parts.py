"""Second moments: products of columns, and mini-batches that are run in parts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from lbyl_onnx.data.samples import Samples
from lbyl_onnx.data.source import SampleSource
from lbyl_onnx.io.external_data import TensorReader
from lbyl_onnx.io.writer import ModelDraft
from lbyl_onnx.observe.accumulate import GATHERED, MomentAccumulator, SampleMoments, products
from lbyl_onnx.observe.run import ObservationRun, aligned, divided, measure
from lbyl_onnx.observe.spec import MANY, MomentSpec, Renormalization
from lbyl_onnx.runtime import execute
from lbyl_onnx.types import Array
from tests.support.models import MODELS
from tests.support.moments import feeds_of, tensor_facts
from tests.support.net import Net
from tests.support.specs import plain_spec
from tests.unit.observe.test_run import Stored


@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("edges", [[0, 7], [0, 3, 7], [0, 1, 2, 7]])
def test_products_are_those_of_float64(layout: Literal["C", "F"], edges: list[int]) -> None:
    centred = np.random.default_rng(0).standard_normal((7, 50)).astype(np.float32)
    strips = [slice(a, b) for a, b in itertools.pairwise(edges)]
    found = np.zeros((7, 7))
    for place, part in zip(
        strips, products(np.asarray(centred, order=layout), strips), strict=True
    ):
        found[place, place.start :] = part
    wide = centred.astype(np.float64)
    np.testing.assert_allclose(np.triu(found), np.triu(wide @ wide.T), atol=1e-4)


def test_products_of_what_is_not_finite_spoil_no_others() -> None:
    centred = np.ones((3, 4), np.float32)
    centred[1, 2] = np.nan
    (found,) = products(centred, [slice(0, 3)])
    assert np.isnan(found[1]).all()
    assert found[0, [0, 2]].tolist() == [4.0, 4.0]


@pytest.mark.parametrize("sizes", [[3, 4, 600, 1], [700, 5], [2, 2]])
def test_small_blocks_are_gathered(sizes: list[int]) -> None:
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((size, 4)) + 5.0 for size in sizes]
    running = MomentAccumulator.of(MomentSpec("x", 1, 2, np.arange(4)[:, None]))
    for block in rows:
        mean = block.mean(axis=0)
        running.add_deviations(mean, (block - mean).astype(np.float32).T)
        assert sum(waiting.shape[1] for waiting in running.waiting) < GATHERED
    found, whole = running.measured(), np.concatenate(rows)
    assert found.rows == len(whole)
    np.testing.assert_allclose(found.mean, whole.mean(axis=0))
    np.testing.assert_allclose(found.second, np.cov(whole.T, bias=True), atol=1e-5)


def test_parts_begin_where_a_stride_does() -> None:
    net = Net(("N", 5, 6))
    model = net.model(net.relu("x"))
    info = tensor_facts(model)
    view = MomentSpec("relu_1_out", 2, 3, np.arange(6)[:, None], strides=(3,))
    assert aligned(8, info, [view]) == 6
    assert aligned(1, info, [view]) == 3
    assert aligned(8, info, []) == 8


def test_inputs_that_differ_in_their_samples_stay_whole() -> None:
    feeds = {"x": np.zeros((4, 2)), "state": np.zeros((2, 4))}
    assert list(divided(feeds, 1)) == [feeds]


def moments(
    model: ModelProto,
    views: Mapping[str, MomentSpec],
    feeds: Mapping[str, Array],
    folder: Path,
    part: int | None,
    targets: Mapping[str, Renormalization] | None = None,
    batch_statistics: bool = False,
) -> tuple[dict[str, SampleMoments], list[int]]:
    """Moments in mini-batches of 12, and how many samples were run at a time."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    count = len(next(iter(feeds.values())))
    specs = {name: plain_spec(a.dtype, (12, *a.shape[1:])) for name, a in feeds.items()}
    source = SampleSource(specs, count, 12, 0, supplied=Samples(np.arange(count), Stored(feeds)))
    (folder / "run").mkdir(exist_ok=True)
    run = ObservationRun(
        folder / "run", "CPUExecutionProvider", source, batch_statistics, part=part
    )
    sizes = list[int]()
    with pytest.MonkeyPatch.context() as patch:
        whole = execute.lent_batches

        def noted(path: Path, provider: str, batches: object) -> object:
            def each() -> object:
                for batch in batches:  # type: ignore[attr-defined]
                    sizes.append(len(next(iter(batch.values()))))
                    yield batch

            return whole(path, provider, each())  # type: ignore[arg-type]

        patch.setattr(execute, "lent_batches", noted)
        draft, info = ModelDraft.of(model), tensor_facts(model)
        found = measure(draft, info, TensorReader(path), views, targets or {}, run)
    return found, sizes


def net_of_tokens(columns: int = 8) -> tuple[ModelProto, str]:
    net = Net(("N", 5, 6))
    x = net.relu(net.node("MatMul", ["x", net.weight("w0", 6, columns)]))
    return net.model(net.node("MatMul", [x, net.weight("w1", columns, 4)])), x


@pytest.mark.parametrize("columns", [8, MANY])
@pytest.mark.parametrize("strides", [(), (3,)])
def test_parts_have_the_moments_of_the_whole(
    columns: int, strides: tuple[int, ...], tmp_path: Path
) -> None:
    model, x = net_of_tokens(columns)
    views = {
        "pairs": MomentSpec(x, 2, 3, np.arange(columns)[:, None], strides=strides),
        "alone": MomentSpec(x, 2, 3, np.arange(columns)[:, None], cross=False),
    }
    feeds = feeds_of(model, 30, mean=3.0)
    whole, one = moments(model, views, feeds, tmp_path, None)
    parts, several = moments(model, views, feeds, tmp_path, 4)
    assert one == [12, 12, 6]
    step = 3 if strides else 4
    assert several == [*[step] * (24 // step), *[step] * (6 // step), *[6 % step] * (6 % step > 0)]
    for key in views:
        assert parts[key].rows == whole[key].rows
        np.testing.assert_allclose(parts[key].mean, whole[key].mean, rtol=1e-6)
        np.testing.assert_allclose(parts[key].second, whole[key].second, rtol=1e-4, atol=1e-5)


def test_what_is_taken_over_the_batch_keeps_it_whole(tmp_path: Path) -> None:
    model, x = net_of_tokens()
    view = MomentSpec(x, 2, 3, np.arange(8)[:, None])
    target = {x: Renormalization(2, 3, np.zeros(8), np.ones(8))}
    assert moments(model, {"k": view}, feeds_of(model, 24), tmp_path, 4, target)[1] == [12, 12]
    normed = MODELS["chain_2d"]()
    norm = next(n for n in normed.graph.node if n.op_type == "BatchNormalization")
    view = MomentSpec(norm.output[0], 1, 4, np.arange(8)[:, None])
    feeds = feeds_of(normed, 24)
    assert moments(normed, {"k": view}, feeds, tmp_path, 4, None, True)[1] == [12, 12]
    assert moments(normed, {"k": view}, feeds, tmp_path, 4, None, False)[1] == [4] * 6
