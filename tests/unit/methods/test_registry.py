"""Methods and criteria by name: what can be registered, and what options they are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from lbyl_onnx import (
    Config,
    Criterion,
    Delivery,
    FoldedRows,
    Method,
    MethodOption,
    OptionError,
    register_criterion,
    register_method,
)
from lbyl_onnx.cli import main
from lbyl_onnx.methods.importance import l2
from lbyl_onnx.methods.registry import (
    criterion_names,
    find_criterion,
    find_method,
    method_names,
)
from lbyl_onnx.methods.types import Evidence, Ranking
from lbyl_onnx.sweeps.types import Cell
from tests.support.registries import restored_registries


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    with restored_registries():
        yield


def nothing(rows: FoldedRows, kept: np.ndarray[Any, Any], **_: object) -> Delivery:
    removed = len(rows.weight) - len(kept)
    return Delivery(kept, np.zeros((removed, len(kept))), np.zeros(removed))


def largest(evidence: Evidence, keep: int, rng: np.random.Generator) -> Ranking:
    return Ranking.of_scores(l2(evidence.weight), keep)


OWN = Method("own", "a method", "rows", nothing, (MethodOption("threshold", 0.5, low=0, high=1),))
RANK = Criterion("rank", "a criterion", "weights", largest)


class TestNames:
    def test_what_there_is(self) -> None:
        assert method_names() == ("none", "nm", "lbyl", "lbyl+")
        assert criterion_names() == ("obs", "l2", "l1", "gm", "random")

    def test_a_registered_name_is_a_choice(self) -> None:
        register_method(OWN)
        register_criterion(RANK)
        config = Config(method="own", criterion="rank")
        assert (config.method_entry, config.criterion_entry) == (OWN, RANK)
        assert not config.needs_moments

    def test_a_name_without_an_entry_lists_those_there_are(self) -> None:
        methods = r"method is 'ifm'; give one of none, nm, lbyl, lbyl\+"
        with pytest.raises(OptionError, match=methods):
            Config(method="ifm")
        with pytest.raises(OptionError, match="criterion is 'bn'; give one of auto, obs, l2, l1"):
            Config(criterion="bn")

    @pytest.mark.parametrize("name", ["lbyl+", "own", "a b", "", "1st", "a,b", "x" * 65])
    def test_names_of_methods(self, name: str) -> None:
        register_method(OWN)
        with pytest.raises(OptionError, match=r"there already|a name has letters"):
            register_method(replace(OWN, name=name))

    @pytest.mark.parametrize("name", ["l2", "auto", "-x"])
    def test_names_of_criteria(self, name: str) -> None:
        with pytest.raises(OptionError, match=r"there already|a name has letters"):
            register_criterion(replace(RANK, name=name))


class TestEntries:
    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"needs": "samples"}, "give one of nothing, rows, moments"),
            ({"criterion": "bn"}, "criterion is 'bn'"),
            ({"needs": "moments"}, "name a fallback"),
            ({"needs": "moments", "fallback": "lbyl+"}, "needs moments, too"),
            ({"needs": "moments", "fallback": "ifm"}, "method is 'ifm'"),
            ({"options": (MethodOption("a b", 1.0),)}, "another name or default"),
            ({"options": (MethodOption("a", None),)}, "another name"),  # type: ignore[arg-type]
        ],
    )
    def test_a_method_that_cannot_be(self, change: dict[str, Any], says: str) -> None:
        with pytest.raises(OptionError, match=says):
            register_method(replace(OWN, **change))
        assert "own" not in method_names()

    def test_a_criterion_that_cannot_be(self) -> None:
        with pytest.raises(OptionError, match="give one of weights, moments"):
            register_criterion(replace(RANK, needs="rows"))  # type: ignore[arg-type]

    def test_a_criterion_falls_back_on_weights(self) -> None:
        register_criterion(replace(RANK, needs="moments", fallback="obs"))
        with pytest.raises(OptionError, match="falls back on obs"):
            Config(criterion="rank")

    def test_what_the_built_in_ones_need(self) -> None:
        assert [find_method(n).needs for n in method_names()] == [
            "nothing",
            "rows",
            "rows",
            "moments",
        ]
        assert [n for n in criterion_names() if find_criterion(n).needs == "moments"] == ["obs"]

    def test_channels_are_mixed_by_the_method_s_own_criterion_alone(self) -> None:
        assert Config().mixes
        assert not Config(criterion="l2").mixes
        register_criterion(replace(RANK, needs="moments"))
        assert Config(criterion="rank").by_loss
        assert not Config(criterion="rank").mixes
        assert Config(method="none", criterion="rank", calibration="x").needs_moments


class TestOptions:
    @pytest.mark.parametrize("value", [{"threshold": 1}, [("threshold", "1.0")]])
    def test_the_type_is_the_default_s(self, value: Any) -> None:
        register_method(OWN)
        config = Config(method="own", method_options=value)
        assert config.method_options == (("threshold", 1.0),)
        assert type(config.method_options[0][1]) is float
        assert config.options_of(OWN) == {"threshold": 1.0}
        assert Config(method="own").options_of(OWN) == {"threshold": 0.5}

    @pytest.mark.parametrize(
        ("value", "says"),
        [
            ({"limit": 1}, "limit.*no option of method own; its options: threshold"),
            ({"threshold": 2}, "threshold is 2.0; give a finite number from 0 to 1"),
            ({"threshold": "nan"}, "finite number"),
            ({"threshold": "much"}, "threshold is 'much'; give a number"),
            ({"threshold": True}, "give a number"),
            ([("threshold", 0.1), ("threshold", 0.2)], "twice"),
            ("threshold", "a table"),
            ({"threshold": [0.1]}, "a table"),
        ],
    )
    def test_what_is_refused(self, value: Any, says: str) -> None:
        register_method(OWN)
        with pytest.raises(OptionError, match=says):
            Config(method="own", method_options=value)

    def test_a_field_of_config_is_the_option_of_its_name(self) -> None:
        lbyl = find_method("lbyl")
        assert Config(lambda1=0.25).options_of(lbyl)["lambda1"] == 0.25
        with pytest.raises(OptionError, match="an option of its own"):
            Config(method="lbyl", method_options=(("lambda1", 0.25),))

    @pytest.mark.parametrize(
        ("default", "value", "read"),
        [(3, "4", 4), (3, 4, 4), (True, "false", False), ("a", "b", "b"), (0.5, np.float32(1), 1)],
    )
    def test_types(self, default: Any, value: Any, read: Any) -> None:
        assert MethodOption("x", default).read(value) == read

    @pytest.mark.parametrize(
        ("default", "value"), [(3, 0.5), (3, "0.5"), (True, 1), ("a", 1), (0.5, None)]
    )
    def test_other_types(self, default: Any, value: Any) -> None:
        with pytest.raises(OptionError, match="x is"):
            MethodOption("x", default).read(value)

    def test_a_fallback_has_its_options(self) -> None:
        register_method(OWN)
        register_method(Method("more", "", "moments", nothing, fallback="own"))
        config = Config(method="more", method_options=(("threshold", 0.25),))
        assert config.options_of(OWN) == {"threshold": 0.25}

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["compress", "a.onnx", "b.onnx", "--method-option", "limit=1"], "no option of"),
            (["compress", "a.onnx", "b.onnx", "--method-option", "limit"], "give NAME=VALUE"),
            (
                ["sweep", "a.onnx", "--out", "c", "--method-option", "limit=1"],
                "no option of method",
            ),
        ],
    )
    def test_on_the_command_line(self, words: list[str], says: str) -> None:
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 2
        assert says in result.output

    def test_a_sweep_gives_each_method_its_options(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        supplied: list[Config] = []

        def planned(models: object, configs: Sequence[Config], *rest: object) -> tuple[Cell, ...]:
            supplied.extend(configs)
            return ()

        monkeypatch.setattr(import_module("lbyl_onnx.sweeps.run"), "plan_cells", planned)
        register_method(OWN)
        (tmp_path / "a.onnx").touch()
        words = ["sweep", str(tmp_path / "a.onnx"), "--out", str(tmp_path)]
        words += ["--methods", "none,own"]
        words += ["--ratios", "0.3", "--method-option", "threshold=0.25"]
        assert CliRunner().invoke(main, words).exit_code == 0
        assert [c.method_options for c in supplied] == [(), (("threshold", 0.25),)]
