"""The pages in docs/: they build without a warning, and what they show runs as it stands."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from docs.figures import curve
from tests.conftest import ROOT
from tests.support.extras import need
from tests.support.pages import BLOCK, PAGES, blocks, clone, in_order, run_commands, steps

__all__ = ["clone"]  # a fixture

# Languages of blocks, and who runs them: `text` is for the user's own shell.
RUN_HERE, RUN_ELSEWHERE = (
    ("sh", "python", "yaml"),
    {
        "json": "test_olive.py",
        "toml": "test_config_file.py",
        "text": "no one",
    },
)


def read(page: str) -> str:
    return (ROOT / page).read_text()


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_language_that_is_run(page: str) -> None:
    fences = re.findall(r"^```(.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert set(fences[::2]) <= {*RUN_HERE, *RUN_ELSEWHERE}
    assert set(fences[1::2]) <= {""}


def test_every_page_is_read_in_some_order() -> None:
    assert sorted(in_order()) == sorted(["README.md", *PAGES])


@pytest.mark.extras
def test_what_the_pages_show_runs_in_their_order_in_one_clone(clone: Path) -> None:
    shown = [(page, *block) for page in in_order() for block in BLOCK.findall(read(page))]
    for page, language, body in shown:
        if language in ("sh", "yaml"):
            run_commands(body if language == "sh" else steps(body), page, clone)
        elif language == "python":
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", body],
                cwd=clone, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{page}: {body}\n{done.stderr}"


@pytest.mark.extras
def test_the_tutorial_s_score_is_what_it_says(clone: Path) -> None:
    text = (ROOT / "docs" / "tutorial.md").read_text()
    first = re.search(r"first prints (0\.\d+): (\d+) of the (\d+)", text)
    second = re.search(r"second prints (0\.\d+): (\d+) of them", text)
    assert first is not None
    assert second is not None
    run_commands("lbyl-onnx compress samples/digits.onnx digits-small.onnx --ratio 0.3", "", clone)
    for model, points in (("samples/digits.onnx", first), ("digits-small.onnx", second)):
        done = subprocess.run(
            [sys.executable, "samples/score.py", model],
            cwd=clone, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout == f"top-1 {points[1]} ({points[2]}/{first[3]} images)\n"


@pytest.mark.extras
def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    need("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for page in PAGES:
        name = Path(page).relative_to("docs").with_suffix("")
        place = "index.html" if name.name == "index" else f"{name}/index.html"
        page_text = (tmp_path / "site" / place).read_text()
        assert "arithmatex" not in page_text, f"{page}: a formula is left as text"
        assert not re.search(r"<m[io]>\\", page_text), f"{page}: a formula is half understood"


@pytest.mark.extras
@pytest.mark.parametrize("figure", ["samples", "delivery", "packages"])
def test_the_figures_are_drawn_by_their_scripts(figure: str) -> None:
    drawn = ET.fromstring(importlib.import_module(f"docs.figures.{figure}").draw())
    kept = ET.parse(ROOT / "docs" / "figures" / f"{figure}.svg").getroot()
    # The last digits are the machine's; that the same things are shown is not.
    assert [element.tag for element in drawn.iter()] == [element.tag for element in kept.iter()]


@pytest.mark.extras
def test_the_curve_shows_what_the_methods_give() -> None:
    """One of its ratios is drawn anew; all of them would take a minute."""
    kept = points_of((ROOT / "docs" / "figures" / "curve.svg").read_text())
    drawn = points_of(curve.draw([0.3]))
    assert len(drawn) == 2 * len(curve.METHODS)  # with the original, where all lines begin
    for method, *place in drawn:
        # In percent; one image of the 540 more or less is the machine's.
        near = [k for k in kept if k[0] == method and np.allclose(k[1:], place, rtol=0, atol=1)]
        assert near, f"{method} at {place} is not in the figure: draw it anew"


def points_of(svg: str) -> list[tuple[str, float, float]]:
    """The method, the MACs and the accuracy that each mark of a curve tells of itself."""
    points = re.findall(r"<title>(\S+): MACs left (\d+)%, accuracy (\d+)%", svg)
    return [(method, float(macs), float(accuracy)) for method, macs, accuracy in points]


def test_the_olive_workflow_of_the_pages_is_json() -> None:
    (workflow,) = blocks("docs/deploying.md", "json")
    assert json.loads(workflow)["passes"]["prune"]["type"] == "LbylPruning"
