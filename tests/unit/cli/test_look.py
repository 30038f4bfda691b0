"""What all commands share: sections and examples in their help, colours, versions, completion."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from lbyl_onnx.cli import main
from lbyl_onnx.cli.help import SectionedCommand

COMMANDS = sorted(main.commands)
ESCAPE = "\x1b"


def start(*words: str, **variables: str) -> str:
    """Run `python -m lbyl_onnx` with its output piped; return all that it says."""
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    done = subprocess.run(
        [sys.executable, "-m", "lbyl_onnx", *words],
        env={**environment, **variables}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", COMMANDS)
class TestHelp:
    def test_every_option_is_in_one_section(self, name: str) -> None:
        command = main.commands[name]
        assert isinstance(command, SectionedCommand)
        help_text = CliRunner().invoke(main, [name, "--help"]).stdout
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                lines = re.findall(rf"^  {parameter.opts[0]}(?![\w-])", help_text, re.MULTILINE)
                assert len(lines) == 1, parameter.opts[0]
        rest = help_text.split("\nOther:\n")[1].split("\n\n")[0]
        assert rest.split() == "-h, --help Show this message and exit.".split(), (
            f"an option of {name} is in no section"
        )

    def test_it_shows_examples_that_parse(self, name: str) -> None:
        help_text = CliRunner().invoke(main, [name, "--help"]).stdout
        shown = re.findall(rf"^    lbyl-onnx ({name} .*)$", help_text, re.MULTILINE)
        assert shown
        for line in shown:
            words = [word.strip("'") for word in line.split()[1:]]
            main.commands[name].make_context(name, words)  # raises for what is no option


def test_piped_output_is_plain(sample: Path) -> None:
    assert ESCAPE not in start("inspect", str(sample))


def test_no_color_takes_the_colours_from_a_terminal(sample: Path) -> None:
    coloured = re.compile(r"\x1b\[[\d;]*(?:3[0-7]|9[0-7]|38;)[\d;]*m")
    assert ESCAPE in start("inspect", str(sample), FORCE_COLOR="1")
    plain = start("inspect", str(sample), FORCE_COLOR="1", NO_COLOR="1")
    assert not coloured.search(plain)


def test_version_tells_what_the_results_depend_on() -> None:
    lines = dict(line.split(" ", 1) for line in start("--version").splitlines())
    assert lines["lbyl-onnx"] == metadata.version("lbyl-onnx")
    assert lines["onnx"] == metadata.version("onnx")
    assert {"Python", "numpy", "scipy", "platform"} <= set(lines)
    assert {"onnxruntime", "onnxruntime-gpu"} & set(lines)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_shells_can_complete(shell: str) -> None:
    assert "lbyl-onnx" in start(_LBYL_ONNX_COMPLETE=f"{shell}_source")


def test_completion_knows_the_options() -> None:
    variables = {"COMP_WORDS": "lbyl-onnx sweep --ra", "COMP_CWORD": "2"}
    completed = start(_LBYL_ONNX_COMPLETE="bash_complete", **variables)
    assert completed.splitlines() == ["plain,--ratios"]


@pytest.mark.parametrize(
    "words",
    [
        "compress dig", "compress in.onnx dig", "inspect dig", "verify a.onnx dig", "sweep a dig",
        "compress --config dig", "compress --json dig", "compress --report dig",
        "compress --calibration dig", "compress --tokenizer dig", "verify --inputs dig",
        "sweep --inputs dig", "sweep --labels dig",
    ],
)  # fmt: skip
def test_completion_completes_files(words: str) -> None:
    name, *rest, last = words.split()
    complete = ShellComplete(main, {}, "lbyl-onnx", "_LBYL_ONNX_COMPLETE")
    assert [(c.type, c.value) for c in complete.get_completions([name, *rest], last)] == [
        ("file", last)
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_quiet(name: str) -> None:
    assert "--quiet" in {word for p in main.commands[name].params for word in p.opts}


def test_quiet_prints_nothing(sample: Path) -> None:
    for words in (["inspect", str(sample)], ["verify", str(sample), str(sample)]):
        result = CliRunner().invoke(main, [*words, "--quiet"])
        assert (result.exit_code, result.output) == (0, "")
