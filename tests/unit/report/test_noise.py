"""Times of layers are shown where they differ by more than two profiles of one model do."""

from __future__ import annotations

import pytest

from lbyl_onnx.evaluate.layers import Details, LayerComparison
from lbyl_onnx.report.noise import LEAST, RESOLUTION, noise_of
from lbyl_onnx.runtime.timing import Latency, PairedLatency


def layer(before: float | None, after: float | None, macs_after: int = 50) -> LayerComparison:
    return LayerComparison("n", "Conv", 8, 4, 100, macs_after, before, after)


def details(*layers: LayerComparison) -> Details:
    return Details(layers, 0.0, 0.0, (), (), ())


def times(ratio: float, width: float = 0.0) -> PairedLatency:
    one = Latency(1.0, 1.0, 1.0, 10)
    return PairedLatency(one, one, ratio, ratio - width / 2, ratio + width / 2)


@pytest.mark.parametrize(
    ("layers", "timed", "expected"),
    [
        ((layer(1.0, 0.5),), times(0.5), LEAST),
        # The same layer took 30 % more, and 2 µs that the profile may round away.
        ((layer(1.0, 0.2), layer(0.2, 0.2 * 1.3 + RESOLUTION, 100)), None, 0.3),
        # Half the time by both profiles, four fifths when timed in turns.
        ((layer(1.0, 0.5),), times(0.8), 0.375),
        ((layer(1.0, 0.5),), times(0.5, 0.2), 0.4),
        ((), None, LEAST),
        ((layer(None, None),), times(0.5), LEAST),
        ((layer(0.0, 0.0, 100),), times(0.5), LEAST),
    ],
    ids=["steady", "unchanged", "drift", "interval", "nothing", "unknown", "zero"],
)
def test_noise_is_the_largest_that_is_known(
    layers: tuple[LayerComparison, ...], timed: PairedLatency | None, expected: float
) -> None:
    assert noise_of(details(*layers), timed).relative == pytest.approx(expected)


@pytest.mark.parametrize(
    ("before", "after", "hidden"),
    [
        (0.013, 0.012, True),  # a microsecond
        (0.030, 0.022, False),
        (0.022, 0.030, False),  # slower is a difference, too
        (10.0, 9.1, True),
        (10.0, 8.9, False),
        (None, 1.0, True),
        (1.0, None, True),
    ],
)
def test_a_difference_within_noise_is_hidden(
    before: float | None, after: float | None, hidden: bool
) -> None:
    assert noise_of(details(), None).hides(before, after) == hidden
