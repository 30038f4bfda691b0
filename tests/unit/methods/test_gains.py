"""Terms of a product that stay, and their gains, against least squares over all pairs of rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from lbyl_onnx.methods.mixing.gains import gains, rank_terms, term_moments
from lbyl_onnx.methods.types import Moments

Floats = NDArray[np.float64]
SUMS, PLACES = 3, 6


@dataclass(frozen=True)
class Case:
    """Rows of queries and keys, two heads of queries to the first of keys, one to the second."""

    queries: Floats
    keys: Floats
    units: NDArray[np.intp]

    @staticmethod
    def of(seed: int, pairs: bool) -> Case:
        rng = np.random.default_rng(seed)
        queries, keys = (
            rng.standard_normal((40, heads * PLACES)) @ rng.standard_normal((heads * PLACES,) * 2)
            + rng.normal(size=heads * PLACES)
            for heads in (SUMS, 2)
        )
        one = np.tile(np.arange(PLACES // 2), 2) if pairs else np.arange(PLACES)
        return Case(queries, keys, np.tile(one, (SUMS, 1)))

    @property
    def at(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        own = np.arange(SUMS * PLACES).reshape(SUMS, PLACES)
        return own, own[[0, 0, 1]]

    def moments(self) -> Moments:
        first, second = (
            Moments(x.mean(axis=0), np.cov(x.T, bias=True), len(x))
            for x in (self.queries, self.keys)
        )
        terms = term_moments(first, second, self.at, self.units)
        return replace(terms, ridge_share=1e-13, ridge_per_row=0.0)

    def terms(self) -> Floats:
        """Of each pair of rows and each sum the term of each unit."""
        keys = self.keys - self.keys.mean(axis=0)
        products = [
            self.queries[:, None, q] * keys[None, :, k] for q, k in zip(*self.at, strict=True)
        ]
        rows = np.concatenate([x.reshape(-1, PLACES) for x in products])
        units = np.arange(self.units.max() + 1)
        return np.stack([rows[:, self.units[0] == unit].sum(axis=1) for unit in units], axis=1)

    def lost(self, kept: list[int]) -> tuple[Floats, float]:
        """Gains of kept terms by least squares, and the share of the squares that is left."""
        terms = self.terms()
        target = terms.sum(axis=1)
        found = np.linalg.lstsq(terms[:, kept], target)[0]
        error = target - terms[:, kept] @ found
        return found, float(error @ error / (target @ target))


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_gains_are_least_squares(seed: int, pairs: bool) -> None:
    case = Case.of(seed, pairs)
    kept = [0, 2]
    expected = case.lost(kept)[0]
    np.testing.assert_allclose(gains(case.moments(), np.asarray(kept)), expected, rtol=1e-6)


@pytest.mark.parametrize("pairs", [False, True])
def test_what_is_lost_is_what_is_left_of_the_squares(pairs: bool) -> None:
    case = Case.of(1, pairs)
    ranking = rank_terms([case.moments()], 1, None)
    n = ranking.size
    for gone in range(n):
        kept = ranking.kept(n - gone).tolist()
        assert ranking.losses[gone, 0] == pytest.approx(case.lost(kept)[1], rel=1e-6, abs=1e-9)
    first = min(case.lost([*kept])[1] for kept in combinations(range(n), n - 1))
    assert ranking.losses[1, 0] == pytest.approx(first, rel=1e-6)


def test_of_each_block_as_many_go() -> None:
    case = Case.of(2, False)
    ranking = rank_terms([case.moments()], 2, np.asarray([0, 0, 0, 1, 1, 1]))
    assert sorted(ranking.kept(2) // 3) == [0, 1]
