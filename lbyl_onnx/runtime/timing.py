"""How long a model takes for one run, and whether another takes measurably more or less."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lbyl_onnx.guard.bounds import bounded, late_after
from lbyl_onnx.guard.effort import USUAL, Effort
from lbyl_onnx.runtime.session import Feeds, Session, as_written, timed
from lbyl_onnx.types import Floats

# Seconds that the rounds may take about, if the fewest of them allow: an interval wants these.
SECONDS = 3.0
# Runs of a turn, of which the fastest counts, for at most so many seconds; one before them brings
# the caches back.
RUNS, TURN_SECONDS = 10, 0.06
# Resamples of the bootstrap, and the share of them outside its interval.
RESAMPLES, OUTSIDE = 2000, 0.01
# A ratio whose interval reaches less than this share to either side needs no more rounds.
NARROW = 0.02
# Two sessions of one file differ by this much, by where their memory happens to lie.
SAME = 0.02


@dataclass(frozen=True)
class Latency:
    """Time of one run at the first input shapes, in milliseconds.

    Parameters
    ----------
    median
        Over the rounds, of each the fastest of a few runs.
    low, high
        A 99 % interval of that median, by bootstrap.
    runs
        How many runs are behind it.
    """

    median: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True)
class PairedLatency:
    """Two models, timed in turns on the same input.

    Parameters
    ----------
    before, after
        Times of the original and of the other.
    ratio
        Median over the rounds of the other's time as a share of the original's.
    low, high
        A 99 % interval of that ratio, by bootstrap over the rounds.
    """

    before: Latency
    after: Latency
    ratio: float
    low: float
    high: float

    @property
    def faster(self) -> bool:
        """Whether the other is measurably faster."""
        return self.high < 1.0 - SAME

    @property
    def slower(self) -> bool:
        """Whether the other is measurably slower."""
        return self.low > 1.0 + SAME

    def __str__(self) -> str:
        """Return the ratio with its interval, or that there is no difference.

        Examples
        --------
        >>> one = Latency(2.0, 1.9, 2.1, 50)
        >>> print(PairedLatency(one, Latency(1.6, 1.5, 1.7, 50), 0.81, 0.79, 0.84))
        0.81 (0.79 to 0.84)
        >>> print(PairedLatency(one, one, 1.0, 0.98, 1.01))
        no measurable difference
        """
        if not (self.faster or self.slower):
            return "no measurable difference"
        return f"{self.ratio:.2f} ({self.low:.2f} to {self.high:.2f})"


def paired(
    original: Path,
    other: Path,
    provider: str,
    feeds: Feeds,
    optimise: bool = True,
    effort: Effort = USUAL,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> PairedLatency:
    """Time two models in turns.

    What slows the machine down for a while slows both in the same round, so the ratio within a
    round is steadier than either time.

    Parameters
    ----------
    original, other
        The models' files.
    provider
        An execution provider's name.
    feeds
        One input for both.
    optimise
        Whether ONNX Runtime may optimise the graphs. Where it may not, they are large: one is held
        in memory at a time.
    effort
        How many rounds.
    step
        Told how many rounds of how many are done.

    Raises
    ------
    ModelError
        When ONNX Runtime does not load one.
    """
    paths = (original, other)
    sessions = [Session.of(path, provider, timed()) for path in paths] if optimise else []

    def turn(which: int) -> _Turn:
        if optimise:
            return _turn(sessions[which], feeds)
        return _turn(Session.of(paths[which], provider, as_written()), feeds)

    rounds = effort.loaded_rounds
    if optimise:
        seconds = sum(turn(which).seconds for which in (0, 1))
        rounds = max(effort.fewest_rounds, min(effort.rounds, int(SECONDS / seconds)))
    turns: list[list[_Turn]] = [[], []]
    for number in range(rounds):
        step(number, rounds)
        for which in (0, 1) if number % 2 else (1, 0):
            turns[which].append(turn(which))
        before, after = ([one.fastest for one in own] for own in turns)
        if number + 1 >= effort.narrow_rounds and is_narrow(before, after):
            break
    return summary(before, after, min(sum(one.runs for one in own) for own in turns))


def is_narrow(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether the interval of the ratio reaches less than `NARROW` of it to either side.

    Of a few rounds it reaches to the least and the largest ratio.

    Examples
    --------
    >>> is_narrow([2.0, 3.1, 2.0], [1.0, 1.54, 1.005])
    True
    >>> is_narrow([2.0, 2.01, 2.0], [1.0, 1.0, 1.05])
    False
    """
    ratios = np.asarray(after) / np.asarray(before)
    (low, high), middle = _interval(ratios), float(np.median(ratios))
    return max(high - middle, middle - low) <= NARROW * middle


@dataclass(frozen=True)
class _Turn:
    """A few runs: the fastest in milliseconds, how many, and how long all took in seconds."""

    fastest: float
    runs: int
    seconds: float


def _turn(session: Session, feeds: Feeds) -> _Turn:
    """Run a model a few times in a row, not counting the first."""
    begun, times = time.perf_counter(), list[float]()
    with bounded(f"timing {session.path.name}", late_after((1 + RUNS) * session.seconds)):
        session.loaded.run(None, dict(feeds))
        while len(times) < RUNS and (not times or time.perf_counter() - begun < TURN_SECONDS):
            start = time.perf_counter()
            session.loaded.run(None, dict(feeds))
            times.append(1000.0 * (time.perf_counter() - start))
    return _Turn(min(times), len(times), time.perf_counter() - begun)


def summary(before: Sequence[float], after: Sequence[float], runs: int) -> PairedLatency:
    """Sum up the times of both models, in milliseconds, round by round."""
    one, two = np.asarray(before), np.asarray(after)
    ratios = two / one
    return PairedLatency(
        _latency(one, runs), _latency(two, runs), float(np.median(ratios)), *_interval(ratios)
    )


def _latency(times: Floats, runs: int) -> Latency:
    return Latency(float(np.median(times)), *_interval(times), runs)


def _interval(values: Floats) -> tuple[float, float]:
    """Bounds of the median, by resampling the rounds."""
    rng = np.random.default_rng(0)
    drawn = values[rng.integers(0, len(values), (RESAMPLES, len(values)))]  # (resamples, rounds)
    low, high = np.quantile(np.median(drawn, axis=1), [OUTSIDE / 2, 1 - OUTSIDE / 2])
    return float(low), float(high)
