"""Moments of samples, summed over mini-batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.observe.graph_builder import outputs_of
from lbyl_onnx.observe.spec import MomentSpec
from lbyl_onnx.types import Array, Floats

# Blocks of rows whose means are kept before they become one.
BLOCKS = 32
# Rows that are gathered before their products are summed: sums of fewer cost more to add than to
# work out.
GATHERED = 512


@dataclass(frozen=True, eq=False)
class SampleMoments:
    """Moments of a view: its rows, the mean, and the covariance or the variance."""

    rows: int
    mean: Floats
    second: Floats

    def with_prior(self, prior: SampleMoments) -> SampleMoments:
        """Return these moments with a prior covariance that counts as a row for each column.

        The prior's shape is taken, not its size; a degenerate one is left out.
        """
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            shaped = prior.second * (np.trace(self.second) / np.trace(prior.second))
        if not np.all(np.isfinite(shaped)):
            return self
        rows = self.rows + len(self.mean)
        second = (self.rows * self.second + len(self.mean) * shaped) / rows
        return SampleMoments(rows, self.mean, second)


@dataclass(eq=False)
class MomentAccumulator:
    """Moments of the rows so far, block by block.

    Parameters
    ----------
    rows, means
        Of each block: how many rows it has, and their mean.
    sums
        Sums of (products of) the rows' deviations from the mean of their block, over all blocks.
    strips
        Of the sums of products; what lies before them is left out until the end.
    waiting
        Deviations (columns, rows) of blocks whose products are not summed yet.
    """

    rows: list[int]
    means: list[Floats]
    sums: Floats
    strips: tuple[slice, ...]
    waiting: list[NDArray[np.float32]] = field(default_factory=list)

    @staticmethod
    def of(view: MomentSpec) -> MomentAccumulator:
        """Return those of no rows of a view."""
        return MomentAccumulator(
            [], [], np.zeros((view.columns,) * (2 if view.cross else 1)), view.strips
        )

    def add(self, rows: int, mean: Array, strips: Iterable[NDArray[np.floating[Any]]]) -> None:
        """Take in a block: its rows, their mean, and their sums, strip by strip."""
        self._add_strips(strips)
        self._add_mean(rows, mean)

    def _add_mean(self, rows: int, mean: Array) -> None:
        self.rows.append(rows)
        self.means.append(mean.astype(np.float64).reshape(-1))  # (D, 1) -> (D,)
        if len(self.rows) == BLOCKS:
            self._unite()

    def _add_strips(self, strips: Iterable[NDArray[np.floating[Any]]]) -> None:
        with np.errstate(invalid="ignore", over="ignore"):  # `Moments.finite` tells of it
            for place, sums in zip(self.strips, strips, strict=True):
                part = self.sums[place]
                (part[:, place.start :] if part.ndim == 2 else part)[...] += sums

    def add_deviations(self, mean: Array, centred: NDArray[np.float32]) -> None:
        """Take in a block: the mean of its rows, and their deviations from it, (columns, rows).

        Of blocks that have to wait for more rows copies are kept.
        """
        self._add_mean(centred.shape[1], mean)
        rows = sum(block.shape[1] for block in (*self.waiting, centred))
        self.waiting.append(centred if rows >= GATHERED else centred.copy())
        if rows >= GATHERED:
            self._sum_up()

    def _sum_up(self) -> None:
        """Add the products of what is waiting."""
        if self.waiting:
            alone = len(self.waiting) == 1
            centred = self.waiting[0] if alone else np.concatenate(self.waiting, axis=1)
            self.waiting.clear()
            self._add_strips(products(centred, self.strips))

    def measured(self) -> SampleMoments:
        """Return the moments, NaN of no rows; these sums are spent."""
        if not self.rows:
            return SampleMoments(
                0, np.full(len(self.sums), np.nan), np.full_like(self.sums, np.nan)
            )
        self._sum_up()
        self._unite()
        if self.sums.ndim == 2:
            for place in self.strips:  # what lies below the diagonal follows from what lies above
                self.sums[place.stop :, place] = self.sums[place, place.stop :].T
        self.sums /= self.rows[0]
        return SampleMoments(self.rows[0], self.means[0], self.sums)

    def _unite(self) -> None:
        """Make one block of all (Chan, Golub, LeVeque 1979)."""
        means, rows = np.stack(self.means), np.asarray(self.rows)
        with np.errstate(invalid="ignore", over="ignore"):
            mean = rows @ means / rows.sum()
            steps = means - mean
            if self.sums.ndim == 2:
                weighted = steps.T * rows  # (D, blocks)
                for place in self.strips:
                    self.sums[place, place.start :] += weighted[place] @ steps[:, place.start :]
            else:
                self.sums += rows @ steps**2
        self.rows, self.means = [int(rows.sum())], [mean]


def add_outputs(
    running: MomentAccumulator, outputs: Mapping[str, Array], key: str, view: MomentSpec
) -> None:
    """Add one mini-batch's outputs of the instrumented model; columns alone give variances."""
    named = {part: outputs[name] for part, name in outputs_of(key, view).items()}
    if view.gives_rows:
        centred = named["centred"].astype(np.float32, copy=False)
        by_column = centred.T if view.rows_first else centred  # (columns, rows)
        if by_column.shape[1]:
            running.add_deviations(named["mean"], by_column)
        return
    rows = int(named["shape"][1])
    if not rows:  # samples of a few positions may leave a tensor empty
        return
    if view.cross:
        strips = [named[str(i)].astype(np.float32, copy=False) for i in range(len(view.strips))]
        running.add(rows, named["mean"], strips)
    else:
        running.add(rows, named["mean"], [rows * named["0"].astype(np.float64)])


def products(
    centred: NDArray[np.float32], strips: Sequence[slice]
) -> Iterator[NDArray[np.float32]]:
    """Yield sums over the rows of products of columns, strip by strip.

    Parameters
    ----------
    centred
        (columns, rows), of any memory layout.
    strips
        Parts of the columns.

    Yields
    ------
    (strip, columns from the strip's first on)
        For a block on the diagonal BLAS is asked for half of it (``syrk``).
    """
    with np.errstate(invalid="ignore", over="ignore"):  # `Moments.finite` tells of it
        for place in strips:
            some, rest = centred[place], centred[place.stop :]
            whole = np.empty((len(some), len(some) + len(rest)), centred.dtype)
            np.matmul(some, some.T, out=whole[:, : len(some)])
            np.matmul(some, rest.T, out=whole[:, len(some) :])
            yield whole
