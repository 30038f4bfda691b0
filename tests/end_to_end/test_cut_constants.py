"""Weights that are parts of one constant, as PyTorch exports the projections of attention."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from lbyl_onnx import Config, compress
from lbyl_onnx.methods.registry import method_names
from tests.support.net import Net
from tests.support.oracle import assert_same, interpret, make_feeds, masked, run, values

WIDTH, HIDDEN = 8, (6, 10)


def parts(read_again: bool = False) -> ModelProto:
    """Two hidden layers whose weights one Split cuts from one constant.

    Parameters
    ----------
    read_again
        Whether another node reads the whole constant, too.
    """
    net = Net(("N", WIDTH))
    whole = net.weight("whole", sum(HIDDEN), WIDTH)
    net.node("Split", [whole, net.ints(*HIDDEN)], {"axis": 0})
    net.nodes[-1].output[:] = ["first", "second"]
    outputs = []
    for part, size in zip(("first", "second"), HIDDEN, strict=True):
        weight = net.node("Transpose", [part], {"perm": [1, 0]})
        hidden = net.node("Relu", [net.node("MatMul", ["x", weight])])
        outputs.append(net.node("MatMul", [hidden, net.weight(f"{part}_out", size, 3)]))
    y = net.node("Add", outputs)
    if read_again:
        y = net.node("Add", [y, net.node("ReduceMean", [whole], {"keepdims": 0})])
    return net.model(y)


def cut(model: ModelProto, method: str, exclude: tuple[str, ...] = ()) -> ModelProto:
    """Halve the layers."""
    config = Config(ratio=0.5, method=method, round_to=1, provider="cpu", exclude=exclude)
    result = compress(model, config=config)
    assert result.model is not None
    return result.model


def names(model: ModelProto) -> dict[str, int]:
    return {group.name: group.size for group in interpret(model).channels.groups}


def test_each_part_has_channels_of_its_own() -> None:
    assert sorted(names(parts()).values()) == sorted(HIDDEN)


def test_parts_of_a_constant_that_another_node_reads_are_refused() -> None:
    refusals = interpret(parts(read_again=True)).channels.refusals
    reasons = {r.reason for r in refusals if r.channels in HIDDEN}
    assert len(reasons) == len(HIDDEN)
    assert all("another node reads what is computed from it" in reason for reason in reasons)


def test_none_equals_the_original_with_zeroed_inputs() -> None:
    original = parts()
    analysis, feeds = interpret(original), make_feeds(original)
    expected = run(masked(original, analysis.plan(0.5), analysis), feeds)
    assert_same(run(cut(original, "none"), feeds), expected)


@pytest.mark.parametrize("method", method_names())
def test_the_whole_is_stored_no_more(method: str) -> None:
    result = cut(parts(), method)
    weights = [value.size for value in values(result).values() if value.ndim == 2]
    assert sum(weights) == sum(HIDDEN) // 2 * (WIDTH + 3)
    assert "Split" not in {node.op_type for node in result.graph.node}
    for output in run(result, make_feeds(result)):
        assert np.all(np.isfinite(output))


def test_a_part_that_stays_whole_is_stored_beside_one_that_is_cut() -> None:
    first = min(names(parts()), key=lambda name: names(parts())[name])
    result = cut(parts(), "none", exclude=(first,))
    weights = [value.size for value in values(result).values() if value.ndim == 2]
    assert sum(weights) == (HIDDEN[0] + HIDDEN[1] // 2) * (WIDTH + 3)
