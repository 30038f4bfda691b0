"""The real command on models as a stranger could send them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.hostile.command import OPTIONS, SECONDS, contents, run
from tests.hostile.models import PASSED, REFUSED

pytestmark = pytest.mark.corpus
GIB = 1 << 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the model lies; beside it a file that no model may read."""
    (tmp_path / "secret.bin").write_bytes(b"\x3f" * 10**5)
    (tmp_path / "scratch").mkdir()
    inner = tmp_path / "models"
    inner.mkdir()
    return inner


@pytest.mark.parametrize("name", REFUSED)
def test_one_line_of_error_and_nothing_touched(name: str, folder: Path) -> None:
    case = REFUSED[name]
    case.build(folder)
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    before = contents(folder.parent)
    ran = run(["compress", "--ratio=0.3", "in.onnx", "out.onnx", *OPTIONS], folder)
    assert ran.code == case.code, ran.stderr
    assert ran.stdout == ""
    assert re.fullmatch(r"lbyl-onnx: [^\n]*\bin\.onnx\b[^\n]*\n", ran.stderr), ran.stderr
    assert re.search(case.says, ran.stderr), ran.stderr
    assert "internal error" not in ran.stderr
    assert "Traceback" not in ran.stderr
    assert len(ran.stderr) < 2000
    assert ran.stderr.rstrip("\n").isprintable()
    assert contents(folder.parent) == before
    assert ran.peak < GIB + min(size, 2 * GIB)
    assert ran.seconds < SECONDS


@pytest.mark.parametrize("name", PASSED)
def test_odd_models_pass_and_nothing_but_the_output_is_written(name: str, folder: Path) -> None:
    case = PASSED[name]
    case.build(folder)
    before = contents(folder.parent)
    ran = run(["compress", "--ratio=0.3", "in.onnx", "out.onnx", *OPTIONS], folder)
    assert (ran.code, ran.stderr) == (0, "")
    assert (folder / "out.onnx").stat().st_size > 0
    (folder / "out.onnx").unlink()
    (folder / "out.onnx_data").unlink(missing_ok=True)
    assert contents(folder.parent) == before
    assert all(line.isprintable() for line in ran.stdout.splitlines())
    assert ran.peak < GIB
    assert ran.seconds < SECONDS
