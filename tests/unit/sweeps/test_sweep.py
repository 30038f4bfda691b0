"""The compression curve: what a cell depends on, what is kept, what is run again."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from lbyl_onnx import Config
from lbyl_onnx.cli import main
from lbyl_onnx.cli.sweep import _ratios
from lbyl_onnx.errors import CalibrationError, ModelError, OptionError
from lbyl_onnx.evaluate.score import ScoringData, score
from lbyl_onnx.sweeps import schedulers
from lbyl_onnx.sweeps.cells import make_folder, plan_cells, run_cell, run_sweep
from lbyl_onnx.sweeps.output import as_csv, as_svg
from lbyl_onnx.sweeps.types import Cell, Failure, Measures, Outcome, Scheduler
from tests.support.net import Net

QUICK = Config(round_to=1, ratio=0.25, method="none", provider="cpu")
SVG = "{http://www.w3.org/2000/svg}"


class Recorder:
    """A scheduler that runs nothing, remembers its cells and makes up what came of them."""

    def __init__(self, stop_after: int | None = None, fails: str = "") -> None:
        self.ran: list[Cell] = []
        self._stop_after, self._fails = stop_after, fails

    def __call__(self, cells: Sequence[Cell]) -> Iterator[Outcome | Failure]:
        for cell in cells:
            if len(self.ran) == self._stop_after:
                raise KeyboardInterrupt
            self.ran.append(cell)
            names = cell.key, str(cell.model), cell.config.method, cell.config.requested_ratio
            if cell.config.method == self._fails:
                yield Failure(*names, "it will not", 4, cell.config.quantize)
            else:
                before = Measures(1000, 2000, 3000, 0.5, 1.0)
                left = 1 - cell.config.requested_ratio
                after = Measures(1, int(2000 * left), 3, 0.25, left)
                yield Outcome(*names, "accuracy", 100, before, after, quantize=cell.config.quantize)


def cells_of(models: Sequence[Path], ratios: Sequence[float] = (0.1, 0.2)) -> tuple[Cell, ...]:
    configs = [
        replace(QUICK, ratio=ratio, method=method)
        for method in ("none", "lbyl+")
        for ratio in ratios
    ]
    return plan_cells(models, configs, ScoringData(), "1.0")


def nothing(done: int, total: int) -> None:
    """Progress that nobody looks at."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_folder(tmp_path / "out")
    return tmp_path / "out"


class TestKeys:
    def key(self, model: Path, version: str = "1.0", **data: object) -> str:
        scored = replace(ScoringData(), **data)  # type: ignore[arg-type]
        return plan_cells([model], [QUICK], scored, version)[0].key

    def test_the_same_facts_give_the_same_key(self, sample: Path, tmp_path: Path) -> None:
        copy = tmp_path / "elsewhere.onnx"
        shutil.copy(sample, copy)
        assert self.key(sample) == self.key(copy)

    def test_every_fact_changes_the_key(self, sample: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.onnx"
        other.write_bytes(sample.read_bytes() + b"\x72\x00")  # an empty metadata_props entry
        inputs = sample.with_name("digits_test.npz")
        keys = [
            self.key(sample),
            self.key(other),
            self.key(sample, "1.1"),
            self.key(sample, seed=1),
            self.key(sample, inputs=inputs),
            self.key(sample, inputs=inputs, labels="labels"),
            plan_cells([sample], [replace(QUICK, seed=5)], ScoringData(), "1.0")[0].key,
        ]
        assert len(set(keys)) == len(keys)

    def test_a_file_that_is_no_model_is_refused(self, sample: Path) -> None:
        with pytest.raises(ModelError, match="not an ONNX model"):
            cells_of([sample.with_name("README.md")])
        with pytest.raises(ModelError, match="not a file"):
            cells_of([sample.parent])


class TestKeeping:
    def test_a_finished_cell_is_not_run_again(self, sample: Path, folder: Path) -> None:
        first, second = Recorder(), Recorder()
        cells = cells_of([sample])
        done = run_sweep(cells, folder, first, nothing)
        again = run_sweep(cells, folder, second, nothing)
        assert (len(first.ran), len(second.ran)) == (4, 0)
        assert (done.reused, again.reused) == (0, 4)
        assert done.outcomes == again.outcomes

    def test_an_interrupted_sweep_goes_on_where_it_was(self, sample: Path, folder: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            run_sweep(cells_of([sample]), folder, Recorder(stop_after=3), nothing)
        rest = Recorder()
        done = run_sweep(cells_of([sample]), folder, rest, nothing)
        assert (len(rest.ran), done.reused, len(done.outcomes)) == (1, 3, 4)

    def test_more_ratios_run_only_what_is_new(self, sample: Path, folder: Path) -> None:
        run_sweep(cells_of([sample], (0.1,)), folder, Recorder(), nothing)
        rest = Recorder()
        run_sweep(cells_of([sample], (0.1, 0.2, 0.3)), folder, rest, nothing)
        assert sorted(cell.config.requested_ratio for cell in rest.ran) == [0.2, 0.2, 0.3, 0.3]

    @pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"before": {}}', b"\xff"])
    def test_a_damaged_file_is_run_again(self, sample: Path, folder: Path, damage: bytes) -> None:
        cells = cells_of([sample])
        run_sweep(cells, folder, Recorder(), nothing)
        (folder / "cells" / f"{cells[2].key}.json").write_bytes(damage)
        rest = Recorder()
        done = run_sweep(cells, folder, rest, nothing)
        assert rest.ran == [cells[2]]
        assert len(done.outcomes) == 4

    @pytest.mark.parametrize(
        ("place", "value"),
        [
            (("metric",), "foo"), (("metric",), ["accuracy"]), (("samples",), 1.5),
            (("samples",), True), (("samples",), -1), (("samples",), 10**400),
            (("key",), "0" * 64), (("method",), "nm"), (("ratio",), 0.7), (("model",), 3),
            (("quantize",), "int8"), (("quantize",), []),
            (("after", "score"), float("nan")), (("after", "score"), 1e300),
            (("after", "score"), "1"), (("after", "score"), None),
            (("before", "latency"), float("inf")), (("before", "latency"), []),
            (("before", "macs"), 0.5), (("before", "parameters"), -3),
            (("after", "more"), 1), (("after",), []),
        ],
    )  # fmt: skip
    def test_a_cell_that_no_run_could_have_given_is_run_again(
        self, place: tuple[str, ...], value: object, sample: Path, folder: Path
    ) -> None:
        cells = cells_of([sample])
        done = run_sweep(cells, folder, Recorder(), nothing)
        path = folder / "cells" / f"{cells[2].key}.json"
        held = json.loads(path.read_text())
        inner = held
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        path.write_text(json.dumps(held))
        rest = Recorder()
        assert run_sweep(cells, folder, rest, nothing).outcomes == done.outcomes
        assert rest.ran == [cells[2]]

    @pytest.mark.skipif(os.name != "posix", reason="pipes and devices are POSIX")
    @pytest.mark.parametrize("kind", ["pipe", "device", "link to a pipe", "loop", "large", "deep"])
    def test_a_cell_that_is_no_small_file_is_run_again(
        self, kind: str, sample: Path, folder: Path
    ) -> None:
        cells = cells_of([sample])
        done = run_sweep(cells, folder, Recorder(), nothing)
        path = folder / "cells" / f"{cells[2].key}.json"
        text = path.read_text()
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "link to a pipe":
            os.mkfifo(folder / "pipe")
            path.symlink_to(folder / "pipe")
        elif kind == "loop":
            path.symlink_to(path)
        else:
            path.write_text(text + " " * 10**6 if kind == "large" else "[" * 10**5)
        rest = Recorder()
        assert run_sweep(cells, folder, rest, nothing).outcomes == done.outcomes
        assert rest.ran == [cells[2]]
        assert path.read_text() == text
        assert not path.is_symlink()

    def test_a_failure_is_told_and_run_again(self, sample: Path, folder: Path) -> None:
        done = run_sweep(cells_of([sample]), folder, Recorder(fails="lbyl+"), nothing)
        assert [failure.reason for failure in done.failures] == ["it will not"] * 2
        rest = Recorder()
        assert run_sweep(cells_of([sample]), folder, rest, nothing).failures == ()
        assert len(rest.ran) == 2

    def test_a_quantised_cell_is_told_and_kept(self, sample: Path, folder: Path) -> None:
        config = replace(QUICK, ratio=0.0, quantize="int8")
        cells = plan_cells([sample], [config], ScoringData(), "1.0")
        (outcome,) = run_sweep(cells, folder, lambda some: map(run_cell, some), nothing).outcomes
        assert (outcome.quantize, outcome.series) == ("int8", "none + int8")
        assert outcome.after.parameters == outcome.before.parameters
        assert outcome.after.file_size < 0.5 * outcome.before.file_size
        rest = Recorder()
        assert run_sweep(cells, folder, rest, nothing).outcomes == (outcome,)
        assert rest.ran == []

    def test_a_model_that_changed_under_a_worker_is_a_failure(
        self, sample: Path, tmp_path: Path
    ) -> None:
        model = tmp_path / "m.onnx"
        shutil.copy(sample, model)
        cell = cells_of([model])[0]
        model.write_bytes(sample.read_bytes() + b"\x72\x00")
        result = run_cell(cell)
        assert isinstance(result, Failure)
        assert "not the file" in result.reason


class TestTelling:
    def test_the_csv_has_a_row_for_each_cell(self, sample: Path, folder: Path) -> None:
        done = run_sweep(cells_of([sample]), folder, Recorder(), nothing)
        rows = list(csv.DictReader(as_csv(done).splitlines()))
        cells = [(r["method"], float(r["ratio"]), int(r["macs_after"])) for r in rows]
        assert cells == [("none", 0.1, 1800), ("none", 0.2, 1600),
                        ("lbyl+", 0.1, 1800), ("lbyl+", 0.2, 1600)]  # fmt: skip

    def test_the_picture_has_a_row_of_panels_for_each_model(
        self, sample: Path, tmp_path: Path, folder: Path
    ) -> None:
        other = tmp_path / "<b>&\x1b.onnx"
        shutil.copy(sample, other)
        done = run_sweep(cells_of([sample, other]), folder, Recorder(), nothing)
        root = ET.fromstring(as_svg(done))
        lines = [e for e in root.iter(f"{SVG}polyline") if e.get("class", "").startswith("line")]
        # Two methods in four panels of two models, and once in the legend.
        assert len(lines) == 2 * 4 * 2 + 2
        titles = [e.text for e in root.iter(f"{SVG}text") if e.get("class") == "title"]
        assert titles == [str(sample), str(other).replace("\x1b", r"\x1b")]


class TestScore:
    @pytest.fixture
    def digits(self, sample: Path) -> Path:
        return sample.with_name("digits_test.npz")

    def test_accuracy_is_the_share_classified_right(self, sample: Path, digits: Path) -> None:
        scored = score(sample, sample, ScoringData(digits, "labels"), "CPUExecutionProvider")
        # samples/README gives 0.9907 for the 540 test images.
        assert (scored.metric, scored.samples, round(scored.after, 4)) == ("accuracy", 540, 0.9907)
        assert scored.before == scored.after

    def test_labels_may_lie_in_a_file(self, sample: Path, digits: Path, tmp_path: Path) -> None:
        labels = tmp_path / "y.npy"
        with np.load(digits) as data:
            np.save(labels, (data["labels"] + 1) % 10)  # all wrong but where the model errs
        scored = score(sample, sample, ScoringData(digits, str(labels)), "CPUExecutionProvider")
        assert scored.before < 0.01

    def test_samples_of_several_sizes_take_no_labels(self, tmp_path: Path) -> None:
        """They run a size at a time, in another order than that of the labels."""
        net = Net(("N", 3, "H", "W"))
        onnx.save(net.model(net.head(net.conv("x", (3, 8)), 8)), tmp_path / "m.onnx")
        folder, labels = tmp_path / "x", tmp_path / "y.npy"
        folder.mkdir()
        for width in (8, 9):
            images = np.random.default_rng(width).standard_normal((2, 3, 8, width))
            np.save(folder / f"{width}.npy", images.astype(np.float32))
        np.save(labels, np.zeros(4, np.int64))
        data = ScoringData(folder, str(labels))
        path = tmp_path / "m.onnx"
        with pytest.raises(CalibrationError, match="several sizes, which take no labels"):
            score(path, path, data, "CPUExecutionProvider")
        found = score(path, path, replace(data, labels=None), "CPUExecutionProvider")
        assert (found.samples, found.after) == (4, 1.0)

    @pytest.mark.parametrize("with_inputs", [True, False])
    def test_a_model_agrees_with_itself(
        self, sample: Path, digits: Path, with_inputs: bool
    ) -> None:
        data = ScoringData(digits if with_inputs else None)
        scored = score(sample, sample, data, "CPUExecutionProvider")
        assert (scored.metric, scored.after) == ("agreement", 1.0)
        assert scored.samples == (540 if with_inputs else 200)

    @pytest.mark.parametrize(
        ("labels", "says"),
        [
            (None, "no array absent"),
            (np.zeros(3, np.int64), "one for each"),
            (np.zeros(540), "whole numbers"),
            (np.zeros((540, 2), np.int64), "classifier on its own labels"),
        ],
    )
    def test_labels_that_do_not_fit_are_refused(
        self, sample: Path, digits: Path, tmp_path: Path, labels: object, says: str
    ) -> None:
        name = "absent"
        if labels is not None:
            name = str(tmp_path / "y.npy")
            np.save(name, labels)  # type: ignore[arg-type]
        with pytest.raises(CalibrationError, match=says):
            score(sample, sample, ScoringData(digits, name), "CPUExecutionProvider")


def sweep(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["sweep", *map(str, arguments)])


class TestCommand:
    def test_it_writes_table_csv_and_picture_and_then_runs_nothing(
        self, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        words = ["--ratios", "0.25", "--methods", "none,lbyl", "--provider", "cpu"]
        words += ["--inputs", str(sample.with_name("digits_test.npz")), "--labels", "labels"]
        first = sweep(sample, *words, "--out", tmp_path / "out", "--json", tmp_path / "s.json")
        assert first.exit_code == 0, first.stderr
        assert "accuracy on 540 samples, before 0.9907" in first.stderr
        assert (tmp_path / "out" / "sweep.svg").is_file()
        document = json.loads((tmp_path / "s.json").read_text())
        assert [o["method"] for o in document["outcomes"]] == ["none", "lbyl"]
        rows = list(csv.DictReader((tmp_path / "out" / "sweep.csv").read_text().splitlines()))
        assert [float(r["score_after"]) for r in rows] == [
            o["after"]["score"] for o in document["outcomes"]
        ]
        for row, outcome in zip(rows, document["outcomes"], strict=True):
            assert row["predicted_quantity"] == outcome["prediction"]["quantity"] == "equal top-1"
            low, value, high = (float(row[f"predicted_{n}"]) for n in ("low", "value", "high"))
            assert 0.0 <= low <= value <= high <= 1.0

        def forbid(workers: int) -> Scheduler:
            def run(cells: Sequence[Cell]) -> Iterator[Outcome | Failure]:
                raise AssertionError(f"{len(cells)} cells ran again on {workers} workers")

            return run

        monkeypatch.setattr(schedulers, "local", forbid)
        again = sweep(sample, *words, "--out", tmp_path / "out")
        assert again.exit_code == 0
        assert "2 of 2 cells were there already" in " ".join(again.stdout.split())

    def test_a_cell_that_fails_is_one_line_with_its_exit_code(
        self, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(schedulers, "local", lambda workers: Recorder(fails="nm"))
        words = ("--ratios", "0.1,0.2", "--methods", "none,nm", "--out", tmp_path / "out")
        done = sweep(sample, *words)
        assert done.exit_code == 4
        lines = [f"lbyl-onnx: error: {sample}, nm at {r}: it will not" for r in ("0.1", "0.2")]
        assert done.stderr.splitlines() == lines
        assert "none" in done.stdout

    def test_quantised_cells_are_series_of_their_own(
        self, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recorder = Recorder()
        monkeypatch.setattr(schedulers, "local", lambda workers: recorder)
        words = ("--ratios", "0,0.1", "--methods", "none", "--quantize", "none,int8")
        done = sweep(sample, *words, "--out", tmp_path / "out")
        assert done.exit_code == 0, done.stderr
        cells = [(cell.config.quantize, cell.config.requested_ratio) for cell in recorder.ran]
        assert cells == [(None, 0.1), ("int8", 0.0), ("int8", 0.1)]  # all is there at a ratio of 0
        rows = list(csv.DictReader((tmp_path / "out" / "sweep.csv").read_text().splitlines()))
        assert [row["quantize"] for row in rows] == ["none", "int8", "int8"]
        root = ET.parse(tmp_path / "out" / "sweep.svg").getroot()
        lines = [e for e in root.iter(f"{SVG}polyline") if e.get("class", "").startswith("line")]
        assert len(lines) == 2 * 4 + 2
        assert "none + int8" in [e.text for e in root.iter(f"{SVG}text")]
        assert done.stdout.count("none + int8") == 2

    def test_a_quantised_cell_that_fails_is_named(
        self, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(schedulers, "local", lambda workers: Recorder(fails="none"))
        words = ("--ratios", "0", "--methods", "none", "--quantize", "int8")
        done = sweep(sample, *words, "--out", tmp_path / "out")
        assert done.exit_code == 4
        assert done.stderr == f"lbyl-onnx: error: {sample}, none + int8 at 0: it will not\n"

    @pytest.mark.parametrize(
        ("words", "code", "says"),
        [
            (("--ratios", "0.5:0.1:0.1"), 2, "FIRST:LAST:STEP"),
            (("--ratios", "0:1:0"), 2, "FIRST:LAST:STEP"),
            (("--ratios", "nan:1:0.1"), 2, "FIRST:LAST:STEP"),
            (("--ratios", "a"), 2, "FIRST:LAST:STEP"),
            (("--ratios", "1.5"), 2, "from 0 to below 1"),
            (("--methods", "magic"), 2, "none,nm,lbyl,lbyl+"),
            (("--quantize", "int4"), 2, "give some of none,int8"),
            (("--labels", "y"), 2, "--inputs"),
            (("--workers", "0"), 2, "range"),
        ],
    )
    def test_wrong_usage(
        self, sample: Path, tmp_path: Path, words: tuple[str, ...], code: int, says: str
    ) -> None:
        done = sweep(sample, *words, "--out", tmp_path / "out")
        assert done.exit_code == code
        assert says in done.stderr
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("text", "ratios"),
        [("0.1:0.7:0.1", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)), ("0.3", (0.3,)), ("0:0:1", (0.0,))],
    )
    def test_ratios_include_both_ends(self, text: str, ratios: tuple[float, ...]) -> None:
        assert _ratios(None, None, text) == ratios  # type: ignore[arg-type]


def test_a_worker_that_dies_takes_only_its_own_cell(
    sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ends at once, as the kernel's out-of-memory killer would end it."""
    monkeypatch.setattr(schedulers, "run_cell", _die_at_the_second)
    done = list(schedulers.local(1)(cells_of([sample])))
    lost = [result for result in done if isinstance(result, Failure)]
    assert len(done) == 4
    assert [(f.method, f.ratio) for f in lost] == [("none", 0.2)]
    assert "died" in lost[0].reason


def _die_at_the_second(cell: Cell) -> Outcome | Failure:
    if cell.config.method == "none" and cell.config.requested_ratio == 0.2:
        os._exit(9)
    return next(iter(Recorder()([cell])))


def test_without_dask_the_scheduler_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(OptionError, match=r"lbyl-onnx\[distributed\]"):
        schedulers.dask("tcp://127.0.0.1:1")
