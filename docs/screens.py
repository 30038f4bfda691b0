"""The screens and the results of README and the docs, written anew: `python -m docs.screens`.

What a command prints is put below its mark, as it is run here; the tables come from what
`python -m benchmarks.no_goal`, `.int8`, `.factors` and `.peers` have measured.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SCREEN = re.compile(
    r"(<!-- screen(?: of (\d+) lines)?: (.*?) -->\n).*?(<!-- end of screen -->)", re.DOTALL
)
TABLE = re.compile(
    r"(<!-- (results|peers): python -m docs\.screens -->\n).*?(<!-- end of \2 -->)", re.DOTALL
)
# Models, and shares of their multiply-accumulates.
TARGETS = {"vgg16_cifar10": (0.25, 0.125), "resnet20_cifar10": (0.5,)}
# Characters in a line of a screen.
WIDTH = 96
NAMES = {
    "vgg16_cifar10": "VGG-16, CIFAR-10",
    "lenet_300_100_fashion": "LeNet-300-100, Fashion-MNIST",
    "resnet20_cifar10": "ResNet-20, CIFAR-10",
    "resnet20_cifar10_folded": "the same, BatchNorm folded by the exporter",
    "efficientnet_lite0": "EfficientNet-lite0, ImageNet",
    "efficientnet_lite0_folded": "the same, BatchNorm folded by the exporter",
}


def pages() -> Iterator[Path]:
    """Yield README and every page."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))


def printed(command: str) -> str:
    """Return what a command prints, run beside a copy of the samples."""
    words = shlex.split(command)
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(ROOT / "samples", Path(name) / "samples")
        done = subprocess.run(
            [sys.executable, "-m", "lbyl_onnx", *words[1:]],
            cwd=name,
            env={**os.environ, "COLUMNS": str(WIDTH), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def table() -> str:
    """Return the models that no goal was given for, beside int8, as Markdown."""
    no_goal = json.loads((RESULTS / "no_goal.json").read_text())["rows"]
    int8 = json.loads((RESULTS / "int8.json").read_text())["models"]
    lines = [
        "| model | before | `compress in out` | MACs | bytes | time | `--ratio 0 --quantize int8` "
        "| bytes |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for key, name in NAMES.items():
        if key not in no_goal:
            continue
        row, whole = no_goal[key], int8.get(key, {}).get("int8")
        left = [f"{row[what]:.0%}" for what in ("macs", "size", "time")]
        after = f"**{100 * row['accuracy']:.1f}**" if not row["reason"] else "nothing is safe"
        cells = [name, f"{100 * row['base']:.1f}", after, *left]
        cells += ["", ""] if whole is None else [_percent(whole), f"{whole['size']:.0%}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def results() -> str:
    """Return what README says of the accuracy."""
    return f"{table()}\n\n{targets()}"


def peers() -> str:
    """Return other tools on the same models as Markdown: top-1 / bytes / time, in percent."""
    models = json.loads((RESULTS / "peers.json").read_text())["models"]
    names = [NAMES[model] for model in models]
    lines = [f"| tool | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    tools = dict.fromkeys(tool for rows in models.values() for tool in rows)
    for tool in sorted(tools, key=lambda name: (name != "original", name.startswith("lbyl-onnx"))):
        cells = []
        for rows in models.values():
            row = rows.get(tool)
            if row is None or row["reason"]:
                cells.append("")
                continue
            figures = (_percent(row), f"{100 * row['size']:.0f}", f"{100 * row['time']:.0f}")
            cells.append("\u00a0/\u00a0".join(figures))
        lines.append(f"| {tool} | {' | '.join(cells)} |")
    return "\n".join(lines)


def targets() -> str:
    """Return what a few models keep at a target, in one sentence."""
    rows = json.loads((RESULTS / "factors.json").read_text())["rows"]
    said = []
    for model, shares in TARGETS.items():
        kept = []
        for share in shares:
            made = [
                r for r in rows if (r["model"], r["kind"], r["share"]) == (model, "macs", share)
            ]
            row = max(made, key=lambda r: float(r["nearness"]))  # what the command writes
            kept.append(f"{_percent(row)} with `--macs {100 * share:g}%`")
        said.append(f"{NAMES[model].partition(',')[0]} keeps {' and '.join(kept)}")
    return f"At a target layers may also become two of lower rank:\n{', '.join(said)}."


def _percent(figure: dict[str, float]) -> str:
    return f"{100 * figure['accuracy']:.1f}"


def filled(page: str, screen: Callable[[str], str]) -> str:
    """Return a page with its table and its screens written anew."""
    page = TABLE.sub(lambda m: f"{m[1]}\n{TABLES[m[2]]()}\n\n{m[3]}", page)
    return SCREEN.sub(
        lambda m: f"{m[1]}\n```text\n{_first(screen(m[3]), m[2])}\n```\n\n{m[4]}", page
    )


def _first(text: str, count: str | None) -> str:
    """The first lines of a screen, and that there are more; all of it where no number is given."""
    lines = text.splitlines()
    if count is None or len(lines) <= int(count):
        return text
    return "\n".join([*lines[: int(count)], "..."])


# What stands below the mark of each table.
TABLES: Mapping[str, Callable[[], str]] = {"results": results, "peers": peers}

if __name__ == "__main__":
    for path in pages():
        before = path.read_text()
        after = filled(before, printed)
        if after != before:
            path.write_text(after)
