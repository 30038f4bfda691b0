"""Processor time and memory of a compression against one pass of its own synthetic samples.

Run from the root of the repository: ``python -m benchmarks.cost MODEL.onnx ...``. Each model is
compressed at 20 % in a process of its own, set up as the command's is; the same process then times
what the command's cost is measured by: one pass of the samples that the statistics were taken on
through the unchanged model, in the same mini-batches. Seconds are those of the processor, of all
threads: on a busy machine the time on the clock says little. Linux only: peak memory is the
kernel's.

``--against CHECKOUT`` measures another state of the project as well, in turns, without the pass:
``git worktree add CHECKOUT COMMIT`` makes one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import numpy as np
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
from lbyl_onnx.runtime.session import options
from lbyl_onnx.types import Array

REPEATS = 3  # of the pass, and of turns with another state, of which the median counts
# What the cost may be: so many passes, and seconds more for opening and proving.
PASSES, SECONDS = 2.5, 2.0


@dataclass(frozen=True)
class Cost:
    """What one model cost: bytes, and seconds of the processor; `seconds` on the clock."""

    model: str
    file: int
    parameters: int
    samples: int
    cpu: float
    seconds: float
    one_pass: float
    peak: int
    before: int

    @property
    def passes(self) -> float:
        """Processor time in passes."""
        return self.cpu / self.one_pass

    @property
    def aim(self) -> float:
        """Seconds of the processor that it may take."""
        return PASSES * self.one_pass + SECONDS


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
        start, begun = time.process_time(), time.perf_counter()
        result = compress(path, Path(folder) / "out.onnx", config=Config(provider="cpu", ratio=0.2))
        cpu, seconds = time.process_time() - start, time.perf_counter() - begun
        peak = _peak()
    session = ort.InferenceSession(str(path), options(), providers=["CPUExecutionProvider"])
    batches = list(sources[-1].batches())
    session.run(None, dict(batches[0]))
    one_pass = float(np.median([_timed(session, batches) for _ in range(REPEATS)]))
    size, parameters, count = path.stat().st_size, result.before.parameters, sources[-1].count
    return Cost(path.stem, size, parameters, count, cpu, seconds, one_pass, peak, before)


def _timed(session: ort.InferenceSession, batches: Sequence[Mapping[str, Array]]) -> float:
    start = time.process_time()
    for feeds in batches:
        session.run(None, dict(feeds))
    return time.process_time() - start


def _peak() -> int:
    """Return the most bytes that this process has held; `getrusage` counts its parent's, too."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def measured_apart(model: Path) -> Cost:
    """Measure a model in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.cost", "--here", str(model)]
    environment = {**os.environ, **processes.settings()}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


# Compresses at 20 %, whatever the state of the project; prints seconds of the processor, and bytes.
_ALONE = """
import pathlib, sys, tempfile, time
from lbyl_onnx import Config, compress
with tempfile.TemporaryDirectory() as folder:
    begun = time.process_time()
    out = pathlib.Path(folder) / "out.onnx"
    compress(pathlib.Path(sys.argv[1]), out, config=Config(provider="cpu", ratio=0.2))
    cpu = time.process_time() - begun
peak = pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(cpu, 1024 * int(peak))
"""


@dataclass(frozen=True)
class Change:
    """A model's cost as a share of that in another state of the project.

    Seconds of the processor and peak memory; the least and the largest ratio of seconds, too.
    """

    model: str
    cpu: float
    least: float
    largest: float
    peak: float


def change(model: Path, checkout: Path) -> Change:
    """Measure a model in turns, by this state of the project and by another."""
    here = Path(__file__).resolve().parent.parent
    turns = [[_alone(model, root) for root in (checkout, here)] for _ in range(REPEATS)]
    ratios = np.array([[new / old for old, new in zip(*turn, strict=True)] for turn in turns])
    cpu, peak = np.median(ratios, axis=0)  # (turns, 2) -> (2,)
    return Change(
        model.stem, float(cpu), float(ratios[:, 0].min()), float(ratios[:, 0].max()), float(peak)
    )


def _alone(model: Path, root: Path) -> tuple[float, float]:
    command = [sys.executable, "-W", "ignore", "-P", "-c", _ALONE, str(model.resolve())]
    environment = {**os.environ, **processes.settings(), "PYTHONPATH": str(root)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    cpu, peak = map(float, done.stdout.split()[-2:])
    return cpu, peak


def changes_table(changes: Sequence[Change]) -> str:
    """Return the changes as a table for people."""
    rows = [
        [c.model, f"{c.cpu:.2f}", f"{c.least:.2f} to {c.largest:.2f}", f"{c.peak:.2f}"]
        for c in changes
    ]
    return markdown_table(["model", "CPU s", "of all turns", "peak"], rows, left_columns=1)


def table(costs: Sequence[Cost]) -> str:
    """Return the costs as a table for people."""
    header = ["model", "parameters", "samples", "CPU s", "one pass, CPU s", "passes"]
    header += [f"{PASSES:g} passes + {SECONDS:g} s", "peak, MB", "of it imports, MB"]
    rows = [
        [
            cost.model,
            f"{cost.parameters / 1e6:.1f} M",
            str(cost.samples),
            f"{cost.cpu:.1f}",
            f"{cost.one_pass:.2f}",
            f"{cost.passes:.1f}",
            f"{cost.aim:.1f}",
            f"{cost.peak / 1e6:.0f}",
            f"{cost.before / 1e6:.0f}",
        ]
        for cost in costs
    ]
    return markdown_table(header, rows, left_columns=1)


def markdown(
    setting: Mapping[str, object], costs: Sequence[Cost], changes: Sequence[Change]
) -> str:
    """Return the page for people."""
    lines = ["# Cost of a compression", "", f"`{setting['command']}`, {setting['machine']}"]
    lines += ["", table(costs), ""]
    if changes:
        lines += [f"As a share of what commit {setting['against']} takes, in turns:", ""]
        lines += [changes_table(changes), ""]
    return "\n".join(lines)


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "log", "-1", "--format=%h of %as"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Measure each model in a process of its own and write ``cost.md`` and ``cost.json``."""
    parser = argparse.ArgumentParser(description="Measure the cost of a compression.")
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--here", action="store_true", help="measure one here, print it as JSON")
    parser.add_argument("--against", type=Path, help="a checkout of another state")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(asdict(measure(arguments.models[0]))))
        return
    costs, changes = list[Cost](), list[Change]()
    for model in arguments.models:
        costs.append(measured_apart(model))
        print(costs[-1], flush=True)
        if arguments.against is not None:
            changes.append(change(model, arguments.against))
            print(changes[-1], flush=True)
    names = " ".join(model.name for model in arguments.models)
    other = "" if arguments.against is None else " --against CHECKOUT"
    setting: dict[str, object] = {
        "command": f"python -m benchmarks.cost {names}{other}",
        "machine": describe_machine(),
        "against": None if arguments.against is None else _commit(arguments.against),
    }
    document = {
        "setting": setting,
        "costs": [asdict(cost) for cost in costs],
        "changes": [asdict(entry) for entry in changes],
    }
    write_pair(arguments.output_dir, "cost", document, markdown(setting, costs, changes))


if __name__ == "__main__":
    main()
