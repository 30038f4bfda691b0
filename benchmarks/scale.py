"""Processor time and peak memory of a compression against the size of the model, for each kind.

Run from the root of the repository: ``python -m benchmarks.scale [KIND ..]``. Structures with
seeded random weights, each made, measured as `benchmarks.cost` does, and removed; it writes
``scale.json``, ``scale.md`` and ``scale.svg``. Linux only: peak memory is the kernel's.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import onnx

from benchmarks.big import many_layers, one_wide_layer
from benchmarks.cost import Cost, measured_apart, table
from benchmarks.structures import BERT_BASE, EncoderShape, encoder, resnet50
from benchmarks.tables import describe_machine, write_pair
from lbyl_onnx.report.svg import Axis, GridRow, Series, grid_of_curves


@dataclass(frozen=True)
class Subject:
    """A structure in the making."""

    kind: str
    name: str
    build: Callable[[Path], None]


def _encoder(path: Path, shape: EncoderShape) -> None:
    onnx.save(encoder(shape), path)


def _resnet(path: Path, side: int) -> None:
    onnx.save(resnet50(image_size=side), path)


DENSE, CONVOLUTIONAL, TEXT = "two Gemm", "convolutional", "text encoder"
SUBJECTS = (
    *(
        Subject(DENSE, f"{width} channels", partial(one_wide_layer, width=width))
        for width in (512, 1024, 2048, 4096)
    ),
    *(
        Subject(CONVOLUTIONAL, f"{layers} Conv of 16", partial(many_layers, layers=layers))
        for layers in (10, 40, 160)
    ),
    Subject(CONVOLUTIONAL, "ResNet-50, 64 x 64", partial(_resnet, side=64)),
    *(
        Subject(TEXT, name, partial(_encoder, shape=shape))
        for name, shape in (
            ("2 layers of 128", EncoderShape(2, 128, 512, 2)),
            ("6 layers of 384", EncoderShape(6, 384, 1536, 12)),
            ("12 layers of 384", EncoderShape(12, 384, 1536, 12)),
            ("BERT-base, 12 layers of 768", BERT_BASE),
        )
    ),
)


def measure(subject: Subject) -> Cost:
    """Make a structure, measure what it costs, remove it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        subject.build(path)
        cost = measured_apart(path)
    return Cost(**{**asdict(cost), "model": subject.name})


def picture(costs: Mapping[str, Sequence[Cost]]) -> str:
    """Draw seconds and bytes against parameters, a line for each kind; all axes are logarithmic."""
    across = _logarithmic("parameters, million")
    rows = []
    for title, field, unit in (("CPU seconds", "cpu", 1.0), ("peak memory, GB", "peak", 1e9)):
        series = tuple(
            Series(
                kind,
                tuple(
                    (math.log10(c.parameters / 1e6), math.log10(getattr(c, field) / unit))
                    for c in sorted(own, key=lambda c: c.parameters)
                ),
            )
            for kind, own in costs.items()
        )
        rows.append(GridRow(title, _logarithmic(title), ((across, series),)))
    return grid_of_curves(rows)


def _logarithmic(title: str) -> Axis:
    return Axis(title, lambda power: f"{float(f'{10**power:.2g}'):g}")


def markdown(setting: Mapping[str, object], costs: Mapping[str, Sequence[Cost]]) -> str:
    """Return the page for people."""
    lines = ["# Cost against size", "", f"`{setting['command']}`, {setting['machine']}", ""]
    for kind, own in costs.items():
        lines += [f"## {kind}", "", table(own), ""]
    return "\n".join(lines)


def recorded(path: Path) -> dict[str, list[Cost]]:
    """Return what is on record, by kind."""
    rows = json.loads(path.read_text())["costs"] if path.exists() else {}
    return {kind: [Cost(**row) for row in own] for kind, own in rows.items()}


def write(folder: Path, costs: Mapping[str, Sequence[Cost]]) -> None:
    """Write what has been measured so far: numbers, page and picture."""
    setting = {"command": "python -m benchmarks.scale", "machine": describe_machine()}
    document = {
        "setting": setting,
        "costs": {kind: [asdict(cost) for cost in own] for kind, own in costs.items()},
    }
    write_pair(folder, "scale", document, markdown(setting, costs))
    (folder / "scale.svg").write_text(picture(costs))


def main() -> None:
    """Measure the kinds that are asked for, keep the others on record, write all files."""
    parser = argparse.ArgumentParser(description="Measure cost against size.")
    parser.add_argument("kinds", nargs="*", help=f"of {DENSE!r}, {CONVOLUTIONAL!r}, {TEXT!r}")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    costs = recorded(arguments.output_dir / "scale.json")
    for kind in arguments.kinds or (DENSE, CONVOLUTIONAL, TEXT):
        costs[kind] = []
        for subject in SUBJECTS:
            if subject.kind == kind:
                costs[kind].append(measure(subject))
                print(costs[kind][-1], flush=True)
                write(arguments.output_dir, costs)


if __name__ == "__main__":
    main()
