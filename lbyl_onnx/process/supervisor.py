"""The command as the user starts it: a parent process that survives crashes of its child.

Models are untrusted, and onnx and ONNX Runtime parse and run them in native code, where a
fault ends the process. So the work is done in a child: the parent tells its end in one line, ends
it where it takes too long, takes away what it left, and passes signals on. Only the standard
library is imported here, so that this costs some hundredths of a second.
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

from lbyl_onnx.guard import breadcrumbs, processes, terminal
from lbyl_onnx.guard.bounds import Watch
from lbyl_onnx.io import atomic

# Seconds that a child has to end by itself after Ctrl-C; native code may not look for so long.
GRACE = 3.0


class _StoppedError(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main() -> None:
    """Run the command line in a child process and exit as it did."""
    _open_streams()
    try:
        with _signals_raised(), atomic.scratch() as folder:
            code = _supervise(folder)
    except _StoppedError as stopped:  # before there was a child, or after
        code = 128 + stopped.number
    except OSError as error:  # no place for temporary files, no more processes
        where = f" ({error.filename})" if error.filename else ""
        _say(f"error: the work cannot be started here: {error.strerror or error}{where}")
        code = 1
    sys.exit(code)


def _open_streams() -> None:
    """Open what was closed (`2>&-`): else the next file, a model, would get that number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    # The child gets them as they are; here Python has looked before.
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115 - open to the end


def _supervise(folder: Path) -> int:
    """Run the child with `folder` for its temporary files; return the exit code."""
    file = folder / "notes"
    watch = Watch(file)
    terminal.show_start(sys.argv[1:])
    child = subprocess.Popen(
        processes.command("main", sys.argv[1:]), env=processes.environment(file)
    )
    try:
        late = processes.wait(child, watch)
    except _StoppedError as stopped:
        code = _stop(child, stopped.number)
        if code < 0:
            code = 128 + stopped.number
            _clear(breadcrumbs.read(file))
            if stopped.number == signal.SIGINT:
                _say("interrupted; no output was left half written")
        return code
    notes, code = breadcrumbs.read(file), child.returncode
    # Native code may call exit: then nothing has been said. Windows gives a crash as a large
    # number, others as a negative one.
    if late is None and 0 <= code <= 255 and watch.has_ended():
        return code
    _clear(notes)
    if late is not None:
        what = str(late)
    elif 0 <= code <= 255:
        what = f"the work ended in native code{_last_line(folder)}"
    else:
        what = processes.cause(code)
    return _report_end(notes, what, while_doing=late is None)


def _report_end(notes: dict[str, str], what: str, while_doing: bool) -> int:
    """Report an end that the child did not report; return the exit code."""
    where = f"{notes['model']}: " if "model" in notes else ""
    while_what = f" while {notes['doing']}" if while_doing and "doing" in notes else ""
    if atomic.is_published(notes):
        _say(f"warning: {where}{what} after the output was written; it is whole")
        return 0
    nothing = "; no output was written" if "output" in notes else ""
    _say(f"error: {where}{what}{while_what}{nothing}")
    return 1


def _last_line(folder: Path) -> str:
    """The last that native code said, where it said something."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = (folder / "notes.stderr").read_text(errors="replace").splitlines()[-1:]
    return "".join(f" ({line.strip()})" for line in lines)


def _clear(notes: dict[str, str]) -> None:
    if "output" in notes:
        with contextlib.suppress(OSError):
            atomic.clear(Path(notes["output"]))


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
    with contextlib.suppress(OSError):  # nobody can be told
        terminal.clear_start()
        sys.stderr.write(f"lbyl-onnx: {text}\n")
        sys.stderr.flush()
