"""What becomes of a file that was made, measured beside the original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lbyl_onnx.errors import VerificationError
from lbyl_onnx.evaluate.score import own_score
from lbyl_onnx.evaluate.verify import sampled_fidelity
from lbyl_onnx.graph import source as graph_source
from lbyl_onnx.observe.session import Prepared
from lbyl_onnx.rewrite.compared_samples import ComparedSamples
from lbyl_onnx.runtime import timing
from lbyl_onnx.runtime.baseline import Baseline

Deploy = Callable[[Path], Path]
"""Writes, from a model that was made, the one that is deployed, and returns its file."""


@dataclass(frozen=True, eq=False)
class Deployment:
    """How files that were made are deployed, and the original that they are measured beside.

    Parameters
    ----------
    baseline, source
        The original as it runs, and its file.
    samples
        What both are compared on.
    metric
        The user's own function; None without.
    deploy
        What becomes of a file that was made; None where it is deployed as it is.
    last
        The file that was deployed last, by what tells it from others.
    """

    baseline: Baseline
    source: Path
    samples: ComparedSamples
    metric: str | None
    deploy: Deploy | None = None
    last: dict[tuple[Path, int, int, int], Path] = field(default_factory=dict)

    @classmethod
    def prepare(
        cls, prepared: Prepared, baseline: Baseline, source: Path, deploy: Deploy | None
    ) -> Deployment:
        """Return how models are deployed that are made of a prepared one."""
        samples = ComparedSamples.of(prepared, baseline)
        return cls(baseline, source, samples, prepared.config.metric, deploy)

    def of(self, made: Path) -> Deployed:
        """Return what measures a file that was made, as it is deployed."""
        return Deployed(self, made)

    def original_score(self) -> float:
        """Return the original's score by the user's own function."""
        return own_score(str(self.metric), self.source)


@dataclass(frozen=True, eq=False)
class Deployed:
    """One file that was made.

    Parameters
    ----------
    deployment
        What becomes of it.
    made
        The file.
    """

    deployment: Deployment
    made: Path

    @property
    def path(self) -> Path:
        """Its file as it is deployed, which is written once for all that is measured of it."""
        deploy, last = self.deployment.deploy, self.deployment.last
        if deploy is None:
            return self.made
        stat = self.made.stat()
        key = self.made, stat.st_ino, stat.st_mtime_ns, stat.st_size
        if key not in last:
            last.clear()
            last[key] = deploy(self.made)
        return last[key]

    def size(self) -> int:
        """Return its bytes."""
        return graph_source.stored_bytes(self.path)

    def times(self) -> timing.PairedLatency:
        """Time the original and it, in turns."""
        return self.deployment.baseline.times(self.deployment.source, self.path)

    def agreement(self) -> float:
        """Return how near it is to the original: the least over its outputs.

        It is the cosine, or of whole numbers the share that is equal.

        Raises
        ------
        VerificationError
            When nothing could be compared.
        """
        own, samples = self.deployment, self.deployment.samples
        near = sampled_fidelity(
            own.source, self.path, own.baseline, samples.batches(), samples.described
        )
        if near.nearness is None:
            raise VerificationError("no output value could be compared")
        return near.nearness

    def score(self) -> float:
        """Return its score, by the user's own function."""
        return own_score(str(self.deployment.metric), self.path)
