"""Several results on one page: a row, a mark and a section of each, and those that none beats."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lbyl_onnx import CompressResult
from lbyl_onnx.cli import main
from lbyl_onnx.report.json import as_json
from lbyl_onnx.report.origin import Machine, Origin
from lbyl_onnx.report.overview import as_overview, frontier
from lbyl_onnx.report.recorded import Recorded, TimeRatio, read_result
from lbyl_onnx.report.svg import Axis, Choice, choices
from tests.support.html_page import Page
from tests.support.nasty import NASTY

DATE = "2026-01-02 03:04 UTC"
# A result named by its output, left with this share of the time, MACs and bytes, and this cosine.
Make = Callable[[str, float, float], Recorded]


@pytest.fixture(scope="module")
def recorded(result: CompressResult, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    path = tmp_path_factory.mktemp("recorded") / "r.json"
    path.write_text(as_json(result, Origin("digits.onnx", "", {}), "1"))
    return read_result(path)


@pytest.fixture(scope="module")
def made(recorded: Recorded) -> Make:
    def make(output: str, left: float, cosine: float) -> Recorded:
        before, near = recorded.before, recorded.verification.fidelity
        (first, *_) = near.outputs
        near = replace(near, cosine=cosine, outputs=(replace(first, cosine=cosine),))
        after = replace(
            before, macs=round(left * before.macs), file_size=round(left * before.file_size)
        )
        return replace(
            recorded,
            output=output,
            after=after,
            time_ratio=TimeRatio(left, left - 0.03, left + 0.03),
            verification=replace(recorded.verification, fidelity=near),
        )

    return make


class TestFrontier:
    @pytest.mark.parametrize("seed", range(20))
    def test_it_is_what_no_other_beats(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        # Few different values, so that many are equal.
        points = [(float(a), float(b)) for a, b in rng.integers(0, 5, (12, 2))]
        beaten = [any(a <= x and b >= y and (a, b) != (x, y) for a, b in points) for x, y in points]
        assert frontier(points) == [not one for one in beaten]

    def test_of_none(self) -> None:
        assert frontier([]) == []


def rows(text: str) -> list[str]:
    """The rows of the first table, less tags."""
    body = text.split("<tbody>")[1].split("</tbody>")[0]
    plain = [re.sub("<[^>]+>", " ", row) for row in body.split("</tr>")[:-1]]
    return [" ".join(unescape(row).split()) for row in plain]


def test_a_row_a_mark_and_a_section_for_each(made: Make) -> None:
    results = [made("a.onnx", 0.8, 0.99), made("b.onnx", 0.5, 0.9), made("c.onnx", 0.6, 0.8)]
    text = as_overview(results, DATE)
    first, second, third = rows(text)
    assert first.startswith("1. a.onnx \u2713 ratio 0.25, lbyl+ 80.0%")
    assert first.endswith("80.0% 77.0% to 83.0% 0.990 " + second.split()[-1])
    assert "2. b.onnx \u2713" in second
    assert "3. c.onnx ratio" in third  # b is nearer and costs less
    page = Page(text)
    marks = [a.get("class") for tag, a in page.tags if tag == "path"]
    assert marks == ["c0", "c0", "c0 hollow"] * 3  # time, MACs, bytes
    assert DATE in page.sections["title"]
    for number, one in enumerate(results, 1):
        section = page.sections[f"result-{number}"] + page.sections[f"headline-{number}"]
        assert section.startswith(f"{number}. {one.output}")
        for group in one.groups:
            assert f"{group.name} {group.kept} of {group.channels}" in section
        for refusal in one.refusals:
            assert refusal.reason in section


def test_results_of_other_originals_are_not_compared(made: Make) -> None:
    other = replace(made("b.onnx", 0.9, 0.9), input="other.onnx")
    text = as_overview([made("a.onnx", 0.5, 0.99), other], DATE)
    assert [" \u2713 " in row for row in rows(text)] == [True, True]
    assert [a.get("class") for tag, a in Page(text).tags if tag == "path"] == ["c0", "c1"] * 3


def test_one_alone_has_no_picture(made: Make) -> None:
    assert "pareto" not in Page(as_overview([made("a.onnx", 0.5, 0.99)], DATE)).sections


def test_a_score_has_a_column(made: Make, recorded: Recorded) -> None:
    one = made("a.onnx", 0.5, 0.99)
    target = replace(one.target, kind="min_score", reached=0.875)
    text = as_overview([replace(one, target=target), one], DATE)
    assert [row.split()[-1] for row in rows(text)] == ["0.875", "-"]


def test_times_of_several_machines_come_with_a_warning(made: Make) -> None:
    one = made("a.onnx", 0.5, 0.99)
    there = replace(one, machine=Machine("another", 4, 4, "Linux", "1.23.2"))
    assert "from 2 machines" in as_overview([one, there], DATE)
    assert "machines" not in as_overview([there, there], DATE)


def test_what_nothing_was_compared_of_has_a_row_and_no_mark(made: Make) -> None:
    one = made("a.onnx", 0.5, 0.99)
    near = replace(one.verification.fidelity, cosine=None, outputs=())
    text = as_overview(
        [replace(one, verification=replace(one.verification, fidelity=near))] * 2, DATE
    )
    assert [row.split()[-2] for row in rows(text)] == ["-", "-"]
    assert not [tag for tag, _ in Page(text).tags if tag == "path"]


def test_it_depends_on_nothing_but_the_results_and_the_date(made: Make) -> None:
    results = [made("a.onnx", 0.8, 0.99), made("b.onnx", 0.5, 0.9)]
    assert as_overview(results, DATE) == as_overview(results, DATE)
    assert as_overview(results, "never") == as_overview(results, DATE).replace(DATE, "never")


def test_names_are_text_and_nothing_else(made: Make) -> None:
    one = made(NASTY, 0.5, 0.99)
    machine = Machine(NASTY, 4, 4, NASTY, NASTY)
    one = replace(one, input=NASTY, date=NASTY, machine=machine, warnings=(NASTY,))
    text = as_overview([one, replace(one, input="other")], DATE)
    page = Page(text)
    assert not {"script", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert not any(c for c in text if not c.isprintable() and c != "\n")
    assert set(re.findall(r"https?://[^\"' ]+", text)) <= {"http://www.w3.org/2000/svg"}


class TestPicture:
    @staticmethod
    def drawn(*places: tuple[float, float]) -> str:
        marks = [Choice(str(n), "", x, y, x, x, True) for n, (x, y) in enumerate(places, 1)]
        return choices("", [("m", marks)], Axis("cost"), Axis("gain"))

    def test_values_that_differ_by_rounding_alone(self) -> None:
        assert "nan" not in self.drawn((0.5, 0.99), (0.5, 0.99 + 1e-16))

    def test_labels_do_not_cover_each_other(self) -> None:
        text = self.drawn(*[(0.5, 0.9)] * 200)
        found = re.findall(r'<text x="([\d.]+)" y="([-\d.]+)"[^>]*class="">(\d+)<', text)
        heights = [float(y) for _, y, _ in found]
        assert len(heights) > 5  # as many as there is room for
        assert min(heights) > 8
        assert max(np.diff(heights)) <= -11


class TestCommand:
    @pytest.fixture
    def written(self, result: CompressResult, tmp_path: Path) -> list[str]:
        paths = [tmp_path / "a.json", tmp_path / "b.json"]
        for path in paths:
            path.write_text(as_json(result, Origin("digits.onnx", "", {}), "1"))
        return [str(path) for path in paths]

    def test_it_writes_the_page(self, written: list[str], tmp_path: Path) -> None:
        page = tmp_path / "all.html"
        done = CliRunner().invoke(main, ["report", *written, "--out", str(page)])
        assert (done.exit_code, done.stderr) == (0, "")
        assert done.stdout == f"wrote {page}: 2 results\n"
        assert "pareto" in Page(page.read_text(encoding="utf-8")).sections
        quiet = ["report", *written, "--out", str(page), "--quiet"]
        assert CliRunner().invoke(main, quiet).output == ""

    def test_a_damaged_file_leaves_no_page(self, written: list[str], tmp_path: Path) -> None:
        Path(written[1]).write_text(json.dumps({"format": 1}))
        done = CliRunner().invoke(main, ["report", *written, "--out", str(tmp_path / "all.html")])
        assert done.exit_code == 1
        assert done.stderr.startswith(f"lbyl-onnx: error: {written[1]} is damaged: ")
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "all.html").exists()

    def test_a_result_is_not_written_over(self, written: list[str]) -> None:
        before = Path(written[0]).read_text()
        done = CliRunner().invoke(main, ["report", *written, "--out", written[0]])
        assert done.exit_code == 1
        assert "--out" in done.stderr
        assert Path(written[0]).read_text() == before

    def test_too_many_are_a_slip(self, tmp_path: Path) -> None:
        done = CliRunner().invoke(main, ["report", *["a.json"] * 201, "--out", "all.html"])
        assert done.exit_code == 2
        assert "at most 200" in done.stderr
