"""Models that are larger than memory is to be: run from their files, a layer at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.llama import Sizes, build
from lbyl_onnx.guard.effort import FEWEST, LARGE, USUAL
from lbyl_onnx.results.warnings import run_from_file
from lbyl_onnx.runtime.session import CPU, Session, as_needed, as_written, options
from tests.conftest import ROOT

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
SIZES = Sizes(layers=8, width=512, hidden=1376, heads=8, vocabulary=1000, tokens=16)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("decoder") / "in.onnx"
    build(path, SIZES, "float16")
    return path


def run(program: str, *words: str) -> str:
    head = (
        "import numpy as np, resource, sys\n"
        "from pathlib import Path\n"
        "from lbyl_onnx.guard import memory\n"
        "from lbyl_onnx.runtime.session import CPU, Session, as_written\n"
        "read = lambda key: open('/proc/self/status').read().split(key)[1].split()[0]\n"
        "size = lambda key: 1024 * int(read(key))\n"
    )
    command = [sys.executable, "-c", head + program, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


@linux
def test_weights_read_in_another_type_are_not_kept(decoder: Path) -> None:
    """ONNX Runtime multiplies float16 on a CPU as float32: of one layer at a time."""
    program = (
        "session = Session.of(Path(sys.argv[1]), CPU, as_written())\n"
        "before = size('RssAnon:')\n"
        "for _ in range(2): session.run({'ids': np.zeros((1, 4), np.int64)})\n"
        "print(size('RssAnon:') - before)\n"
    )
    kept = int(run(program, str(decoder)))
    assert kept < SIZES.parameters  # all weights in float32 take four bytes each


@linux
def test_a_file_larger_than_the_limit_on_memory_is_run(decoder: Path) -> None:
    program = (
        "feeds = {'ids': np.zeros((1, 1), np.int64)}\n"
        "Session.of(Path(sys.argv[1]), CPU, as_written()).run(feeds)\n"
        "memory.limit_memory(size('VmData:') + 20_000_000)\n"
        "session = Session.of(Path(sys.argv[1]), CPU, as_written())\n"
        "print(session.run(feeds)[0].size)\n"
    )
    assert sum(file.stat().st_size for file in decoder.parent.iterdir()) > 40_000_000
    assert int(run(program, str(decoder))) == SIZES.vocabulary


@pytest.mark.parametrize("settings", [options, as_written, as_needed])
def test_outputs_hold_no_memory_of_a_session(sample: Path, settings: object) -> None:
    assert callable(settings)
    session = Session.of(sample, CPU, settings())
    (output,) = session.run({"input": np.zeros((1, 1, 8, 8), np.float32)})
    assert output.flags.owndata


def test_of_larger_models_fewer_runs_are_made_and_told() -> None:
    assert USUAL.at(LARGE) is USUAL
    assert run_from_file(LARGE, USUAL) == ()
    twice, huge = USUAL.at(2 * LARGE), USUAL.at(1000 * LARGE)
    assert (twice.random_inputs, twice.fewest_compared, twice.rounds) == (4, 8, USUAL.rounds)
    assert (huge.random_inputs, huge.loaded_rounds, huge.most_compared) == (FEWEST,) * 3
    (line,) = run_from_file(1000 * LARGE, huge)
    assert "on 2 random inputs" in line
    assert "in 2 rounds" in line
