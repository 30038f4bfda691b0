"""Options of the wrong type: the obvious meaning or an error that names the option, no third."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lbyl_onnx import Config, OptionError, compress, inspect
from lbyl_onnx.cli.config_file import read_options
from lbyl_onnx.config import OPTIONS
from lbyl_onnx.option_types import MOST_ENTRIES
from tests.support.architectures import chain


def config(**options: Any) -> Config:
    """A configuration of whatever types; mypy would see them otherwise."""
    return Config(**options)


OBVIOUS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a string is one glob": ({"include": "*stem*"}, {"include": ("*stem*",)}),
    "for both": ({"exclude": "*stem*"}, {"exclude": ("*stem*",)}),
    "a list": ({"include": ["a", "b"]}, {"include": ("a", "b")}),
    "a set has one order": ({"include": {"b", "a"}}, {"include": ("a", "b")}),
    "a dict is its items": ({"keep_for": {"*top*": 64}}, {"keep_for": (("*top*", 64),)}),
    "for ratios too": ({"ratio_for": {"a": 0.5, "b": 0}}, {"ratio_for": (("a", 0.5), ("b", 0.0))}),
    "lists of pairs": ({"keep_for": [["a", 3]]}, {"keep_for": (("a", 3),)}),
    "NumPy's numbers": (
        {"ratio": np.float32(0.5), "seed": np.int64(3)},
        {"ratio": 0.5, "seed": 3},
    ),
    "a text in percent": (
        {"ratio": "30%", "ratio_for": {"a": "12.5%"}},
        {"ratio": 0.3, "ratio_for": (("a", 0.125),)},
    ),
    "a number for all channels": (
        {"calibration": Path("images"), "mean": 0.5, "std": np.full(3, 0.25)},
        {"calibration": ("images",), "mean": (0.5,), "std": (0.25, 0.25, 0.25)},
    ),
}


@pytest.mark.parametrize(("options", "meant"), OBVIOUS.values(), ids=OBVIOUS)
def test_the_obvious_meaning(options: dict[str, Any], meant: dict[str, Any]) -> None:
    assert config(**options) == config(**meant)
    for name in options:
        value = getattr(config(**options), name)
        assert type(value) is type(meant[name])


WRONG: dict[str, tuple[Any, ...]] = {
    "a text": ("0.3", "a" * 10**6, "%", "a%", "nan%", "30%%", "1" * 5000 + "%"),
    "a truth value": (True, np.True_),
    "nothing": (None,),
    "bytes": (b"*stem*",),
    "an array": (np.zeros((3, 3, 8, 8)),),
    "a dict of arrays": ({"x": np.zeros((3, 4))},),
    "NaN and infinity": (np.nan, np.inf, -np.inf, 10**400),
    "lists": ([[["a"]]], [3, "a"], ["a", 3], (("a",),), [("a", "b")], [("a", np.nan)]),
    "dicts": ({3: 4}, {"a": "b"}, {"a": np.inf}, {"a": True}, {"a": [1]}),
    "another object": (object(), lambda: None),
}
# Fields that take some of these: texts that are no other option's, a glob, amounts of any unit,
# sizes by name.
TAKEN = {
    ("include", "a text"), ("exclude", "a text"),
    ("calibration", "a text"), ("tokenizer", "a text"),
    ("macs", "a text"), ("params", "a text"), ("size", "a text"), ("latency", "a text"),
    ("input_shape", "dicts"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", [field.name for field in fields(Config)])
def test_another_type_is_an_error_that_names_the_option(name: str, kind: str) -> None:
    default = {field.name: field.default for field in fields(Config)}[name]
    if (name, kind) in TAKEN or (kind == "nothing" and default is None):
        return
    more = {"calibration": "images"} if name in ("mean", "std") else {}
    for value in WRONG[kind]:
        with pytest.raises(OptionError) as caught:
            config(**{name: value, **more})
        assert len(str(caught.value)) < 500
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_every_option_has_a_type() -> None:
    assert OPTIONS.keys() == {field.name for field in fields(Config)}


@pytest.mark.parametrize("name", ["include", "keep_for", "mean"])
def test_lists_are_bounded(name: str) -> None:
    entry: Any = {"include": "a", "keep_for": ("a", 1), "mean": 0.5}[name]
    many = {name: [entry] * (MOST_ENTRIES + 1), "calibration": "images"}
    with pytest.raises(OptionError, match="at most 1,000"):
        config(**many)


@pytest.mark.parametrize("option", ["include", "exclude"])
@pytest.mark.parametrize("globs", ["nothing*", ("conv_0", "nothing*")])
def test_a_glob_that_matches_no_producer(option: str, globs: Any) -> None:
    with pytest.raises(OptionError, match=rf"--{option} 'nothing\*' matches no .* inspect lists"):
        compress(chain(), config=config(provider="cpu", method="none", **{option: globs}))


def test_a_glob_that_matches_only_what_no_layer_produces() -> None:
    relu = next(node.name for node in chain().graph.node if node.op_type == "Relu")
    with pytest.raises(OptionError, match="matches no layer"):
        compress(chain(), config=config(provider="cpu", exclude=relu))


def test_one_glob_prunes_what_it_names_and_nothing_else() -> None:
    def pruned(**options: Any) -> list[str]:
        settings = config(provider="cpu", method="none", ratio=0.3, **options)
        result = compress(chain(), config=settings)
        return [group.name for group in result.groups]

    names = pruned()
    assert pruned(include=names[0]) == names[:1]
    assert pruned(exclude=names[0]) == names[1:]


def test_inspect_takes_no_other_scope() -> None:
    options: Mapping[str, Any] = {"scope": "al", "provider": "cpu"}
    with pytest.raises(OptionError, match="scope is 'al'"):
        inspect(chain(), **options)


class TestFiles:
    def read(self, folder: Path, text: str, name: str = "options.toml") -> dict[str, Any]:
        (folder / name).write_text(text)
        return read_options(folder / name)

    def test_a_string_is_one_glob(self, tmp_path: Path) -> None:
        assert self.read(tmp_path, "include = '*stem*'") == {"include": ("*stem*",)}

    @pytest.mark.parametrize(
        ("name", "text", "says"),
        [
            ("a.json", "[" * 10**4 + "]" * 10**4, "nested too deeply"),
            ("a.toml", "x=" + "[" * 10**4 + "]" * 10**4, "nested too deeply"),
            ("a.toml", "x=" + "{a=" * 10**4 + "1" + "}" * 10**4, "nested too deeply"),
            ("a.toml", "a" + ".a" * 30_000 + "=1", "more than 2,000 dots"),
            ("a.toml", "'a'" + ".'a'" * 10_000 + "=1", "more than 2,000 dots"),
            ("a.json", '{"a":"' + "a" * (1 << 16) + '"}', "more than 65,536 bytes"),
            ("a.json", '{"ratio": 0.1, "ratio": 0.2}', "key 'ratio' is given twice"),
            ("a.json", '{"ratio": "' + "a" * 60_000 + '"}', "give a number"),
            ("a.toml", "'" + "a" * 60_000 + "' = 1", "unknown key"),
            ("a.toml", "seed = 1" + "0" * 400, "at most 64 bits"),
            ("a.json", '{"seed": 1' + "0" * 5000 + "}", "cannot be read"),
            ("a.json", '{"include": [' + "[" * 900 + "]" * 900 + "]}", "list of globs"),
            ("a.json", "\0", "cannot be read"),
            ("a.json", "[]", "no table of options"),
        ],
    )
    def test_bombs(self, name: str, text: str, says: str, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match=name) as caught:
            self.read(tmp_path, text, name)
        assert says in str(caught.value)
        assert len(str(caught.value)) < 600

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", "1" + "0" * 400])
    def test_numbers_that_are_none(self, number: str, tmp_path: Path) -> None:
        options = self.read(tmp_path, f'{{"ratio": {number}}}', "a.json")
        with pytest.raises(OptionError, match="from 0 to below 1"):
            config(**options)
