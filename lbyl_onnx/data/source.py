"""Samples for the statistics: synthetic ones, or the user's own."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lbyl_onnx.data.input_kind import InputSpec
from lbyl_onnx.data.samples import Samples
from lbyl_onnx.data.synthetic.feeds import Family, synthetic_feeds
from lbyl_onnx.guard.effort import Effort
from lbyl_onnx.option_types import Layout
from lbyl_onnx.types import Array

# Bytes that the largest activation of a mini-batch may take.
ACTIVATION = 128 << 20
# Bytes of synthetic samples that are kept on disk between passes.
STORED = 1 << 29
# Below so many samples in a mini-batch its statistics say little of the others.
LEAST_BATCH = 8


@dataclass(frozen=True, eq=False)
class SampleSource:
    """Samples in mini-batches, the same ones each time they are asked for.

    Parameters
    ----------
    inputs
        Of the model; their shapes are those of one mini-batch.
    count
        Samples in all, a multiple of `size` for synthetic ones; of the user's own no more are used.
    size
        Samples in a mini-batch, of the user's own at most: those of each shape apart.
    seed
        Of the synthetic samples.
    layout
        Where images have their channels.
    supplied
        The user's own samples; None for synthetic ones.
    exact
        Whether the model takes no mini-batch of another size.
    family
        Of the synthetic samples: those of the statistics, or others.
    """

    inputs: Mapping[str, InputSpec]
    count: int
    size: int
    seed: int
    layout: Layout = "auto"
    supplied: Samples | None = None
    exact: bool = False
    family: Family = "usual"

    def batches(
        self, store: Path | None = None, first: int | None = None
    ) -> Iterator[Mapping[str, Array]]:
        """Yield the feeds of each mini-batch.

        Parameters
        ----------
        store
            A folder that keeps synthetic samples from one pass to the next, where they are not too
            many; None to make them anew.
        first
            How many mini-batches it keeps, from the first on; None for all.
        """
        if self.supplied is not None:
            if self.exact:
                whole = self.supplied.batches(self.size)
                yield from itertools.islice(whole, math.ceil(self.count / self.size))
                return
            each = sum(math.prod(spec.shape[1:]) for spec in self.inputs.values())
            yield from self.supplied.first(self.count).batches(self.size, each)
            return
        for number in range(self.count // self.size):
            again = self._is_stored and (first is None or number < first)
            yield self._made(number) if store is None or not again else self._kept(store, number)

    @property
    def _is_stored(self) -> bool:
        each = [math.prod(spec.shape) * spec.dtype.itemsize for spec in self.inputs.values()]
        return sum(each) * (self.count // self.size) <= STORED

    def _made(self, number: int) -> dict[str, Array]:
        rng = np.random.default_rng([self.seed, number])
        return synthetic_feeds(self.inputs, rng, self.layout, self.family)

    def _kept(self, store: Path, number: int) -> dict[str, Array]:
        shapes = repr([spec.shape for spec in self.inputs.values()])
        path = store / f"samples-{zlib.crc32(shapes.encode()):08x}-{number}.npz"
        if not path.exists():
            made = self._made(number)
            np.savez(path, *made.values())
            return made
        with np.load(path, allow_pickle=False) as kept:
            return {name: kept[f"arr_{i}"] for i, name in enumerate(self.inputs)}


def batch_size(largest: int, requested: int, effort: Effort) -> int:
    """Samples in a mini-batch, for the elements of the largest activation of one sample."""
    fits = ACTIVATION // max(1, 4 * largest)
    return max(1, min(fits, effort.largest_batch, requested))


def sample_count(macs: int, values: int, requested: int, effort: Effort) -> int:
    """Synthetic samples to take: as many as are requested, if they are affordable.

    Parameters
    ----------
    macs, values
        Multiply-accumulates of one sample, and the values that it is made of.
    requested
        How many would be enough.
    effort
        What one pass over them and drawing them may take.
    """
    affordable = max(effort.fewest_samples, effort.pass_macs // max(1, macs))
    drawn = max(effort.enough_samples, effort.drawn_values // max(1, values))
    return max(1, min(requested, affordable, drawn, effort.most_samples))


def rounded(count: int, size: int) -> int:
    """Return the count as a whole number of mini-batches."""
    return size * math.ceil(count / size)
