"""Options from a file."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lbyl_onnx import Config, OptionError
from lbyl_onnx.cli import main
from lbyl_onnx.cli.config_file import read_options
from tests.support.pages import blocks

TOML = """
macs = "60%"
method = "lbyl"
round-to = 8
exclude = ["*stem*"]
seed = 3
[ratio-for]
"*head*" = 0.1
[keep-for]
"*top*" = 64
"""


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "options.toml"
    path.write_text(TOML)
    assert Config(**read_options(path)) == Config(
        macs="60%",
        method="lbyl",
        round_to=8,
        exclude=("*stem*",),
        seed=3,
        ratio_for=(("*head*", 0.1),),
        keep_for=(("*top*", 64),),
    )


def test_numbers_in_percent(tmp_path: Path) -> None:
    path = tmp_path / "options.toml"
    path.write_text("ratio = '30%'\n[ratio-for]\n'*head*' = '7%'")
    assert read_options(path) == {"ratio": 0.3, "ratio_for": (("*head*", 0.07),)}


def test_json_holds_every_option_but_those_that_are_not_set(tmp_path: Path) -> None:
    path = tmp_path / "options.json"
    default = Config()
    options = {f.name: getattr(default, f.name) for f in fields(Config)}
    options |= {"ratio_for": {}, "keep_for": {}}
    path.write_text(json.dumps({k: v for k, v in options.items() if v is not None}))
    assert Config(**read_options(path)) == default


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ratoi = 0.3", "unknown key 'ratoi'; did you mean ratio?"),
        ("[nothing]", "unknown key 'nothing'; the options are ratio, macs"),
        ("ratio = '0.3'", "give a number"),
        ("ratio = true", "give a number"),
        ("seed = 1.5", "give a whole number"),
        ("exclude = 3", "give a glob or a list of globs"),
        ("exclude = ['x', 3]", "give a glob or a list of globs"),
        ("keep_for = 3", "give a table by glob"),
        ("keep-for = {a = 0.5}", "give a whole number"),
        ("min-channels = 2\nmin_channels = 3", "min_channels is given twice"),
        ("ratio = ", "cannot be read"),
    ],
)
def test_what_it_may_not_hold(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "options.toml"
    path.write_text(text)
    with pytest.raises(OptionError, match=r"options\.toml") as caught:
        read_options(path)
    assert words in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        read_options(tmp_path / "none.toml")


class TestCommand:
    def run(self, sample: Path, path: Path, text: str, *more: str) -> Result:
        file = path / "options.toml"
        file.write_text(text)
        arguments = [
            "compress",
            "--ratio=0.3",
            str(sample),
            "--dry-run",
            "--provider",
            "cpu",
            "--json",
            "-",
        ]
        return CliRunner().invoke(main, [*arguments, "--config", str(file), *more])

    def test_the_command_line_comes_first(self, sample: Path, tmp_path: Path) -> None:
        text = "macs = '60%'\nmethod = 'none'\ncriterion = 'l1'"
        result = self.run(sample, tmp_path, text, "--ratio", "0.5", "--criterion", "l2")
        report = json.loads(result.stdout)
        assert [g["ratio"] for g in report["groups"]] == [0.5] * 4
        assert report["options"]["method"] == "none"
        assert report["options"]["criterion"] == "l2"

    @pytest.mark.parametrize("text", ["macs = '60%'\nratio = 0.3", "sed = 1"])
    def test_what_is_wrong_in_it_is_wrong_usage(
        self, text: str, sample: Path, tmp_path: Path
    ) -> None:
        result = self.run(sample, tmp_path, text)
        assert result.exit_code == 2
        assert "options.toml" in result.stderr


def test_the_file_of_the_pages_is_read(tmp_path: Path) -> None:
    (body,) = blocks("docs/commands.md", "toml")
    (tmp_path / "options.toml").write_text(body)
    config = Config(**read_options(tmp_path / "options.toml"))
    assert (config.macs, config.min_channels) == ("50%", 8)
