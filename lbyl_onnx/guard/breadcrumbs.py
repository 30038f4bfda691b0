"""Notes of the child process on its work, which the parent reports if the child dies."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

VARIABLE = "LBYL_ONNX_NOTES"
"""The environment variable that names the file; where it is not set nothing is noted."""


def note(**tensor_info: str) -> None:
    """Note facts under their names: `model`, `output`, `doing`."""
    file = os.environ.get(VARIABLE)
    if not file:
        return
    # A note is worth no failure.
    with contextlib.suppress(OSError), Path(file).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(tensor_info) + "\n")


def read(file: Path) -> dict[str, str]:
    """Return the last fact noted under each name."""
    tensor_info: dict[str, str] = {}
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # cut short as its writer was killed
                tensor_info |= json.loads(line)
    return tensor_info
