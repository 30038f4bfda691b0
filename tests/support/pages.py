"""Commands of README and the docs: found in their blocks, and run in a clone."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(path: str, language: str) -> list[str]:
    return [body for tag, body in BLOCK.findall((ROOT / path).read_text()) if tag == language]


def commands(body: str) -> list[str]:
    """The lines of a shell block, less what sets up an environment, trains anew or serves."""
    lines = [line for line in body.splitlines() if line.strip()]
    return [part for line in lines for part in line.split(" && ") if not SKIPPED.search(part)]


# Dask's servers and Olive are run by tests of their own.
SKIPPED = re.compile(
    r"venv |pip install|pytest|train_digits|git clone|benchmarks\.|ruff|mypy"
    r"|^dask |--scheduler|^olive |integrations\.olive"
)


def run_commands(body: str, page: str, folder: Path) -> int:
    """Run the lines of a shell block in a folder; return how many."""
    lines = commands(body)
    for line in lines:
        words = [word.replace(".venv/bin/", "") for word in shlex.split(line)]
        if words[0] == "lbyl-onnx":
            words = ["-m", "lbyl_onnx", *words[1:]]
        elif words[0] == "python":
            words = words[1:]
        else:
            pytest.fail(f"{page} shows a command this test does not know: {line}")
        done = subprocess.run(
            [sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
    return len(lines)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    return tmp_path


PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
