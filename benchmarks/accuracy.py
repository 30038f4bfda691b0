"""Top-1 accuracy of compressed models: model x method x criterion x ratio.

Run from the root of the repository: ``python -m benchmarks.accuracy``. It needs the third-party
models and images of ``../shared`` and the extra ``bench``. Every method runs at its defaults; with
l2 also on a small grid of its own options, of which the best is reported. That best is chosen on
the very images that score it, so it flatters its method: it bounds what tuning could give.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.accuracy_report import document, markdown
from benchmarks.datasets import Images, SharedFilesError, load, model_path
from benchmarks.grid import (
    BASE,
    RATIOS,
    SUBJECTS,
    Cell,
    Subject,
    SubjectResult,
    configurations,
    grid,
)
from benchmarks.merging_scale import merged_inverted
from benchmarks.tables import describe_machine, write_pair
from lbyl_onnx import Config, __version__, compress

BATCH = 250


def top1(model: onnx.ModelProto | Path, images: Images) -> float:
    """Return the share of images whose largest output is at their label."""
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    right = 0
    for start in range(0, len(images.labels), BATCH):
        batch = slice(start, start + BATCH)
        logits = np.asarray(session.run(None, {name: images.pixels[batch]})[0])
        right += int(np.sum(logits.argmax(axis=1) == images.labels[batch]))
    return right / len(images.labels)


def measure(subject: Subject, ratios: Sequence[float], images: Images) -> SubjectResult:
    """Run every configuration of one model."""
    path = model_path(subject.name)
    cells: list[Cell] = []
    groups = 0
    for ratio in ratios:
        for config in configurations(subject, ratio):
            result = compress(path, config=config)
            if result.model is None:
                raise RuntimeError("compress returned no model although no output was named")
            groups = len(result.groups)
            accuracy = top1(result.model, images)
            parameters = result.after.parameters / result.before.parameters
            macs = result.after.macs / result.before.macs
            cells.append(Cell(config, accuracy, parameters, macs))
            print(f"{subject.name} {_options(config)}: {accuracy:.4f}", flush=True)
    inverted_scale = [
        (config, top1(merged_inverted(path, config), images))
        for ratio in ratios
        if ratio in subject.inverted_scale_ratios
        for config in grid(subject, ratio, "nm")
    ]
    uncompressed = top1(path, images)
    return SubjectResult(
        subject, len(images.labels), groups, uncompressed, tuple(cells), tuple(inverted_scale)
    )


def _options(config: Config) -> str:
    text = f"{config.ratio:.0%} {config.method} {config.criterion}"
    if config.method == "nm":
        text += f" t {config.cosine_threshold:g} weight {config.cosine_weight:g}"
    if config.method == "lbyl":
        text += f" lambda1 {config.lambda1:g} lambda2 {config.lambda2:g}"
    return text


def main() -> None:
    """Measure every model and write ``accuracy.md`` and ``accuracy.json``."""
    names = [subject.name for subject in SUBJECTS]
    parser = argparse.ArgumentParser(description="Measure the accuracy of compressed models.")
    parser.add_argument("--models", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--ratios", nargs="+", type=float, metavar="RATIO")
    parser.add_argument("--limit", type=int, help="images per model at most")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    start = time.perf_counter()
    results = []
    try:
        for subject in SUBJECTS:
            if subject.name not in options.models:
                continue
            limits = [n for n in (subject.limit, options.limit) if n is not None]
            images = load(subject.dataset, min(limits, default=None))
            ratios = options.ratios or (*RATIOS, *subject.more_ratios)
            results.append(measure(subject, sorted(ratios), images))
    except SharedFilesError as error:
        parser.exit(1, f"error: {error}\n")
    setting: dict[str, object] = {
        "command": " ".join(["python -m benchmarks.accuracy", *sys.argv[1:]]),
        "minutes": round((time.perf_counter() - start) / 60.0),
        "machine": describe_machine(),
        "versions": {"lbyl-onnx": __version__, "onnx": onnx.__version__, "ort": ort.__version__},
        "seed": BASE.seed,
    }
    write_pair(
        options.output_dir, "accuracy", document(setting, results), markdown(setting, results)
    )


if __name__ == "__main__":
    main()
