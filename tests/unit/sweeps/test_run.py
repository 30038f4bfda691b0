"""A sweep from Python, and whose sweep a folder holds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lbyl_onnx import Config, OptionError, OutputError, sweep
from lbyl_onnx.cli import main
from lbyl_onnx.methods.registry import method_names
from lbyl_onnx.sweeps import schedulers
from lbyl_onnx.sweeps.run import RATIOS
from lbyl_onnx.sweeps.types import Cell, Measures, Outcome

CPU = Config(provider="cpu", round_to=1)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """The cells that a scheduler is handed, which makes up what comes of them."""
    cells: list[Cell] = []

    def local(workers: int) -> Any:
        def run(missing: tuple[Cell, ...]) -> Iterator[Outcome]:
            for cell in missing:
                cells.append(cell)
                names = cell.key, str(cell.model), cell.config.method, cell.config.requested_ratio
                side = Measures(1, 2, 3, 0.5, 1.0 - cell.config.requested_ratio)
                quantize = cell.config.quantize
                yield Outcome(*names, "agreement", 200, side, side, quantize=quantize)

        return run

    monkeypatch.setattr(schedulers, "local", local)
    return cells


class TestCells:
    def test_one_model_by_every_method(self, sample: Path, ran: list[Cell]) -> None:
        result = sweep(sample, config=CPU)
        cells = [(cell.config.method, cell.config.requested_ratio) for cell in ran]
        assert cells == [(method, ratio) for method in method_names() for ratio in RATIOS]
        assert {cell.config.provider for cell in ran} == {"cpu"}
        assert len(result.outcomes) == len(cells)

    def test_texts_are_no_lists_of_letters(self, sample: Path, ran: list[Cell]) -> None:
        sweep(str(sample), ratios=["30%"], methods="nm", config=CPU)
        assert [(c.model, c.config.method, c.config.requested_ratio) for c in ran] == [
            (sample, "nm", 0.3)
        ]

    @pytest.mark.parametrize(
        "options",
        [
            {"ratios": "0.3"}, {"ratios": 0.3}, {"ratios": []}, {"ratios": ["0.3"]},
            {"ratios": [1.0]}, {"methods": "magic"}, {"methods": []}, {"quantize": "int8"},
            {"quantize": ["int4"]}, {"labels": "y"}, {"quantize": [None, "int8"], "methods": []},
        ],
    )  # fmt: skip
    def test_what_they_may_not_be(
        self, options: dict[str, Any], sample: Path, ran: list[Cell]
    ) -> None:
        with pytest.raises(OptionError):
            sweep(sample, **options)
        assert ran == []

    def test_what_progress_raises_ends_it_and_keeps_what_is_done(
        self, sample: Path, tmp_path: Path, ran: list[Cell]
    ) -> None:
        def stop(stage: str, done: int, total: int) -> None:
            assert (stage, total) == ("measuring cells", 3)
            if done == 2:
                raise KeyboardInterrupt

        options: dict[str, Any] = {"ratios": [0.1, 0.2, 0.3], "methods": "none", "config": CPU}
        with pytest.raises(KeyboardInterrupt):
            sweep(sample, tmp_path / "out", progress=stop, **options)
        assert not (tmp_path / "out" / "sweep.csv").exists()
        assert (tmp_path / "out" / "identity.json").exists()
        again = sweep(sample, tmp_path / "out", **options)
        assert (len(ran), again.reused) == (3, 2)
        assert (tmp_path / "out" / "sweep.csv").read_text().count("\n") == 4
        assert (tmp_path / "out" / "sweep.svg").exists()

    def test_it_prints_in_a_few_lines(self, sample: Path, ran: list[Cell]) -> None:
        text = str(sweep(sample, ratios=[0.1, 0.5], methods=["none", "lbyl"], config=CPU))
        assert text.splitlines() == [
            "4 cells measured",
            f"{sample}, none: agreement 0.9000 at 0.1, 0.5000 at 0.5",
            f"{sample}, lbyl: agreement 0.9000 at 0.1, 0.5000 at 0.5",
        ]


@pytest.mark.usefixtures("ran")
class TestFolders:
    def sweep(self, models: Any, folder: Path, **options: Any) -> None:
        config = Config(**{"provider": "cpu", **options.pop("config", {})})
        sweep(models, folder, **{"ratios": [0.1], "methods": "none", **options}, config=config)

    def test_the_same_sweep_may_get_more(self, sample: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.onnx"
        other.write_bytes(sample.read_bytes() + b"\x72\x00")
        out = tmp_path / "out"
        self.sweep(sample, out)
        self.sweep(sample, out, ratios=[0.2], methods="nm", quantize=[None, "int8"])
        self.sweep([other, sample], out)
        with pytest.raises(OutputError, match=r"other\.onnx, which is another model"):
            self.sweep(sample, out)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"config": {"scope": "all"}}, "another scope"),
            ({"config": {"round_to": 4}}, "another round_to"),
            ({"config": {"seed": 3}}, "another seed"),
            ({"inputs": True}, "scored on other samples"),
        ],
    )
    def test_another_sweep_is_refused(
        self, options: dict[str, Any], says: str, sample: Path, tmp_path: Path
    ) -> None:
        self.sweep(sample, tmp_path)
        table = (tmp_path / "sweep.csv").read_bytes()
        if "inputs" in options:
            options = {"inputs": sample.with_name("digits_test.npz"), "labels": "labels"}
        with pytest.raises(OutputError, match=f"{says}; give another folder"):
            self.sweep(sample, tmp_path, **options)
        assert (tmp_path / "sweep.csv").read_bytes() == table

    def test_a_model_that_has_changed_is_another(self, sample: Path, tmp_path: Path) -> None:
        model = tmp_path / "m.onnx"
        shutil.copy(sample, model)
        self.sweep(model, tmp_path / "out")
        model.write_bytes(sample.read_bytes() + b"\x72\x00")
        with pytest.raises(OutputError, match=r"m\.onnx, which is another model or has changed"):
            self.sweep(model, tmp_path / "out")

    @pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"models": 3}', b"\xff"])
    def test_a_damaged_note_is_written_anew(
        self, damage: bytes, sample: Path, tmp_path: Path
    ) -> None:
        self.sweep(sample, tmp_path)
        note = tmp_path / "identity.json"
        whole = note.read_bytes()
        note.write_bytes(damage)
        self.sweep(sample, tmp_path)
        assert note.read_bytes() == whole


class TestGoals:
    def test_multiply_accumulates_take_the_place_of_ratios(
        self, sample: Path, ran: list[Cell]
    ) -> None:
        sweep(sample, macs=["75%", "50%"], methods="none", config=CPU)
        assert [(c.config.ratio, c.config.macs) for c in ran] == [(None, "75%"), (None, "50%")]

    @pytest.mark.parametrize("macs", ["50%", [], ["much"]])
    def test_what_is_no_list_of_amounts(self, sample: Path, macs: Any) -> None:
        with pytest.raises(OptionError, match="macs is"):
            sweep(sample, macs=macs, methods="none", config=CPU)

    def test_a_cell_says_what_it_was_to_reach(self, sample: Path, tmp_path: Path) -> None:
        result = sweep(sample, tmp_path, macs=["60%"], methods="none", config=CPU)
        (outcome,) = result.outcomes
        assert outcome.aim == "macs 60%"
        assert outcome.after.macs <= 0.6 * outcome.before.macs
        assert "at macs 60%" in str(result)
        again = sweep(sample, tmp_path, macs=["60%"], methods="none", config=CPU)
        assert again.reused == 1

    def test_ratios_and_amounts_are_not_given_together(self, sample: Path, tmp_path: Path) -> None:
        words = ["sweep", str(sample), "--ratios", "0.3", "--macs", "50%", "--out", str(tmp_path)]
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 2
        assert "--ratios and --macs are given" in done.output
