"""What low-rank factors keep, beside pruning and with it, without data.

Run from the root of the repository: ``python -m benchmarks.factors``. It needs ``../shared``, and
for EfficientNet the extra ``reach`` or ``--efficientnet FILE``.

Each model at a share of its multiply-accumulates, and of its measured time, by each way that
``--moves prune,factor`` tries: channels that go, factors and then channels, factors alone. The
nearest on synthetic samples is what the command writes. Each row is written as it is measured,
beside those on record.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from benchmarks import efficientnet
from benchmarks.accuracy import top1
from benchmarks.datasets import Dataset, Images, SharedFilesError, load, model_path
from benchmarks.tables import describe_machine, markdown_table, write_pair
from lbyl_onnx import Config, LbylOnnxError, __version__
from lbyl_onnx.budget.moves import Moves
from lbyl_onnx.budget.reached import Before
from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import Selection
from lbyl_onnx.graph.source import Source, check_source
from lbyl_onnx.observe.session import prepare
from lbyl_onnx.rewrite.deployment import Deployment
from lbyl_onnx.runtime import timing
from lbyl_onnx.runtime.baseline import run_baseline

CPU = "CPUExecutionProvider"
KINDS = ("macs", "latency")
WAYS = ("prune", "factor,prune", "factor")
EXPORTED = "efficientnet_lite0"
MODELS: dict[str, tuple[Dataset, int]] = {
    "vgg16_cifar10": ("cifar10", 1000),
    "resnet20_cifar10": ("cifar10", 1000),
    EXPORTED: ("imagenet", 500),
    "lenet_300_100_fashion": ("fashion", 2000),
}
# Targets of each model: what is counted, and which share of it is left.
CASES: dict[str, tuple[tuple[str, float], ...]] = {
    "vgg16_cifar10": (("macs", 0.5), ("macs", 0.25), ("macs", 0.125), ("latency", 0.25)),
    "resnet20_cifar10": (("macs", 0.5), ("latency", 0.7)),
    EXPORTED: (("macs", 0.9), ("macs", 0.75), ("latency", 0.8)),
    "lenet_300_100_fashion": (("macs", 0.3), ("macs", 0.1), ("latency", 0.5)),
}


@dataclass(frozen=True)
class Row:
    """One model at one target by one way; shares are of the original."""

    model: str
    kind: str
    share: float
    moves: str
    base: float
    accuracy: float
    nearness: float
    macs: float
    parameters: float
    time: float
    layers: int
    seconds: float


def rows_of(
    model: str, path: Path, images: Images, target: tuple[str, float], by: Sequence[str]
) -> Iterator[Row]:
    """Yield a row for each way to a target that is asked for, by its moves."""
    kind, share = target
    files, base = check_source(path), top1(path, images)
    baseline = run_baseline(path, CPU, 0)
    options: dict[str, Any] = {kind: f"{100 * share}%", "moves": ("prune", "factor")}
    config = Config(provider="cpu", **options)

    def opened(source: Source) -> AnalyzedModel:
        return AnalyzedModel.open(source, baseline.shape_sets, Selection())

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        analyzed = opened(files)
        prepared = prepare(analyzed, baseline, config, folder, measured=True)
        before = Before(analyzed.costs, files.size)
        written = (folder / "output.onnx", folder / "reference.onnx")
        deployment = Deployment.prepare(prepared, baseline, path, None)
        moves = Moves(prepared, deployment, before, written, opened, lambda *_: None)
        for attempt in moves.attempts():
            name = ",".join(attempt.moves)
            if name not in by:
                continue
            start = time.perf_counter()
            try:
                moved = attempt.make()
            except LbylOnnxError as error:
                print(model, kind, share, attempt.moves, error, flush=True)
                continue
            if moved is None:
                print(model, kind, share, attempt.moves, "does not reach it", flush=True)
                continue
            costs, seconds = moved.reached.costs, time.perf_counter() - start
            pair = timing.paired(path, moved.path, CPU, baseline.feeds[0])
            yield Row(
                model,
                kind,
                share,
                name,
                base,
                top1(moved.path, images),
                moved.nearness,
                costs.macs / analyzed.costs.macs,
                costs.parameters / analyzed.costs.parameters,
                pair.ratio,
                len(moved.factors),
                seconds,
            )


def markdown(setting: dict[str, object], rows: Sequence[Row]) -> str:
    """Return the table for people."""
    titles = "model target by base top-1 kept nearness MACs parameters time factored seconds"
    best: dict[tuple[str, str, float], float] = {}
    for row in rows:
        best[row.model, row.kind, row.share] = max(
            row.nearness, best.get((row.model, row.kind, row.share), 0.0)
        )
    body = [
        [
            row.model,
            f"{row.kind} {row.share:.1%}",
            row.moves + " *" * (row.nearness == best[row.model, row.kind, row.share]),
            f"{100 * row.base:.1f}",
            f"{100 * row.accuracy:.1f}",
            f"{row.accuracy / row.base:.3f}",
            f"{row.nearness:.4f}",
            f"{row.macs:.1%}",
            f"{row.parameters:.1%}",
            f"{row.time:.1%}",
            str(row.layers),
            f"{row.seconds:.0f}",
        ]
        for row in rows
    ]
    lines = ["# Factors", "", "`python -m benchmarks.factors`", ""]
    lines += [f"{setting['machine']}, {setting['versions']}", ""]
    lines += [
        "Top-1 in percent, and as a share of the original's; cosine with the original's outputs on "
        "synthetic samples; what is left of multiply-accumulates, parameters and time of one "
        "sample; layers that are factors. `*` is what `--moves prune,factor` writes.",
        "",
        markdown_table(titles.split(), body, left_columns=3),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and write ``factors.md`` and ``factors.json``."""
    parser = argparse.ArgumentParser(description="Measure low-rank factors.")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS], metavar="NAME")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, metavar="KIND")
    parser.add_argument("--shares", nargs="+", type=float, metavar="S", help="of the cases")
    parser.add_argument("--by", nargs="+", choices=WAYS, default=WAYS, metavar="MOVES")
    parser.add_argument("--efficientnet", type=Path, help="its exported file")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    record = options.output_dir / "factors.json"
    document = json.loads(record.read_text()) if record.exists() else {"rows": []}
    rows = {(r["model"], r["kind"], r["share"], r["moves"]): Row(**r) for r in document["rows"]}
    setting: dict[str, object] = {
        "machine": describe_machine(),
        "versions": {"lbyl-onnx": __version__, "onnx": onnx.__version__, "ort": ort.__version__},
    }
    try:
        with tempfile.TemporaryDirectory() as name:
            for model in options.models:
                path = _file_of(model, Path(name), options.efficientnet)
                images = load(*MODELS[model])
                for kind, share in CASES[model]:
                    if kind not in (options.kinds or KINDS):
                        continue
                    if share not in (options.shares or [share]):
                        continue
                    for row in rows_of(model, path, images, (kind, share), options.by):
                        print(row, flush=True)
                        rows[row.model, row.kind, row.share, row.moves] = row
                        done = sorted(rows.values(), key=_order)
                        made = {"setting": setting, "rows": [asdict(entry) for entry in done]}
                        write_pair(options.output_dir, "factors", made, markdown(setting, done))
    except SharedFilesError as error:
        parser.exit(1, f"error: {error}\n")


def _order(row: Row) -> tuple[int, bool, float, str]:
    return [*MODELS].index(row.model), row.kind == "latency", -row.share, row.moves


def _file_of(model: str, folder: Path, exported: Path | None) -> Path:
    """Return a model's file, exported into the folder where there is none."""
    if model != EXPORTED:
        return model_path(model)
    if exported is None:
        exported = folder / f"{model}.onnx"
        efficientnet.export(exported)
    return exported


if __name__ == "__main__":
    main()
