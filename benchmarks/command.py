"""Time and peak memory of the whole command against a bare load, save and verification.

Run as ``python -m benchmarks.command [--output-dir benchmarks/results] [--rounds 5]``.

The command is ``lbyl-onnx compress --method lbyl`` on a 25-million-parameter ResNet-50 structure.
The bare run does what no tool could leave out, in a process of its own: read the same file, write
it, and make the verification's ONNX Runtime runs of the original, of a model as small as the
compressed one, and of the reference it is compared with. Both are whole processes, timed in turn;
the ratio is taken pair by pair. Linux only: peak memory is the kernel's own figure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

_IMPORT_ONLY = "import lbyl_onnx.cli"
_WRITE = """
import sys
import onnx
from benchmarks.structures import resnet50
onnx.save(resnet50(), sys.argv[1])
"""
_BARE = """
import sys
from pathlib import Path
import lbyl_onnx.cli
import onnx
from lbyl_onnx.runtime.baseline import run_baseline
from lbyl_onnx.runtime.execute import run_as_written, run_model
from lbyl_onnx.runtime.providers import provider_name
source, copy, small = map(Path, sys.argv[1:])
model = onnx.load(source)
copy.write_bytes(model.SerializeToString(deterministic=True))
del model
provider = provider_name("cpu")
baseline = run_baseline(source, provider, 0)
run_model(small, provider, baseline.feeds)
run_as_written(copy, provider, baseline.feeds)
"""


@dataclass(frozen=True)
class Run:
    """Seconds of wall clock and peak resident bytes of one process."""

    seconds: float
    peak: int


def measure(command: Sequence[str]) -> Run:
    """Run a process to its end.

    Raises
    ------
    subprocess.CalledProcessError
        When it fails.
    """
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Run(time.perf_counter() - start, usage.ru_maxrss * 1024)


def compare(rounds: int) -> dict[str, Any]:
    """Measure both, in turn, and return what the table shows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, output, copy = (folder / f for f in ("resnet50.onnx", "out.onnx", "copy.onnx"))
        # In a process of its own: a child's peak memory starts from its parent's.
        measure([sys.executable, "-c", _WRITE, str(source)])
        command = [sys.executable, "-m", "lbyl_onnx", "compress", str(source), str(output)]
        command += ["--method", "lbyl", "--ratio", "0.3", "--provider", "cpu", "--force", "--quiet"]
        measure(command)  # warm-up, and the small model for the bare run
        bare = [sys.executable, "-c", _BARE, str(source), str(copy), str(output)]
        imports = measure([sys.executable, "-c", _IMPORT_ONLY])
        pairs = [(measure(command), measure(bare)) for _ in range(rounds)]
        size = source.stat().st_size
    ours, bares = [a for a, _ in pairs], [b for _, b in pairs]
    ratios = [a.seconds / b.seconds for a, b in pairs]
    return {
        "file_bytes": size,
        "rounds": rounds,
        "command_seconds": statistics.median(r.seconds for r in ours),
        "bare_seconds": statistics.median(r.seconds for r in bares),
        "time_ratio": statistics.median(ratios),
        "time_ratio_range": [min(ratios), max(ratios)],
        "command_peak": max(r.peak for r in ours),
        "bare_peak": max(r.peak for r in bares),
        "imports_peak": imports.peak,
        "runs": [{"command": asdict(a), "bare": asdict(b)} for a, b in pairs],
    }


def markdown(result: dict[str, Any], invocation: str) -> str:
    """Return the result as a table."""
    number = {k: float(v) for k, v in result.items() if isinstance(v, int | float)}
    size, imports = number["file_bytes"], number["imports_peak"]

    def row(title: str, seconds: float, peak: float) -> str:
        parts = (f"{peak / 1e6:.0f} MB", f"{peak / size:.2f}", f"{(peak - imports) / size:.2f}")
        return f"| {title} | {seconds:.2f} | {' | '.join(parts)} |"

    low, high = result["time_ratio_range"]
    return "\n".join(
        [
            "# The whole command on a ResNet-50 structure",
            "",
            f"`{invocation}`, {os.cpu_count()} cores, Python {platform.python_version()}, "
            f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}; "
            f"file of {size / 1e6:.1f} MB; medians of {result['rounds']} rounds in turn.",
            "",
            "| | seconds | peak memory | / file | / file, above the imports |",
            "| --- | ---: | ---: | ---: | ---: |",
            row("`compress --method lbyl`", number["command_seconds"], number["command_peak"]),
            row("bare load, save, verification", number["bare_seconds"], number["bare_peak"]),
            "",
            f"Time ratio, pair by pair: {number['time_ratio']:.2f} "
            f"(from {low:.2f} to {high:.2f}). The imports alone take {imports / 1e6:.0f} MB.",
            "",
        ]
    )


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    result = compare(options.rounds)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    text = markdown(result, "python -m benchmarks.command")
    (options.output_dir / "command.md").write_text(text, encoding="utf-8")
    content = json.dumps(result, indent=2) + "\n"
    (options.output_dir / "command.json").write_text(content, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
