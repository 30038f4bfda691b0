"""The page with pictures: everything is there, and nothing of the model is taken for markup."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner

from lbyl_onnx import CompressResult, Config, compress
from lbyl_onnx.cli import main
from lbyl_onnx.errors import OutputError
from lbyl_onnx.evaluate.layers import Details
from lbyl_onnx.graph.source import sha256
from lbyl_onnx.io.text_file import write_whole
from lbyl_onnx.report.html import as_html
from lbyl_onnx.report.json import as_json
from lbyl_onnx.report.origin import Machine, Origin, origin_of
from lbyl_onnx.results.rendering import prediction_lines
from lbyl_onnx.runtime.profiling import layer_times
from tests.support.html_page import Page
from tests.support.nasty import NASTY

ERROR = "predicted error"
ORIGIN = Origin("digits.onnx", "lbyl-onnx compress digits.onnx", {"lbyl-onnx": "1.2.3"})


def details_of(result: CompressResult) -> Details:
    assert result.details is not None
    return result.details


def test_every_layer_is_there_with_its_channels_and_macs(result: CompressResult) -> None:
    layers = {layer.name: layer for layer in details_of(result).layers}
    assert next(iter(layers)) == "/stem/conv/Conv"
    stem, hidden = layers["/stem/conv/Conv"], layers["/hidden/Gemm"]
    assert (stem.channels_before, stem.channels_after) == (32, 24)
    assert (stem.macs_before, stem.macs_after) == (32 * 9 * 64, 24 * 9 * 64)
    assert (hidden.channels_before, hidden.channels_after) == (64, 48)
    assert sum(layer.macs_before for layer in layers.values()) == result.before.macs
    assert sum(layer.macs_after for layer in layers.values()) == result.after.macs


def test_every_layer_of_the_sample_has_a_latency(result: CompressResult) -> None:
    for layer in details_of(result).layers:
        assert layer.ms_before is not None
        assert layer.ms_after is not None
        assert min(layer.ms_before, layer.ms_after) >= 0, layer.name


def test_the_page_shows_all_that_the_result_says(result: CompressResult) -> None:
    sections = Page(as_html(result, ORIGIN)).sections
    for group in result.groups:
        assert f"{group.name} {group.kept} of {group.channels}" in sections["groups"]
    for refusal in result.refusals:
        assert refusal.reason in sections["refusals"]
    for layer in details_of(result).layers:
        assert f"{layer.channels_after} of {layer.channels_before}" in sections["layers"]
    assert f"{100 * result.after.parameters / result.before.parameters:.1f}" in sections["headline"]
    assert "lbyl-onnx compress digits.onnx" in sections["origin"]
    assert details_of(result).files_before[0].sha256 in sections["origin"]
    assert "lbyl-onnx 1.2.3" in sections["origin"]


class TestTime:
    @staticmethod
    def headline(result: CompressResult, low: float, middle: float, high: float) -> str:
        times = replace(result.latency, ratio=middle, low=low, high=high)
        return Page(as_html(replace(result, latency=times), ORIGIN)).sections["headline"]

    def test_a_ratio_has_its_interval(self, result: CompressResult) -> None:
        shown = self.headline(result, 0.712, 0.78, 0.8)
        assert "Time 78.0%" in shown
        assert "71.2% to 80.0% (99% interval)" in shown

    def test_one_that_may_be_one_is_no_difference(self, result: CompressResult) -> None:
        shown = self.headline(result, 0.97, 0.99, 1.012)
        assert "Time no difference" in shown
        assert "within noise: 97.0% to 101.2%" in shown


def test_a_layer_s_time_stands_where_it_differs(result: CompressResult) -> None:
    details = details_of(result)
    steady = replace(result.latency, ratio=0.5, low=0.5, high=0.5)
    first, *rest = (replace(x, ms_before=0.1, ms_after=0.1) for x in details.layers)
    layers = (replace(first, ms_before=8.0, ms_after=4.0), *rest)
    shown = replace(details, layers=layers, others_before=0.01, others_after=0.012)
    section = Page(as_html(replace(result, details=shown, latency=steady), ORIGIN)).sections
    assert section["layers"].count("→") == len(layers) + 1  # the MACs of all, the time of one
    assert "8 → 4 ms" in section["layers"]
    none = replace(shown, layers=(first, *rest))
    section = Page(as_html(replace(result, details=none, latency=steady), ORIGIN)).sections
    assert "No layer's latency differs" in section["layers"]


def test_no_sign_of_the_page_s_own_is_spelled_out(result: CompressResult) -> None:
    """The sample's names are plain, so a backslash would be one of the tool's own texts."""
    assert "\\" not in as_html(result, ORIGIN)


def test_the_scatter_has_one_dot_for_each_pair(result: CompressResult) -> None:
    page = Page(as_html(result, ORIGIN))
    dots = next(a["d"] for tag, a in page.tags if tag == "path" and a.get("class") == "dots")
    assert dots is not None
    assert dots.count("M") == len(details_of(result).points) == result.verification.values


def test_the_prediction_is_beside_the_fidelity(result: CompressResult) -> None:
    (line,) = prediction_lines(result.prediction)
    assert f"{line}." in Page(as_html(result, ORIGIN)).sections["fidelity"]
    nothing = replace(result, prediction=None)
    assert "predicted equal" not in Page(as_html(nothing, ORIGIN)).sections["fidelity"]


def test_predicted_errors_are_bars_where_they_are_known(result: CompressResult) -> None:
    unknown = tuple(replace(group, predicted_error=None) for group in result.groups)
    without = Page(as_html(replace(result, groups=unknown), ORIGIN))
    assert "redicted error" not in without.sections["groups"]
    halves = (replace(unknown[0], predicted_error=0.0625), replace(unknown[1], predicted_error=0.5))
    page = Page(as_html(replace(result, groups=(*halves, *unknown[2:])), ORIGIN))
    assert f"{halves[0].name} {halves[0].kept} of" in page.sections["groups"]
    assert "0.0625" in page.sections["groups"]
    bars = [number for number, (_, a) in enumerate(page.tags) if a.get("aria-label") == ERROR]
    assert [page.tags[bar + 1][1]["width"] for bar in bars] == ["12.50", "100.00"]


class TestOrigin:
    def test_date_and_machine_are_told(self, result: CompressResult) -> None:
        machine = Machine("A <b>fast</b> one", 64, 2, "Linux", "1.23.2")
        origin = replace(ORIGIN, date="2026-01-02 03:04 UTC", machine=machine)
        text = as_html(result, origin)
        where = "A &lt;b&gt;fast&lt;/b&gt; one, 2 of 64 processors, Linux, ONNX Runtime 1.23.2"
        assert f"2026-01-02 03:04 UTC, {where}" in text
        assert as_html(result, replace(origin, date="")) == text.replace(f"{origin.date}, ", "")
        document = json.loads(as_json(result, origin, "1"))
        assert document["date"] == origin.date
        assert document["machine"]["allowed"] == 2

    def test_here_and_now(self) -> None:
        origin = origin_of("in.onnx", "lbyl-onnx")
        made = datetime.strptime(origin.date, "%Y-%m-%d %H:%M UTC").replace(tzinfo=UTC)
        assert abs((datetime.now(UTC) - made).total_seconds()) < 300
        machine = origin.machine
        assert machine is not None
        assert machine.runtime == ort.__version__
        assert 1 <= machine.allowed <= machine.processors
        assert machine.processor


def test_what_next_names_the_files(result: CompressResult) -> None:
    assert "in place of --dry-run" in Page(as_html(result, ORIGIN)).sections["next"]
    written = replace(result, output=Path("a small one.onnx"))
    shown = Page(as_html(written, ORIGIN)).sections["next"]
    assert "lbyl-onnx verify digits.onnx 'a small one.onnx' --inputs" in shown
    assert "--quantize int8" in shown


def test_a_page_needs_details(result: CompressResult) -> None:
    with pytest.raises(ValueError, match="detailed=True"):
        as_html(replace(result, details=None), ORIGIN)


def test_the_page_stands_alone(result: CompressResult) -> None:
    text = as_html(result, ORIGIN)
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}
    page = Page(text)
    assert not {"script", "iframe", "object"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert "src" not in attributes, tag
        assert attributes.get("href") in (None, "data:,"), tag


def test_names_from_the_model_are_text_and_nothing_else(sample: Path, tmp_path: Path) -> None:
    model = onnx.load(sample)
    for number, node in enumerate(model.graph.node):
        node.name = f"{number} {NASTY}"
    result = compress(
        model, config=Config(round_to=1, method="none", provider="cpu", ratio=0.3), detailed=True
    )
    text = as_html(result, replace(ORIGIN, source=NASTY, command=NASTY))
    page = Page(text)
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert not any(c for c in text if not c.isprintable() and c != "\n")
    assert r"<script>alert(1)</script>" in page.sections["title"]
    assert r"\x1b[31m\u202e{{ 7 * 7 }}" in page.sections["groups"]


class TestOption:
    def test_it_writes_the_page_with_the_command(self, sample: Path, tmp_path: Path) -> None:
        page, output = tmp_path / "a page.html", tmp_path / "out.onnx"
        words = [
            "compress",
            "--ratio=0.3",
            str(sample),
            str(output),
            "--quiet",
            "--report",
            str(page),
        ]
        done = CliRunner().invoke(main, words)
        assert (done.exit_code, done.output) == (0, "")
        origin = Page(page.read_text(encoding="utf-8")).sections["origin"]
        assert f"--quiet --report '{page}'" in origin
        assert sha256(output) in origin
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a page.html", "out.onnx"]

    @pytest.mark.parametrize(
        ("report", "says"),
        [
            ("{tmp}/no/r.html", "existing folder"),
            ("{tmp}", "existing folder"),
            ("{tmp}/out.onnx", "another file"),
            ("{tmp}/r.json", "another file"),
            ("{tmp}/weights.data", "is no report"),
        ],
    )
    def test_a_path_that_will_not_do_is_refused_before_any_work(
        self, sample: Path, tmp_path: Path, report: str, says: str
    ) -> None:
        (tmp_path / "weights.data").write_bytes(b"\x00\x01")
        output, json = tmp_path / "out.onnx", tmp_path / "r.json"
        words = ["--report", report.format(tmp=tmp_path), "--json", str(json)]
        done = CliRunner().invoke(
            main, ["compress", "--ratio=0.3", str(sample), str(output), *words]
        )
        assert done.exit_code == 1
        assert says in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["weights.data"]

    def test_an_older_page_gives_way(self, sample: Path, tmp_path: Path) -> None:
        page = tmp_path / "r.html"
        page.write_text("<!doctype html>before")
        words = ["--method", "none", "--report", str(page)]
        done = CliRunner().invoke(
            main, ["compress", "--ratio=0.3", str(sample), "--dry-run", *words]
        )
        assert done.exit_code == 0
        assert "before" not in Page(page.read_text()).sections
        assert "origin" in Page(page.read_text()).sections


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(sample: Path, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="locked"):
        write_whole("text", folder / "r.html")


def test_a_report_holds_what_has_no_utf_8_spelled_out(tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    path.write_text("before")
    write_whole("\ud800", path)  # a lone surrogate
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("r.html", "\\ud800")]


class TestKernelsAndLayers:
    """What ONNX Runtime calls a kernel leads to the layer that it runs."""

    @staticmethod
    def residual() -> onnx.ModelProto:
        nodes = [
            ("Conv", "first", ["x", "w"], "a"),
            ("Relu", "act", ["a"], "b"),
            ("Conv", "second", ["b", "w"], "c"),
            ("Add", "sum", ["c", "b"], "d"),
            ("Softmax", "soft", ["d"], "e"),
            ("Conv", "third", ["e", "w"], "f"),
        ]
        made = [onnx.helper.make_node(op, i, [o], name) for op, name, i, o in nodes]
        return onnx.helper.make_model(onnx.helper.make_graph(made, "g", [], []))

    @pytest.mark.parametrize(
        ("kernel", "layer"),
        [
            ("first", 0),
            ("fused first", 0),
            ("a_nchwc", 0),
            ("b_nchwc_token_3", 0),
            ("d_nchwc", 2),  # the sum is joined with the layer before it, not the one at its start
            ("soft", None),  # nothing is joined with it
            ("ReorderOutput", None),
        ],
    )
    def test_one(self, kernel: str, layer: int | None) -> None:
        times, others = layer_times(self.residual(), [0, 2, 5], {kernel: 2.0})
        assert times == ({} if layer is None else {layer: 2.0})
        assert others == (2.0 if layer is None else 0.0)

    def test_a_layer_s_own_name_goes_before_what_is_joined(self) -> None:
        kernels = {"d_nchwc": 1.0, "second": 4.0, "b": 2.0}
        times, others = layer_times(self.residual(), [0, 2, 5], kernels)
        assert times == {2: 4.0, 0: 2.0}
        assert others == 1.0
