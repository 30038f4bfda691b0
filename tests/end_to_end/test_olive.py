"""A real Olive workflow on the sample: prune, then Olive's own dynamic quantisation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from lbyl_onnx.config import Config
from lbyl_onnx.graph.source import sha256
from lbyl_onnx.pipeline import compress
from tests.support.extras import need
from tests.support.pages import blocks

pytestmark = pytest.mark.extras
# What Olive would send to its makers stays here.
ENVIRONMENT = {**os.environ, "OLIVE_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def passes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Olive's list of passes with ours among them."""
    need("olive")
    return run(tmp_path_factory.mktemp("olive"), "lbyl_onnx.integrations.olive").stdout


@pytest.fixture
def folder(tmp_path: Path, passes: str) -> Path:
    (tmp_path / "passes.json").write_text(passes)
    return tmp_path


def workflow(folder: Path, sample: Path, passes: dict[str, object]) -> tuple[list[Path], str]:
    """Run a workflow; return the models it leaves, and what it says."""
    config = {
        "input_model": {"type": "ONNXModel", "model_path": str(sample)},
        "passes": passes,
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    }
    (folder / "workflow.json").write_text(json.dumps(config))
    words = ("--config", "workflow.json", "--package-config", "passes.json")
    done = run(folder, "olive", "run", *words)
    return sorted((folder / "out").rglob("*.onnx")), done.stdout + done.stderr


def test_the_pass_gives_what_the_command_gives(folder: Path, sample: Path) -> None:
    options = {"ratio": 0.25, "method": "lbyl", "exclude": ["/top/*"], "provider": "cpu"}
    outputs, _ = workflow(folder, sample, {"prune": {"type": "LbylPruning", **options}})
    config = Config(ratio=0.25, method="lbyl", exclude=("/top/*",), provider="cpu")
    compress(sample, folder / "expected.onnx", config=config)
    assert [sha256(path) for path in outputs] == [sha256(folder / "expected.onnx")]


def test_olive_s_own_passes_go_on_from_it(folder: Path, sample: Path) -> None:
    """The workflow that docs/deploying.md shows."""
    (shown,) = blocks("docs/deploying.md", "json")
    outputs, _ = workflow(folder, sample, json.loads(shown)["passes"])
    assert len(outputs) == 1
    operators = {node.op_type for node in onnx.load(outputs[0]).graph.node}
    assert operators & {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}
    assert outputs[0].stat().st_size < 0.25 * sample.stat().st_size


def test_a_model_that_cannot_be_pruned_is_told_with_the_reason(folder: Path, sample: Path) -> None:
    outputs, said = workflow(folder, sample, {"prune": {"type": "LbylPruning", "exclude": ["*"]}})
    assert outputs == []  # Olive itself ends well: a pass that fails is pruned from its search
    assert "nothing could be pruned" in said
