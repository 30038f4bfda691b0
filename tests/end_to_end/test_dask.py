"""Work on a real Dask cluster: a scheduler and two workers on loopback, one of them killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lbyl_onnx.stages.cluster import OnCluster, spread_over
from tests.conftest import ROOT
from tests.support.extras import need

pytestmark = pytest.mark.extras
PATIENCE = 240.0


def wait(until: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)


@contextlib.contextmanager
def started(
    folder: Path, name: str, *words: str, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A command that is ended at last, whatever happens."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=cwd or folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers; no nanny, so that a killed worker stays away."""
    scheduler_file = folder / "scheduler.json"
    with contextlib.ExitStack() as stack:
        words = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file")
        stack.enter_context(
            started(folder, "scheduler", "dask", "scheduler", *words, str(scheduler_file))
        )
        wait(lambda: scheduler_file.exists() and scheduler_file.stat().st_size, "the scheduler")
        address = json.loads(scheduler_file.read_text())["address"]
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
        workers = [
            stack.enter_context(started(folder, name, "dask", "worker", address, *options))
            for name in ("one", "two")
        ]
        yield address, workers


def busy(folder: Path, name: str) -> bool:
    return "Start worker" in (folder / f"{name}.log").read_text()


def test_nothing_is_lost_with_a_worker_killed_half_way(sample: Path, tmp_path: Path) -> None:
    need("distributed")
    ratios = [round(0.05 * number, 2) for number in range(1, 9)]
    out = tmp_path / "out"
    words = ["sweep", sample.name, "--methods", "none,lbyl", "--provider", "cpu"]
    words += ["--ratios", ",".join(map(str, ratios)), "--out", str(out)]
    with cluster(tmp_path) as (address, workers):
        wait(lambda: all(busy(tmp_path, name) for name in ("one", "two")), "the workers")
        command = ("lbyl_onnx", *words, "--scheduler", address, "--json", str(tmp_path / "s.json"))
        # The workers work in another folder than the command.
        with started(tmp_path, "sweep", *command, cwd=sample.parent) as sweep:
            cells = out / "cells"
            wait(lambda: cells.is_dir() and len(list(cells.iterdir())) >= 4, "four cells")
            workers[0].send_signal(signal.SIGKILL)
            workers[0].wait()
            finished = len(list(cells.iterdir()))
            assert sweep.wait(PATIENCE) == 0, (tmp_path / "sweep.log").read_text()
    assert finished < 2 * len(ratios), "all cells were done before the worker was killed"
    document = json.loads((tmp_path / "s.json").read_text())
    assert document["failures"] == []
    actual = [(o["method"], o["ratio"]) for o in document["outcomes"]]
    assert actual == [(method, ratio) for method in ("none", "lbyl") for ratio in ratios]

    # What the cluster found is what this machine finds; latencies differ from run to run.
    one = [sys.executable, "-m", "lbyl_onnx", *words[:3], "none", *words[4:6], "--ratios", "0.4"]
    here = subprocess.run(
        [*one, "--out", str(tmp_path / "here"), "--json", "-"],
        cwd=sample.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    alone = json.loads(here.stdout)["outcomes"][0]
    there = next(o for o in document["outcomes"] if o["key"] == alone["key"])
    for outcome in (alone, there):
        del outcome["before"]["latency"], outcome["after"]["latency"]
    assert alone == there


# Compresses a model whose groups need several passes over the samples; half way through a stage it
# kills a process, where it is given one.
_COMPRESS = """
import os, signal, sys
from lbyl_onnx import compress
from lbyl_onnx.guard.effort import Effort

def tell(stage, done, total):
    if stage == when and done == total // 2 and doomed:
        os.kill(doomed.pop(), signal.SIGKILL)

model, output, scheduler, when, *doomed = sys.argv[1:]
doomed = [int(number) for number in doomed]
result = compress(
    model, output, macs="70%", hardware="avx2", provider="cpu", scheduler=scheduler or None,
    progress=tell, force=True, effort=Effort(held_moments=1 << 16),
)
assert not doomed
"""


def compressed(model: Path, output: Path, scheduler: str, when: str, *doomed: int) -> bytes:
    """The file that comes of a model, here or on a cluster."""
    words = [str(model), str(output), scheduler, when, *map(str, doomed)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _COMPRESS, *words]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output.read_bytes()


@pytest.mark.parametrize("when", ["measuring statistics", "compensating"])
def test_the_groups_of_one_compression_give_the_same_bytes(
    sample: Path, tmp_path: Path, when: str
) -> None:
    need("distributed")
    alone = compressed(sample, tmp_path / "out.onnx", "", when)
    with cluster(tmp_path) as (address, workers):
        wait(lambda: all(busy(tmp_path, name) for name in ("one", "two")), "the workers")
        there = compressed(sample, tmp_path / "out.onnx", address, when, workers[0].pid)
        assert workers[0].wait(PATIENCE) == -signal.SIGKILL
        assert workers[1].poll() is None
    assert there == alone


def _process(base: int, number: int) -> tuple[int, int]:
    return os.getpid(), base + number


def test_pieces_are_done_by_the_workers_that_are_left(tmp_path: Path) -> None:
    need("distributed")
    with cluster(tmp_path) as (address, workers):
        wait(lambda: all(busy(tmp_path, name) for name in ("one", "two")), "the workers")
        with spread_over(address) as spread:
            first = list(spread(_process, (10,), range(20)))
            workers[0].kill()
            workers[0].wait()
            second = list(spread(_process, (20,), range(20)))
    assert [value for _, value in first] == [10 + n for n in range(20)]
    assert [value for _, value in second] == [20 + n for n in range(20)]
    assert {process for process, _ in first} <= {worker.pid for worker in workers}
    assert {process for process, _ in second} == {workers[1].pid}


@pytest.mark.parametrize("sent", [True, False])
def test_what_a_worker_fails_at_is_done_here(sent: bool) -> None:
    class Lost:
        status = "finished"

        def result(self) -> object:
            raise RuntimeError("no such method is registered")

    class Client:
        scatter = None

        def submit(self, function: object, *_: object, pure: bool) -> Lost:
            assert sent
            return Lost()

        def sync(self, function: object, one: object, **_: object) -> object:
            if not sent:
                raise TimeoutError("a worker has just gone")
            return Lost()

    assert list(OnCluster(Client())(_process, (1,), [2, 3])) == [(os.getpid(), n) for n in (3, 4)]


def test_no_scheduler_is_one_line(sample: Path, tmp_path: Path) -> None:
    need("distributed")
    words = ["sweep", str(sample), "--scheduler", "tcp://127.0.0.1:9", "--out", str(tmp_path)]
    program = "from functools import partial; from lbyl_onnx.sweeps import schedulers\n"
    program += "schedulers.dask = partial(schedulers.dask, patience=1.0)\n"
    program += "from lbyl_onnx.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("lbyl-onnx: error: ")
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in last
    assert "Traceback" not in done.stderr
