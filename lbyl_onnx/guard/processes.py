"""Processes that work on untrusted models: how each is started, and what its end means.

A rule for one holds for all: the child of the command line and the workers of a sweep import
nothing from the current folder, die with whom they work for, compute with one thread of BLAS and
are watched (`lbyl_onnx.guard.bounds`). Only the standard library is imported here.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from lbyl_onnx.guard import breadcrumbs
from lbyl_onnx.guard.bounds import INTERVAL, Overdue, Watch

PARENT = "LBYL_ONNX_PARENT"
"""The environment variable that tells a process whom it dies with."""
_ROOT = str(Path(__file__).resolve().parent.parent.parent)
# The package from where this one is, and nothing else from there: it may be a checkout that is not
# installed. All other modules from where this process finds them.
_START = (
    "import sys; sys.path[:] = [{root!r}]; import lbyl_onnx; sys.path[:] = {path!r}; "
    "from lbyl_onnx.process.worker import {entry}; {entry}()"
)
# More threads add up the same numbers in another order: with one the bytes that the command writes
# do not depend on the cores of the machine. ONNX Runtime, whose sums do not, keeps its threads.
_ONE_THREAD = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
# Activations are large and short-lived: with large pages glibc spends a tenth less time on them.
_LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
# What starts Python in its turn must not look into the current folder either.
_SAFE_PATH = {"PYTHONSAFEPATH": "1"}


def command(entry: str, arguments: Sequence[str] = ()) -> list[str]:
    """Return the command line of a process that runs a function of `lbyl_onnx.process.worker`."""
    start = _START.format(root=_ROOT, path=sys.path, entry=entry)
    return [sys.executable, "-P", "-c", start, *arguments]


def settings() -> dict[str, str]:
    """Return the variables that what a process computes, and how fast, depends on."""
    own = {name: os.environ.get(name, value) for name, value in _LARGE_PAGES.items()}
    return {**own, **_ONE_THREAD, **_SAFE_PATH}


def environment(file: Path) -> dict[str, str]:
    """Return the environment of a process that keeps its notes in `file`, and scratch beside it."""
    scratch = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(file.parent))
    variables = {breadcrumbs.VARIABLE: str(file), PARENT: str(os.getpid())}
    return {**os.environ, **settings(), **scratch, **variables}


def wait(child: subprocess.Popen[bytes], watch: Watch) -> Overdue | None:
    """Wait until a process ends; return what took it too long, where it was killed for that."""
    with ExitStack() as stack:
        ended = _waiting(child, stack)
        while not ended():
            late = watch.overdue(spent(child.pid))
            if late is not None:
                child.kill()
                child.wait()
                return late
    child.wait()
    return None


def spent(process: int) -> float | None:
    """Return the seconds of processor time that a process has had; None where that is unknown."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        # In user and in system mode; numbers 14 and 15 of all fields.
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def _waiting(child: subprocess.Popen[bytes], stack: ExitStack) -> Callable[[], bool]:
    """Return what waits for INTERVAL at most and tells whether a process has ended."""
    if sys.platform == "linux":
        try:
            descriptor = os.pidfd_open(child.pid)
        except OSError:
            pass  # an old kernel, or a container that forbids it
        else:
            stack.callback(os.close, descriptor)
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return lambda: bool(poll.poll(1000 * INTERVAL))

    def by_turns() -> bool:
        try:
            child.wait(INTERVAL)
        except subprocess.TimeoutExpired:
            return False
        return True

    return by_turns


def cause(code: int) -> str:
    """Say what the exit code of a process that did not end by itself means."""
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = hex(code)
    if name == "SIGKILL":
        return "the work was killed (SIGKILL), most often for want of memory,"
    if name == "SIGXCPU":
        return "the limit on processor time (SIGXCPU) ended the work"
    return f"onnx or ONNX Runtime crashed ({name}) on this model"
