"""Whole heads of attention: which go first, what takes over, and where they have to stay."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from lbyl_onnx import CompressResult, Config, compress
from lbyl_onnx.channels.analysis import find_channels
from lbyl_onnx.channels.groups import Selection
from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.guard.effort import Effort
from lbyl_onnx.option_types import Attention
from tests.support.attentions import Block
from tests.support.exported import load
from tests.support.oracle import (
    Feeds,
    Interpreted,
    deviation,
    input_shapes,
    masked,
    run,
    values,
)

EFFORT = Effort(rounds=2, fewest_rounds=2)  # how fast it is is not asked here
FOUR = Block(4, 1, 4, False, False, False, False, True, seed=3)
SAME = 2e-2  # relative error of outputs, with the ridge of the fit


def changed(**new: NDArray[np.float64]) -> ModelProto:
    """Return the block with other weights, by the names of initializers."""
    model = FOUR.model()
    for tensor in model.graph.initializer:
        key = tensor.name.replace(".", "_")
        if key in new:
            tensor.CopyFrom(numpy_helper.from_array(new[key].astype(np.float32), tensor.name))
    return model


def one_less(
    model: ModelProto, method: str = "lbyl+", attention: Attention = "heads"
) -> CompressResult:
    config = Config(ratio=0.25, round_to=1, method=method, attention=attention, provider="cpu")
    return compress(model, config=config, effort=EFFORT)


def left(result: CompressResult) -> list[int]:
    """Heads whose values are left."""
    assert result.model is not None
    stored = values(result.model)["v.w"].astype(np.float64)
    columns = {column.tobytes() for column in stored.T.copy()}
    before = FOUR.weights()["v"]
    return [h for h in range(4) if before[:, 4 * h].copy().tobytes() in columns]


def error(result: CompressResult) -> float:
    found = result.verification.fidelity.relative_error
    assert found is not None
    return found


@pytest.mark.parametrize("head", [0, 2])
def test_a_head_that_nothing_reads_goes_first(head: int) -> None:
    out = FOUR.weights()["out"].copy()
    out[4 * head : 4 * head + 4] *= 1e-4
    result = one_less(changed(out=out))
    assert left(result) == [h for h in range(4) if h != head]
    assert error(result) < SAME


def test_one_of_two_equal_heads_goes_and_the_other_takes_over() -> None:
    weights = FOUR.weights()
    for name in "qkv":
        weights[name][:, 8:12] = weights[name][:, :4]
    model = changed(q_w=weights["q"], k_w=weights["k"], v_w=weights["v"])
    result = one_less(model)
    (group,) = result.groups
    assert (group.channels, group.kept) == (4, 3)
    assert {1, 3} < {*left(result)}
    assert error(result) < SAME
    assert error(one_less(model, "none")) > 5 * SAME


@pytest.mark.parametrize("whole", [True, False])
def test_auto_takes_a_head_or_dims_by_which_of_them_nothing_reads(whole: bool) -> None:
    weights = FOUR.weights()
    gone = np.arange(4) + 8 if whole else np.arange(4) * 4 + 1
    weights["out"][gone] *= 1e-4
    if not whole:
        weights["q"][:, gone] *= 1e-4
    result = one_less(changed(out=weights["out"], q_w=weights["q"]), attention="auto")
    assert error(result) < SAME
    assert {g.channels for g in result.groups} == ({4} if whole else {16})
    if whole:
        assert left(result) == [0, 1, 3]


def test_all_numbers_that_count_heads_shrink() -> None:
    result = one_less(Block(4, 2, 4, True, True, True, True, False).model())
    assert result.model is not None
    (node,) = [n for n in result.model.graph.node if n.op_type == "Attention"]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert attributes == {"q_num_heads": 6, "kv_num_heads": 3}
    shrunk = one_less(FOUR.model()).model
    assert shrunk is not None
    shapes = [value.tolist() for value in values(shrunk).values() if value.dtype == np.int64]
    assert [0, 0, 3, 4] in shapes
    assert [0, 0, 12] in shapes
    assert [0, 0, 4, 4] not in shapes


@pytest.mark.parametrize("name", ["multihead_dynamo_18", "detr_legacy_11"])
def test_heads_merged_with_samples_go_at_any_number_of_samples(name: str) -> None:
    model = load(name)
    config = Config(ratio=0.5, method="none", round_to=1, attention="heads", provider="cpu")
    result = compress(model, config=config, effort=EFFORT)
    assert result.model is not None
    assert any(group.channels == 4 and group.kept == 2 for group in result.groups)
    tensor_info = TensorInfo(model, input_shapes(model, 2, 0), input_shapes(model, 3, 0))
    channels = find_channels(to_graph(model), tensor_info, Selection(attention="heads"))
    interpreted = Interpreted(model, tensor_info, channels)
    reference = masked(model, interpreted.plan(0.5), interpreted)
    for samples in (1, 5):
        x = feeds(model, samples)
        for expected, actual in zip(run(reference, x), run(result.model, x), strict=True):
            assert deviation(actual, expected) <= 1e-4


def feeds(model: ModelProto, samples: int) -> Feeds:
    rng = np.random.default_rng(7)
    return {
        info.name: rng.standard_normal(shape).astype(np.float32)
        if info.type.tensor_type.elem_type == TensorProto.FLOAT
        else rng.integers(0, 50, shape)
        for info, shape in zip(
            model.graph.input, input_shapes(model, samples, 0).values(), strict=True
        )
    }
