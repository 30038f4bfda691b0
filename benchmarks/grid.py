"""What `benchmarks.accuracy` runs: the models, the options, and the cells they give."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.datasets import Dataset
from lbyl_onnx import Config

METHODS: tuple[str, ...] = ("none", "nm", "lbyl")
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5)
BASE = Config(provider="cpu", method="lbyl", criterion="l2", round_to=1, ratio=0.3)
# lambda1 and lambda2 from the published ranges, 1e-6 to 5e-4 and 1e-4 to 0.1; what is useful
# depends on the scale of the weights, so two pairs lie far above.
LBYL_GRID = ((1e-6, 1e-4), (1e-5, 1e-3), (1e-5, 1e-2), (5e-4, 1e-1), (1e-2, 1.0), (1e-2, 10.0))
# t and lambda from the published ranges, 0.1 to 0.45 and 0.7 to 0.85.
NM_GRID = ((0.1, 0.7), (0.1, 0.85), (0.25, 0.85), (0.45, 0.85))


@dataclass(frozen=True)
class Subject:
    """A model and what to measure on it.

    Parameters
    ----------
    name
        Of the model's file.
    dataset
        Its images.
    limit
        How many of them; None for all.
    criteria
        Which criteria at the default options.
    tuned
        Whether to run the grids.
    normalized
        Whether its layers have BatchNormalization: lambda1 and Neuron Merging's weight have no
        effect without.
    more_ratios
        Beside `RATIOS`.
    inverted_scale_ratios
        Where to run Neuron Merging with the inverted scale as well.
    """

    name: str
    dataset: Dataset
    limit: int | None = None
    criteria: tuple[str, ...] = ("l2", "l1", "gm")
    tuned: bool = True
    normalized: bool = True
    more_ratios: tuple[float, ...] = ()
    inverted_scale_ratios: tuple[float, ...] = ()


SUBJECTS = (
    Subject(
        "resnet20_cifar10",
        "cifar10",
        criteria=("l2", "l1", "gm", "random"),
        inverted_scale_ratios=(0.3, 0.5),
    ),
    Subject("resnet20_cifar10_folded", "cifar10", normalized=False),
    Subject("resnet20_cifar10_dynamo", "cifar10", criteria=("l2",), tuned=False),
    Subject("vgg16_cifar10", "cifar10", limit=2000, inverted_scale_ratios=(0.3, 0.5)),
    Subject(
        "lenet_300_100_fashion",
        "fashion",
        criteria=("l2", "l1", "gm", "random"),
        normalized=False,
        more_ratios=(0.6, 0.7, 0.8),
    ),
)


@dataclass(frozen=True)
class Cell:
    """One compressed model and its accuracy.

    Parameters
    ----------
    config
        What it was compressed with.
    accuracy
        Top-1, in [0, 1].
    parameters
        Share of the original's.
    macs
        Share of the original's multiply-accumulates.
    """

    config: Config
    accuracy: float
    parameters: float
    macs: float


@dataclass(frozen=True)
class SubjectResult:
    """All that was measured on one model."""

    subject: Subject
    images: int
    groups: int
    uncompressed: float
    cells: tuple[Cell, ...]
    inverted_scale: tuple[tuple[Config, float], ...]

    def find(self, config: Config) -> Cell:
        """Return the cell of a configuration that was run."""
        return next(cell for cell in self.cells if cell.config == config)


def configurations(subject: Subject, ratio: float) -> list[Config]:
    """Return what to run on a model at one ratio, each once: the defaults, then the grids."""
    base = replace(BASE, ratio=ratio)
    defaults = [replace(base, method=m, criterion=c) for c in subject.criteria for m in METHODS]
    grids = [*grid(subject, ratio, "nm"), *grid(subject, ratio, "lbyl")] if subject.tuned else []
    return list(dict.fromkeys([*defaults, *grids]))


def grid(subject: Subject, ratio: float, method: str) -> list[Config]:
    """Return the configurations among which the best is sought, the default first."""
    base = replace(BASE, ratio=ratio, method=method)
    if method == "nm":
        points = [replace(base, cosine_threshold=t, cosine_weight=w) for t, w in NM_GRID]
    else:
        points = [replace(base, lambda1=first, lambda2=second) for first, second in LBYL_GRID]
    if not subject.normalized:
        points = [
            replace(p, cosine_weight=BASE.cosine_weight, lambda1=BASE.lambda1) for p in points
        ]
    return list(dict.fromkeys([base, *points]))


def best(result: SubjectResult, ratio: float, method: str) -> Cell:
    """Return the most accurate cell of a grid, of equals the first."""
    cells = [result.find(config) for config in grid(result.subject, ratio, method)]
    return max(cells, key=lambda cell: cell.accuracy)
