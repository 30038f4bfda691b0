"""Whether a compressed model is faster: paired times at the defaults, and what rounding costs.

Run from the root of the repository: ``python -m benchmarks.speed``. It needs ``../shared``, and for
EfficientNet the extra ``reach`` or ``--efficientnet FILE``. ``--more NAME=FILE`` adds any model, as
those of public wheels.

Each model is compressed at the defaults to 10, 20 and 30 % and timed against the original in turns.
Where there are images, its top-1 is compared with that of ``--round-to 1`` at the same ratio, over
some seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx
import onnxruntime as ort

from benchmarks.accuracy import top1
from benchmarks.budgets import EXPORTED, STRUCTURE, file_of
from benchmarks.datasets import Dataset, Images, SharedFilesError, load
from benchmarks.tables import describe_machine, markdown_table, write_pair
from lbyl_onnx import Config, NothingToPruneError, __version__, compress

RATIOS = (0.1, 0.2, 0.3)
IMAGES: dict[str, tuple[Dataset, int]] = {
    "resnet20_cifar10": ("cifar10", 2500),
    "vgg16_cifar10": ("cifar10", 1000),
    EXPORTED: ("imagenet", 500),
}
NAMES = (*IMAGES, STRUCTURE)
# The most that a result's time may be as a share of the original's, and of its MACs at 30 %.
SLOWEST, OVER_MACS, WIDE = 1.03, 1.15, 32


@dataclass(frozen=True)
class Row:
    """One model at one ratio.

    Parameters
    ----------
    model, ratio
        Which.
    first
        Output channels of its first layer.
    macs, parameters
        As shares of the original's.
    time, low, high
        The same of the time of a run, with its interval.
    seeds, images
        Behind the accuracies; 0 where there are none.
    base, exact, rounded
        Top-1 of the original, at ``--round-to 1``, and at the defaults.
    exact_macs
        Multiply-accumulates at ``--round-to 1`` as a share of the original's.
    """

    model: str
    ratio: float
    first: int
    macs: float
    parameters: float
    time: float
    low: float
    high: float
    seeds: int = 0
    images: int = 0
    base: float = 0.0
    exact: float = 0.0
    rounded: float = 0.0
    exact_macs: float = 0.0

    @property
    def met(self) -> bool:
        """Whether it is no slower, and where wide and cut by 30 % near its MACs."""
        bound = min(SLOWEST, OVER_MACS * self.macs if self._bound_by_macs else SLOWEST)
        return self.time <= bound

    @property
    def _bound_by_macs(self) -> bool:
        return self.ratio >= RATIOS[-1] and self.first >= WIDE


def measure(
    name: str, path: Path, ratio: float, images: Images | None, base: float, seeds: int
) -> Row | None:
    """Compress at the defaults, time, and score where there are images."""
    try:
        results = [
            compress(path, config=Config(ratio=ratio, seed=seed, provider="cpu"))
            for seed in range(seeds if images is not None else 1)
        ]
    except NothingToPruneError as error:
        print(f"{name} {ratio:.0%}: {error}", flush=True)
        return None
    result = results[0]
    row = Row(
        name,
        ratio,
        _first_width(path),
        result.after.macs / result.before.macs,
        result.after.parameters / result.before.parameters,
        result.latency.ratio,
        result.latency.low,
        result.latency.high,
    )
    if images is None:
        return row
    exact = [
        compress(path, config=Config(ratio=ratio, seed=seed, round_to=1, provider="cpu"))
        for seed in range(seeds)
    ]
    scores = [
        statistics.mean(top1(r.model, images) for r in runs if r.model is not None)
        for runs in (exact, results)
    ]
    return replace(
        row,
        seeds=seeds,
        images=len(images.labels),
        base=base,
        exact=scores[0],
        rounded=scores[1],
        exact_macs=exact[0].after.macs / exact[0].before.macs,
    )


def _first_width(path: Path) -> int:
    """Output channels of the first layer with weights."""
    graph = onnx.load(path).graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    shapes |= {
        node.output[0]: tuple(node.attribute[0].t.dims)
        for node in graph.node
        if node.op_type == "Constant"
    }
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in shapes:
            return int(shapes[node.input[1]][0])
    return 0


def markdown(setting: dict[str, object], rows: Sequence[Row]) -> str:
    """Return the tables for people."""
    header = ["model", "first layer", "ratio", "MACs", "parameters", "time", "time / MACs", "met"]
    body = [
        [
            row.model,
            str(row.first),
            f"{row.ratio:.0%}",
            f"{row.macs:.1%}",
            f"{row.parameters:.1%}",
            f"{row.time:.2f} ({row.low:.2f} to {row.high:.2f})",
            f"{row.time / row.macs:.2f}",
            "yes" if row.met else "no",
        ]
        for row in rows
    ]
    lines = ["# Speed", "", f"`{setting['command']}`", ""]
    lines += [f"{setting['machine']}, {setting['versions']}", ""]
    lines += [
        "Time of one sample as a share of the original's, at the defaults, both in turns, with its "
        f"99 % interval. Met: at most {SLOWEST}, and at 30 % at most {OVER_MACS} times the MACs "
        f"where the first layer has {WIDE} channels or more.",
        "",
        markdown_table(header, body, left_columns=1),
        "",
    ]
    scored = [row for row in rows if row.images]
    header = ["model", "ratio", "images", "seeds", "base", "in steps of 1", "MACs", "rounded"]
    header += ["MACs", "difference"]
    body = [
        [
            row.model,
            f"{row.ratio:.0%}",
            str(row.images),
            str(row.seeds),
            f"{100 * row.base:.1f}",
            f"{100 * row.exact:.1f}",
            f"{row.exact_macs:.1%}",
            f"{100 * row.rounded:.1f}",
            f"{row.macs:.1%}",
            f"{100 * (row.rounded - row.exact):+.1f}",
        ]
        for row in scored
    ]
    if scored:
        lines += ["Top-1 in percent, means over the seeds.", ""]
        lines += [markdown_table(header, body, left_columns=1), ""]
    return "\n".join(lines)


def _files(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path]]:
    for name in options.models:
        yield name, file_of(name, folder, options.efficientnet)
    for entry in options.more:
        name, _, file = entry.partition("=")
        yield name, Path(file)


def main() -> None:
    """Measure and write ``speed.md`` and ``speed.json``."""
    parser = argparse.ArgumentParser(description="Measure speed at the defaults.")
    parser.add_argument("--models", nargs="*", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--more", nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--efficientnet", type=Path, help="its exported file")
    parser.add_argument("--seeds", type=int, default=2, help="of the accuracies; 0 for none")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    rows: list[Row] = []
    try:
        with tempfile.TemporaryDirectory() as name:
            for model, path in _files(options, Path(name)):
                images = load(*IMAGES[model]) if model in IMAGES and options.seeds else None
                base = 0.0 if images is None else top1(path, images)
                for ratio in RATIOS:
                    row = measure(model, path, ratio, images, base, options.seeds)
                    rows += [row] if row is not None else []
                    print(row, flush=True)
    except SharedFilesError as error:
        parser.exit(1, f"error: {error}\n")
    setting: dict[str, object] = {
        "command": "python -m benchmarks.speed",
        "machine": describe_machine(),
        "versions": {"lbyl-onnx": __version__, "onnx": onnx.__version__, "ort": ort.__version__},
    }
    document = {"setting": setting, "rows": [asdict(row) for row in rows]}
    write_pair(
        options.output_dir, "speed", json.loads(json.dumps(document)), markdown(setting, rows)
    )


if __name__ == "__main__":
    main()
