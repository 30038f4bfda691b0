"""Time and memory of the command on models that are big in one way or another, and their growth.

Run from the root of the repository: ``python -m benchmarks.big [NAME ..]``. Each model is made
with seeded weights, compressed by the real command in processes of its own, and removed. Linux
only: peak memory is the kernel's, of the largest process, with what it maps of the files; its own
memory, without that, is looked at some times a second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.llama import Sizes, build
from benchmarks.tables import describe_machine, markdown_table, write_pair

ROOT = Path(__file__).resolve().parent.parent
# Seconds that one command may take here.
LIMIT = 900.0


@dataclass(frozen=True)
class Subject:
    """A model in the making, the method and options that compress it, and seconds it may take."""

    kind: str
    size: str
    build: Callable[[Path], None]
    method: str
    options: tuple[str, ...] = ()
    limit: float = LIMIT


@dataclass(frozen=True)
class Outcome:
    """What one command took; without an exit code it was stopped.

    `own` are bytes without what is mapped of files, `cpu` seconds of all processes; 0 where they
    were not measured.
    """

    kind: str
    size: str
    method: str
    bytes_in: int
    bytes_out: int
    seconds: float
    peak: int
    code: int | None
    says: str
    own: int = 0
    cpu: float = 0.0


def wide_layers(path: Path, width: int, layers: int) -> None:
    """Square Gemm layers with Relu between; the weights go to a data file, one at a time."""
    rng = np.random.default_rng(0)
    nodes, initializers, x = [], [], "x"
    with path.with_name("weights.bin").open("wb") as file:
        for number in range(layers):
            last = number == layers - 1
            weight = TensorProto(name=f"w{number}", data_type=1, dims=[width, width])
            weight.data_location = TensorProto.EXTERNAL
            entries = {"location": "weights.bin", "offset": file.tell(), "length": 4 * width**2}
            for key, value in entries.items():
                weight.external_data.add(key=key, value=str(value))
            values = rng.standard_normal((width, width), np.float32) * np.float32(width**-0.5)
            file.write(values.data)
            initializers.append(weight)
            gemm = f"gemm{number}"
            nodes.append(helper.make_node("Gemm", [x, weight.name], [gemm], gemm, transB=1))
            x = "y" if last else f"relu{number}"
            nodes.append(helper.make_node("Relu", [gemm], [x], f"act{number}"))
    _save(path, nodes, initializers, ("N", width), ("N", width))


def one_wide_layer(path: Path, width: int) -> None:
    """Two Gemm layers, 256 values in and out, with `width` channels between."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal((width, 256), np.float32) / np.float32(16)
    second = rng.standard_normal((256, width), np.float32) * np.float32(width**-0.5)
    initializers = [onnx.numpy_helper.from_array(w, n) for n, w in (("w0", first), ("w1", second))]
    nodes = [
        helper.make_node("Gemm", ["x", "w0"], ["a"], "gemm0", transB=1),
        helper.make_node("Relu", ["a"], ["b"], "act"),
        helper.make_node("Gemm", ["b", "w1"], ["y"], "gemm1", transB=1),
    ]
    _save(path, nodes, initializers, ("N", 256), ("N", 256))


def many_layers(path: Path, layers: int) -> None:
    """Half as many residual blocks x + Conv(Relu(Conv(x))), 16 channels of 8 x 8."""
    rng = np.random.default_rng(0)
    nodes, initializers, x = [], [], "x"
    for number in range(layers // 2):
        y = "y" if number == layers // 2 - 1 else f"sum{number}"
        for half, gain in (("a", 2**0.5), ("b", 0.1)):
            weight = rng.standard_normal((16, 16, 3, 3), np.float32) * np.float32(gain / 12)
            initializers.append(onnx.numpy_helper.from_array(weight, f"w{half}{number}"))
        a, relu, b = (f"{name}{number}" for name in ("conv_a", "relu", "conv_b"))
        nodes += [
            helper.make_node("Conv", [x, f"wa{number}"], [a], a, pads=[1] * 4),
            helper.make_node("Relu", [a], [relu], relu),
            helper.make_node("Conv", [relu, f"wb{number}"], [b], b, pads=[1] * 4),
            helper.make_node("Add", [x, b], [y], f"add{number}"),
        ]
        x = y
    _save(path, nodes, initializers, ("N", 16, 8, 8), ("N", 16, 8, 8))


def _save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[TensorProto],
    shape_in: Sequence[int | str],
    shape_out: Sequence[int | str],
) -> None:
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", shape_in), ("y", shape_out))
    ]
    graph = helper.make_graph(nodes, "big", values[:1], values[1:], initializers)
    opsets = [helper.make_opsetid("", 17)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    )


# Runs a command; prints its peak bytes, its child's own peak, its seconds of processor time.
_MEASURED = """
import resource, subprocess, sys, time
from pathlib import Path

def own(process):
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    texts = [Path(f"/proc/{child}/status").read_text() for child in children]
    return max([int(text.split("RssAnon:")[1].split()[0]) for text in texts], default=0)

started, most = subprocess.Popen(sys.argv[1:]), 0
while started.poll() is None:
    try:
        most = max(most, own(started.pid))
    except (OSError, IndexError):  # it has just ended
        pass
    time.sleep(0.2)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(1024 * used.ru_maxrss, 1024 * most, used.ru_utime + used.ru_stime)
sys.exit(started.returncode)
"""


EXTERNAL, DEEP, WIDE, DECODER = (
    *("external data", "many Conv layers", "one wide Gemm"),
    "decoder, float16",
)
# Decoders of LLaMA's structure by their billions of parameters: layers, width, hidden, heads.
DECODERS = {"0.7": (12, 2048, 5504, 16), "6.7": (32, 4096, 11008, 32)}
SUBJECTS = (
    *(
        Subject(
            EXTERNAL,
            f"{layers} of {width} x {width}",
            partial(wide_layers, width=width, layers=layers),
            method,
        )
        for width, layers, method in (
            (4096, 5, "none"),
            (4096, 10, "none"),
            (4096, 38, "none"),
            (2048, 5, "lbyl+"),
            (2048, 10, "lbyl+"),
        )
    ),
    *(
        Subject(DEEP, str(layers), partial(many_layers, layers=layers), "lbyl+")
        for layers in (125, 250, 500, 1000)
    ),
    *(
        Subject(WIDE, str(width), partial(one_wide_layer, width=width), method)
        for method in ("none", "lbyl", "lbyl+")
        for width in (2048, 4096, 8192, 16384)
    ),
    *(
        Subject(
            DECODER,
            f"{size} billion parameters",
            partial(build, sizes=Sizes(*sides), dtype="float16"),
            "none",
            ("--ratio", "0.2"),
            6 * 3600.0,
        )
        for size, sides in DECODERS.items()
    ),
)


def measure(subject: Subject) -> Outcome:
    """Make the model, compress it by the command, remove both."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subject.build(folder / "in.onnx")
        size = sum(file.stat().st_size for file in folder.iterdir())
        command = [sys.executable, "-c", _MEASURED, sys.executable, "-m", "lbyl_onnx", "compress"]
        command += [str(folder / "in.onnx"), str(folder / "out.onnx"), "--quiet"]
        command += ["--method", subject.method, "--provider", "cpu", *subject.options]
        if subject.method == "none":
            command += ["--criterion", "l2"]
        start = time.perf_counter()
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=subject.limit,
                check=False,
            )
            status, says = done.returncode, done.stderr.strip()
            peak, own, cpu = map(float, done.stdout.split())
        except subprocess.TimeoutExpired:
            status, peak, own, cpu, says = None, 0.0, 0.0, 0.0, "stopped"
        seconds = time.perf_counter() - start
        written = sum(file.stat().st_size for file in folder.glob("out.onnx*") if file.is_file())
    key = (subject.kind, subject.size, subject.method)
    says = says.replace(name, "")
    return Outcome(*key, size, written, seconds, int(peak), status, says, int(own), cpu)


def markdown(setting: dict[str, object], outcomes: Sequence[Outcome]) -> str:
    """Return the table for people; growth is against the row before of the same kind."""
    header = ["model", "size", "method", "file, MB", "written, MB", "s", "growth", "peak, MB"]
    header += ["growth", "own, MB", "CPU s", "exit code"]
    rows: list[list[str]] = []
    before: Outcome | None = None
    for one in outcomes:
        same = before is not None and (before.kind, before.method) == (one.kind, one.method)
        grown = before if same and before is not None and before.peak and one.peak else None
        rows.append(
            [
                one.kind,
                one.size,
                one.method,
                f"{one.bytes_in / 1e6:.1f}",
                f"{one.bytes_out / 1e6:.1f}",
                f"{one.seconds:.1f}",
                f"x {one.seconds / grown.seconds:.1f}" if grown else "",
                f"{one.peak / 1e6:.0f}" if one.peak else "?",
                f"x {one.peak / grown.peak:.1f}" if grown else "",
                f"{one.own / 1e6:.0f}" if one.own else "",
                f"{one.cpu:.0f}" if one.cpu else "",
                f"stopped at {one.seconds:.0f} s" if one.code is None else str(one.code),
            ]
        )
        before = one
    machine = describe_machine()
    where = f"{machine['processor']}, {machine['cores']} cores"
    lines = ["# Big models", "", f"`{setting['command']}`, {where}"]
    notes = [f"- {o.kind}, {o.size}, {o.method}: {o.says}" for o in outcomes if o.says]
    return "\n".join([*lines, "", markdown_table(header, rows, left_columns=3), "", *notes, ""])


def merged(path: Path, new: Sequence[Outcome]) -> list[Outcome]:
    """Results on record, with those measured now in their place; in the order of `SUBJECTS`."""
    old = json.loads(path.read_text())["results"] if path.exists() else []
    by_key = {(o.kind, o.size, o.method): o for o in (*(Outcome(**row) for row in old), *new)}
    order = [(s.kind, s.size, s.method) for s in SUBJECTS]
    return [by_key[key] for key in order if key in by_key]


def main() -> None:
    """Measure each model in processes of its own and write ``big.md`` and ``big.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "kinds", nargs="*", help=f"of {EXTERNAL!r}, {DEEP!r}, {WIDE!r}, {DECODER!r}"
    )
    parser.add_argument("--method", help="only subjects of this method")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    outcomes = []
    for subject in SUBJECTS:
        other_kind = arguments.kinds and subject.kind not in arguments.kinds
        if other_kind or arguments.method not in (None, subject.method):
            continue
        outcomes.append(measure(subject))
        print(json.dumps(asdict(outcomes[-1])), flush=True)
    setting: dict[str, object] = {
        "command": "python -m benchmarks.big",
        "machine": describe_machine(),
    }
    results = merged(arguments.out / "big.json", outcomes)
    document = {**setting, "results": [asdict(outcome) for outcome in results]}
    write_pair(arguments.out, "big", document, markdown(setting, results))


if __name__ == "__main__":
    main()
