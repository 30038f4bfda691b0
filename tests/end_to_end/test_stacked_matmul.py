"""MatMul by a constant stack of matrices, as of heads: pruned as what it is, by every method."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from onnx import ModelProto

from lbyl_onnx import Config, compress
from lbyl_onnx.graph.costs import count_costs
from lbyl_onnx.methods.registry import method_names
from tests.support.net import Dims, Net
from tests.support.oracle import assert_same, compressed, interpret, make_feeds, masked, run

Stack = tuple[int, ...]
METHODS: tuple[str, ...] = method_names()


def product(net: Net, x: str, *weight: int) -> str:
    return net.node("MatMul", [x, net.weight(f"w{len(net.nodes)}", *weight)])


def chain(shape: Dims, *weights: Stack) -> ModelProto:
    """Products with a bias and a Relu between each two."""
    net = Net(shape)
    x = "x"
    for number, weight in enumerate(weights):
        if number:
            bias = net.cast(net.rng.normal(size=weight[-2]))
            x = net.relu(net.node("Add", [x, net.constant(f"b{number}", bias)]))
        x = product(net, x, *weight)
    rank = max(len(shape), *map(len, weights))
    return net.declared(x, *(f"d{axis}" for axis in range(rank)))


def flattened() -> ModelProto:
    """Channels of all heads become one axis, which a Gemm reads."""
    net = Net(("N", 2, 1, 6))
    x = net.relu(product(net, "x", 2, 6, 8))
    return net.model(net.gemm(net.node("Flatten", [x]), 16, 4))


# name -> (builder, how many channels can be pruned)
MODELS: dict[str, tuple[Callable[[], ModelProto], int]] = {
    "heads": (partial(chain, ("N", 2, 5, 6), (2, 6, 10), (2, 10, 4)), 10),
    "two axes of heads": (partial(chain, (3, 2, 5, 6), (3, 2, 6, 10), (3, 2, 10, 4)), 10),
    "heads of one matrix": (partial(chain, ("N", 2, 5, 6), (2, 6, 10), (10, 4)), 10),
    "one matrix for all": (partial(chain, ("N", 5, 6), (1, 6, 10), (1, 10, 4)), 10),
    "one for all, then heads": (partial(chain, ("N", 2, 5, 6), (1, 6, 10), (1, 2, 10, 4)), 10),
    "made into heads": (partial(chain, (5, 6), (2, 6, 10), (2, 10, 4)), 10),
    "flattened": (flattened, 8),
}

every_model = pytest.mark.parametrize("name", MODELS)


def built(name: str) -> ModelProto:
    return MODELS[name][0]()


@every_model
def test_the_channels_that_can_be_pruned(name: str) -> None:
    assert sum(group.size for group in interpret(built(name)).channels.groups) == MODELS[name][1]


@every_model
def test_none_equals_the_original_with_zeroed_inputs(name: str) -> None:
    original = built(name)
    analysis, feeds = interpret(original), make_feeds(original)
    config = Config(round_to=1, ratio=0.4, method="none", provider="cpu")
    expected = masked(original, analysis.plan(0.4), analysis)
    assert_same(run(compressed(original, config), feeds), run(expected, feeds))


@pytest.mark.parametrize("method", METHODS)
@every_model
def test_each_method_is_verified(name: str, method: str) -> None:
    result = compress(
        built(name), config=Config(round_to=1, ratio=0.4, method=method, provider="cpu")
    )
    assert result.verification.values > 0
    assert result.after.macs < result.before.macs
    assert all(group.kept < group.channels for group in result.groups)


@every_model
def test_the_predicted_costs_are_those_of_the_result(name: str) -> None:
    result = compress(built(name), config=Config(macs="70%", round_to=1, provider="cpu"))
    assert result.model is not None
    assert 0.4 * result.before.macs < result.after.macs <= 0.7 * result.before.macs
    counts = [count_costs(m, interpret(m).tensor_info).macs for m in (result.model, built(name))]
    assert counts[0] / counts[1] == result.after.macs / result.before.macs


@pytest.mark.parametrize("method", ["nm", "lbyl"])
@pytest.mark.parametrize("name", ["heads", "one matrix for all", "made into heads"])
def test_multiples_of_kept_channels_cost_nothing(name: str, method: str) -> None:
    """A channel that is half of another stays so behind a Relu."""
    net = Net([2, 5, 6] if name == "one matrix for all" else [2, 2, 5, 6])
    stack = (1,) if name == "one matrix for all" else (2,)
    if name == "made into heads":
        net = Net([5, 6])
    weight = net.rng.standard_normal((*stack, 6, 10))
    weight /= np.sqrt(np.sum(weight**2, axis=(0, 1)))
    weight[..., 5:] = 0.5 * weight[..., :5]
    x = net.node("MatMul", ["x", net.constant("w", net.cast(weight))])
    model = net.model(product(net, net.relu(x), *stack, 10, 4))
    config = Config(
        round_to=1, ratio=0.5, method=method, lambda2=0.0, criterion="l2", provider="cpu"
    )
    feeds = make_feeds(model)
    assert_same(run(compressed(model, config), feeds), run(model, feeds))


@pytest.mark.parametrize(("shape", "stack"), [((1, 5, 6), (2,)), ((3, 1, 5, 6), (3, 2))])
def test_activations_that_are_repeated_for_each_matrix_stay(shape: Dims, stack: Stack) -> None:
    channels = interpret(chain(shape, (6, 10), (*stack, 10, 4))).channels
    assert channels.groups == ()
    assert "MatMul repeats an axis of length 1" in {refusal.reason for refusal in channels.refusals}
