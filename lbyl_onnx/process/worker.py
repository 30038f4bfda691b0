"""The processes that work on models: the command line's child, and the workers of a sweep."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import queue
import signal
import sys
import threading
import warnings
from pathlib import Path
from types import FrameType
from typing import BinaryIO, NoReturn

from lbyl_onnx.errors import LbylOnnxError
from lbyl_onnx.guard import bounds, breadcrumbs, processes, terminal
from lbyl_onnx.guard.memory import LIMIT, available_memory, limit_memory
from lbyl_onnx.io.text_file import discard

if sys.platform != "win32":
    import resource


_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_INTERRUPTED = 130


def main() -> None:
    """Prepare the process for untrusted models, then run the command line."""
    try:
        _prepare()
        signal.signal(signal.SIGINT, _interrupt_once)
        code = _run_command()
        if not _flushed(reported=bool(code)):
            code = code or 1
    except KeyboardInterrupt:
        _say("interrupted; no output was left half written")
        code = _INTERRUPTED
    finally:
        bounds.end()
    sys.exit(code)


def _run_command() -> int | str | None:
    """Run the command line; return the exit code."""
    if not sys.warnoptions:
        # What NumPy warns of is looked at where it matters; the user gets lines of ours alone.
        warnings.simplefilter("ignore")
    try:
        from lbyl_onnx.cli import main as command  # imports for half a second

        terminal.clear_start()
    except LbylOnnxError as error:  # a package is broken, so that the command cannot be imported
        _say(f"error: {error}")
        return error.exit_code
    except (ImportError, MemoryError, OSError, SystemError) as error:
        # The last comes from Python itself where memory ends while it looks for a module.
        _say(f"error: {_of_libraries(error)}")
        return 1
    try:
        command(prog_name="lbyl-onnx")
    except SystemExit as ended:
        return ended.code
    except OSError as error:  # of what no command guards, as --help
        if "--debug" in sys.argv:
            raise
        _say(f"error: standard output cannot be written: {error.strerror}")
        return 1
    return 0


def _of_libraries(error: BaseException) -> str:
    """Say why the libraries do not load; NumPy puts pages around the reason."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    reason = " ".join(str(error).split()) or "there is too little memory"
    return (
        f"the libraries cannot be loaded: {reason}; allow more memory, or install anew: "
        "pip install --force-reinstall lbyl-onnx"
    )


def _flushed(reported: bool) -> bool:
    """Send off what was printed; where that fails say so, unless an error was reported."""
    try:
        sys.stderr.flush()
    except OSError:
        discard(sys.stderr)
    try:
        sys.stdout.flush()
    except OSError as error:
        # A reader may have gone, as `head` does.
        if not (reported or isinstance(error, BrokenPipeError)):
            _say(f"error: standard output cannot be written: {error.strerror}")
        discard(sys.stdout)
        return False
    return True


def serve() -> None:
    """Run what is sent to standard input, one piece of work after the other.

    A piece of work is a pickled function with its argument; what it gives is pickled in its turn,
    as (value, None), or as (None, reason) where it raises.
    """
    tasks, replies = _channels()
    _prepare()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(tasks, waiting), daemon=True).start()
    while True:
        pickle.dump(pickle.dumps(_done(waiting.get())), replies)
        replies.flush()


def _channels() -> tuple[BinaryIO, BinaryIO]:
    """Keep standard input and output for the work; what else uses them gets nothing."""
    kept = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(nowhere, number)
    os.close(nowhere)
    return kept


def _listen(tasks: BinaryIO, waiting: queue.SimpleQueue[bytes]) -> None:
    """Take in work; where whoever sends it has gone, end, also in the midst of some."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            waiting.put(pickle.load(tasks))
    os._exit(1)


def _done(task: bytes) -> tuple[object, str | None]:
    try:
        function, argument = pickle.loads(task)
        return function(argument), None
    except MemoryError:
        return None, "it takes more memory than there is"
    except OSError as error:
        file = "" if error.filename is None else f" ({error.filename})"
        return None, f"{error.strerror or error}{file}"
    except Exception as error:  # the last resort, as of the command line
        lines = str(error).splitlines()[:1]
        return None, ": ".join(["internal error", type(error).__name__, *lines])


def _prepare() -> None:
    """Bind the process to its parent, its limits, and what it may print on."""
    if sys.platform != "win32":
        _die_with_parent()
        _limit()
        _hide_native_output()
    for stream in (sys.stdout, sys.stderr):
        # A name may hold what a terminal's encoding has not.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _interrupt_once(number: int, _: FrameType | None) -> NoReturn:
    """Ctrl-C reaches the child from the terminal and from the parent; one is enough."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent is killed; nobody would wait for it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        parent = os.environ.get(processes.PARENT)
        # It may have been killed before this one asked.
        if parent and os.getppid() != int(parent):
            os._exit(1)


def _limit() -> None:
    """No core dump beside the user's files, no more memory than there is."""
    _lower(resource.RLIMIT_CORE, 0)
    setting = os.environ.get(LIMIT)
    available = int(setting) if setting else available_memory()
    # CUDA maps far more than it uses.
    if available is not None and not Path("/dev/nvidiactl").exists():
        limit_memory(available)


def _lower(limit: int, value: int) -> None:
    soft, hard = resource.getrlimit(limit)
    if soft == resource.RLIM_INFINITY or soft > value:
        resource.setrlimit(limit, (value, hard))


def _hide_native_output() -> None:
    """Keep what native code prints as it dies off the user's terminal.

    Python's own stderr stays; file descriptor 2 leads to a file of the parent's.
    """
    file = os.environ.get(breadcrumbs.VARIABLE)
    if not file:
        return
    own = os.dup(2)
    sys.stderr = os.fdopen(own, "w", buffering=1, encoding=sys.stderr.encoding,
                           errors=sys.stderr.errors)  # fmt: skip
    native = os.open(f"{file}.stderr", os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(native, 2)
    os.close(native)


def _say(message: str) -> None:
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
    with contextlib.suppress(OSError):  # nobody can be told
        terminal.clear_start()
        sys.stderr.write(f"lbyl-onnx: {text}\n")
