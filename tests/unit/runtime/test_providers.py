"""The step in channels, and the counts that it allows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from onnx import ModelProto

from lbyl_onnx import Config, OptionError, compress
from lbyl_onnx.budget.allocation import aligned_step, nearest, rounded_counts
from lbyl_onnx.budget.cost_model import CountedCost, Counts
from lbyl_onnx.option_types import Hardware
from lbyl_onnx.runtime.providers import BLOCKS, channel_block
from lbyl_onnx.runtime.session import CPU
from tests.support.models import MODELS
from tests.support.net import Net


def wide_chain(*widths: int) -> ModelProto:
    """Convs behind each other, a classifier at the end."""
    net = Net(("N", 3, 16, 16))
    x, before = "x", 3
    for width in widths:
        x, before = net.relu(net.conv(x, (before, width))), width
    return net.model(net.head(x, before))


class TestBlock:
    def test_this_machine_has_one_of_the_blocks_that_are_known(self) -> None:
        assert channel_block("host", CPU) in {8, 16}

    def test_it_is_the_block_of_the_processor(self) -> None:
        """Where Linux tells what the processor can do, the two must agree."""
        flags = _flags()
        if not {"avx2", "avx512f"} & flags:
            pytest.skip("the processor's instruction sets are not told here")
        assert channel_block("host", CPU) == BLOCKS["avx512" if "avx512f" in flags else "avx2"]

    @pytest.mark.parametrize("hardware", [h for h in get_args(Hardware) if h != "host"])
    @pytest.mark.parametrize("provider", [CPU, "CUDAExecutionProvider"])
    def test_another_machine_needs_not_be_here(self, hardware: Hardware, provider: str) -> None:
        assert channel_block(hardware, provider) == BLOCKS[hardware]

    def test_a_device_counts_in_eights(self) -> None:
        assert channel_block("host", "CUDAExecutionProvider") == 8

    def test_one_that_is_not_known(self) -> None:
        with pytest.raises(OptionError, match="hardware is 'abacus'; give one of host, avx2"):
            Config(hardware="abacus")  # type: ignore[arg-type]


def _flags() -> set[str]:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}


class TestAlignedStep:
    @pytest.mark.parametrize(
        ("axes", "step"),
        [
            ([(64, 1)], 8),
            ([(64, 2)], 4),  # two positions of each channel, as behind a channel shuffle
            ([(128, 32)], 1),  # 32 conv groups of 4: any number of each is a multiple of 8
            ([(128, 32), (4, 1)], 1),  # within its conv group there is no multiple to keep
            ([(64, 8), (64, 1)], 8),  # one axis is as fine as any other allows
            ([(64 * 49, 49)], 8),
            ([(6, 1)], 8),
        ],
    )
    def test_every_axis_keeps_its_multiples(self, axes: list[tuple[int, int]], step: int) -> None:
        assert aligned_step(8, axes) == step

    def test_every_axis_does(self) -> None:
        for taps in range(1, 20):
            step = aligned_step(16, [(taps * 64, taps)])
            assert all(step * i * taps % 16 == 0 for i in range(1, 5))


def product_cost(sizes: Sequence[int]) -> CountedCost:
    """Layers one behind the other: the sum of products of neighbouring widths."""
    n = len(sizes)
    taps = np.concatenate([np.zeros((1, n)), np.eye(n)])
    factors = np.asarray([[i, i + 1] for i in range(n)])
    return CountedCost(0.0, np.ones(n), factors, np.asarray([1.0, *[0.0] * n]), taps)


class TestNearest:
    sizes = (32, 64, 48, 16)

    def counts(self, requested: list[int], share: float = 1.0) -> tuple[Counts, float, float]:
        choices = [rounded_counts(size, 1, 8) for size in self.sizes]
        cost = product_cost(self.sizes)
        budget = share * cost.at(np.asarray(requested))
        counts = nearest(choices, self.sizes, np.asarray(requested), cost, budget)
        return counts, cost.at(counts), budget

    @pytest.mark.parametrize("ratio", [0.1, 0.2, 0.3, 0.4, 0.5])
    def test_what_is_wanted_is_met_as_a_whole_and_near(self, ratio: float) -> None:
        requested = [int(size * (1 - ratio)) for size in self.sizes]
        counts, cost, budget = self.counts(requested)
        assert all(int(c) % 8 == 0 for c in counts)
        assert cost <= budget * (1 + 1e-9)
        # No other choice of neighbouring multiples that meets it is nearer by more than a step.
        near = [
            (w // 8 * 8, min(s, -(-w // 8) * 8)) for w, s in zip(requested, self.sizes, strict=True)
        ]
        options = [c for c in itertools.product(*near) if min(c) > 0]
        allowed = [c for c in options if product_cost(self.sizes).at(np.asarray(c)) <= budget]
        best = min((self.far(np.asarray(c), requested) for c in allowed), default=np.inf)
        assert self.far(counts, requested) <= best + (8 / min(self.sizes)) ** 2

    def far(self, counts: Counts, requested: list[int]) -> float:
        return float(np.sum(((counts - requested) / np.asarray(self.sizes)) ** 2))

    def test_multiples_stay_as_they_are(self) -> None:
        actual, _, _ = self.counts([16, 40, 24, 8])
        assert actual.tolist() == [16, 40, 24, 8]

    def test_no_group_keeps_more_than_its_next_multiple(self) -> None:
        actual, _, _ = self.counts([20, 41, 30, 9], share=4.0)
        assert actual.tolist() == [24, 48, 32, 16]

    def test_what_cannot_be_had_is_left_at_the_least(self) -> None:
        actual, _, _ = self.counts([20, 41, 30, 9], share=0.001)
        assert actual.tolist() == [8, 8, 8, 8]


class TestDefault:
    def test_every_group_is_a_multiple_and_the_goal_is_met_as_a_whole(self) -> None:
        model = wide_chain(32, 64, 64)
        exact = compress(model, config=Config(ratio=0.3, round_to=1, provider="cpu"))
        result = compress(model, config=Config(ratio=0.3, hardware="avx2", provider="cpu"))
        assert all(group.kept % 8 == 0 for group in result.groups)
        assert result.after.macs <= exact.after.macs
        assert result.target.round_to == 8

    @pytest.mark.parametrize(("hardware", "block"), [("avx2", 8), ("avx512", 16), ("neon", 16)])
    def test_by_hardware(self, hardware: Hardware, block: int) -> None:
        config = Config(ratio=0.5, hardware=hardware, method="none", provider="cpu")
        result = compress(wide_chain(64, 64), config=config)
        assert [group.kept % block for group in result.groups] == [0, 0]
        assert result.target.round_to == block

    @pytest.mark.parametrize("target", [{"ratio": 0.9}, {"macs": "5%"}, {"params": "10%"}])
    def test_finer_steps_are_taken_where_blocks_cannot_reach_the_goal(
        self, target: dict[str, float | str]
    ) -> None:
        config = Config(hardware="avx512", method="none", provider="cpu", **target)  # type: ignore[arg-type]
        result = compress(wide_chain(16, 32), config=config)
        assert result.target.round_to < 16
        assert result.target.kind == "ratio" or result.target.reached <= result.target.wanted

    def test_a_little_is_not_rounded_to_half(self) -> None:
        """One group of 16: with eight channels gone, half would go where a tenth was asked for."""
        config = Config(ratio=0.1, hardware="avx2", method="none", provider="cpu")
        result = compress(wide_chain(16), config=config)
        assert 1.6 <= 16 - result.groups[0].kept <= 4

    def test_other_machines_processors_change_nothing(self) -> None:
        """With the hardware named, the same command gives the same bytes anywhere."""
        config = Config(ratio=0.3, hardware="avx512", provider="cpu")
        results = [compress(MODELS["mlp"](), config=config).model for _ in range(2)]
        assert results[0] is not None
        assert results[0] == results[1]
