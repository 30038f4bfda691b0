"""Times as statements: a ratio with an interval, or no difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from lbyl_onnx.guard.effort import Effort
from lbyl_onnx.runtime.session import CPU
from lbyl_onnx.runtime.timing import Latency, PairedLatency, paired, summary
from tests.support.net import Net

QUICK = Effort(rounds=4, fewest_rounds=4, loaded_rounds=2)


def rounds(ratio: float, noise: float, count: int = 21) -> PairedLatency:
    """Times of two models on a machine that slows down, whose runs scatter by a factor."""
    rng = np.random.default_rng(0)
    drift = np.linspace(1.0, 3.0, count)
    before = drift * np.exp(noise * rng.standard_normal(count))
    after = ratio * drift * np.exp(noise * rng.standard_normal(count))
    return summary(before.tolist(), after.tolist(), count)


@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.0, 1.3])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
def test_the_interval_holds_the_ratio_whatever_the_machine_does_meanwhile(
    ratio: float, noise: float
) -> None:
    times = rounds(ratio, noise)
    assert times.low <= ratio * (1 + 1e-12)
    assert times.high >= ratio * (1 - 1e-12)
    # The median of 21 rounds is off by about 1.25 sqrt(2) noise / sqrt(21), a 99 % interval twice
    # 2.6 times as wide.
    assert times.high - times.low <= ratio * 4 * noise + 1e-12


@pytest.mark.parametrize(
    ("ratio", "noise", "says"),
    [
        (0.8, 0.01, "faster"),
        (1.2, 0.01, "slower"),
        (1.0, 0.01, ""),
        (1.0, 0.3, ""),
        (0.99, 0.0, ""),  # less than two sessions of one file differ by
        (0.8, 0.8, ""),  # lost in the noise
    ],
)
def test_only_what_is_outside_the_interval_is_a_difference(
    ratio: float, noise: float, says: str
) -> None:
    times = rounds(ratio, noise)
    assert (times.faster, times.slower) == (says == "faster", says == "slower")
    assert (str(times) == "no measurable difference") == (not says)


def test_a_difference_is_told_with_its_interval() -> None:
    one = Latency(1.0, 0.9, 1.1, 9)
    assert str(PairedLatency(one, one, 0.81, 0.79, 0.84)) == "0.81 (0.79 to 0.84)"


def test_a_slow_round_of_both_changes_nothing() -> None:
    plain = summary([1.0] * 9, [0.5] * 9, 9)
    slowed = summary([1.0] * 8 + [50.0], [0.5] * 8 + [25.0], 9)
    assert (slowed.ratio, slowed.low, slowed.high) == (plain.ratio, plain.low, plain.high)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A layer, and one of four times its work."""
    folder = tmp_path_factory.mktemp("timed")
    files = []
    for channels in (64, 256):
        net = Net((1, 64, 24, 24))
        onnx.save(net.model(net.conv("x", (64, channels))), folder / f"{channels}.onnx")
        files.append(folder / f"{channels}.onnx")
    return files[0], files[1]


@pytest.mark.parametrize("optimise", [True, False])
def test_models_are_timed_in_turns(models: tuple[Path, Path], optimise: bool) -> None:
    feeds = {"x": np.zeros((1, 64, 24, 24), np.float32)}
    times = paired(models[0], models[0], CPU, feeds, optimise, QUICK)
    least = QUICK.fewest_rounds if optimise else QUICK.loaded_rounds
    assert min(times.before.runs, times.after.runs) >= least
    assert 0.0 < times.before.low <= times.before.median <= times.before.high
    assert times.low <= times.ratio <= times.high
