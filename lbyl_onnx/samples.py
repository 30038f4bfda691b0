"""What the statistics are taken on: synthetic samples, or a person's own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from lbyl_onnx.calibration import Samples
from lbyl_onnx.facts import Array
from lbyl_onnx.images import Layout, synthetic_batch

# Multiply-accumulates that one pass over the synthetic samples may take, if FEWEST allow.
BUDGET = 100 * 10**9
FEWEST, MOST = 64, 4096
# Bytes that the largest activation of a mini-batch may take, and the most samples in one.
ACTIVATION, LARGEST_BATCH = 128 << 20, 128
# Below so many samples in a mini-batch its statistics say little of the others.
LEAST_BATCH = 8


@dataclass(frozen=True)
class InputSpec:
    """One input of a model: type, and shape with the batch first."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class SampleSource:
    """Samples in mini-batches, the same ones each time they are asked for.

    Parameters
    ----------
    inputs
        Of the model; their shapes are those of one mini-batch.
    count
        Samples in all, a multiple of `size`.
    size
        Samples in a mini-batch.
    seed
        Of the synthetic samples.
    layout
        Where images have their channels.
    given
        A person's own samples; None for synthetic ones.
    """

    inputs: Mapping[str, InputSpec]
    count: int
    size: int
    seed: int
    layout: Layout = "auto"
    given: Samples | None = None

    def batches(self) -> Iterator[Mapping[str, Array]]:
        """Yield the feeds of each mini-batch."""
        if self.given is not None:
            yield from self.given.batches(self.size)
            return
        for number in range(self.count // self.size):
            rng = np.random.default_rng([self.seed, number])
            yield {
                name: synthetic_batch(spec.shape, spec.dtype, rng, self.layout)
                for name, spec in self.inputs.items()
            }


def batch_size(largest: int, wanted: int) -> int:
    """Samples in a mini-batch, for the elements of the largest activation of one sample."""
    fits = ACTIVATION // max(1, 4 * largest)
    return max(1, min(fits, LARGEST_BATCH, wanted))


def sample_count(macs: int, wanted: int) -> int:
    """Synthetic samples to take: as many as are wanted, if one pass over them is affordable."""
    affordable = max(FEWEST, BUDGET // max(1, macs))
    return max(1, min(wanted, affordable, MOST))


def rounded(count: int, size: int) -> int:
    """Return the count as a whole number of mini-batches."""
    return size * math.ceil(count / size)
