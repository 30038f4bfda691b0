"""A rule for one process holds for its descendants: what is imported, who ends when, limits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hostile.command import (
    COMMAND,
    OPTIONS,
    all_gone,
    contents,
    environment,
    heed_signals,
    processes_in,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")

SWEEP = ("sweep", "in.onnx", "--methods", "none", "--workers", "2", "--out", "../curve", *OPTIONS)
COMMANDS = {
    "compress": ("compress", "--ratio=0.3", "in.onnx", "../out.onnx", "--method", "none", *OPTIONS),
    "inspect": ("inspect", "in.onnx"),
    "verify": ("verify", "in.onnx", "in.onnx", *OPTIONS),
    "sweep": (*SWEEP, "--ratios", "0.2,0.4"),
}
# Of the standard library, of what the tool needs, and what it would use if it were there. Python
# itself imports a few before `-m` finds the package (`contextlib`); those nobody can guard.
NAMES = (
    "__future__ ctypes json mmap multiprocessing pathlib pickle queue select signal statistics "
    "struct subprocess tempfile threading typing click google numpy onnx onnxruntime PIL rich "
    "scipy sitecustomize"
).split()


@pytest.fixture
def folder(tmp_path: Path, sample: Path) -> Path:
    for name in ("site", "scratch", "models"):
        (tmp_path / name).mkdir()
    (tmp_path / "models" / "in.onnx").write_bytes(sample.read_bytes())
    return tmp_path / "models"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("started", ["script", "module"])
def test_nothing_is_imported_from_the_current_folder(
    folder: Path, command: str, started: str
) -> None:
    """A model comes with a folder, and the folder may come with a `multiprocessing.py`."""
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"open('taken-{name}', 'w')\nraise SystemExit(9)\n")
    before = contents(folder)
    first = [str(Path(COMMAND[0]).with_name("lbyl-onnx"))] if started == "script" else COMMAND
    if not Path(first[0]).exists():
        pytest.skip("the command is not installed")
    done = subprocess.run(
        [*first, *COMMANDS[command]],
        cwd=folder, env=environment(folder.parent / "scratch"), capture_output=True, check=False,
    )  # fmt: skip
    assert contents(folder) == before
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_checkout_that_is_not_installed_runs(folder: Path) -> None:
    """Of the current folder then the package is taken, and nothing else."""
    root = Path(__file__).resolve().parent.parent.parent
    (folder / "lbyl_onnx").symlink_to(root / "lbyl_onnx")
    (folder / "numpy.py").write_text("open('taken', 'w')\n")
    env = environment(folder.parent / "scratch")
    command = [*COMMAND, "inspect", "in.onnx"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert not (folder / "taken").exists()


# Python runs this in every process that it starts here; in what works on models, running one
# tells of the process, or lasts.
_PATCH = """
import importlib.abc, os, sys

class Patch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "lbyl_onnx.evaluate.verify":
            from lbyl_onnx.runtime import baseline
            whole = baseline.run_baseline
            def run_baseline(*arguments, **options):
                {act}
                return whole(*arguments, **options)
            baseline.run_baseline = run_baseline
        return None

sys.meta_path.insert(0, Patch())
"""
_SLEEP = "import time; time.sleep(600)"
_TELL = (
    "import json, resource; "
    "limits = [resource.getrlimit(n)[0] for n in (resource.RLIMIT_CORE, resource.RLIMIT_DATA)]; "
    "open(f'../told-{os.getpid()}', 'w').write(json.dumps([*limits, dict(os.environ)]))"
)


def patched(folder: Path, act: str) -> dict[str, str]:
    """An environment in which the processes do something before they run the original."""
    (folder.parent / "site" / "sitecustomize.py").write_text(_PATCH.format(act=act))
    env = environment(folder.parent / "scratch")
    return {**env, "PYTHONPATH": str(folder.parent / "site"), "OPENBLAS_NUM_THREADS": "4"}


def test_workers_have_the_limits_of_the_command(folder: Path) -> None:
    """Together they may take what is free, and each computes with one thread of BLAS."""
    command = [*COMMAND, *SWEEP, "--ratios", "0.2,0.4"]
    done = subprocess.run(
        command, cwd=folder, env=patched(folder, _TELL), capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    limits = [json.loads(file.read_text()) for file in folder.parent.glob("told-*")]
    assert len(limits) >= 1
    memory = Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]
    swap = Path("/proc/meminfo").read_text().split("SwapTotal:")[1].split()[0]
    for core, data, env in limits:
        assert core == 0
        if not Path("/dev/nvidiactl").exists():
            assert 0 < data <= 1024 * (int(memory) + int(swap)) // 2
        assert env["OPENBLAS_NUM_THREADS"] == "1"
        assert env["PYTHONSAFEPATH"] == "1"
        assert env["TMPDIR"].startswith(str(folder.parent / "scratch"))


def started(folder: Path, processes: int) -> subprocess.Popen[bytes]:
    """A sweep, once its parent, its child and two workers are there and work."""
    command = [*COMMAND, *SWEEP, "--ratios", "0.1:0.7:0.1"]
    process = subprocess.Popen(
        command, cwd=folder, env=patched(folder, _SLEEP),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=heed_signals,
    )  # fmt: skip
    end = time.monotonic() + 300.0
    while len(processes_in(folder)) < processes:
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGKILL"])
def test_no_worker_outlives_the_command(folder: Path, name: str) -> None:
    process = started(folder, 4)
    number = signal.Signals[name]
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == (-9 if name == "SIGKILL" else 128 + number)
    assert error.count(b"\n") == (name == "SIGINT")
    assert all_gone(folder)
    if name != "SIGKILL":  # what that leaves the next run takes away
        assert list((folder.parent / "scratch").iterdir()) == []


def test_no_worker_outlives_a_killed_child(folder: Path) -> None:
    """As the kernel kills what takes the most memory."""
    process = started(folder, 4)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert b"was killed (SIGKILL)" in error
    assert all_gone(folder)
    assert list((folder.parent / "scratch").iterdir()) == []


@pytest.mark.parametrize("command", ["compress", "sweep"])
def test_a_child_of_a_parent_that_is_killed_at_once(folder: Path, command: str) -> None:
    """It has not asked yet to be told of its parent's death, and finds it dead already."""
    for _ in range(3):
        process = subprocess.Popen(
            [*COMMAND, *COMMANDS[command]], cwd=folder, env=patched(folder, _SLEEP),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not listed.read_text().strip():
            assert process.poll() is None
        process.kill()
        process.wait()
        assert all_gone(folder)
    assert not (folder.parent / "out.onnx").exists()


def test_a_worker_that_crashes_takes_only_its_own_cell(folder: Path) -> None:
    act = (
        "import glob; mine = f'../crash-{len(glob.glob(\"../crash-*\"))}'; "
        "open(mine, 'w').close(); mine.endswith('-0') and os.abort()"
    )
    arguments = (*SWEEP, "--ratios", "0.2,0.4,0.6", "--workers", "1")
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=patched(folder, act),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "in.onnx, none at 0.2: its process died" in done.stderr
    assert "(SIGABRT)" in done.stderr
    assert re.search(r"^none +0\.6 ", done.stdout, re.MULTILINE)
