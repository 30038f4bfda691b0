"""Where the cells of a sweep run: in processes of this machine, or on a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lbyl_onnx.stages.cluster import PATIENCE, connected, installed
from lbyl_onnx.sweeps.cells import macs_of, run_cell
from lbyl_onnx.sweeps.pool import run_in_processes
from lbyl_onnx.sweeps.types import Cell, Failure, Outcome, Scheduler


def local(workers: int) -> Scheduler:
    """Run cells in processes of this machine, `workers` at a time.

    A process that dies, or takes too long, takes only its own cell with it.
    """

    def run(cells: Sequence[Cell]) -> Iterator[Outcome | Failure]:
        for done in run_in_processes(run_cell, cells, min(workers, len(cells))):
            yield done.result or _lost(done.task, done.reason or "")

    return run


def _lost(cell: Cell, reason: str) -> Failure:
    config = cell.config
    names = cell.key, str(cell.model), config.method, config.requested_ratio
    return Failure(*names, reason, quantize=config.quantize, macs=macs_of(config))


def _from_anywhere(cell: Cell) -> Cell:
    """Return a cell whose paths do not depend on the folder that a process works in."""
    data, labels = cell.data, cell.data.labels
    if labels is not None and labels.endswith(".npy"):
        labels = str(Path(labels).absolute())
    inputs = None if data.inputs is None else data.inputs.absolute()
    own, code = data.own, Path((data.own or "").rpartition(":")[0])
    if own is not None and code.suffix == ".py":
        own = f"{code.absolute()}:{own.rpartition(':')[2]}"
    return replace(
        cell, model=cell.model.absolute(), data=replace(data, inputs=inputs, labels=labels, own=own)
    )


def dask(address: str, patience: float = PATIENCE) -> Scheduler:
    """Hand cells to a Dask cluster, whose workers find the models under the same paths.

    A cell whose worker is lost is given to another. For the scheduler, and then for its first
    worker, so many seconds are waited.

    Raises
    ------
    OptionError
        When `distributed` is not installed; when run, where there is no scheduler or no worker.
    """
    distributed = installed()

    def run(cells: Sequence[Cell]) -> Iterator[Outcome | Failure]:
        with connected(address, patience) as client:
            futures = {
                client.submit(run_cell, _from_anywhere(cell), key=cell.key): cell for cell in cells
            }
            for future in distributed.as_completed(futures):
                try:
                    yield future.result()
                except distributed.KilledWorker:
                    reason = "the workers that ran it were lost one after the other"
                    yield _lost(futures[future], reason)

    return run
