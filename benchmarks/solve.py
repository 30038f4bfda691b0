"""Time the LBYL solve against one solve per removed channel.

Run from the root of the repository: ``python -m benchmarks.solve``. Four ways to the same answer,
on random 3x3 convolutions of n inputs and n outputs with BatchNormalization, half of them kept:

shared : `lbyl.deliver`, one eigendecomposition for all removed channels.
per filter : one Gram matrix for the layer, one k x k Cholesky solve per removed channel.
in place : the same by a more careful hand, every system built and factored in one buffer.
released : as the paper's released code is built, the rows rescaled and the Gram matrix formed
    anew for each removed channel, then the same Cholesky solve.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from benchmarks.tables import describe_machine, markdown_table, write_pair
from lbyl_onnx.methods import lbyl
from lbyl_onnx.methods.types import FoldedRows

LAMBDA1 = lbyl.DEFAULT_LAMBDA1
LAMBDA2 = lbyl.DEFAULT_LAMBDA2
RUNS = 7
SEED = 0
# More removed channels than this and the per-channel ways are timed on a random sample of them.
ALL_PER_FILTER, SAMPLE_PER_FILTER = 256, 16
ALL_RELEASED, SAMPLE_RELEASED = 64, 8
HEADER = [
    "channels",
    "ours (s)",
    "per filter (s)",
    "in place (s)",
    "released (s)",
    "faster than per filter",
    "than in place",
    "than released",
    "difference",
    "ours, zero ridge (s)",
]

Array = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class LayerResult:
    """What one layer measured; times in seconds for all its removed channels, medians."""

    channels: int
    kept: int
    inputs: int
    shared_s: float
    zero_ridge_s: float
    per_filter_s: float
    in_place_s: float
    per_filter_timed: int
    released_s: float
    released_timed: int
    per_filter_ratio: float
    in_place_ratio: float
    released_ratio: float
    largest_difference: float


def main() -> None:
    """Measure every layer and write ``solve.md`` and ``solve.json``."""
    parser = argparse.ArgumentParser(description="Time the LBYL solve.")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--largest", type=int, default=2048, help="channels of the largest layer")
    options = parser.parse_args()
    sizes = [n for n in (64, 128, 256, 512, 1024, 2048) if n <= options.largest]
    results = []
    for n in sizes:
        results.append(measure(n))
        print(" | ".join(_table_row(results[-1])), flush=True)
    command = f"python -m benchmarks.solve --largest {options.largest}"
    setting = {
        "command": command,
        "machine": describe_machine(),
        "lambda1": LAMBDA1,
        "lambda2": LAMBDA2,
        "runs": RUNS,
        "seed": SEED,
    }
    document = {**setting, "layers": [asdict(result) for result in results]}
    write_pair(options.output_dir, "solve", document, markdown(command, results))


def measure(n: int) -> LayerResult:
    """Time the four ways on one layer of n channels, in turn, `RUNS` times over."""
    rng = np.random.default_rng([SEED, n])
    rows = random_layer(n, rng)
    kept = np.sort(rng.choice(n, n // 2, replace=False))
    removed = np.setdiff1d(np.arange(n), kept)
    some = _sample(removed, ALL_PER_FILTER, SAMPLE_PER_FILTER, rng)
    few = _sample(removed, ALL_RELEASED, SAMPLE_RELEASED, rng)

    runs = [_run(rows, kept, removed, some, few) for _ in range(RUNS)]
    shared, per_filter, in_place, released, difference = zip(*runs, strict=True)
    zero_ridge, _ = _timed(lambda: lbyl.deliver(rows, kept, lambda2=0.0))
    return LayerResult(
        channels=n,
        kept=kept.size,
        inputs=rows.weight.shape[1],
        shared_s=statistics.median(shared),
        zero_ridge_s=zero_ridge,
        per_filter_s=statistics.median(per_filter),
        in_place_s=statistics.median(in_place),
        per_filter_timed=some.size,
        released_s=statistics.median(released),
        released_timed=few.size,
        per_filter_ratio=_median_ratio(per_filter, shared),
        in_place_ratio=_median_ratio(in_place, shared),
        released_ratio=_median_ratio(released, shared),
        largest_difference=max(difference),
    )


def _run(
    rows: FoldedRows,
    kept: NDArray[np.intp],
    removed: NDArray[np.intp],
    some: NDArray[np.intp],
    few: NDArray[np.intp],
) -> tuple[float, float, float, float, float]:
    """Return the seconds of the four ways, sampled ones extrapolated, and their difference."""
    shared, delivery = _timed(lambda: lbyl.deliver(rows, kept))
    gram_seconds, (gram, cross) = _timed(lambda: layer_gram(rows, kept, removed))
    seconds, answer = _timed(lambda: per_filter_solve(rows, kept, removed, some, gram, cross))
    per_filter = gram_seconds + seconds * removed.size / some.size
    seconds, careful = _timed(lambda: in_place_solve(rows, kept, removed, some, gram, cross))
    in_place = gram_seconds + seconds * removed.size / some.size
    seconds, rebuilt = _timed(lambda: released_solve(rows, kept, few))
    released = seconds * removed.size / few.size
    difference = max(
        _relative_difference(delivery.matrix[some], answer),
        _relative_difference(delivery.matrix[some], careful),
        _relative_difference(delivery.matrix[few], rebuilt),
    )
    return shared, per_filter, in_place, released, difference


def random_layer(n: int, rng: np.random.Generator) -> FoldedRows:
    """Return a 3x3 convolution of n inputs and n outputs, He initialised, and its scale, shift."""
    inputs = 9 * n
    return FoldedRows(
        weight=rng.standard_normal((n, inputs)) * np.sqrt(2.0 / inputs),
        scale=rng.uniform(0.5, 2.0, n),
        shift=rng.standard_normal(n),
        normalized=True,
        constant_output=np.zeros(n),
    )


def layer_gram(
    rows: FoldedRows, kept: NDArray[np.intp], removed: NDArray[np.intp]
) -> tuple[Array, Array]:
    """Return the Gram matrix (k, k) of the kept folded rows and their products (m, k)."""
    sources = rows.weight[kept]
    gram = sources @ sources.T * np.multiply.outer(rows.scale[kept], rows.scale[kept])
    cross = rows.weight[removed] @ sources.T
    return gram, cross * np.multiply.outer(rows.scale[removed], rows.scale[kept])


def per_filter_solve(
    rows: FoldedRows,
    kept: NDArray[np.intp],
    removed: NDArray[np.intp],
    chosen: NDArray[np.intp],
    gram: Array,
    cross: Array,
) -> Array:
    """Return s for the chosen channels, (m, k): a Cholesky solve each, the Gram matrix shared."""
    bias = rows.shift[kept]
    rank_one = LAMBDA1 * np.outer(bias, bias)
    answers = np.empty((chosen.size, kept.size))
    for i, j in enumerate(chosen):
        factor = rows.scale[j] ** -2
        system = factor * gram + rank_one
        right = factor * cross[np.searchsorted(removed, j)] + LAMBDA1 * rows.shift[j] * bias
        answers[i] = _ridge_solve(system, right)
    return answers


def in_place_solve(
    rows: FoldedRows,
    kept: NDArray[np.intp],
    removed: NDArray[np.intp],
    chosen: NDArray[np.intp],
    gram: Array,
    cross: Array,
) -> Array:
    """Return what `per_filter_solve` returns, without a new matrix per channel."""
    bias = rows.shift[kept]
    penalty = LAMBDA1 * np.outer(bias, bias)
    penalty[np.diag_indices_from(penalty)] += LAMBDA2
    system = np.empty_like(gram)
    answers = np.empty((chosen.size, kept.size))
    for i, j in enumerate(chosen):
        factor = rows.scale[j] ** -2
        np.multiply(gram, factor, out=system)
        system += penalty
        right = factor * cross[np.searchsorted(removed, j)] + LAMBDA1 * rows.shift[j] * bias
        # The transpose of a symmetric matrix, laid out as LAPACK wants it: factored without a copy.
        cholesky = scipy.linalg.cho_factor(system.T, overwrite_a=True, check_finite=False)
        answers[i] = scipy.linalg.cho_solve(cholesky, right, check_finite=False)
    return answers


def released_solve(rows: FoldedRows, kept: NDArray[np.intp], chosen: NDArray[np.intp]) -> Array:
    """Return s for the chosen channels, (m, k): rows rescaled, Gram matrix anew, a solve each."""
    bias = rows.shift[kept]
    answers = np.empty((chosen.size, kept.size))
    for i, j in enumerate(chosen):
        sources = rows.weight[kept] * (rows.scale[kept] / rows.scale[j])[:, None]
        system = sources @ sources.T + LAMBDA1 * np.outer(bias, bias)
        right = sources @ rows.weight[j] + LAMBDA1 * rows.shift[j] * bias
        answers[i] = _ridge_solve(system, right)
    return answers


def markdown(command: str, results: list[LayerResult]) -> str:
    """Return the report."""
    machine = describe_machine()
    return "\n".join(
        [
            "# The LBYL solve",
            "",
            f"`{command}` on {machine['processor']}, {machine['cores']} cores, thread settings "
            f"left alone; Python {machine['python']}, NumPy {machine['numpy']}, SciPy "
            f"{machine['scipy']}, {machine['blas']}.",
            "",
            "Random 3x3 convolutions of n inputs and n outputs with BatchNormalization, half of "
            f"the channels kept, lambda1 {LAMBDA1:g}, lambda2 {LAMBDA2:g}, float64. Seconds for "
            f"all removed channels of the layer, median of {RUNS} runs; the ratios are medians of "
            "the ratios within a run. *Per filter* solves one system by Cholesky per removed "
            "channel, the Gram matrix shared; *in place* does so without a new matrix per channel; "
            "*released* also rescales the rows and forms the Gram "
            "matrix anew each time. *(from 8 of 128)*: timed on 8 random channels of the 128 "
            "removed and extrapolated linearly. *Difference* is the largest absolute difference of "
            "the answers relative to the largest absolute value, over the channels timed. *Zero "
            "ridge* is one run of our solve at lambda2 0, which goes by singular values.",
            "",
            markdown_table(HEADER, [_table_row(result) for result in results]),
            "",
        ]
    )


def _table_row(result: LayerResult) -> list[str]:
    removed = result.channels - result.kept
    return [
        f"{result.channels}",
        f"{result.shared_s:.3g}",
        f"{result.per_filter_s:.3g}{_origin(result.per_filter_timed, removed)}",
        f"{result.in_place_s:.3g}{_origin(result.per_filter_timed, removed)}",
        f"{result.released_s:.3g}{_origin(result.released_timed, removed)}",
        f"{result.per_filter_ratio:.1f} x",
        f"{result.in_place_ratio:.1f} x",
        f"{result.released_ratio:.0f} x",
        f"{result.largest_difference:.0e}",
        f"{result.zero_ridge_s:.3g}",
    ]


def _origin(timed: int, removed: int) -> str:
    return "" if timed == removed else f" (from {timed} of {removed})"


def _ridge_solve(system: Array, right: Array) -> Array:
    """Return the solution of ``(system + lambda2 I) s = right``; overwrites ``system``."""
    system[np.diag_indices_from(system)] += LAMBDA2
    factor = scipy.linalg.cho_factor(system, overwrite_a=True, check_finite=False)
    return np.asarray(scipy.linalg.cho_solve(factor, right, check_finite=False))


def _sample(
    removed: NDArray[np.intp], most: int, count: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    if removed.size <= most:
        return removed
    return np.sort(rng.choice(removed, count, replace=False))


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def _median_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


def _relative_difference(ours: Array, other: Array) -> float:
    return float(np.abs(ours - other).max() / np.abs(other).max())


if __name__ == "__main__":
    main()
