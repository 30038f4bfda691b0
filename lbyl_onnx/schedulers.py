"""Where the cells of a sweep run: in processes of this machine, or on a Dask cluster."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

from lbyl_onnx.errors import OptionError
from lbyl_onnx.sweep import Cell, Failure, Outcome, Scheduler, run_cell

# Seconds to wait for a Dask scheduler, and for the first of its workers.
PATIENCE = 30


def local(workers: int) -> Scheduler:
    """Run cells in processes of this machine, `workers` at a time.

    A process that dies takes only its own cell with it.
    """

    def run(cells: Sequence[Cell]) -> Iterator[Outcome | Failure]:
        done: set[str] = set()
        try:
            for result in _pooled(cells, workers):
                done.add(result.key)
                yield result
        except BrokenProcessPool:
            # The pool does not tell whose process died: each gets one of its own.
            for cell in (cell for cell in cells if cell.key not in done):
                yield _alone(cell)

    return run


def _pooled(cells: Sequence[Cell], workers: int) -> Iterator[Outcome | Failure]:
    # ONNX Runtime has threads, which do not survive a fork.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(cells)), mp_context=spawn) as pool:
        futures = [pool.submit(run_cell, cell) for cell in cells]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _alone(cell: Cell) -> Outcome | Failure:
    try:
        return next(_pooled([cell], 1))
    except BrokenProcessPool:
        return _lost(cell, "its process died, most often for want of memory")


def _lost(cell: Cell, reason: str) -> Failure:
    return Failure(cell.key, str(cell.model), cell.config.method, cell.config.ratio, reason)


def _from_anywhere(cell: Cell) -> Cell:
    """Return a cell whose paths do not depend on the folder that a process works in."""
    data, labels = cell.data, cell.data.labels
    if labels is not None and labels.endswith(".npy"):
        labels = str(Path(labels).absolute())
    inputs = None if data.inputs is None else data.inputs.absolute()
    return replace(
        cell, model=cell.model.absolute(), data=replace(data, inputs=inputs, labels=labels)
    )


def dask(address: str) -> Scheduler:
    """Hand cells to a Dask cluster, whose workers find the models under the same paths.

    A cell whose worker is lost is given to another.

    Raises
    ------
    OptionError
        When `distributed` is not installed; when run, where there is no scheduler or no worker.
    """
    try:
        from distributed import Client, KilledWorker
        from distributed import as_completed as completed
    except ImportError as error:
        raise OptionError(
            "--scheduler needs Dask; install it with: pip install 'lbyl-onnx[distributed]'"
        ) from error

    def run(cells: Sequence[Cell]) -> Iterator[Outcome | Failure]:
        try:
            client = Client(address, timeout=PATIENCE)
        except (OSError, ValueError) as error:
            raise OptionError(f"no Dask scheduler answers at {address}: {error}") from error
        with client:
            try:
                client.wait_for_workers(1, timeout=PATIENCE)
            except TimeoutError as error:
                raise OptionError(
                    f"the Dask scheduler at {address} has no workers; start some with: "
                    f"dask worker {address} --nthreads 1"
                ) from error
            futures = {
                client.submit(run_cell, _from_anywhere(cell), key=cell.key): cell for cell in cells
            }
            for future in completed(futures):
                try:
                    yield future.result()
                except KilledWorker:
                    reason = "the workers that ran it were lost one after the other"
                    yield _lost(futures[future], reason)

    return run
