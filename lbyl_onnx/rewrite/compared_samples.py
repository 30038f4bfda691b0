"""The samples on which a compressed model is compared with the original."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from lbyl_onnx.data.source import BUDGET, SampleSource, batch_size, rounded
from lbyl_onnx.graph.costs import count_costs
from lbyl_onnx.observe.session import Prepared, sample_source
from lbyl_onnx.runtime.baseline import Baseline
from lbyl_onnx.types import Array

# Samples, at most and (where they take long) at least; at most where no statistics are taken, and
# drawing them takes longer than all the rest.
MOST, LEAST, UNMEASURED = 128, 16, 64


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
        analyzed = prepared.analyzed
        batch = max((shape[0] for shape in baseline.first.values() if shape), default=1)
        macs = count_costs(analyzed.model, analyzed.tensor_info).macs // batch
        wanted = max(LEAST, min(MOST, BUDGET // max(1, macs)))
        measured = prepared.run is not None
        pairs = [(baseline.first[name], baseline.second[name]) for name in baseline.first]
        # A state may have its batch on another axis: then all inputs keep the shapes that ran.
        apart = any(one[0] == two[0] and one != two for one, two in pairs if one)
        free = not apart and any(one[0] != two[0] for one, two in pairs if one)
        if prepared.run is not None and free:
            source = prepared.run.source
        else:
            # Statistics may be taken in larger mini-batches than the model itself takes.
            wanted = wanted if measured else min(wanted, UNMEASURED)
            source = _own_samples(prepared, baseline, wanted, free)
        count = rounded(min(wanted, source.count), source.size)
        # Other synthetic samples than those that the statistics are of.
        source = replace(source, count=count, seed=source.seed + 1)
        return ComparedSamples(source, count, measured)

    @property
    def described(self) -> str:
        """What they are."""
        if self.source.given is None:
            return "synthetic samples drawn anew" if self.measured else "synthetic samples"
        return self.source.given.origin + (", as the statistics are" if self.measured else "")

    def batches(self) -> Iterator[Mapping[str, Array]]:
        """Yield the feeds of each mini-batch."""
        return self.source.batches()


def _own_samples(prepared: Prepared, baseline: Baseline, wanted: int, free: bool) -> SampleSource:
    """Samples in mini-batches that the model takes as it is deployed."""
    analyzed = prepared.analyzed
    batch = max((shape[0] for shape in baseline.first.values() if shape), default=1)
    names = [name for node in analyzed.model.graph.node for name in node.output if name]
    shapes = [analyzed.tensor_info.shape(name) or () for name in names]
    largest = max((math.prod(d or 0 for d in shape) for shape in shapes), default=1)
    size = batch_size(largest // batch, wanted)
    return sample_source(analyzed, baseline, prepared.config, wanted, size, free, prepared.own)
