"""The samples on which a compressed model is compared with the original."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from lbyl_onnx.data.source import LEAST_BATCH, SampleSource, batch_size, rounded
from lbyl_onnx.guard.effort import Effort
from lbyl_onnx.observe.session import Prepared, sample_source
from lbyl_onnx.runtime.baseline import Baseline
from lbyl_onnx.types import Array

# What a mini-batch may hold of what one of the statistics may: one part in so many.
SHARE = 4


@dataclass(frozen=True, eq=False)
class ComparedSamples:
    """Samples like those that the statistics are of: the user's own, or synthetic ones drawn anew.

    Parameters
    ----------
    source
        Where they come from.
    count
        How many, in whole mini-batches.
    measured
        Whether statistics were taken of such samples.
    """

    source: SampleSource
    count: int
    measured: bool

    @staticmethod
    def of(prepared: Prepared, baseline: Baseline) -> ComparedSamples:
        """Return the samples for a model and its options."""
        effort, macs = baseline.effort, prepared.analyzed.costs.macs // baseline.batch
        affordable = effort.compared_macs // max(1, macs)
        requested = max(effort.fewest_compared, min(effort.most_compared, affordable))
        measured = prepared.run is not None
        pairs = [(baseline.first[name], baseline.second[name]) for name in baseline.first]
        # A state may have its batch on another axis: then all inputs keep the shapes that ran.
        apart = any(one[0] == two[0] and one != two for one, two in pairs if one)
        free = not apart and any(one[0] != two[0] for one, two in pairs if one)
        requested = requested if measured else min(requested, effort.most_unmeasured)
        source = _drawn(prepared, baseline, requested, free)
        count = rounded(min(requested, source.count), source.size)
        # Other synthetic samples than those that the statistics are of.
        drawn = replace(source, count=count, seed=source.seed + 1)
        return ComparedSamples(drawn, count, measured)

    @property
    def described(self) -> str:
        """What they are."""
        if self.source.supplied is None:
            return "synthetic samples drawn anew" if self.measured else "synthetic samples"
        return self.source.supplied.origin + (", as the statistics are" if self.measured else "")

    def unseen(self, effort: Effort) -> SampleSource | None:
        """Return synthetic samples of another family, fewer where they take long to draw.

        None where the samples are the user's own: how near the model is on those is no prediction.
        """
        source = self.source
        if source.supplied is not None:
            return None
        each = sum(math.prod(s.shape) for s in source.inputs.values()) // source.size
        drawn = max(effort.fewest_compared, effort.drawn_values // max(1, each))
        batches = max(1, min(self.count, effort.most_predicted, drawn) // source.size)
        return replace(source, count=batches * source.size, family="unseen")

    def batches(self) -> Iterator[Mapping[str, Array]]:
        """Yield the feeds of each mini-batch."""
        return self.source.batches()


def _drawn(prepared: Prepared, baseline: Baseline, requested: int, free: bool) -> SampleSource:
    """Samples in mini-batches that the model takes as it is deployed.

    They are smaller than those of the statistics: nothing is taken over them, and the activations
    of large ones are most of the memory.
    """
    largest, effort = prepared.analyzed.largest_activation // baseline.batch, baseline.effort
    small = max(LEAST_BATCH, batch_size(SHARE * largest, requested, effort))
    most = min(small, batch_size(largest, requested, effort))
    size = -(-requested // -(-requested // most))  # batches of one size, none much smaller
    return sample_source(
        prepared.kinds, baseline, prepared.config, requested, size, free, prepared.own
    )
