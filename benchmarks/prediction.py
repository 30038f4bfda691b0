"""What is predicted of real images without any, against the truth: model x method x ratio.

Run from the root of the repository: ``python -m benchmarks.prediction``. It needs the third-party
models and images of ``../shared`` and the extra ``bench``. Each prediction of the table is made by
a map that was fitted to the other networks alone; the coefficients that the package holds are those
of all networks. Compressed models stay in ``--cells``, and rows on record are not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.datasets import Dataset, Images, SharedFilesError, load, model_path
from benchmarks.prediction_fit import COSINE, SHARE, Row, Scale, fitted, left_out
from benchmarks.tables import describe_machine, markdown_table, write_pair
from lbyl_onnx import Config, Effort, __version__, compress
from lbyl_onnx.errors import LbylOnnxError
from lbyl_onnx.evaluate.compare import PREDICTED
from lbyl_onnx.evaluate.prediction.separation import Separation
from lbyl_onnx.evaluate.synthetic import input_kinds, synthetic_samples
from lbyl_onnx.graph.source import load_model
from lbyl_onnx.runtime import baseline, execute
from lbyl_onnx.runtime.session import Feeds

ROOT = Path(__file__).resolve().parents[1]
PROVIDER, BATCH = "CPUExecutionProvider", 50
METHODS = ("none", "nm", "lbyl", "lbyl+")
RATIOS = (0.05, 0.1, 0.2, 0.3, 0.5)
# How fast the results are is not asked here.
EFFORT = Effort(rounds=2, fewest_rounds=2, loaded_rounds=2)


@dataclass(frozen=True)
class Subject:
    """A classifier and real images for it.

    Parameters
    ----------
    name
        Of the model's file.
    dataset
        Its images; None for the digits that lie beside the model.
    limit
        How many of them.
    ratios, quantised
        Of the channels that go, and the same before the result is quantised.
    """

    name: str
    dataset: Dataset | None
    limit: int
    ratios: tuple[float, ...] = RATIOS
    quantised: tuple[float, ...] = (0.0, 0.1)

    def path(self, efficientnets: Path) -> Path:
        """Return the model's file.

        Raises
        ------
        SharedFilesError
            When it is not there.
        """
        if self.dataset is None:
            return ROOT / "samples" / f"{self.name}.onnx"
        if self.dataset != "imagenet":
            return model_path(self.name)
        path = efficientnets / f"{self.name}.onnx"
        if not path.is_file():
            raise SharedFilesError(f"{path} is not there: benchmarks.efficientnet exports it")
        return path

    def images(self) -> Images:
        """Return the real images."""
        if self.dataset is not None:
            return load(self.dataset, self.limit)
        with np.load(ROOT / "samples" / "digits_test.npz") as data:
            return Images(data["input"], data["labels"])


SUBJECTS = (
    Subject("digits", None, 540),
    Subject("lenet_300_100_fashion", "fashion", 2000),
    Subject("resnet20_cifar10", "cifar10", 2000),
    Subject("resnet20_cifar10_folded", "cifar10", 2000),
    Subject("vgg16_cifar10", "cifar10", 1000),
    Subject("efficientnet_lite0", "imagenet", 500, RATIOS[:-1], ()),
    Subject("efficientnet_lite0_folded", "imagenet", 500, RATIOS[:-1], ()),
)


@dataclass(frozen=True, eq=False)
class Measured:
    """Outputs of one model: of real images with their labels, and of unseen samples."""

    images: Images
    real: tuple[np.ndarray, ...]
    feeds: Sequence[Feeds]
    unseen: tuple[np.ndarray, ...]

    @staticmethod
    def of(subject: Subject, path: Path) -> Measured:
        """Run the original."""
        images, shapes = subject.images(), baseline.input_shapes(path, PROVIDER)
        model, _ = load_model(path)
        kinds = input_kinds(path, model, shapes)
        feeds = list(synthetic_samples(model, kinds, shapes, PREDICTED, 0, "unseen"))
        real = _outputs(path, _batches(images, next(iter(kinds))))
        return Measured(images, real, feeds, _outputs(path, feeds))

    def row(self, subject: Subject, method: str, ratio: float, compressed: Path) -> Row:
        """Run a compressed model, and compare."""
        name = next(iter(self.feeds[0]))
        real = _outputs(compressed, _batches(self.images, name))
        truth = _separation(self.real, real)
        unseen = _separation(self.unseen, _outputs(compressed, self.feeds))
        return Row(
            subject.name,
            method,
            ratio,
            unseen.classes,
            unseen.logits.cosine,
            unseen.outputs.cosine,
            unseen.share,
            truth.share,
            truth.outputs.plain,
            self._accuracy(self.real),
            self._accuracy(real),
        )

    def _accuracy(self, outputs: Sequence[np.ndarray]) -> float:
        return float(np.mean(np.concatenate(outputs).argmax(axis=1) == self.images.labels))


def _batches(images: Images, name: str) -> Iterator[Feeds]:
    for start in range(0, len(images.labels), BATCH):
        yield {name: images.pixels[start : start + BATCH]}


def _outputs(path: Path, feeds: Iterator[Feeds] | Sequence[Feeds]) -> tuple[np.ndarray, ...]:
    runs = execute.run_batches(path, PROVIDER, feeds)
    return tuple(next(iter(outputs.values())) for outputs in runs)


def _separation(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> Separation:
    separation = Separation()
    for old, new in zip(before, after, strict=True):
        separation.add(old, new)
    return separation


def cells(subject: Subject) -> Iterator[tuple[str, Config]]:
    """Yield what a model is compressed with, and its name in the table."""
    base = Config(provider="cpu", round_to=1)
    for method in METHODS:
        for ratio in subject.ratios:
            yield method, replace(base, method=method, ratio=ratio)
    for ratio in subject.quantised:
        yield "lbyl+ int8", replace(base, method="lbyl+", ratio=ratio, quantize="int8")


def measured(subject: Subject, path: Path, folder: Path, rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows of one model that are not on record."""
    done = {(row.model, row.method, row.ratio) for row in rows}
    outputs = None
    for method, config in cells(subject):
        ratio = config.ratio or 0.0
        compressed = folder / f"{subject.name}-{method.replace(' ', '-')}-{ratio}.onnx"
        if (subject.name, method, ratio) in done:
            continue
        try:
            if not compressed.exists():
                compress(path, compressed, config=config, effort=EFFORT)
        except LbylOnnxError as error:
            print(subject.name, method, ratio, error, flush=True)
            continue
        outputs = outputs or Measured.of(subject, path)
        yield outputs.row(subject, method, ratio, compressed)


def markdown(rows: Sequence[Row], invocation: str) -> str:
    """Return the tables for people."""
    lines = [
        "# Prediction",
        "",
        f"`{invocation}`; lbyl-onnx {__version__}, {describe_machine()['cores']} cores.",
        "",
        "What samples that no fit has seen predict of real images, against the truth. Each "
        "prediction is of a map fitted to the other networks alone (a network and its folded "
        "export count as one).",
        "",
    ]
    for scale in (SHARE, COSINE):
        lines += [f"## {scale.name.capitalize()}", "", *_summary(scale, rows), ""]
    kept = [(row.after / row.before, row, low) for row, (_, low, _) in zip(
        rows, left_out(SHARE, rows), strict=True
    )]  # fmt: skip
    lines += [
        "## Accuracy",
        "",
        "The accuracy kept, as a share of the original's, is no less than the lower end of the "
        f"interval in {np.mean([share >= low for share, _, low in kept]):.0%} of the cells, and no "
        f"less than the true share of equal top-1 in "
        f"{np.mean([share >= row.equal for share, row, _ in kept]):.0%}.",
        "",
        "## Cells",
        "",
        _cells(rows),
    ]
    return "\n".join(lines) + "\n"


def _summary(scale: Scale, rows: Sequence[Row]) -> list[str]:
    """Coverage and half-width, by network and by what is predicted; then the map of all."""
    intervals = left_out(scale, rows)
    pairs = list(zip(rows, intervals, strict=True))
    families = dict.fromkeys(row.family for row in rows)
    parts = {family: [p for p in pairs if p[0].family == family] for family in families}
    parts["all"] = pairs
    bands = (("0.9 to 1", 0.9, 1.1), ("0.7 to 0.9", 0.7, 0.9), ("below 0.7", -1.0, 0.7))
    for name, low, high in bands:
        parts[f"predicted {name}"] = [p for p in pairs if low <= p[1][0] < high]
    line = fitted(scale, rows)
    return [
        markdown_table(
            ("cells", "number", "truth inside", "mean half-width", "mean error"),
            [_part(scale, name, part) for name, part in parts.items() if part],
            1,
        ),
        "",
        f"The map of all networks: `Line({line.intercept:.4f}, {line.slope:.4f}, "
        f"{line.spread:.4f})`.",
    ]


def _part(
    scale: Scale, name: str, part: Sequence[tuple[Row, tuple[float, float, float]]]
) -> tuple[str, ...]:
    inside = [low <= scale.truth(row) <= high for row, (_, low, high) in part]
    half = np.mean([(high - low) / 2.0 for _, (_, low, high) in part])
    error = np.mean([abs(value - scale.truth(row)) for row, (value, _, _) in part])
    return name, str(len(part)), f"{np.mean(inside):.0%}", f"{half:.3f}", f"{error:.3f}"


def _cells(rows: Sequence[Row]) -> str:
    header = ("model", "method", "removed", "truth", "predicted", "interval", "", "equal top-1 on "
              "the samples", "accuracy kept", "cosine", "predicted cosine")  # fmt: skip
    body = []
    for row, share, cosine in zip(rows, left_out(SHARE, rows), left_out(COSINE, rows), strict=True):
        body.append(
            (
                row.model,
                row.method,
                f"{row.ratio:.0%}",
                f"{row.equal:.3f}",
                f"{share[0]:.3f}",
                f"{share[1]:.3f} to {share[2]:.3f}",
                "" if share[1] <= row.equal <= share[2] else "outside",
                f"{row.synthetic:.3f}",
                f"{row.after / row.before:.3f}",
                f"{row.real_cosine:.3f}",
                f"{cosine[0]:.3f} ({cosine[1]:.3f} to {cosine[2]:.3f})",
            )
        )
    return markdown_table(header, body, 2)


def main() -> None:
    """Measure what is not on record, fit, and write ``prediction.md`` and ``prediction.json``."""
    names = [subject.name for subject in SUBJECTS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--efficientnets", type=Path, default=ROOT.parent / "bench")
    parser.add_argument("--cells", type=Path, default=Path("cells"), help="for compressed models")
    parser.add_argument("--fit", action="store_true", help="measure nothing")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    options.cells.mkdir(parents=True, exist_ok=True)
    record = options.output_dir / "prediction.json"
    rows = [Row(**row) for row in json.loads(record.read_text())["rows"]] if record.exists() else []
    try:
        for subject in SUBJECTS:
            if options.fit or subject.name not in options.models:
                continue
            path = subject.path(options.efficientnets)
            for row in measured(subject, path, options.cells, rows):
                rows.append(row)
                print(row, flush=True)
                _write(options.output_dir, rows)
    except SharedFilesError as error:
        parser.exit(1, f"error: {error}\n")
    _write(options.output_dir, rows)


def _write(folder: Path, rows: Sequence[Row]) -> None:
    order = [subject.name for subject in SUBJECTS]
    rows = sorted(rows, key=lambda row: order.index(row.model))
    several = len({row.family for row in rows}) > 2  # a line is fitted where two are left out
    text = markdown(rows, "python -m benchmarks.prediction") if several else "# Prediction\n"
    document = {"machine": describe_machine(), "rows": [asdict(row) for row in rows]}
    write_pair(folder, "prediction", document, text)


if __name__ == "__main__":
    main()
