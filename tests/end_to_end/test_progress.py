"""What a terminal shows while the work is done."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lbyl_onnx import compress
from lbyl_onnx.types import Stage

if sys.platform != "win32":
    import pty


def on_a_terminal(*words: str) -> str:
    """Run the command with stderr on a terminal; return what it shows there."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        [sys.executable, "-m", "lbyl_onnx", *words],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=slave,
    )  # fmt: skip
    os.close(slave)
    shown = b""
    try:
        while part := os.read(master, 1 << 16):
            shown += part
    except OSError:  # the other end is closed
        pass
    os.close(master)
    assert process.wait() == 0
    return shown.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="terminals are POSIX's here")
def test_the_start_is_shown_then_each_stage_and_at_last_nothing(
    sample: Path, tmp_path: Path
) -> None:
    text = on_a_terminal("compress", "--ratio=0.3", str(sample), str(tmp_path / "out.onnx"))
    start, clear = "lbyl-onnx: starting ..", "\r\x1b[K"
    assert text.startswith(start + clear)
    stages = re.findall(r"(\d/\d) ([a-z ]+?) +[━╸╺\x1b]", text)
    assert {("1/7", "running the original"), ("3/7", "compensating")} <= set(stages)
    assert text.rstrip("\r\n").endswith(("\x1b[2K", "\x1b[?25h"))


@pytest.mark.skipif(sys.platform == "win32", reason="terminals are POSIX's here")
def test_quiet_shows_nothing(sample: Path) -> None:
    text = on_a_terminal("inspect", str(sample), "--quiet")
    assert text.replace("\r\x1b[K", "") == ""


def test_what_takes_long_tells_of_each_part_of_it(sample: Path) -> None:
    """Mini-batches, groups, layers, runs and rounds are counted as they are done."""
    told: list[tuple[str, int, int]] = []
    compress(
        sample, dry_run=True, provider="cpu", macs="70%", hardware="avx2",
        progress=lambda stage, done, total: told.append((str(stage), done, total)),
    )  # fmt: skip
    assert [stage for stage, _, _ in told].index("choosing samples") > 1
    counted = (
        "running the original", "measuring statistics", "looking for what can go",
        "measuring sensitivities", "compensating", "timing both models",
    )  # fmt: skip
    for name in counted:
        amounts = [(done, total) for stage, done, total in told if stage == name and total > 1]
        assert amounts, name
        assert all(0 <= done <= total for done, total in amounts)
        steps = [
            after[0] - before[0]
            for before, after in itertools.pairwise(amounts)
            if before[0] < before[1] and after[0] > 0
        ]
        assert set(steps) <= {0, 1}, name  # none is left out
    batches = [done for stage, done, _ in told if stage == "comparing outputs"]
    assert max(batches) >= 1


def test_stages_keep_their_numbers_however_fine_they_are_told(sample: Path) -> None:
    told: list[object] = []
    compress(
        sample, dry_run=True, provider="cpu", ratio=0.3, hardware="avx2",
        progress=lambda stage, done, total: told.append(stage),
    )  # fmt: skip
    stages = [stage for stage in told if isinstance(stage, Stage)]
    assert len(stages) == len(told)
    assert all(1 <= stage.number <= stage.of == stages[0].of for stage in stages)
    by_name = {str(stage): stage.number for stage in stages}
    assert by_name["comparing outputs"] >= by_name["verifying"]
