"""What a budget shared out by predicted damage keeps, and what half the work is worth in time.

Run from the root of the repository: ``python -m benchmarks.budgets``. It needs ``../shared``, and
for EfficientNet the extra ``reach`` or ``--efficientnet FILE``.

Accuracy: each model at half its multiply-accumulates, the same share of every group against
`auto`, which looks at no image. Time: the same half, groups rounded to what the processor gains
by, both models timed in turn; a ResNet-50 structure with random weights comes with them. Where
rounding does not allow for half, the nearest share above it that it allows is taken.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
import onnxruntime as ort

from benchmarks import efficientnet
from benchmarks.accuracy import top1
from benchmarks.datasets import Dataset, SharedFilesError, load, model_path
from benchmarks.structures import resnet50
from benchmarks.tables import describe_machine, markdown_table, write_pair
from lbyl_onnx import CompressResult, Config, TargetError, __version__, compress
from lbyl_onnx.runtime import baseline, timing
from lbyl_onnx.runtime.providers import channel_block

SHARE = 0.5
EXPORTED, STRUCTURE = "efficientnet_lite0", "resnet50_structure"
MODELS: dict[str, tuple[Dataset, int | None]] = {
    "resnet20_cifar10": ("cifar10", None),
    "resnet20_cifar10_folded": ("cifar10", None),
    "vgg16_cifar10": ("cifar10", 1000),
    "lenet_300_100_fashion": ("fashion", None),
    EXPORTED: ("imagenet", None),
}
TIMED = ("resnet20_cifar10", "vgg16_cifar10", EXPORTED, STRUCTURE)


@dataclass(frozen=True)
class Row:
    """One model: accuracies at the same budget, and the time that a rounded half takes."""

    model: str
    images: int = 0
    base: float = 0.0
    uniform: float = 0.0
    auto: float = 0.0
    uniform_macs: float = 0.0
    auto_macs: float = 0.0
    uniform_seconds: float = 0.0
    auto_seconds: float = 0.0
    timed_macs: float = 0.0
    timed_ratio: float = 0.0
    timed_before: float = 0.0
    timed_after: float = 0.0
    spread: float = 0.0

    @property
    def less_lost(self) -> float:
        """Share of uniform's loss of accuracy that auto does not lose."""
        lost = self.base - self.uniform
        return (self.auto - self.uniform) / lost if lost > 0 else 0.0


def file_of(model: str, folder: Path, exported: Path | None) -> Path:
    """Return a model's file, made in the folder where it is not one of those shared."""
    path = folder / f"{model}.onnx"
    if model == STRUCTURE:
        onnx.save(resnet50(), path)
        return path
    if model != EXPORTED:
        return model_path(model)
    if exported is None:
        efficientnet.export(path)
    return exported or path


def accuracies(name: str, path: Path, limit: int | None) -> dict[str, float | int]:
    """Compress to half both ways, and score."""
    dataset, own = MODELS[name]
    images = load(dataset, min((n for n in (own, limit) if n is not None), default=None))
    row: dict[str, float | int] = {"images": len(images.labels), "base": top1(path, images)}
    macs = f"{SHARE:.0%}"
    for allocation in ("uniform", "auto"):
        start = time.perf_counter()
        config = Config(macs=macs, allocation=allocation, round_to=1, provider="cpu")
        result = compress(path, config=config)
        assert result.model is not None
        macs = str(result.after.macs)  # auto gets no more than uniform took
        row[f"{allocation}_seconds"] = time.perf_counter() - start
        row[f"{allocation}_macs"] = result.after.macs / result.before.macs
        row[allocation] = top1(result.model, images)
    return row


def times(path: Path, folder: Path, rounds: int) -> dict[str, float]:
    """Compress to half, rounded, and time both; of several rounds the median ratio."""
    output = folder / f"{path.stem}-half.onnx"
    # The weights do not change the time, so the plain method does.
    result = _rounded(path, output)
    feeds = baseline.run_baseline(path, "CPUExecutionProvider", 0).feeds[0]
    pairs = [timing.paired(path, output, "CPUExecutionProvider", feeds) for _ in range(rounds)]
    ratios = sorted(pair.ratio for pair in pairs)
    before, after = pairs[len(pairs) // 2].before, pairs[len(pairs) // 2].after
    return {
        "timed_macs": result.after.macs / result.before.macs,
        "timed_ratio": ratios[len(ratios) // 2],
        "timed_before": before.median,
        "timed_after": after.median,
        "spread": ratios[-1] - ratios[0],
    }


def _rounded(path: Path, output: Path) -> CompressResult:
    """Compress to half, or to the first share above it that groups of whole steps allow."""
    for percent in range(round(100 * SHARE), 100, 5):
        config = Config(
            macs=f"{percent}%",
            allocation="uniform",
            round_to="auto",
            method="none",
            provider="cpu",
        )
        try:
            return compress(path, output, config=config, force=True)
        except TargetError:
            continue
    raise TargetError(f"{path}: nothing can go in whole steps")


def markdown(setting: dict[str, object], rows: Sequence[Row]) -> str:
    """Return the tables for people."""
    scored = [row for row in rows if row.images]
    header = ["model", "images", "base", "uniform", "auto", "less lost", "MACs", "seconds"]
    body = [
        [
            row.model,
            str(row.images),
            *(f"{100 * share:.1f}" for share in (row.base, row.uniform, row.auto)),
            f"{row.less_lost:.0%}",
            f"{row.uniform_macs:.1%}, {row.auto_macs:.1%}",
            f"{row.uniform_seconds:.0f}, {row.auto_seconds:.0f}",
        ]
        for row in scored
    ]
    lines = ["# Budgets", "", "`python -m benchmarks.budgets`", ""]
    lines += [f"{setting['machine']}, {setting['versions']}", ""]
    if scored:
        lost = sum(row.base - row.uniform for row in scored)
        saved = sum(row.auto - row.uniform for row in scored)
        mean = sum(row.less_lost for row in scored) / len(scored)
        together = saved / lost if lost > 0 else 0.0
        lines += [
            f"Top-1 at {SHARE:.0%} of the multiply-accumulates, in percent; seconds of `compress`.",
            "",
            markdown_table(header, body, left_columns=1),
            "",
            f"Less accuracy lost: {mean:.0%} on average over the models, {together:.0%} of all "
            "points lost together.",
            "",
        ]
    timed = [row for row in rows if row.timed_ratio]
    if timed:
        header = ["model", "MACs", "time", "time / MACs", "before, ms", "after, ms", "spread"]
        body = [
            [
                row.model,
                f"{row.timed_macs:.1%}",
                f"{row.timed_ratio:.1%}",
                f"{row.timed_ratio / row.timed_macs:.2f}",
                f"{row.timed_before:.3g}",
                f"{row.timed_after:.3g}",
                f"{row.spread:.1%}",
            ]
            for row in timed
        ]
        lines += [
            f"Time at {SHARE:.0%} of the multiply-accumulates, groups in multiples of "
            f"{channel_block('host', 'CPUExecutionProvider')} channels, one sample, both models in "
            "turn; the spread is that of the ratio.",
            "",
            markdown_table(header, body, left_columns=1),
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    """Measure and write ``budgets.md`` and ``budgets.json``."""
    names = [*MODELS, STRUCTURE]
    parser = argparse.ArgumentParser(description="Measure budgets.")
    parser.add_argument("--models", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--limit", type=int, help="images per model at most")
    parser.add_argument("--rounds", type=int, default=5, help="of timing")
    parser.add_argument("--efficientnet", type=Path, help="its exported file")
    parser.add_argument("--no-accuracy", action="store_true")
    parser.add_argument("--no-time", action="store_true")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    rows = _on_record(options.output_dir / "budgets.json")
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for model in options.models:
                path = file_of(model, folder, options.efficientnet)
                values = asdict(rows.get(model, Row(model)))
                if model in MODELS and not options.no_accuracy:
                    values |= accuracies(model, path, options.limit)
                if model in TIMED and not options.no_time:
                    values |= times(path, folder, options.rounds)
                rows[model] = Row(**values)
                print(rows[model], f"less lost {rows[model].less_lost:.2f}", flush=True)
    except SharedFilesError as error:
        parser.exit(1, f"error: {error}\n")
    setting: dict[str, object] = {
        "machine": describe_machine(),
        "versions": {"lbyl-onnx": __version__, "onnx": onnx.__version__, "ort": ort.__version__},
    }
    done = [rows[name] for name in names if name in rows]
    document = {"setting": setting, "rows": [asdict(row) for row in done]}
    write_pair(options.output_dir, "budgets", document, markdown(setting, done))


def _on_record(path: Path) -> dict[str, Row]:
    """Rows of earlier runs: those of other models stay."""
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    return {row["model"]: Row(**row) for row in rows}


if __name__ == "__main__":
    main()
