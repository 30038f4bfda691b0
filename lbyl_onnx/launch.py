"""The command as a person starts it: a parent that outlives what native code does to its child.

Models come from strangers, and onnx and ONNX Runtime parse and run them in native code, where a
fault ends the process. So the work is done in a child: the parent tells its end in one line, takes
away what it left, and passes signals on. Only the standard library is imported here, so that this
costs some hundredths of a second.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from lbyl_onnx import notes, staging

# Seconds that a child has to end by itself after Ctrl-C; native code may not look for so long.
GRACE = 3.0
# The child gets the parent's own path: what `python -c` would put before it, the current folder,
# may hold a stranger's modules.
_START = "import sys; sys.path[:] = {path!r}; from lbyl_onnx.worker import main; main()"
# More threads add up the same numbers in another order: with one the bytes that the command writes
# do not depend on the cores of the machine. ONNX Runtime, whose sums do not, keeps its threads.
_ONE_THREAD = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
# Activations are large and short-lived: with large pages glibc spends a tenth less time on them.
_LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


class _StoppedError(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main() -> None:
    """Run the command line in a child process and exit as it did."""
    try:
        with _signals_raised(), staging.scratch() as folder:
            code = _supervise(folder)
    except _StoppedError as stopped:  # before there was a child, or after
        code = 128 + stopped.number
    sys.exit(code)


def environment() -> dict[str, str]:
    """Return what the child's environment has beside the parent's, its folder apart."""
    own = {name: os.environ.get(name, value) for name, value in _LARGE_PAGES.items()}
    return {**own, **_ONE_THREAD}


def _supervise(folder: Path) -> int:
    """Run the child with `folder` for its temporary files; return the exit code."""
    file = folder / "notes"
    scratch = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    command = [sys.executable, "-c", _START.format(path=sys.path), *sys.argv[1:]]
    child = subprocess.Popen(
        command, env={**os.environ, **environment(), **scratch, notes.VARIABLE: str(file)}
    )
    try:
        code = child.wait()
    except _StoppedError as stopped:
        code = _stop(child, stopped.number)
        if code < 0:
            code = 128 + stopped.number
            _clear(notes.read(file))
            if stopped.number == signal.SIGINT:
                _say("interrupted; no output was left half written")
        return code
    # Windows gives a crash as a large number, others as a negative one.
    if 0 <= code <= 255:
        return code
    told = notes.read(file)
    _clear(told)
    where = f"{told['model']}: " if "model" in told else ""
    while_what = f" while {told['doing']}" if "doing" in told else ""
    _say(f"error: {where}{_cause(code)}{while_what}; no output was written")
    return 1


def _cause(code: int) -> str:
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = hex(code)
    if name == "SIGKILL":
        return "the work was killed (SIGKILL), most often for want of memory,"
    return f"onnx or ONNX Runtime crashed ({name}) on this model"


def _clear(told: dict[str, str]) -> None:
    if "output" in told:
        with contextlib.suppress(OSError):
            staging.clear(Path(told["output"]))


def _stop(child: subprocess.Popen[bytes], number: int) -> int:
    """Pass a signal on, and insist where it is not obeyed in time; return the exit code."""
    if os.name == "posix":  # on Windows the console itself interrupts the child
        child.send_signal(number)
    try:
        return child.wait(GRACE)
    except (subprocess.TimeoutExpired, _StoppedError):
        child.kill()
        return child.wait()


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Let the signals that end a command raise, unless it was started to ignore them."""

    def stop(number: int, _: FrameType | None) -> None:
        raise _StoppedError(number)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
    yield


def _say(message: str) -> None:
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
    sys.stderr.write(f"lbyl-onnx: {text}\n")
