"""A broken installation of ONNX Runtime: one line that says how to mend it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BROKEN = {
    "nothing but a folder": ("", "cannot be imported"),
    "a library that is gone": ("raise ImportError('libcudart.so.12: no file')", "libcudart.so.12"),
    "half of a module": ("raise AttributeError('_ARRAY_API\\nnot found')", "_ARRAY_API"),
    "none at all": (
        "raise ModuleNotFoundError(\"No module named 'onnxruntime'\", name='onnxruntime')",
        "is not installed; pip install one of onnxruntime, onnxruntime-gpu, onnxruntime-directml",
    ),
    "no session": (
        "import sys, types\n"
        "capi = types.ModuleType('onnxruntime.capi')\n"
        "capi.onnxruntime_pybind11_state = types.ModuleType('state')\n"
        "sys.modules['onnxruntime.capi'] = capi\n"
        "ExecutionOrder = GraphOptimizationLevel = None",
        "has no InferenceSession",
    ),
}
COMMANDS = {
    "compress": ("compress", "--ratio=0.3", "in.onnx", "out.onnx"),
    "inspect": ("inspect", "in.onnx"),
    "verify": ("verify", "in.onnx", "in.onnx"),
    "sweep": ("sweep", "in.onnx", "--out", "curve"),
    "doctor": ("doctor",),
}


def run(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with such an `onnxruntime` in front of the installed one."""
    package = folder / "broken" / "onnxruntime"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(module)
    env = {**os.environ, "PYTHONPATH": str(package.parent)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", BROKEN)
def test_every_command_says_how_to_mend_it(name: str, command: str, tmp_path: Path) -> None:
    if command != "compress" and name != "no session":
        return  # they import it at the same place
    module, says = BROKEN[name]
    done = run(tmp_path, module, "-m", "lbyl_onnx", *COMMANDS[command])
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("lbyl-onnx: error: onnxruntime ")
    assert says in done.stderr
    mends = "pip install one of" if "not installed" in says else "pip uninstall -y onnxruntime on"
    assert mends in done.stderr


@pytest.mark.parametrize("function", ["compress", "inspect", "compare_models"])
def test_so_does_the_api_each_time(function: str, tmp_path: Path) -> None:
    code = (
        "import lbyl_onnx\n"
        "for _ in range(2):\n"
        "    try:\n"
        f"        lbyl_onnx.{function}\n"
        "    except lbyl_onnx.LbylOnnxError as error:\n"
        "        print(type(error).__name__, error)\n"
    )
    done = run(tmp_path, BROKEN["no session"][0], "-c", code)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("InstallationError onnxruntime is broken") for line in lines)
