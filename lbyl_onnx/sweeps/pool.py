"""Worker processes of this machine, each watched, each taking only its own work with it."""

from __future__ import annotations

import contextlib
import pickle
import queue
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from lbyl_onnx.guard import processes
from lbyl_onnx.guard.bounds import INTERVAL, Overdue, Watch
from lbyl_onnx.guard.memory import LIMIT, available_memory
from lbyl_onnx.io import atomic

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Done(Generic[T, R]):
    """A piece of work that has ended.

    Parameters
    ----------
    task
        What was to be done.
    result
        What came of it; None where it failed.
    reason
        Why it failed; None where it did not.
    """

    task: T
    result: R | None
    reason: str | None


def run_in_processes(
    function: Callable[[T], R], tasks: Sequence[T], workers: int
) -> Iterator[Done[T, R]]:
    """Call a function on each task in other processes; give what came of each as it ends.

    Parameters
    ----------
    function
        Of a module that the processes can import; whatever it raises is the reason of a failure.
    tasks
        Its arguments; they and the results are pickled.
    workers
        Processes at a time. Together they may take the memory that the machine has free.
    """
    memory = available_memory()
    share = {} if memory is None else {LIMIT: str(memory // workers)}
    waiting, idle = deque(tasks), list[_Worker]()
    busy: dict[_Worker, T] = {}
    ended: queue.SimpleQueue[tuple[_Worker, bytes | None]] = queue.SimpleQueue()
    with atomic.scratch() as folder, ExitStack() as stack:
        numbers = iter(range(len(tasks) + 1))
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker = (
                    idle.pop()
                    if idle
                    else stack.enter_context(_started(folder / str(next(numbers)), share, ended))
                )
                busy[worker] = waiting.popleft()
                worker.send(pickle.dumps((function, busy[worker])))
            with contextlib.suppress(queue.Empty):
                worker, reply = ended.get(timeout=INTERVAL)
                if worker in busy:  # or it has died while nothing was asked of it
                    if reply is not None:
                        idle.append(worker)
                    yield worker.done(busy.pop(worker), reply)
                elif worker in idle:
                    idle.remove(worker)
            for worker in busy:
                worker.end_if_late()


class _Worker:
    """A process that does one piece of work at a time."""

    def __init__(self, process: subprocess.Popen[bytes], watch: Watch) -> None:
        self._process = process
        self._watch = watch
        self._late: Overdue | None = None

    def send(self, task: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died; that is told in its place
            pickle.dump(task, self._process.stdin)
            self._process.stdin.flush()

    def listen(self, ended: queue.SimpleQueue[tuple[_Worker, bytes | None]]) -> None:
        """Take in replies until the process ends; None is its end."""
        assert self._process.stdout is not None
        with contextlib.suppress(EOFError, OSError, ValueError, pickle.UnpicklingError):
            while True:
                ended.put((self, pickle.load(self._process.stdout)))
        ended.put((self, None))

    def end_if_late(self) -> None:
        late = self._watch.overdue(processes.spent(self._process.pid))
        if late is not None and self._late is None:
            self._late = late
            self._process.kill()

    def done(self, task: T, reply: bytes | None) -> Done[T, R]:
        """Return what came of a task; a reply of None says that the process has ended."""
        if reply is not None:
            result, reason = pickle.loads(reply)
            return Done(task, result, reason)
        code = self._process.wait()
        if self._late is not None:
            return Done(task, None, str(self._late))
        why = processes.cause(code) if code < 0 else f"exit code {code}"
        return Done(task, None, f"its process died: {why.rstrip(',')}")


@contextmanager
def _started(
    folder: Path, share: dict[str, str], ended: queue.SimpleQueue[tuple[_Worker, bytes | None]]
) -> Iterator[_Worker]:
    """Start a process; kill it in the end."""
    folder.mkdir()
    notes = folder / "notes"
    watch = Watch(notes)
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            processes.command("serve"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**processes.environment(notes), **share},
        )
    worker = _Worker(process, watch)
    listener = threading.Thread(target=worker.listen, args=(ended,), daemon=True)
    listener.start()
    try:
        yield worker
    finally:
        process.kill()
        process.wait()
        listener.join()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
