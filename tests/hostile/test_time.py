"""Models that would keep native code, or Python's libraries, busy for ever: all four commands."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.hostile.command import COMMAND, IMPATIENT, OPTIONS, all_gone, contents, environment
from tests.support.net import IR_VERSION

pytestmark = pytest.mark.skipif(os.name != "posix", reason="finds the processes in /proc")

# Python runs this in every process that it starts here.
_PATCH = """
import os, time
if "LBYL_ONNX_NOTES" in os.environ:
    {impatient}
    {more}
"""
# Of the clock, start, imports and a machine with other work to do included.
PATIENCE = 300.0


def model(
    nodes: list[NodeProto], constants: Mapping[str, np.ndarray], opset: int = 20
) -> ModelProto:
    """Two convolutions, and to what they give the scalar `s` is added that `nodes` compute."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "w2": rng.standard_normal((4, 8, 3, 3)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w1"], ["a"], "first"),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "w2"], ["c"], "second"),
            *nodes,
            helper.make_node("Add", ["c", "s"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 4, 4])],
        [numpy_helper.from_array(v, k) for k, v in {**weights, **constants}.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def folded_for_ever() -> ModelProto:
    """Products of constants, which ONNX Runtime computes while it loads."""
    products = [helper.make_node("MatMul", [f"m{i}"] * 2, [f"m{i + 1}"]) for i in range(1000)]
    value = numpy_helper.from_array(np.array([1e-4], np.float32))
    return model(
        [
            helper.make_node("ConstantOfShape", ["sides"], ["m0"], value=value),
            *products,
            helper.make_node("ReduceSum", ["m1000"], ["s"], keepdims=0),
        ],
        {"sides": np.array([2000, 2000])},
    )


def one_long_node() -> ModelProto:
    """A convolution of 2^44 multiplications: ONNX Runtime looks at its limit between nodes only."""
    return model(
        [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("ConstantOfShape", ["image"], ["zeros"]),
            helper.make_node("Add", ["zeros", "sum"], ["picture"]),
            helper.make_node("ConstantOfShape", ["kernel"], ["none"]),
            helper.make_node("Add", ["none", "sum"], ["weights"]),
            helper.make_node("Conv", ["picture", "weights"], ["many"], "long"),
            helper.make_node("ReduceSum", ["many"], ["s"], keepdims=0),
        ],
        {"image": np.array([1, 1, 4096, 4096]), "kernel": np.array([1, 1, 2048, 2048])},
    )


def backtracking() -> ModelProto:
    """A pattern that Python's `re` tries in 2^40 ways; ONNX Runtime's takes no time."""
    text = numpy_helper.from_array(np.array(["a" * 40 + "!"], object), "text")
    return model(
        [
            helper.make_node("Constant", [], ["text"], value=text),
            helper.make_node("RegexFullMatch", ["text"], ["fits"], pattern="(a|a)*"),
            helper.make_node("Cast", ["fits"], ["s"], to=TensorProto.FLOAT),
        ],
        {},
    )


def slow_weights() -> ModelProto:
    """A weight that onnx's reference pools number by number, for minutes."""
    made = model(
        [helper.make_node("Identity", ["zero"], ["s"])], {"zero": np.zeros((), np.float32)}
    )
    channels, rng = 40_000, np.random.default_rng(1)
    values = {
        "wide": rng.standard_normal((channels, 3, 5, 5)).astype(np.float32),
        "w2": rng.standard_normal((4, channels, 3, 3)).astype(np.float32),
        "zero": np.zeros((), np.float32),
    }
    del made.graph.initializer[:]
    made.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in values.items())
    made.graph.node.insert(0, helper.make_node("MaxPool", ["wide"], ["w1"], kernel_shape=[3, 3]))
    return made


ARGUMENTS = {
    "compress": ("--ratio=0.3", "in.onnx", "out.onnx", *OPTIONS),
    "inspect": ("in.onnx",),
    "verify": ("in.onnx", "in.onnx", *OPTIONS),
    "sweep": ("in.onnx", "--ratios", "0.2,0.4", "--methods", "none", "--workers", "2", "--out",
              "../curve", *OPTIONS),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("site", "scratch", "curve", "models"):
        (tmp_path / name).mkdir()
    return tmp_path / "models"


def run(folder: Path, command: str, *arguments: str, more: str = "") -> tuple[int, str, float]:
    """Run a command that has three seconds where it has twenty; return code, error, seconds."""
    program = _PATCH.format(impatient=IMPATIENT, more=more)
    (folder.parent / "site" / "sitecustomize.py").write_text(program)
    env = {
        **environment(folder.parent / "scratch"),
        "PYTHONPATH": str(folder.parent / "site"),
    }
    begun = time.monotonic()
    done = subprocess.run(
        [*COMMAND, command, *ARGUMENTS[command], *arguments],
        cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=2 * PATIENCE,
    )  # fmt: skip
    assert done.stdout == ""
    return done.returncode, done.stderr, time.monotonic() - begun


def check(folder: Path, command: str, says: str) -> None:
    """One line for the model, or for each cell; nothing left, no process either."""
    before = contents(folder)
    code, error, seconds = run(folder, command)
    assert code == 1
    lines = error.splitlines()
    assert len(lines) == (2 if command == "sweep" else 1)
    for line in lines:
        assert re.match(r"lbyl-onnx: error: .*\bin\.onnx\b", line), line
        assert re.search(r"took more than \d seconds", line), line
        assert re.search(says, line), line
    assert seconds < PATIENCE
    assert contents(folder) == before
    assert list((folder.parent / "scratch").iterdir()) == []
    assert all_gone(folder)


@pytest.mark.parametrize("command", ARGUMENTS)
def test_constants_that_are_folded_for_ever(folder: Path, command: str) -> None:
    (folder / "in.onnx").write_bytes(folded_for_ever().SerializeToString())
    # What loads the model as it is written folds nothing; there the run never ends.
    check(folder, command, "loading in.onnx|to run in.onnx once")


@pytest.mark.corpus
@pytest.mark.parametrize("command", ARGUMENTS)
def test_one_node_that_runs_for_ever(folder: Path, command: str) -> None:
    (folder / "in.onnx").write_bytes(one_long_node().SerializeToString())
    check(folder, command, "running in.onnx once")


@pytest.mark.corpus
@pytest.mark.parametrize("command", ["compress", "inspect", "sweep"])
def test_a_pattern_that_is_tried_for_ever(folder: Path, command: str) -> None:
    (folder / "in.onnx").write_bytes(backtracking().SerializeToString())
    check(folder, command, "computing shapes and constants")


@pytest.mark.corpus
@pytest.mark.parametrize("command", ["compress", "sweep"])
def test_a_weight_that_is_computed_for_ever(folder: Path, command: str) -> None:
    (folder / "in.onnx").write_bytes(slow_weights().SerializeToString())
    check(folder, command, "computing the constant w1")


@pytest.mark.parametrize(
    ("command", "option"), [("compress", "--calibration"), ("verify", "--inputs")]
)
def test_a_library_that_reads_samples_for_ever(folder: Path, command: str, option: str) -> None:
    """Whatever the fault of its decoder may be: here it sleeps, without the interpreter."""
    (folder / "in.onnx").write_bytes(folded_once().SerializeToString())
    np.savez(folder / "data.npz", x=np.zeros((8, 3, 8, 8), np.float32))
    sleep = "import ctypes, zipfile as z; z.ZipFile.open = lambda *_: ctypes.PyDLL(None).sleep(600)"
    code, error, seconds = run(folder, command, option, "data.npz", more=sleep)
    assert code == 1
    assert re.fullmatch(r"lbyl-onnx: error: in\.onnx: reading data\.npz took more[^\n]*\n", error)
    assert seconds < PATIENCE


def test_an_image_that_is_decoded_for_ever(folder: Path) -> None:
    (folder / "in.onnx").write_bytes(folded_once().SerializeToString())
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    sleep = "import ctypes, PIL.Image as P; P.open = lambda *a, **k: ctypes.PyDLL(None).sleep(600)"
    code, error, seconds = run(folder, "compress", "--calibration", "images", more=sleep)
    assert code == 1
    assert re.fullmatch(r"lbyl-onnx: error: in\.onnx: decoding a\.png took more[^\n]*\n", error)
    assert seconds < PATIENCE


def folded_once() -> ModelProto:
    return model(
        [helper.make_node("Identity", ["zero"], ["s"])], {"zero": np.zeros((), np.float32)}
    )
