"""The same command gives the same bytes: run after run, on one core or two."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.command import COMMAND, environment

RUNS = 10


def bytes_of_run(number: int, folder: Path) -> str:
    """The hash of what run `number` writes: cores, threads and hash seeds in turn."""
    threads, cores = str(1 + number % 2), 1 + number // 2 % 2
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    env = {
        **environment(folder.parent / "scratch"),
        **dict.fromkeys(variables, threads),
        "PYTHONHASHSEED": str(number),
    }
    available = sorted(os.sched_getaffinity(0))[:cores] if sys.platform == "linux" else []
    subprocess.run(
        [
            *COMMAND,
            "compress",
            "--ratio=0.3",
            "in.onnx",
            f"{number}.onnx",
            "--provider",
            "cpu",
            "--quiet",
        ],
        cwd=folder,
        env=env,
        check=True,
        preexec_fn=(lambda: os.sched_setaffinity(0, available)) if available else None,
    )
    return hashlib.sha256((folder / f"{number}.onnx").read_bytes()).hexdigest()


@pytest.mark.corpus
def test_ten_runs_write_the_same_bytes(sample: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "in.onnx").write_bytes(sample.read_bytes())
    assert len({bytes_of_run(number, folder) for number in range(RUNS)}) == 1


def test_blas_has_one_thread_whatever_is_set(sample: Path, tmp_path: Path) -> None:
    """Layers of thousands of channels come out with other bytes where it has two."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if 'LBYL_ONNX_NOTES' in os.environ:\n"
        "    open('threads', 'w').write(os.environ['OPENBLAS_NUM_THREADS'])\n"
    )
    env = {
        **environment(tmp_path / "scratch"),
        "PYTHONPATH": str(tmp_path),
        "OPENBLAS_NUM_THREADS": "2",
    }
    command = [*COMMAND, "inspect", str(sample)]
    subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True)
    assert (tmp_path / "threads").read_text() == "1"
