"""The real command in a process of its own, watched: time, memory, what it left."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Of processor time; of the clock twice as many, for machines with other work to do.
SECONDS = 30.0
OPTIONS = ("--provider", "cpu")
COMMAND = (sys.executable, "-m", "lbyl_onnx")
# A process that runs this before it imports more has three seconds for a small model, not twenty.
IMPATIENT = (
    "from functools import partial; from lbyl_onnx.guard import bounds; "
    "bounds.seconds_for = partial(bounds.seconds_for, small=3.0); "
    "bounds.late_after = partial(bounds.late_after, grace=1.0)"
)


@dataclass(frozen=True)
class Ran:
    """How a run of the command ended.

    Parameters
    ----------
    code
        Its exit code.
    stdout, stderr
        What it printed.
    peak
        Bytes of resident memory that it, or its child, took at most.
    seconds
        Processor time of both.
    """

    code: int
    stdout: str
    stderr: str
    peak: int
    seconds: float


def environment(scratch: Path) -> dict[str, str]:
    """The environment of a run whose temporary files go to a folder of their own."""
    scratch.mkdir(exist_ok=True)
    settings = {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **settings, "TMPDIR": str(scratch)}


def heed_signals() -> None:
    """Let a process that is being started end by signals, also where a shell in the back has not.

    What runs in the background of a shell without job control ignores Ctrl-C, and so do its own.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def processes_in(folder: Path) -> list[str]:
    """The numbers of the processes that work in a folder, this one apart."""
    numbers = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            here = link.readlink() == folder
        except OSError:  # it has ended, or is another user's
            continue
        if here and link.parent.name != str(os.getpid()):
            numbers.append(link.parent.name)
    return numbers


def all_gone(folder: Path, seconds: float = 30.0) -> bool:
    """Whether no process works in a folder any more, soon."""
    end = time.monotonic() + seconds
    while processes_in(folder):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def run(arguments: Sequence[str | Path], folder: Path, seconds: float = 2 * SECONDS) -> Ran:
    """Run `lbyl-onnx` in a folder; its temporary files go to `scratch` beside the folder.

    Raises
    ------
    subprocess.TimeoutExpired
        When it takes longer than `seconds`; it is killed then.
    """
    # The peak of one process and its children is told by a process that had no others.
    code = (
        "import resource, subprocess, sys;"
        "done = subprocess.run(sys.argv[1:]);"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "seconds = used.ru_utime + used.ru_stime;"
        "open('../used', 'w').write(f'{1024 * used.ru_maxrss} {seconds}');"
        "sys.exit(done.returncode)"
    )
    command = [sys.executable, "-c", code, *COMMAND, *map(str, arguments)]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder.parent / "scratch"),
        capture_output=True,
        timeout=seconds,
        check=False,
    )
    used = folder.parent / "used"
    peak, busy = used.read_text().split()
    used.unlink()
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode(), int(peak), float(busy))


def contents(folder: Path) -> dict[str, str]:
    """What lies below a folder: kind and hash of each path."""
    by_path = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            by_path[str(path)] = f"-> {path.readlink()}"
        elif path.is_file():
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            by_path[str(path)] = digest.hexdigest()
        else:
            by_path[str(path)] = "folder"
    return by_path
