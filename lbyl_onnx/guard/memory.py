"""Give memory back between stages, so that each starts from what it really needs."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import resource

LIMIT = "LBYL_ONNX_MEMORY"
"""The environment variable that tells a process how many bytes it may take."""


def available_memory() -> int | None:
    """Return the bytes that Linux could give without killing anything; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    free = 1024 * (kilobytes["MemAvailable"] + kilobytes["SwapFree"])
    control = Path("/sys/fs/cgroup")
    try:
        maximum, used = ((control / f"memory.{n}").read_text() for n in ("max", "current"))
        return min(free, int(maximum) - int(used))
    except (OSError, ValueError):  # no control groups, or "max": without a limit
        return free


def limit_memory(size: int) -> None:
    """Let this process take so many bytes of its own, or what it may already where that is less."""
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        size = size if soft == resource.RLIM_INFINITY else min(size, soft)
        os.environ[LIMIT] = str(size)
        resource.setrlimit(resource.RLIMIT_DATA, (size, hard))


def allow_mapped(size: int) -> None:
    """Let a process whose memory is limited map two files of so many bytes beside it.

    ONNX Runtime maps the weights of a large model such that the kernel counts them as the process's
    own, although it can let go of them at any time.
    """
    own = os.environ.get(LIMIT)
    if own is None or sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft != resource.RLIM_INFINITY:
        most = max(soft, int(own) + 2 * size)
        within = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (within, hard))


@contextlib.contextmanager
def new_objects_only() -> Iterator[None]:
    """Leave the objects that are there already out of the collections of `release`.

    The libraries alone have hundreds of thousands: to look at them again at each stage takes most
    of the time that a small model takes. A caller who keeps objects out by `gc.freeze`, too, has
    them kept out still.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def release() -> None:
    """Free what only cycles hold, and return what the C allocator keeps for later.

    A connected graph is full of cycles, and its tensors hold the weights. glibc keeps the large
    blocks that ONNX Runtime frees; without this each stage would stand on the peak of the one
    before. Elsewhere than on glibc only the cycles are freed.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
