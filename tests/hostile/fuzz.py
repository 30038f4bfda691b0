"""Put mutants through the whole pipeline, in processes with limits; tell which end badly.

`python -m tests.hostile.fuzz FIRST LAST STEP` works on its share of the numbers and prints a line
for each mutant: its number and how it ended. `hunt` runs such processes, with less time for each
mutant, and starts them again behind a mutant that ended one.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnx

from lbyl_onnx import Config, LbylOnnxError, compress
from lbyl_onnx.guard.effort import Effort
from tests.conftest import ROOT
from tests.hostile.command import IMPATIENT
from tests.hostile.mutations import mutant
from tests.support.models import MODELS

SECONDS, MEMORY = 60, 2 << 30
LITTLE = Effort(rounds=2, fewest_rounds=2, fewest_samples=8, most_samples=16)
METHODS: tuple[str, ...] = ("none", "none", "none", "nm", "lbyl", "none", "none", "lbyl+")


@dataclass(frozen=True)
class Outcome:
    """How many mutants ended in which way, and those that ended badly.

    Parameters
    ----------
    ends
        By the name of the error, or "passed".
    bad
        What ended badly in Python, by the mutant's number.
    deaths
        The signal that ended the process, by the mutant's number.
    """

    ends: Counter[str]
    bad: dict[int, str]
    deaths: dict[int, int]


@cache
def base(name: str) -> onnx.ModelProto:
    return MODELS[name]()


def bytes_of(number: int) -> bytes:
    """The mutant of that number."""
    names = sorted(MODELS)
    return mutant(base(names[number % len(names)]), number)


def end_of(number: int, folder: Path) -> str:
    """Compress a mutant; return how that ended."""
    source = folder / "in.onnx"
    source.write_bytes(bytes_of(number))
    method = METHODS[number // len(MODELS) % len(METHODS)]
    scope = ("inner", "all")[number % 2]
    config = Config(ratio=0.5, provider="cpu", method=method, scope=scope)  # type: ignore[arg-type]
    try:
        compress(source, folder / "out.onnx", config=config, force=True, effort=LITTLE)
    except (LbylOnnxError, MemoryError) as error:
        return type(error).__name__
    except Exception as error:  # what the user would see as an internal error
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return f"BAD {_place(error)} {text[:200]}"
    return "passed"


def _place(error: BaseException) -> str:
    """The last line of this package that the error came through."""
    place, trace = "?", error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.parent.name in ("lbyl_onnx", "rules", "compensate"):
            place = f"{file.name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def main() -> None:
    """Work on every STEP-th number from FIRST to below LAST."""
    first, last, step = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, last, step):
            print(number, end=" ", flush=True)
            signal.alarm(SECONDS)  # ends the process, whatever it does
            print(end_of(number, Path(folder)), flush=True)


def _share(first: int, last: int, step: int) -> Iterator[tuple[int, str]]:
    """Number and end of each mutant of a share, over as many processes as it takes."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    while first < last:
        program = f"{IMPATIENT}; from tests.hostile.fuzz import main; main()"
        command = [sys.executable, "-c", program, *map(str, (first, last, step))]
        with tempfile.TemporaryDirectory() as scratch:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env={**env, "TMPDIR": scratch},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                check=False,
            )
        for line in done.stdout.splitlines():
            number, _, end = line.partition(" ")
            yield int(number), end.strip() or f"DIED {-done.returncode}"
            first = int(number) + step
        if not done.stdout:
            raise RuntimeError(f"the fuzzing process does not start: {done.returncode}")


def hunt(count: int, workers: int = 2, first: int = 0) -> Outcome:
    """Put `count` mutants through the pipeline."""
    outcome = Outcome(Counter(), {}, {})
    shares = [(first + n, first + count, workers) for n in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        for ends in pool.map(lambda share: list(_share(*share)), shares):
            for number, end in ends:
                kind = end.split(" ")[0]
                outcome.ends[kind] += 1
                if kind == "BAD":
                    outcome.bad[number] = end
                elif kind == "DIED":
                    outcome.deaths[number] = int(end.split(" ")[1])
    return outcome


if __name__ == "__main__":
    main()
