"""What the benchmarks share in reporting: the machine, a Markdown table, a pair of files."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy

Machine = Mapping[str, str | int]


def describe_machine() -> dict[str, str | int]:
    """Return the processor, its cores and the linear algebra in use."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "system": platform.system(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "blas": f"{blas['name']} {blas['version']}",
    }


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], left_columns: int = 0
) -> str:
    """Return a Markdown table, columns right-aligned but for the first `left_columns`."""
    rule = ["---" if i < left_columns else "---:" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))


def write_pair(directory: Path, name: str, document: Mapping[str, object], markdown: str) -> None:
    """Write one result twice: ``name.json`` for programs, ``name.md`` for people."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    (directory / f"{name}.md").write_text(markdown)


def _processor() -> str:
    """Return the processor's own name where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
