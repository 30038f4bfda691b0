"""Where independent pieces of work are done: by threads of this process, or elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

R = TypeVar("R")
# Pieces at a time: linear algebra of each has one thread, and the memory of several covariances.
THREADS = 2


class Spread(Protocol):
    """Does independent pieces of work, and gives what came of each in their order."""

    @property
    def processes(self) -> int:
        """How many other processes do them; 0 where this one does."""

    def __call__(
        self, function: Callable[..., R], shared: Sequence[object], pieces: Sequence[object]
    ) -> Iterator[R]:
        """Call a function with what all pieces share, then the piece.

        Parameters
        ----------
        function
            Of a module: other processes import it. It gives the same wherever it runs.
        shared
            What all pieces read, as weights and moments; each is sent to another process once.
        pieces
            The last argument of each call.
        """


def threads() -> ThreadPoolExecutor:
    """Return as many threads as pieces are worked on at a time."""
    return ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1))


class InThreads:
    """Does pieces of work in threads of this process; a `Spread`."""

    processes = 0

    def __call__(
        self, function: Callable[..., R], shared: Sequence[object], pieces: Sequence[object]
    ) -> Iterator[R]:
        """Do a few pieces at a time, and give their results in order; see `Spread`."""
        with threads() as pool:
            yield from pool.map(partial(function, *shared), pieces)


in_threads = InThreads()
