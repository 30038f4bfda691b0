"""Every command and every Python example in README and samples/README runs as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.pages import BLOCK, blocks, clone, run_commands

__all__ = ["clone"]  # a fixture


@pytest.mark.parametrize("path", ["README.md", "samples/README.md"])
def test_commands_run(path: str, clone: Path) -> None:
    assert sum(run_commands(body, path, clone) for body in blocks(path, "sh"))


def test_python_examples_run(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clone)
    code_blocks = blocks("README.md", "python")
    assert code_blocks
    for body in code_blocks:
        exec(compile(body, "README.md", "exec"), {})
    assert (clone / "digits-small.onnx").exists()


@pytest.mark.parametrize("heading", ["Quick start", "Test"])
def test_the_two_headings_begin_with_one_command(heading: str) -> None:
    text = (ROOT / "README.md").read_text()
    section = text.split(f"\n## {heading}\n", 1)[1]
    first = BLOCK.search(section)
    assert first is not None
    assert len(first.group(2).strip().splitlines()) == 1
