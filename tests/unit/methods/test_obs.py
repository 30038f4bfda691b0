"""Backward elimination against one that solves every candidate's least squares anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from lbyl_onnx.methods import obs
from lbyl_onnx.methods.obs import eliminate
from lbyl_onnx.methods.types import ConsumerLoss, Moments

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Consumer:
    """Samples of a consumer's input, (rows, n * taps), and its weight, (outputs, n * taps)."""

    samples: Floats
    weight: Floats
    taps: int = 1

    @property
    def consumer_loss(self) -> ConsumerLoss:
        centred = self.samples - self.samples.mean(axis=0)
        rows = len(centred)
        moments = Moments(self.samples.mean(axis=0), centred.T @ centred / rows, rows, self.taps)
        return ConsumerLoss(moments, self.weight.T)

    def columns(self, channels: Sequence[int]) -> list[int]:
        return [i * self.taps + t for i in channels for t in range(self.taps)]

    def loss(self, left: Sequence[int]) -> float:
        """Share of the output's variance that is lost when the others must make up for the rest.

        The ridge is as many more samples, one for each column, of that variance.
        """
        centred = self.samples - self.samples.mean(axis=0)
        root = np.sqrt(self.consumer_loss.moments.ridge) * np.eye(self.samples.shape[1])
        rows = np.concatenate([centred / np.sqrt(len(centred)), root])
        target = rows @ self.weight.T
        own = rows[:, self.columns(left)]
        error = target - own @ np.linalg.lstsq(own, target, rcond=None)[0]
        output = centred @ self.weight.T
        return float(np.sum(error**2) / (np.sum(output**2) / len(output)))


def keep(losses: Sequence[ConsumerLoss], count: int) -> NDArray[np.intp]:
    return eliminate(losses, count).kept(count)


def consumer(
    n: int, taps: int = 1, outputs: int = 3, seed: int = 0, rows: int | None = None
) -> Consumer:
    rng = np.random.default_rng(seed)
    columns = n * taps
    mix = rng.standard_normal((columns, columns)) / np.sqrt(columns) + np.eye(columns)
    samples = rng.standard_normal((rows or 8 * columns, columns)) @ mix + rng.normal(size=columns)
    scale = np.repeat(np.exp(0.5 * rng.standard_normal(n)), taps)
    return Consumer(samples, rng.standard_normal((outputs, columns)) * scale, taps)


def slow_keep(consumers: Sequence[Consumer], n: int, count: int, at_once: int = 1) -> list[int]:
    """Try every channel that is left, and take away the ones without which the loss is least."""
    left = list(range(n))
    while len(left) > count:
        losses = [sum(c.loss([i for i in left if i != out]) for c in consumers) for out in left]
        many = min(at_once, len(left) - count)
        going = {left[i] for i in np.argsort(losses, kind="stable")[:many]}
        left = [i for i in left if i not in going]
    return left


def kept(consumers: Sequence[Consumer], count: int) -> list[int]:
    return [int(i) for i in keep([c.consumer_loss for c in consumers], count)]


class TestAgainstTrying:
    @pytest.mark.parametrize("count", [1, 4])
    @pytest.mark.parametrize("seed", range(3))
    def test_one_consumer(self, seed: int, count: int) -> None:
        one = consumer(9, seed=seed)
        assert kept([one], count) == slow_keep([one], 9, count)

    @pytest.mark.parametrize("outputs", [1, 2, 30])
    def test_fewer_and_more_outputs_than_channels(self, outputs: int) -> None:
        one = consumer(8, outputs=outputs)
        assert kept([one], 3) == slow_keep([one], 8, 3)

    @pytest.mark.parametrize("seed", range(3))
    def test_several_consumers_of_different_scale(self, seed: int) -> None:
        both = [consumer(8, seed=seed), consumer(8, outputs=5, seed=seed + 10)]
        both[1] = replace(both[1], weight=1e3 * both[1].weight)
        kept_channels = kept(both, 3)
        assert kept_channels == slow_keep(both, 8, 3)
        alone = [kept([one], 3) for one in both]
        assert alone[0] != alone[1]  # else they would not have to agree on anything

    @pytest.mark.parametrize("taps", [2, 4])
    @pytest.mark.parametrize("seed", range(2))
    def test_taps(self, taps: int, seed: int) -> None:
        one = consumer(6, taps=taps, seed=seed)
        assert kept([one], 2) == slow_keep([one], 6, 2)

    def test_consumers_of_several_taps(self) -> None:
        several = [consumer(6, taps=t, seed=t) for t in (1, 2, 3)]
        assert kept(several, 2) == slow_keep(several, 6, 2)

    def test_few_rows(self) -> None:
        one = consumer(10, rows=4)
        assert kept([one], 4) == slow_keep([one], 10, 4)

    def test_of_many_channels_one_in_64_goes_at_a_time(self) -> None:
        one = consumer(130, outputs=4, rows=200)
        assert kept([one], 125) == slow_keep([one], 130, 125, at_once=2)

    def test_what_it_keeps_loses_less_than_any_choice_at_random(self) -> None:
        one = consumer(12)
        least = one.loss(kept([one], 6))
        rng = np.random.default_rng(0)
        others = [one.loss(sorted(rng.choice(12, 6, replace=False))) for _ in range(50)]
        assert least < min(others)


class TestWhatGoesFirst:
    @pytest.mark.parametrize("pair", [(0, 5), (3, 7)])
    def test_one_of_two_duplicates(self, pair: tuple[int, int]) -> None:
        one = consumer(9, rows=2000)
        samples = one.samples.copy()
        samples[:, pair[1]] = samples[:, pair[0]]
        gone = set(range(9)) - set(kept([replace(one, samples=samples)], 8))
        assert gone < set(pair)

    def test_one_of_each_pair(self) -> None:
        one = consumer(10, rows=2000)
        samples = one.samples.copy()
        samples[:, 5:] = samples[:, :5]
        kept_channels = kept([replace(one, samples=samples)], 5)
        assert sorted(i % 5 for i in kept_channels) == list(range(5))

    def test_a_duplicate_over_all_taps(self) -> None:
        one = consumer(6, taps=3, rows=2000)
        samples = one.samples.copy()
        samples[:, one.columns([4])] = samples[:, one.columns([1])]
        gone = set(range(6)) - set(kept([replace(one, samples=samples)], 5))
        assert gone < {1, 4}

    def test_a_multiple_with_an_offset(self) -> None:
        one = consumer(6, rows=2000)
        samples = one.samples.copy()
        samples[:, 2] = 3.0 - 2.0 * samples[:, 0]
        assert set(range(6)) - set(kept([replace(one, samples=samples)], 5)) < {0, 2}

    def test_a_constant(self) -> None:
        one = consumer(6, rows=2000)
        samples = one.samples.copy()
        samples[:, 4] = 100.0
        assert 4 not in kept([replace(one, samples=samples)], 5)

    def test_what_no_consumer_reads(self) -> None:
        both = [consumer(6, seed=seed) for seed in range(2)]
        for one in both:
            one.weight[:, 3] = 0.0
        # Each of the others alone would be told from it, but it would then be read: it goes first.
        assert 3 not in kept(both, 5)

    def test_what_one_consumer_reads_stays(self) -> None:
        both = [consumer(6, seed=seed) for seed in range(2)]
        both[0].weight[:, 3] = 0.0
        both[1].weight[:, 3] *= 100.0
        assert 3 in kept(both, 1)


class TestResult:
    @pytest.mark.parametrize("count", [1, 2, 7, 11, 12])
    @pytest.mark.parametrize("taps", [1, 2])
    def test_as_many_as_asked_for_ascending(self, count: int, taps: int) -> None:
        kept_channels = keep([consumer(12, taps=taps).consumer_loss], count)
        assert kept_channels.dtype == np.intp
        assert len(kept_channels) == count
        assert np.all(np.diff(kept_channels) > 0)
        assert kept_channels[0] >= 0
        assert kept_channels[-1] < 12

    @pytest.mark.parametrize("count", [64, 100, 127, 199])
    def test_as_many_as_asked_for_where_several_go_at_a_time(self, count: int) -> None:
        assert len(kept([consumer(200, rows=300)], count)) == count

    def test_fewer_are_among_more(self) -> None:
        one = consumer(12)
        chosen = [set(kept([one], count)) for count in (3, 6, 9)]
        assert chosen[0] < chosen[1] < chosen[2]

    def test_it_is_the_same_each_time_and_changes_nothing(self) -> None:
        consumer_loss = consumer(20, taps=2).consumer_loss
        before = consumer_loss.moments.covariance.copy(), consumer_loss.weights.copy()
        first, second = keep([consumer_loss], 7), keep([consumer_loss], 7)
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(consumer_loss.moments.covariance, before[0])
        np.testing.assert_array_equal(consumer_loss.weights, before[1])

    def test_the_order_of_channels_does_not_matter(self) -> None:
        one = consumer(9)
        order = np.random.default_rng(5).permutation(9)
        turned = Consumer(one.samples[:, order], one.weight[:, order])
        assert sorted(order[kept([turned], 4)]) == kept([one], 4)

    def test_the_order_of_consumers_does_not_matter(self) -> None:
        both = [consumer(9, seed=seed) for seed in range(2)]
        assert kept(both, 4) == kept(both[::-1], 4)

    @pytest.mark.parametrize("rank", [0, 1, 3])
    def test_a_singular_covariance_is_no_failure(self, rank: int) -> None:
        mix = np.random.default_rng(0).standard_normal((8, rank))
        consumer_loss = ConsumerLoss(
            Moments(np.zeros(8), mix @ mix.T, 100), consumer(8).consumer_loss.weights
        )
        assert len(keep([consumer_loss], 3)) == 3

    @pytest.mark.parametrize("below", [1e-8, 1e-3, 0.5])
    def test_variances_below_zero_count_as_none(self, below: float) -> None:
        """Sums in float32 leave some; what has none of its own is told from the others."""
        turned = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
        values = np.array([1.0, 2.0, 3.0, 0.0, 0.0, -below, -below, -below])
        moments = Moments(np.zeros(8), (turned * values) @ turned.T, 10**9)
        actual = eliminate([ConsumerLoss(moments, consumer(8).consumer_loss.weights)], 3)
        assert len(actual.kept(3)) == 3
        assert np.all(np.isfinite(actual.losses))
        assert actual.losses[-1, 0] < 2e-3  # what the ridge costs

    def test_weights_of_zeros_are_no_failure(self) -> None:
        one = consumer(8)
        assert len(kept([replace(one, weight=0.0 * one.weight)], 3)) == 3


class TestWideWindows:
    def by_channel(self, one: Consumer) -> ConsumerLoss:
        """Each tap as samples, and outputs, of its own."""
        n = one.samples.shape[1] // one.taps
        parts = [one.weight[:, t :: one.taps] for t in range(one.taps)]  # (outputs, n) each
        taps = [one.samples[:, t :: one.taps] for t in range(one.taps)]  # (rows, n) each
        covariance = np.mean([np.cov(part.T, bias=True) for part in taps], axis=0)
        mean = np.concatenate(taps).mean(axis=0)
        rows = len(one.samples) * one.taps
        weights = np.concatenate([part.T for part in parts], axis=1)
        assert weights.shape == (n, one.taps * len(one.weight))
        return ConsumerLoss(Moments(mean, covariance, rows), weights)

    def test_one_that_is_too_large_is_read_by_whole_channels(self) -> None:
        one = consumer(6, taps=9)
        reduced, expected = obs.reduced(one.consumer_loss, largest=53), self.by_channel(one)
        assert (reduced.moments.taps, reduced.moments.rows) == (1, expected.moments.rows)
        np.testing.assert_allclose(reduced.gram, expected.gram, rtol=1e-12)
        for name in ("mean", "covariance"):
            actual, reference = getattr(reduced.moments, name), getattr(expected.moments, name)
            np.testing.assert_allclose(actual, reference, rtol=1e-9, atol=1e-12)

    def test_one_that_is_not_is_left(self) -> None:
        consumer_loss = consumer(6, taps=9).consumer_loss
        assert obs.reduced(consumer_loss, largest=54) is consumer_loss

    def test_channels_of_one_tap_are_left_whatever_their_number(self) -> None:
        consumer_loss = consumer(6).consumer_loss
        assert obs.reduced(consumer_loss, largest=2) is consumer_loss

    @pytest.mark.parametrize("seed", range(2))
    def test_the_choice_is_that_by_whole_channels(self, seed: int) -> None:
        wide, small = consumer(7, taps=4, seed=seed), consumer(7, seed=seed + 10)
        told_apart = [kept([wide, small], count) for count in range(1, 7)]
        told = [wide.consumer_loss, small.consumer_loss]
        actual = [eliminate(told, count, largest=20).kept(count).tolist() for count in range(1, 7)]
        losses = [self.by_channel(wide), small.consumer_loss]
        assert actual == [keep(losses, count).tolist() for count in range(1, 7)]
        assert actual != told_apart

    def test_a_window_beyond_the_bound(self) -> None:
        """134 channels of 9 taps: 1,206 columns, of which the last 34 channels are duplicates."""
        rng = np.random.default_rng(0)
        base = rng.standard_normal((4000, 100))
        channels = np.concatenate([base, base[:, :34]], axis=1)
        one = channels.T @ channels / len(channels)
        moments = Moments(np.zeros(1206), np.kron(one, np.eye(9)), 4000, 9)
        weight = rng.standard_normal((16, 1206))
        kept_channels = keep([ConsumerLoss(moments, weight.T)], 100)
        assert sorted(i % 100 for i in kept_channels) == list(range(100))


class TestTheWay:
    """What goes for one count goes for all fewer, and what it costs is told on the way."""

    @pytest.mark.parametrize("taps", [1, 3])
    def test_losses_are_those_of_trying(self, taps: int) -> None:
        one = consumer(9, taps=taps)
        ranking = eliminate([one.consumer_loss], 2)
        assert ranking.losses.shape == (8, 1)
        gone = [one.loss(ranking.kept(9 - i).tolist()) for i in range(8)]
        # The ridge takes its share before any channel goes.
        assert ranking.losses[:, 0] == pytest.approx(np.asarray(gone) - gone[0], rel=1e-6, abs=1e-9)

    def test_of_chunks_the_ends_are_those_of_trying(self) -> None:
        one = consumer(130, outputs=4, rows=400)
        ranking = eliminate([one.consumer_loss], 120)
        for kept in (126, 120):  # 4 of 130, 3 of 126 go at once
            gone = one.loss(ranking.kept(kept).tolist()) - one.loss(list(range(130)))
            assert ranking.losses[130 - kept, 0] == pytest.approx(gone, rel=0.05)
        assert np.all(np.diff(ranking.losses[:, 0]) >= 0)

    def test_a_shorter_way_is_its_beginning(self) -> None:
        both = [consumer(12).consumer_loss, consumer(12, outputs=5, seed=1).consumer_loss]
        long, short = eliminate(both, 3), eliminate(both, 8)
        assert long.order[:4].tolist() == short.order.tolist()
        assert long.losses[:5].tolist() == short.losses.tolist()
        assert long.kept(8).tolist() == short.kept(8).tolist()


class TestInverse:
    @pytest.mark.parametrize("size", [1, 5, 128, 300])
    def test_is_that_of_numpy_and_symmetric(self, size: int) -> None:
        root = np.random.default_rng(size).standard_normal((size, 2 * size))
        c = root @ root.T / size
        before = c.copy()
        found = obs.inverse_of(c, 0.1)
        assert found is not None
        np.testing.assert_allclose(found, np.linalg.inv(c + 0.1 * np.eye(size)), atol=1e-11)
        np.testing.assert_array_equal(found, found.T)
        np.testing.assert_array_equal(c, before)

    def test_what_is_not_positive_has_none(self) -> None:
        assert obs.inverse_of(np.diag([1.0, -2.0]), 0.5) is None

    @pytest.mark.parametrize("block", [1, 2, 3, 7, 20])
    def test_the_upper_triangle_is_mirrored(self, block: int) -> None:
        matrix = np.arange(49.0).reshape(7, 7)
        wanted = np.triu(matrix) + np.triu(matrix, 1).T
        obs.mirror(matrix, block)
        np.testing.assert_array_equal(matrix, wanted)


@pytest.mark.parametrize("n", [3, 700])
def test_the_total_is_the_variance_of_the_outputs(n: int) -> None:
    one = consumer(n, rows=50)
    outputs = one.samples @ one.weight.T
    assert one.consumer_loss.total == pytest.approx(np.var(outputs, axis=0).sum())
    gram = one.weight.T @ one.weight
    np.testing.assert_allclose(one.consumer_loss.gram, gram)
