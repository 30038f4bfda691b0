"""How much accuracy lbyl+ keeps, against the best that tuning gives its rivals.

Run from the root of the repository: ``python -m benchmarks.reach``. It needs ``../shared`` and the
extra ``reach``. lbyl+ runs at its defaults, with nothing tuned and no data; nm and lbyl run on the
grids of `benchmarks.grid`, and the best of each is taken **on the images that score it**, which
flatters them. With calibration, lbyl+ sees 256 unlabelled images that score nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks import efficientnet
from benchmarks.accuracy import top1
from benchmarks.datasets import Dataset, Images, SharedFilesError, load, model_path, unlabelled
from benchmarks.grid import Subject, grid
from benchmarks.tables import describe_machine, markdown_table, write_pair
from lbyl_onnx import Config, __version__, compress

CALIBRATION_IMAGES = 256
EXPORTED = "efficientnet_lite0"


@dataclass(frozen=True)
class Aim:
    """A model, and what share of its accuracy is to be kept at each ratio."""

    name: str
    dataset: Dataset
    shares: tuple[tuple[float, float], ...]
    limit: int | None = None
    normalized: bool = True
    calibrated: tuple[tuple[float, float], ...] = ()
    include: tuple[str, ...] = ()
    title: str = ""
    rivals: bool = True


AIMS = (
    Aim("resnet20_cifar10", "cifar10", ((0.3, 0.88), (0.5, 0.62))),
    Aim("resnet20_cifar10_folded", "cifar10", ((0.3, 0.0),), normalized=False),
    Aim("vgg16_cifar10", "cifar10", ((0.3, 0.97), (0.5, 0.89), (0.7, 0.62)), limit=1000),
    Aim(
        "lenet_300_100_fashion",
        "fashion",
        ((0.5, 0.985), (0.8, 0.87)),
        normalized=False,
        calibrated=((0.5, 0.985), (0.8, 0.925)),
    ),
    Aim(EXPORTED, "imagenet", ((0.1, 0.93), (0.2, 0.82), (0.3, 0.68))),
    Aim(
        EXPORTED,
        "imagenet",
        ((0.1, 0.93), (0.2, 0.82), (0.3, 0.68)),
        include=("*expand_conv*",),
        title=f"{EXPORTED}, expansion channels only",
        rivals=False,
    ),
)


@dataclass(frozen=True)
class Row:
    """One model at one ratio: accuracies, and the share of the base that is the aim."""

    model: str
    removed: float
    base: float
    aim: float
    none: float
    nm: float | None
    lbyl: float | None
    plus: float
    seconds: float
    calibrated: float | None
    calibrated_aim: float | None
    command: str


def measure(aim: Aim, path: Path, images: Images, rivals: bool) -> list[Row]:
    """Run one model at all its ratios."""
    base = top1(path, images)
    subject = Subject(aim.name, aim.dataset, normalized=aim.normalized)
    rows = []
    for ratio, share in aim.shares:
        common = Config(provider="cpu", ratio=ratio, round_to=1, include=aim.include)
        best = {}
        for method in ("nm", "lbyl"):
            configs = grid(subject, ratio, method) if rivals else []
            options = [replace(config, include=aim.include) for config in configs]
            best[method] = max((_score(path, o, images) for o in options), default=None)
        start = time.perf_counter()
        compressed = compress(path, config=replace(common, method="lbyl+")).model
        seconds = time.perf_counter() - start
        assert compressed is not None
        samples = dict(aim.calibrated).get(ratio)
        row = Row(
            aim.title or aim.name,
            ratio,
            base,
            share,
            _score(path, replace(common, method="none"), images),
            best["nm"],
            best["lbyl"],
            top1(compressed, images),
            seconds,
            None if samples is None else _calibrated(aim, path, common, images),
            samples,
            " ".join(["python -m benchmarks.reach", *sys.argv[1:]]),
        )
        print(row, flush=True)
        rows.append(row)
    return rows


def _score(path: Path, config: Config, images: Images) -> float:
    model = compress(path, config=config).model
    assert model is not None
    return top1(model, images)


def _calibrated(aim: Aim, path: Path, common: Config, images: Images) -> float:
    samples = unlabelled(aim.dataset, CALIBRATION_IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "samples.npy"
        np.save(file, samples)
        return _score(path, replace(common, method="lbyl+", calibration=str(file)), images)


def _scored(aim: Aim, limit: int | None) -> Images:
    """Images that score: for a model with calibration, all but those."""
    limits = [n for n in (aim.limit, limit) if n is not None]
    images = load(aim.dataset, min(limits, default=None))
    if aim.calibrated and not limits:
        images = Images(images.pixels[:-CALIBRATION_IMAGES], images.labels[:-CALIBRATION_IMAGES])
    return images


def markdown(setting: dict[str, object], rows: Sequence[Row]) -> str:
    """Return the table for people."""
    header = ["model", "removed", "base", "none", "nm, best", "lbyl, best", "lbyl+", "kept", "aim"]
    header += ["calibrated", "kept", "aim", "seconds"]
    body = []
    for row in rows:
        cells = [row.base, row.none, row.nm, row.lbyl, row.plus]
        kept = f"{row.plus / row.base:.3f}"
        line = [
            row.model,
            f"{row.removed:.0%}",
            *("" if c is None else f"{100 * c:.1f}" for c in cells),
            kept,
        ]
        line.append(f"{row.aim:g}" if row.aim else "")
        if row.calibrated is None:
            line += ["", "", ""]
        else:
            share = row.calibrated / row.base
            line += [f"{100 * row.calibrated:.1f}", f"{share:.3f}", f"{row.calibrated_aim:g}"]
        body.append([*line, f"{row.seconds:.0f}"])
    lines = ["# Reach", "", *(f"- `{command}`" for command in sorted({r.command for r in rows}))]
    lines += ["", f"{setting['machine']}, {setting['versions']}", ""]
    return "\n".join([*lines, markdown_table(header, body, left_columns=1), ""])


def main() -> None:
    """Measure every model and write ``reach.md`` and ``reach.json``."""
    names = list(dict.fromkeys(aim.name for aim in AIMS))
    parser = argparse.ArgumentParser(description="Measure how much accuracy lbyl+ keeps.")
    parser.add_argument("--models", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--limit", type=int, help="images per model at most")
    parser.add_argument("--no-rivals", action="store_true", help="leave out nm and lbyl")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    rows: list[Row] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            exported = Path(folder) / f"{EXPORTED}.onnx"
            if EXPORTED in options.models:
                efficientnet.export(exported)
            for aim in AIMS:
                if aim.name in options.models:
                    path = exported if aim.name == EXPORTED else model_path(aim.name)
                    images = _scored(aim, options.limit)
                    rows += measure(aim, path, images, rivals=aim.rivals and not options.no_rivals)
    except SharedFilesError as error:
        parser.exit(1, f"error: {error}\n")
    setting: dict[str, object] = {
        "machine": describe_machine(),
        "versions": {"lbyl-onnx": __version__, "onnx": onnx.__version__, "ort": ort.__version__},
    }
    rows = _merged(options.output_dir / "reach.json", rows)
    document = {"setting": setting, "rows": [asdict(row) for row in rows]}
    write_pair(options.output_dir, "reach", document, markdown(setting, rows))


def _merged(path: Path, rows: Sequence[Row]) -> list[Row]:
    """Put new rows in the place of those of the same models on record.

    Rivals that were left out are taken from there.
    """
    measured = {row.model for row in rows}
    old = [Row(**r) for r in json.loads(path.read_text())["rows"]] if path.exists() else []
    kept = [row for row in old if row.model not in measured]
    by_model = {(row.model, row.removed): (row.nm, row.lbyl) for row in old}
    rows = [
        replace(row, nm=nm, lbyl=lbyl) if row.nm is None else row
        for row in rows
        for nm, lbyl in [by_model.get((row.model, row.removed), (None, None))]
    ]
    order = [aim.title or aim.name for aim in AIMS]
    return sorted([*kept, *rows], key=lambda row: (order.index(row.model), row.removed))


if __name__ == "__main__":
    main()
