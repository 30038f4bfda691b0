"""Whether a change of the code changes a byte of what is written: the hash of each output.

Run from the root of the repository, with one BLAS thread: ``OPENBLAS_NUM_THREADS=1 python -m
benchmarks.output_hashes`` compares with the run on record, ``--write`` takes its place. The bytes
depend on the processor and on the libraries, so that only runs of one machine compare.

Each method prunes the sample, the exports that the tests hold, and where they exist the models of
``../shared``, by 30 % in steps of one; the default method reaches a target and takes scope all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import ModelProto

from benchmarks.datasets import SHARED
from benchmarks.tables import describe_machine
from lbyl_onnx import Config, LbylOnnxError, compress
from lbyl_onnx.methods.registry import method_names
from tests.support import exported

ROOT = Path(__file__).resolve().parent.parent
RECORD = Path(__file__).parent / "results" / "output_hashes.json"


def models() -> Iterator[tuple[str, Path | ModelProto]]:
    """Yield each model by its name."""
    yield "digits", ROOT / "samples" / "digits.onnx"
    for path in sorted((SHARED / "models").glob("*.onnx")):
        yield path.stem, path
    for name in exported.names():
        yield f"export {name}", exported.load(name)


def options() -> Iterator[tuple[str, Config]]:
    """Yield each way to compress a model, by its name."""
    for method in method_names():
        yield method, Config(ratio=0.3, method=method, round_to=1, provider="cpu")
    yield "lbyl+ all", Config(ratio=0.3, scope="all", round_to=1, provider="cpu")
    yield "lbyl+ macs", Config(macs="70%", round_to=1, provider="cpu")


def written(model: Path | ModelProto, config: Config, folder: Path) -> str:
    """Compress a model; return the hash of what is written, or the error's name."""
    output = folder / "out.onnx"
    try:
        compress(model, output, config=config, force=True)
    except LbylOnnxError as error:
        return type(error).__name__
    onnx.checker.check_model(output)
    return hashlib.sha256(output.read_bytes()).hexdigest()


def main() -> None:
    """Hash each output; write or compare the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="replace the record")
    parser.add_argument("--record", type=Path, default=RECORD, help="the record's file")
    arguments = parser.parse_args()
    hashes: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models():
            for option, config in options():
                hashes[f"{name}: {option}"] = written(model, config, Path(folder))
            print(name, flush=True)
    if arguments.write:
        document = {"machine": describe_machine(), "hashes": hashes}
        arguments.record.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
        return
    record = json.loads(arguments.record.read_text())["hashes"]
    changed = [key for key, value in hashes.items() if record.get(key) != value]
    print(f"{len(hashes)} outputs, {len(changed)} changed")
    for key in changed:
        print(f"  {key}")
    raise SystemExit(bool(changed))


if __name__ == "__main__":
    main()
