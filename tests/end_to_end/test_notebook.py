"""The notebook runs from top to bottom, and what it scores is what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.extras import need
from tests.support.pages import clone

__all__ = ["clone"]  # a fixture

NOTEBOOK = "samples/compress.ipynb"


def test_it_is_kept_without_outputs() -> None:
    cells = json.loads((ROOT / NOTEBOOK).read_text())["cells"]
    assert [c for c in cells if c["cell_type"] == "code"]
    assert all(not c["outputs"] and c["execution_count"] is None for c in cells if "outputs" in c)


@pytest.mark.extras
def test_it_runs_from_top_to_bottom(clone: Path) -> None:
    need("nbclient")
    need("ipykernel")
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(clone / NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(clone)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    scores = [float(score) for score in re.findall(r"\.onnx: (0\.\d+)$", printed, re.MULTILINE)]
    assert len(scores) == 3
    assert min(scores) > 0.95
