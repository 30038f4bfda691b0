"""Pieces of work on a Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from lbyl_onnx.errors import OptionError
from lbyl_onnx.guard.spread import Spread, in_threads

R = TypeVar("R")
# Seconds to wait for a Dask scheduler, and for the first of its workers.
PATIENCE = 30.0
# Either makes one thread of a worker's linear algebra.
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")


def installed() -> Any:
    """Return Dask's package.

    Raises
    ------
    OptionError
        When it is not installed.
    """
    try:
        import distributed
    except ImportError as error:
        raise OptionError(
            "--scheduler needs Dask; install it with: pip install 'lbyl-onnx[distributed]'"
        ) from error
    return distributed


@contextmanager
def connected(address: str, patience: float = PATIENCE) -> Iterator[Any]:
    """Give a client of a Dask scheduler that has a worker.

    Raises
    ------
    OptionError
        When `distributed` is not installed, or within so many seconds no scheduler answers, or
        none of its workers is there.
    """
    distributed = installed()
    try:
        client = distributed.Client(address, timeout=patience)
    except (OSError, ValueError) as error:
        raise OptionError(f"no Dask scheduler answers at {address}: {error}") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=patience)
        except TimeoutError as error:
            raise OptionError(
                f"the Dask scheduler at {address} has no workers; start some with: "
                f"dask worker {address} --nthreads 1"
            ) from error
        yield client


@contextmanager
def spread_over(address: str | None, patience: float = PATIENCE) -> Iterator[Spread]:
    """Give what does pieces of work on a cluster; in this process where there is no address.

    Raises
    ------
    OptionError
        As `connected` does, and where workers add up in an order of their own.
    """
    if address is None:
        yield in_threads
        return
    with connected(address, patience) as client:
        threads = client.run(_threads)
        if any(number != "1" for number in threads.values()):
            raise OptionError(
                f"the workers of {address} compute with several threads, which would give other "
                f"bytes; start them with: OMP_NUM_THREADS=1 dask worker {address} --nthreads 1"
            )
        yield OnCluster(client)


def _threads() -> str | None:
    """How many threads the linear algebra of a worker has, as its environment says."""
    return next((os.environ[name] for name in ONE_THREAD if name in os.environ), None)


class OnCluster:
    """Does pieces of work on the workers of a client; a `Spread`.

    What a worker fails at is done here, where it fails as it would have: a worker may lack a
    method that was registered here, or files. So is all of a call where what its pieces share does
    not reach the workers in so many seconds: one of them may just have gone.
    """

    def __init__(self, client: Any, patience: float = PATIENCE) -> None:
        self._client = client
        self._patience = patience
        # What was sent is held, so that no other object takes its place in memory.
        self._sent: dict[int, tuple[object, Any]] = {}

    @property
    def processes(self) -> int:
        """How many workers there are now; at least one is waited for."""
        return max(1, len(self._client.nthreads()))

    def __call__(
        self, function: Callable[..., R], shared: Sequence[object], pieces: Sequence[object]
    ) -> Iterator[R]:
        """Submit all pieces at once, and give their results in order; see `Spread`."""
        # Moments that are measured anew are not asked for again.
        self._sent = {id(one): self._sent[id(one)] for one in shared if id(one) in self._sent}
        try:
            there = [self._there(one) for one in shared]
        except (TimeoutError, OSError):
            yield from (function(*shared, piece) for piece in pieces)
            return
        futures = [self._client.submit(function, *there, piece, pure=False) for piece in pieces]
        for future, piece in zip(futures, pieces, strict=True):
            try:
                yield future.result()
            except Exception:
                yield function(*shared, piece)

    def _there(self, one: object) -> Any:
        """Return what stands for an object on a worker, sending it where none has it.

        The others get it from there. To have it copied to all at first would wait without an end
        for one that has just gone.
        """
        _, future = self._sent.get(id(one), (None, None))
        if future is None or future.status != "finished":
            future = self._client.sync(
                self._client.scatter, one, hash=False, callback_timeout=self._patience
            )
            self._sent[id(one)] = one, future
        return future
