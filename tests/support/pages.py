"""Commands of README and the docs: found in their blocks, and run in a clone."""

from __future__ import annotations

import os
import re
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


def steps(body: str) -> str:
    """The commands of a YAML block: what a workflow runs, and what a hook does."""
    return "\n".join(re.findall(r"^[ -]*(?:run|entry): (.*)$", body, re.MULTILINE))


# Dask's servers and Olive are run by tests of their own.
SKIPPED = re.compile(
    r"venv |pip install|pytest|train_digits|git clone|benchmarks\.|ruff|mypy"
    r"|^dask |--scheduler|^olive |integrations\.olive"
)


def run_commands(body: str, page: str, folder: Path) -> int:
    """Run the lines of a shell block in a folder; return how many."""
    lines = commands(body)
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for line in lines:
        as_written = line.replace(".venv/bin/", "")
        if as_written.split()[0] not in ("lbyl-onnx", "python"):
            pytest.fail(f"{page} shows a command this test does not know: {line}")
        done = subprocess.run(
            ["sh", "-c", as_written], cwd=folder, env={**os.environ, "PATH": search},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{page}: {line}: {done.stderr}"
    return len(lines)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    return tmp_path


def in_order() -> list[str]:
    """README, then the pages in the order in which they are read."""
    listed = re.findall(r"^ +- [^:]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    return ["README.md", *(f"docs/{page}" for page in listed)]


PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
