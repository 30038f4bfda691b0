"""Grouped ConvTranspose: how its weight is seen, cut and compensated."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from lbyl_onnx import Config, compress
from lbyl_onnx.graph.layers.linear_layer import Layout
from tests.support.net import Net
from tests.support.oracle import Array, assert_same, make_feeds, run
from tests.support.topologies import conv_transpose_grouped

GROUPS, INPUTS, OUTPUTS = 3, 4, 2  # inputs and outputs of one group


def weight() -> Array:
    return np.random.default_rng(0).standard_normal((GROUPS * INPUTS, OUTPUTS, 2, 3))


def alone(x: Array, stored: Array, groups: int) -> Array:
    """A ConvTranspose of stride 1 as a sum over single products, group by group."""
    each_in, each_out = len(stored) // groups, stored.shape[1]
    kernel = stored.shape[2:]
    size = [a + k - 1 for a, k in zip(x.shape[2:], kernel, strict=True)]
    y = np.zeros((len(x), groups * each_out, *size))
    for group in range(groups):
        for i in range(each_in):
            for o in range(each_out):
                for row, column in np.ndindex(*kernel):
                    c = group * each_in + i
                    part = x[:, c] * stored[c, o, row, column]
                    rows = slice(row, row + x.shape[2])
                    y[:, group * each_out + o, rows, column : column + x.shape[3]] += part
    return y


class TestLayout:
    def test_each_place_of_what_is_seen(self) -> None:
        stored = weight()
        logical = Layout(GROUPS).logical(stored)
        assert logical.shape == (INPUTS, GROUPS * OUTPUTS, 2, 3)
        for group, i, o in np.ndindex(GROUPS, INPUTS, OUTPUTS):
            np.testing.assert_array_equal(
                logical[i, group * OUTPUTS + o], stored[group * INPUTS + i, o]
            )

    def test_it_is_undone(self) -> None:
        np.testing.assert_array_equal(
            Layout(GROUPS).stored(Layout(GROUPS).logical(weight())), weight()
        )

    @pytest.mark.parametrize(
        ("axis", "stays"),
        [(0, [True, False, True, True]), (1, [False, True] * GROUPS)],
        ids=["inputs", "outputs"],
    )
    def test_without_channels_of_each_group(self, axis: int, stays: list[bool]) -> None:
        layout, x = Layout(GROUPS), np.random.default_rng(1).standard_normal((2, 12, 5, 4))
        left = layout.without(weight(), np.asarray(stays), axis)
        assert left.shape == layout.shape_without(weight().shape, np.asarray(stays), axis)
        if axis == 0:
            kept = np.tile(stays, GROUPS)
            expected = alone(x * kept[:, None, None], weight(), GROUPS)
            np.testing.assert_allclose(alone(x[:, kept], left, GROUPS), expected, atol=1e-12)
        else:
            expected = alone(x, weight(), GROUPS)[:, stays]
            np.testing.assert_allclose(alone(x, left, GROUPS), expected, atol=1e-12)

    def test_without_whole_groups(self) -> None:
        """One input to a group: its outputs go with it."""
        stored, layout = weight()[:4], Layout(4, whole=True)
        stays = np.repeat([True, False, True, True], OUTPUTS)
        left = layout.without(stored, stays, 1)
        np.testing.assert_array_equal(left, stored[[0, 2, 3]])
        assert left.shape == layout.shape_without(stored.shape, stays, 1)


def combined(weights: Array, groups: int, kept: int) -> Array:
    """Make later rows the same combinations of the first of their group, in every group."""
    rng = np.random.default_rng(5)
    each = len(weights) // groups
    mix = 0.3 * rng.standard_normal((each - kept, kept))
    grid = weights.reshape(groups, each, *weights.shape[1:]).copy()
    for group in grid:
        group[kept:] = np.tensordot(mix, group[:kept], axes=1) * 0.5
    return grid.reshape(weights.shape)


def into_groups() -> ModelProto:
    """A ConvTranspose in two groups reads eight channels, four of them combinations of the rest."""
    net = Net(("N", 3, 6, 6))
    x = net.conv("x", (3, 8), bias=False)
    rows = combined(numpy_helper.to_array(net.initializers[0]), 2, 2)
    net.initializers[0].CopyFrom(numpy_helper.from_array(rows, "w0"))
    x = net.node("AveragePool", [x], {"kernel_shape": [2, 2]})
    bias = net.constant("b", net.cast(net.rng.normal(size=6)))
    x = net.node("ConvTranspose", [x, net.weight("w", 8, 3, 2, 2), bias], {"group": 2})
    return net.model(net.head(net.relu(x), 6))


def out_of_groups() -> ModelProto:
    """The first layer is a ConvTranspose in two groups with combinations among its outputs."""
    net = Net(("N", 4, 6, 6))
    stored = net.rng.standard_normal((4, 4, 2, 2))  # (in, out / groups, ..)
    both = [combined(stored[part].swapaxes(0, 1), 1, 2) for part in (slice(2), slice(2, 4))]
    rows = np.concatenate([half.swapaxes(0, 1) for half in both])
    x = net.node("ConvTranspose", ["x", net.constant("w", net.cast(rows))], {"group": 2})
    net.nodes[-1].name = "conv_0"
    return net.model(net.head(net.conv(x, (8, 5)), 5))


@pytest.mark.parametrize("method", ["lbyl", "lbyl+"])
@pytest.mark.parametrize("build", [into_groups, out_of_groups])
def test_combinations_of_kept_channels_cost_nothing(
    build: Callable[[], ModelProto], method: str
) -> None:
    model = build()
    config = Config(
        round_to=1,
        ratio=0.5,
        method=method,
        lambda2=0.0,
        criterion="l2",
        include=("conv_0",),
        provider="cpu",
    )
    result = compress(model, config=config)
    assert result.model is not None
    feeds = make_feeds(model)
    if method == "lbyl":
        assert_same(run(result.model, feeds), run(model, feeds))
    else:  # statistics of few samples leave a ridge
        error = result.verification.fidelity.relative_error
        assert error is not None
        assert error < 0.02


def test_shifts_reach_the_bias_of_each_group() -> None:
    """Channels that are constant add their own sum to each output of their own group."""
    net = Net(("N", 3, 6, 6))
    x = net.conv("x", (3, 8))
    rows = numpy_helper.to_array(net.initializers[0]).copy()
    rows[[2, 3, 6, 7]] = 0.0
    net.initializers[0].CopyFrom(numpy_helper.from_array(rows, "w0"))
    x = net.node("Relu", [x])
    stored = net.weight("w", 8, 3, 1, 1)
    x = net.node("ConvTranspose", [x, stored], {"group": 2})
    model = net.model(net.head(net.relu(x), 6))
    errors: dict[str, float] = {}
    methods: tuple[str, ...] = ("none", "lbyl+")
    for method in methods:
        config = Config(round_to=1, ratio=0.5, method=method, include=("conv_0",), provider="cpu")
        result = compress(model, config=config)
        assert result.groups[0].kept == 2  # of four units, one channel of each group
        error = result.verification.fidelity.relative_error
        assert error is not None
        errors[method] = error
    assert errors["lbyl+"] < 0.02  # statistics of few samples leave a ridge
    assert errors["none"] > 0.1


def test_macs_are_those_of_single_products() -> None:
    model = conv_transpose_grouped(4, 2)
    result = compress(
        model, config=Config(round_to=1, ratio=0.5, method="none", provider="cpu"), detailed=True
    )
    assert result.details is not None
    layer = next(x for x in result.details.layers if x.op_type == "ConvTranspose")
    # batch of 1, 36 places, each of 12 inputs into 4 outputs of its group by 6 taps
    assert layer.macs_before == 36 * 12 * 4 * 6
    assert layer.macs_after == 36 * 4 * 2 * 6
    assert (layer.channels_before, layer.channels_after) == (16, 8)
    node = next(n for n in model.graph.node if n.op_type == "ConvTranspose")
    assert {a.name: helper.get_attribute_value(a) for a in node.attribute}["group"] == 4
