"""Each option is declared once, at its field: all that takes options follows."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

import click
import pytest
from click.testing import CliRunner

import lbyl_onnx
from docs import options as tables
from lbyl_onnx import Config, OptionError, Options, compress
from lbyl_onnx import config as config_module
from lbyl_onnx.cli import main
from lbyl_onnx.cli.options import _WORDS
from lbyl_onnx.config import DEFAULTS, OPTIONS, SECTIONS, combined
from lbyl_onnx.input_options.kinds import Said
from lbyl_onnx.option_types import WHOLE, OptionType, option, options_of
from lbyl_onnx.signature import with_options
from tests.conftest import ROOT
from tests.support.architectures import chain

NAMES = [field.name for field in fields(Config)]


def test_each_field_declares_its_option() -> None:
    assert list(OPTIONS) == NAMES
    assert {option.section for option in OPTIONS.values()} == set(SECTIONS)


@pytest.mark.parametrize("name", NAMES)
def test_the_command_has_each_option_as_it_is_declared(name: str) -> None:
    declared, command = OPTIONS[name], main.commands["compress"]
    (option,) = [p for p in command.params if p.name == name]
    assert isinstance(option, click.Option)
    assert option.opts == [declared.flag]
    assert option.help == declared.help.replace("`", "")
    assert option.default == (DEFAULTS[name] if DEFAULTS[name] != () else None)
    if declared.choices is not None:
        assert isinstance(option.type, click.Choice)
        assert tuple(option.type.choices) == tuple(declared.choices())
    help_text = CliRunner().invoke(main, ["compress", "--help"], terminal_width=300).stdout
    section = help_text.split(f"\n{declared.section}:\n")[1].split("\n\n")[0]
    assert declared.flag in section.split()


@pytest.mark.parametrize("command", ["sweep", "inspect", "verify"])
def test_other_commands_share_the_declarations(command: str) -> None:
    for parameter in main.commands[command].params:
        if parameter.name in OPTIONS:
            assert isinstance(parameter, click.Option)
            assert parameter.help == OPTIONS[parameter.name].help.replace("`", "")


def test_each_type_can_be_read_from_a_command_line() -> None:
    types = {value for value in vars(lbyl_onnx.option_types).values() if type(value) is OptionType}
    assert types == set(_WORDS)


def test_keywords_have_the_types_of_the_fields() -> None:
    # A field holds what was read of a text; a keyword may be the text.
    fields = {**get_type_hints(Config, vars(config_module)), "input": Said}
    assert get_type_hints(Options) == fields


def test_help_in_python_tells_each_option() -> None:
    help_text = inspect.getdoc(Config) or ""
    for name, declared in OPTIONS.items():
        (kind,) = re.findall(rf"^{name} : (.*)\n    {re.escape(declared.help)}", help_text, re.M)
        assert kind.endswith(f", default={DEFAULTS[name]!r}")


def test_the_help_of_compress_lists_each_option_once() -> None:
    help_text = inspect.getdoc(compress) or ""
    words = " ".join(help_text.split())
    for name, declared in OPTIONS.items():
        assert len(re.findall(rf"^{name} : .+, default=", help_text, re.M)) == 1, name
        assert " ".join(declared.help.split()) in words
    assert "method : {'none', 'nm', 'lbyl', 'lbyl+'}, default='lbyl+'" in help_text
    assert "**options" not in help_text
    own = ("model", "output", "config", "dry_run", "force", "progress", "samples")
    assert all(re.search(rf"^{name} : ", help_text, re.M) for name in own)
    assert help_text.index("\nReturns\n") > help_text.index("\ninput_shape : ")


def test_the_signature_of_compress_has_them_with_their_defaults() -> None:
    parameters = inspect.signature(compress).parameters
    assert {name: parameters[name].default for name in OPTIONS} == dict(DEFAULTS)
    assert list(parameters)[:2] == ["model", "output"]
    assert all(p.kind is not p.VAR_KEYWORD for p in parameters.values())


def test_a_function_without_options_is_refused() -> None:
    with pytest.raises(ValueError, match="chain takes no options"):
        with_options(chain)


@pytest.mark.parametrize("page", tables.PAGES)
def test_the_tables_are_those_of_the_declarations(page: str) -> None:
    text = (ROOT / page).read_text()
    assert tables.filled(text) == text, "write the tables anew: python -m docs.options"
    lines = text.splitlines()
    for declared in OPTIONS.values():
        assert any(line.startswith(f"| `{declared.flag}` |") for line in lines), declared.flag


BOUNDS: dict[str, tuple[dict[str, Any], str]] = {
    "ratio": ({"ratio": 1.0}, "ratio is 1.0; give a number from 0 to below 1"),
    "percent": ({"ratio": 30}, "ratio is 30.0; give a number from 0 to below 1, or 30%"),
    "fidelity": ({"fidelity": 0.0}, "fidelity is 0.0; give a number above 0 and below 1"),
    "a glob's": ({"keep_for": {"*top*": 0}}, "keep_for '*top*' is 0; give a whole number of at"),
    "a step": ({"round_to": 0}, "round_to is 0; give a whole number of at least 1"),
    "infinite": ({"lambda1": float("inf")}, "lambda1 is inf; give a finite number of at least 0"),
    "a choice": ({"allocation": "odd"}, "allocation is 'odd'; give one of uniform, auto"),
    "the paper's": ({"cosine_threshold": -1.5}, "cosine_threshold is -1.5; give a number from -1"),
}


@pytest.mark.parametrize(("options", "says"), BOUNDS.values(), ids=BOUNDS)
def test_what_is_out_of_bounds(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError) as caught:
        Config(**options)
    assert str(caught.value).startswith(says)


class TestKeywords:
    def test_they_are_options(self) -> None:
        result = compress(chain(), dry_run=True, ratio=0.5, method="nm", round_to=1)
        assert result.config == Config(ratio=0.5, method="nm", round_to=1)

    def test_they_replace_those_of_config(self) -> None:
        config = Config(ratio=0.5, method="nm", round_to=1)
        result = compress(chain(), dry_run=True, config=config, method="none")
        assert result.config == Config(ratio=0.5, method="none", round_to=1)

    def test_a_target_replaces_a_ratio(self) -> None:
        config = {"ratio": 0.5, "seed": 3}
        assert combined(config, {"macs": "50%"}) == Config(macs="50%", seed=3)
        assert combined({"macs": "50%"}, {"ratio": 0.2}) == Config(ratio=0.2)

    def test_two_targets_are_an_error(self) -> None:
        with pytest.raises(OptionError, match="macs and size are given"):
            combined({}, {"macs": "50%", "size": "5MB"})

    def test_another_name_is_a_type_error_with_a_hint(self) -> None:
        wrong: dict[str, Any] = {"ratoi": 0.5}
        with pytest.raises(TypeError, match="no option 'ratoi'; did you mean ratio"):
            compress(chain(), **wrong)


def test_a_flag_may_have_a_name_of_its_own() -> None:
    @dataclass
    class Named:
        a_name: int = option(1, WHOLE, "Help.", SECTIONS[0])
        many: int = option(1, WHOLE, "Help.", SECTIONS[0], flag="--one")

    assert [actual.flag for actual in options_of(Named).values()] == ["--a-name", "--one"]


def test_neuron_mergings_options_reach_it_from_the_command_line() -> None:
    context = main.commands["compress"].make_context(
        "compress", ["a.onnx", "b.onnx", "--cosine-threshold", "0.45", "--cosine-weight", "0.7"]
    )
    assert (context.params["cosine_threshold"], context.params["cosine_weight"]) == (0.45, 0.7)
