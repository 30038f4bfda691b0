"""Intervals of shares and the test of a pair, against slow oracles."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from lbyl_onnx.evaluate.doubt import PairedAccuracy, mcnemar, wilson


@pytest.mark.parametrize(("hits", "total"), [(0, 10), (3, 10), (10, 10), (829, 1000), (1, 1)])
def test_ends_of_an_interval_are_as_far_from_the_share_as_its_deviation_allows(
    hits: int, total: int
) -> None:
    """Wilson's ends are the shares p of which |hits / total - p| is z deviations of p itself."""
    for end in wilson(hits, total):
        distance = abs(hits / total - end)
        if 0.0 < end < 1.0:
            deviation = math.sqrt(end * (1.0 - end) / total)
            assert distance == pytest.approx(1.959963984540054 * deviation, rel=1e-9)


def test_nothing_measured_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (5, 5), (2, 9), (30, 12), (0, 12)])
def test_the_test_of_a_pair_counts_all_as_extreme_outcomes(one: int, other: int) -> None:
    total = one + other
    extreme = [
        math.comb(total, k) for k in range(total + 1) if abs(2 * k - total) >= abs(one - other)
    ]
    expected = float(Fraction(sum(extreme), 2**total))
    assert mcnemar(one, other) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(other, one) == mcnemar(one, other)


def test_thousands_of_samples_do_not_overflow() -> None:
    assert 0.0 < mcnemar(4800, 5200) < 1e-3


def test_a_pair_counts_what_one_alone_gets_right() -> None:
    first = np.asarray([True, True, True, False])
    second = np.asarray([True, False, False, True])
    pair = PairedAccuracy.of(first, second)
    assert (pair.only_original, pair.only_compressed) == (2, 1)
    assert pair.original == wilson(3, 4)
    assert pair.p_value == mcnemar(2, 1)
