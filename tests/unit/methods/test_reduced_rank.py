"""Mixing channels in their producer: the best k mixtures, and where they may take their place."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from lbyl_onnx import Config, compress
from lbyl_onnx.methods.lbyl_plus import deliver
from lbyl_onnx.methods.mixing.reduced_rank import ReducedRank, losses, reduce_rank
from lbyl_onnx.methods.types import Moments
from tests.support.correlated import correlated, moments_of
from tests.support.net import Net
from tests.support.oracle import deviation, make_feeds, run, values

Floats = NDArray[np.float64]
Layers = Callable[[Net, str], str]


def weights(outputs: int, channels: int, seed: int = 1) -> Floats:
    """Draw a consumer's weight, (outputs, channels)."""
    return np.random.default_rng(seed).standard_normal((outputs, channels))


def reduced_rank_of(moments: Moments, weight: Floats, count: int) -> ReducedRank:
    """Reduce the rank, where that can be done."""
    reduction = reduce_rank(moments, weight.T @ weight, count)
    assert reduction is not None
    return reduction


def whole(reduced_rank: ReducedRank) -> Floats:
    """The (n, n) map from all channels to what the mixtures restore of them."""
    return np.asarray(reduced_rank.delivery.matrix @ reduced_rank.mixing)


def loss(weight: Floats, covariance: Floats, restored: Floats) -> float:
    """Expected squared error at the consumer."""
    left = weight @ (np.eye(len(covariance)) - restored)
    return float(np.trace(left @ covariance @ left.T))


class TestRotation:
    def test_losses_are_those_of_each_rotation(self) -> None:
        moments, weight = moments_of(correlated(400, 8)), weights(5, 8)
        ridged = moments.covariance + moments.ridge * np.eye(8)
        by_count = losses(moments, weight.T @ weight)
        assert by_count is not None
        assert by_count[0] == 0.0
        for count in range(1, 8):
            rotation = whole(reduced_rank_of(moments, weight, count))
            assert by_count[8 - count] == pytest.approx(loss(weight, ridged, rotation), abs=1e-9)

    @pytest.mark.parametrize("count", [1, 3, 6])
    def test_what_is_lost_is_what_the_smallest_singular_values_hold(self, count: int) -> None:
        moments, weight = moments_of(correlated(400, 8)), weights(5, 8)
        ridged = moments.covariance + moments.ridge * np.eye(8)
        singular = np.linalg.svd(weight @ np.linalg.cholesky(ridged), compute_uv=False)
        reduced_rank = reduced_rank_of(moments, weight, count)
        expected = float(np.sum(singular[count:] ** 2))
        slack = 1e-9 * float(np.sum(singular**2))
        assert loss(weight, ridged, whole(reduced_rank)) == pytest.approx(
            expected, rel=1e-9, abs=slack
        )
        assert reduced_rank.lost == pytest.approx(expected, rel=1e-9, abs=slack)

    @pytest.mark.parametrize("seed", range(3))
    def test_no_choice_of_channels_loses_less(self, seed: int) -> None:
        moments, weight = moments_of(correlated(400, 6, seed)), weights(6, 6, seed)
        ridged = moments.covariance + moments.ridge * np.eye(6)
        mine = loss(weight, ridged, whole(reduced_rank_of(moments, weight, 3)))
        for kept in combinations(range(6), 3):
            delivery, _ = deliver(moments, kept)
            chosen = np.zeros((6, 6))
            chosen[:, list(kept)] = delivery.matrix
            assert mine <= loss(weight, ridged, chosen)

    def test_the_mean_of_every_channel_is_restored(self) -> None:
        moments = moments_of(correlated(400, 7))
        reduced_rank = reduced_rank_of(moments, weights(5, 7), 3)
        producer_mixings = reduced_rank.mixing @ moments.mean + reduced_rank.shift
        restored = reduced_rank.delivery.matrix @ producer_mixings + reduced_rank.delivery.offset
        np.testing.assert_allclose(restored, moments.mean, rtol=1e-9)

    def test_std_is_that_of_the_mixtures(self) -> None:
        samples = correlated(400, 7)
        reduced_rank = reduced_rank_of(moments_of(samples), weights(5, 7), 3)
        np.testing.assert_allclose(reduced_rank.std, (samples @ reduced_rank.mixing.T).std(axis=0))

    def test_dead_channels_give_nothing_to_mix(self) -> None:
        moments = Moments(np.zeros(4), np.diag([1.0, 0.0, 0.0, 0.0]), 100)
        assert reduce_rank(moments, np.full((4, 4), np.nan), 2) is None


def linear(net: Net, x: str) -> str:
    """A bottleneck with BatchNormalization."""
    return net.batch_norm(net.conv(x, (8, 8), (1, 1), bias=False), 8)


def bottleneck(between: Layers, batch: int | str = "n") -> onnx.ModelProto:
    """8 channels that `between` makes, read by a layer with 6 outputs."""
    net = Net((batch, 3, 12, 12))
    x = between(net, net.block("x", (3, 8)))
    x = net.relu(net.conv(x, (8, 6), (1, 1)))
    return net.model(net.head(x, 6))


def with_bias(net: Net, x: str) -> str:
    return net.conv(x, (8, 8))


def twice(net: Net, x: str) -> str:
    return net.batch_norm(linear(net, x), 8)


def bent(net: Net, x: str) -> str:
    return net.relu(linear(net, x))


def joined(net: Net, x: str) -> str:
    return net.node("Add", [linear(net, x), linear(net, x)])


def added_to_itself(net: Net, x: str) -> str:
    y = linear(net, x)
    return net.node("Add", [y, y])


def handed_on(net: Net, x: str) -> str:
    return net.node("Identity", [linear(net, x)])


def pooled(net: Net, x: str) -> str:
    return net.node("AveragePool", [linear(net, x)], {"kernel_shape": [2, 2]})


class TestWhere:
    @pytest.mark.parametrize(
        ("between", "may"),
        [
            (linear, True),
            (with_bias, True),
            (handed_on, True),
            (twice, False),
            (bent, False),
            (joined, False),
            (added_to_itself, False),
            (pooled, False),
        ],
    )
    def test_nothing_may_bend_or_join_the_channels(self, between: Layers, may: bool) -> None:
        model = bottleneck(between)
        result = compress(model, config=Config(round_to=1, ratio=0.25, scope="all", provider="cpu"))
        assert any(g.restored == "lbyl+, channels mixed" for g in result.groups) is may

    @pytest.mark.parametrize("between", [linear, with_bias, handed_on])
    def test_six_outputs_lose_nothing_where_six_mixtures_stay(self, between: Layers) -> None:
        model = bottleneck(between)
        name = next(n.name for n in model.graph.node[3:] if n.op_type == "Conv")
        feeds = make_feeds(model)
        original = run(model, feeds)[0]
        config = Config(round_to=1, ratio=0.25, include=(name,), provider="cpu")
        for ours, most in ((True, 1e-5), (False, None)):
            chosen = config if ours else Config(**{**vars(config), "criterion": "l2"})
            result = compress(model, config=chosen).model
            assert result is not None
            off = deviation(run(result, feeds)[0], original)
            assert off < most if most is not None else off > 1e-2

    def test_a_batch_normalization_says_what_its_batch_gives(self) -> None:
        model = bottleneck(linear)
        name = next(n.name for n in model.graph.node[3:] if n.op_type == "Conv")
        config = Config(round_to=1, ratio=0.5, include=(name,), provider="cpu")
        result = compress(model, config=config).model
        assert result is not None
        norm = [n for n in result.graph.node if n.op_type == "BatchNormalization"][1]
        stored = values(result)
        gamma, _, _, var = (stored[norm.input[i]] for i in range(1, 5))
        np.testing.assert_allclose(gamma**2, var + 1e-5, rtol=1e-5)
