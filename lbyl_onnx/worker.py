"""The child process in which the command line does its work."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import NoReturn

from lbyl_onnx import notes
from lbyl_onnx.errors import LbylOnnxError
from lbyl_onnx.text import printable

if sys.platform != "win32":
    import resource

_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_INTERRUPTED = 130


def main() -> None:
    """Prepare the process for strangers' models, then run the command line."""
    try:
        if sys.platform != "win32":
            _die_with_parent()
            _limit()
            _hide_native_output()
        signal.signal(signal.SIGINT, _interrupt_once)
        if not sys.warnoptions:
            # What NumPy warns of is looked at where it matters; the user gets lines of ours alone.
            warnings.simplefilter("ignore")
        from lbyl_onnx.cli import main as command  # imports for half a second

        command(prog_name="lbyl-onnx")
    except LbylOnnxError as error:  # a package is broken, so that the command cannot be imported
        sys.stderr.write(f"lbyl-onnx: error: {printable(str(error))}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("lbyl-onnx: interrupted; no output was left half written\n")
        sys.exit(_INTERRUPTED)


def _interrupt_once(number: int, _: FrameType | None) -> NoReturn:
    """Ctrl-C reaches the child from the terminal and from the parent; one is enough."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent is killed; nobody would wait for it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit() -> None:
    """No core dump beside the person's files, no more memory than there is."""
    _lower(resource.RLIMIT_CORE, 0)
    available = available_memory()
    # CUDA maps far more than it uses.
    if available is not None and not Path("/dev/nvidiactl").exists():
        _lower(resource.RLIMIT_DATA, available)


def _lower(limit: int, value: int) -> None:
    soft, hard = resource.getrlimit(limit)
    if soft == resource.RLIM_INFINITY or soft > value:
        resource.setrlimit(limit, (value, hard))


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


def _hide_native_output() -> None:
    """Keep what native code prints as it dies off the person's terminal.

    Python's own stderr stays; file descriptor 2 leads to a file of the parent's.
    """
    file = os.environ.get(notes.VARIABLE)
    if not file:
        return
    own = os.dup(2)
    sys.stderr = os.fdopen(own, "w", buffering=1, encoding=sys.stderr.encoding,
                           errors=sys.stderr.errors)  # fmt: skip
    native = os.open(f"{file}.stderr", os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(native, 2)
    os.close(native)
