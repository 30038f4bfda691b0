"""How long a model takes for one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lbyl_onnx.bounds import LATE, bounded
from lbyl_onnx.sessions import Feeds, Session, as_written

# Latency: at most this many runs, at most about this many seconds, after the warm-up.
LATENCY_RUNS, LATENCY_SECONDS, WARM_UP = 300, 0.1, 2
# Turns of models that are timed together, seconds of each, and of rest before it: ONNX Runtime's
# threads of the other model go on spinning for a while and would take its cores.
TURNS, TURN_SECONDS, REST = 6, 0.05, 0.05


@dataclass(frozen=True)
class Latency:
    """Time of one run at the first input shapes, in milliseconds."""

    median: float
    fastest: float
    slowest: float
    runs: int


def time_in_turn(
    paths: Sequence[Path], provider: str, feeds: Feeds, optimise: bool = True
) -> list[Latency]:
    """Time models on the same input, a few runs of each in turn: what slows one slows all.

    Raises
    ------
    ModelError
        When ONNX Runtime does not load one.
    """
    sessions = [Session.of(p, provider, None if optimise else as_written()) for p in paths]
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(TURNS):
        for session, own in zip(sessions, times, strict=True):
            time.sleep(REST)
            own += _durations(session, feeds, max(1, LATENCY_RUNS // TURNS), TURN_SECONDS)
    return [_summary(own) for own in times]


def latency(session: Session, feeds: Feeds) -> Latency:
    """Time a model on one input."""
    return _summary(_durations(session, feeds, LATENCY_RUNS, LATENCY_SECONDS))


def _durations(session: Session, feeds: Feeds, runs: int, seconds: float) -> list[float]:
    """Milliseconds of so many runs, or of those that begin within so many seconds."""
    times: list[float] = []
    for number in range(runs + WARM_UP):
        with bounded(f"timing {session.path.name}", session.seconds + LATE):
            start = time.perf_counter()
            session.loaded.run(None, dict(feeds))
            taken = 1000.0 * (time.perf_counter() - start)
        if number >= WARM_UP:
            times.append(taken)
        if sum(times) > 1000.0 * seconds:
            break
    return times


def _summary(times: Sequence[float]) -> Latency:
    return Latency(statistics.median(times), min(times), max(times), len(times))
