"""What a terminal shows while the work is done."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
