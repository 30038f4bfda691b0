"""What a fault of native code looks like from outside, and what signals do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.hostile.command import COMMAND, OPTIONS, contents, environment, heed_signals

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")

# Python runs this in every process it starts here; only the child gets so far as the patch.
_FAULT = """
import importlib.abc, os, sys

class Patch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "lbyl_onnx.evaluate.verify":
            import ctypes, signal, time
            from lbyl_onnx.runtime import baseline
            baseline.run_baseline = lambda *a, **k: {fault}
        return None

sys.meta_path.insert(0, Patch())
"""


def faulty(tmp_path: Path, fault: str) -> dict[str, str]:
    """An environment in which running the original model does something else."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_FAULT.format(fault=fault))
    return {**environment(tmp_path / "scratch"), "PYTHONPATH": str(tmp_path / "site")}


@pytest.fixture
def folder(tmp_path: Path, sample: Path) -> Path:
    inner = tmp_path / "models"
    inner.mkdir()
    (inner / "in.onnx").write_bytes(sample.read_bytes())
    (inner / "out.onnx").write_bytes(b"what was there before")
    return inner


ARGUMENTS = [*COMMAND, "compress", "--ratio=0.3", "in.onnx", "out.onnx", "--force", *OPTIONS]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("ctypes.string_at(0)", "crashed (SIGSEGV)"),
        ("os.abort()", "crashed (SIGABRT)"),
        ("os.kill(os.getpid(), signal.SIGBUS)", "crashed (SIGBUS)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed (SIGKILL)"),
        ("os._exit(0)", "ended in native code"),
        ("os.write(2, b'no room') and os._exit(1)", "ended in native code (no room)"),
        ("os.write(2, b'double free or corruption') and os.abort()", "crashed (SIGABRT)"),
    ],
)
def test_a_crash_is_one_line_and_leaves_nothing(
    folder: Path, tmp_path: Path, fault: str, says: str
) -> None:
    env = faulty(tmp_path, fault)
    before = contents(tmp_path)
    done = subprocess.run(
        ARGUMENTS, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"lbyl-onnx: error: in\.onnx: [^\n]*\n", done.stderr)
    assert says in done.stderr
    assert "while running the original" in done.stderr
    assert contents(tmp_path) == before


def started(folder: Path, env: dict[str, str]) -> subprocess.Popen[str]:
    """The command, once its child runs the original."""
    process = subprocess.Popen(
        ARGUMENTS, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=heed_signals,
    )  # fmt: skip
    while not list(folder.glob(".out.onnx.*")):
        time.sleep(0.01)
        assert process.poll() is None
    time.sleep(0.5)  # until it has got to the original
    return process


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, ""),
        (signal.SIGHUP, 129, ""),
    ],
)
@pytest.mark.parametrize("fault", ["time.sleep(60)", "__import__('gc').freeze() or spin()"])
def test_a_signal_ends_the_command_at_once(
    folder: Path, tmp_path: Path, number: signal.Signals, code: int, says: str, fault: str
) -> None:
    """Also where native code does not look for signals: `spin` holds the interpreter."""
    spin = "ctypes.PyDLL(None).usleep(60_000_000)"
    env = faulty(tmp_path, fault.replace("spin()", spin))
    (tmp_path / "scratch").mkdir(exist_ok=True)
    before = contents(tmp_path)
    process = started(folder, env)
    begun = time.monotonic()
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert time.monotonic() - begun < 10.0
    assert (process.returncode, stdout) == (code, "")
    assert stderr.count("\n") == bool(says)
    assert says in stderr
    assert contents(tmp_path) == before


def test_a_killed_parent_takes_its_child_along(folder: Path, tmp_path: Path) -> None:
    process = started(folder, faulty(tmp_path, "time.sleep(60)"))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.communicate(timeout=10)
    assert children
    end = time.monotonic() + 10.0
    while any(Path(f"/proc/{child}/exe").exists() for child in children):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert (folder / "out.onnx").read_bytes() == b"what was there before"


def test_modules_in_the_current_folder_are_not_imported(folder: Path, tmp_path: Path) -> None:
    """A model comes with a folder, and the folder may come with a numpy.py."""
    for name in ("numpy", "onnx", "click", "subprocess", "json", "statistics"):
        (folder / f"{name}.py").write_text("open('taken', 'w')")
    script = Path(COMMAND[0]).with_name("lbyl-onnx")
    if not script.exists():
        pytest.skip("the command is not installed")
    arguments = [str(script), *ARGUMENTS[3:]]
    env = environment(tmp_path / "scratch")
    subprocess.run(arguments, cwd=folder, env=env, check=True, capture_output=True)
    assert not (folder / "taken").exists()
