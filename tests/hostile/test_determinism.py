"""The same command gives the same bytes: run after run, on one core or two."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import ModelProto

from tests.hostile.command import COMMAND, environment
from tests.net import Net

pytestmark = pytest.mark.corpus
RUNS = 10


def wide() -> ModelProto:
    """Layers so wide that BLAS shares their sums among its threads where it has more than one."""
    net = Net(("N", 3, 16, 16))
    x = net.block(net.block("x", (3, 48)), (48, 96))
    x = net.node("MaxPool", [x], {"kernel_shape": [4, 4], "strides": [4, 4]})
    x = net.relu(net.gemm(net.node("Flatten", [x]), 96 * 16, 768))
    return net.model(net.gemm(net.relu(net.gemm(x, 768, 512)), 512, 10))


def bytes_of_run(number: int, folder: Path) -> str:
    """The hash of what run `number` writes: cores, threads and hash seeds in turn."""
    threads, cores = str(1 + number % 2), 1 + number // 2 % 2
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    env = {
        **environment(folder.parent / "scratch"),
        **dict.fromkeys(variables, threads),
        "PYTHONHASHSEED": str(number),
    }
    available = sorted(os.sched_getaffinity(0))[:cores] if sys.platform == "linux" else []
    subprocess.run(
        [*COMMAND, "compress", "in.onnx", f"{number}.onnx", "--provider", "cpu", "--quiet"],
        cwd=folder,
        env=env,
        check=True,
        preexec_fn=(lambda: os.sched_setaffinity(0, available)) if available else None,
    )
    return hashlib.sha256((folder / f"{number}.onnx").read_bytes()).hexdigest()


@pytest.mark.parametrize("model", ["sample", "wide"])
def test_ten_runs_write_the_same_bytes(model: str, sample: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    content = sample.read_bytes() if model == "sample" else wide().SerializeToString()
    (folder / "in.onnx").write_bytes(content)
    assert len({bytes_of_run(number, folder) for number in range(RUNS)}) == 1
