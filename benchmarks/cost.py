"""Time and memory of the default command against one pass of its own synthetic samples.

Run from the root of the repository: ``python -m benchmarks.cost MODEL.onnx ...``. Each model is
compressed in a process of its own, set up as the command's is; the same process then times what the
command's cost is measured by: reading the file, writing it, and one pass of the samples that the
statistics were taken on through the unchanged model, in the same mini-batches. Linux only: peak
memory is the kernel's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.tables import describe_machine, markdown_table, write_pair
from lbyl_onnx import Config, compress
from lbyl_onnx.data.source import SampleSource
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.guard import processes
from lbyl_onnx.io.external_data import TensorReader
from lbyl_onnx.io.writer import ModelDraft
from lbyl_onnx.observe import run as observe_run
from lbyl_onnx.observe.accumulate import SampleMoments
from lbyl_onnx.observe.run import ObservationRun
from lbyl_onnx.observe.spec import MomentSpec, Renormalization
from lbyl_onnx.types import Array

REPEATS = 5  # of the pass, of which the median counts
PASSES, EXTRA = 4, 10**9  # what the cost may be: times one pass; times the file plus bytes


@dataclass(frozen=True)
class Cost:
    """What one model cost."""

    model: str
    file: int
    samples: int
    seconds: float
    load_save: float
    one_pass: float
    peak: int
    before: int

    @property
    def passes(self) -> float:
        """Time beside loading and saving, in passes."""
        return (self.seconds - self.load_save) / self.one_pass


def measure(path: Path) -> Cost:
    """Compress a model in this process, then time the pass that its cost is measured by."""
    sources: list[SampleSource] = []

    def noted(
        draft: ModelDraft,
        tensor_info: TensorInfo,
        read: TensorReader,
        views: Mapping[str, MomentSpec],
        targets: Mapping[str, Renormalization],
        run: ObservationRun,
    ) -> dict[str, SampleMoments]:
        sources.append(run.source)
        return observe_run.measure(draft, tensor_info, read, views, targets, run)

    before = _peak()
    watched = mock.patch("lbyl_onnx.observe.session.measure", noted)
    with tempfile.TemporaryDirectory() as folder, watched:
        start = time.perf_counter()
        compress(path, Path(folder) / "out.onnx", config=Config(provider="cpu", ratio=0.3))
        seconds = time.perf_counter() - start
        peak = _peak()
        start = time.perf_counter()
        onnx.save(onnx.load(path), Path(folder) / "copy.onnx")
        load_save = time.perf_counter() - start
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    batches = list(sources[-1].batches())
    session.run(None, dict(batches[0]))
    passes = [_timed(session, batches) for _ in range(REPEATS)]
    one_pass = float(np.median(passes))
    size, count = path.stat().st_size, sources[-1].count
    return Cost(path.stem, size, count, seconds, load_save, one_pass, peak, before)


def _timed(session: ort.InferenceSession, batches: Sequence[Mapping[str, Array]]) -> float:
    start = time.perf_counter()
    for feeds in batches:
        session.run(None, dict(feeds))
    return time.perf_counter() - start


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def markdown(setting: dict[str, object], costs: Sequence[Cost]) -> str:
    """Return the table for people."""
    header = ["model", "file", "samples", "command, s", "load and save, s", "one pass, s", "passes"]
    header += ["peak, MB", "of it imports, MB", "4 x file + 1 GB"]
    rows = [
        [
            cost.model,
            f"{cost.file / 1e6:.1f} MB",
            str(cost.samples),
            f"{cost.seconds:.2f}",
            f"{cost.load_save:.2f}",
            f"{cost.one_pass:.2f}",
            f"{cost.passes:.1f}",
            f"{cost.peak / 1e6:.0f}",
            f"{cost.before / 1e6:.0f}",
            f"{(4 * cost.file + EXTRA) / 1e6:.0f}",
        ]
        for cost in costs
    ]
    lines = ["# Cost of the default command", "", f"`{setting['command']}`, {setting['machine']}"]
    return "\n".join([*lines, "", markdown_table(header, rows, left_columns=1), ""])


def main() -> None:
    """Measure each model in a process of its own and write ``cost.md`` and ``cost.json``."""
    parser = argparse.ArgumentParser(description="Measure the cost of the default command.")
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--here", action="store_true", help="measure one here, print it as JSON")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    if options.here:
        print(json.dumps(asdict(measure(options.models[0]))))
        return
    costs = []
    for model in options.models:
        command = [sys.executable, "-m", "benchmarks.cost", "--here", str(model)]
        environment = {**os.environ, **processes.settings()}
        out = subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment
        ).stdout
        costs.append(Cost(**json.loads(out.splitlines()[-1])))
        print(costs[-1], flush=True)
    names = " ".join(model.name for model in options.models)
    setting: dict[str, object] = {
        "command": f"python -m benchmarks.cost {names}",
        "machine": describe_machine(),
    }
    document = {"setting": setting, "costs": [asdict(cost) for cost in costs]}
    write_pair(options.output_dir, "cost", document, markdown(setting, costs))


if __name__ == "__main__":
    main()
