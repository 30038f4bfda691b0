"""All that is raised or returned can be imported from the package, and stands in docs/api.md."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import lbyl_onnx
from lbyl_onnx import errors
from tests.conftest import ROOT

CALLS: tuple[Callable[..., Any], ...] = (
    lbyl_onnx.compress,
    lbyl_onnx.inspect,
    lbyl_onnx.compare_models,
    lbyl_onnx.sweep,
)


def classes(annotation: Any) -> Iterator[type]:
    """The package's own classes in an annotation."""
    if isinstance(annotation, type) and annotation.__module__.startswith("lbyl_onnx"):
        yield annotation
    for part in get_args(annotation):
        yield from classes(part)


def reachable() -> set[type]:
    """Each class that a result holds, at any depth."""
    types: set[type] = set()
    waiting = [c for call in CALLS for c in classes(get_type_hints(call)["return"])]
    while waiting:
        kind = waiting.pop()
        if kind in types:
            continue
        types.add(kind)
        assert is_dataclass(kind), kind
        module = vars(importlib.import_module(kind.__module__))
        hints = get_type_hints(kind, module)
        waiting += [c for field in fields(kind) for c in classes(hints[field.name])]
    return types


REACHABLE: list[type] = sorted(reachable(), key=str)


@pytest.mark.parametrize("kind", REACHABLE)
def test_what_is_returned_is_exported(kind: type) -> None:
    assert getattr(lbyl_onnx, kind.__name__) is kind


def test_what_is_raised_is_exported() -> None:
    raised: list[type] = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert raised
    assert [kind for kind in raised if getattr(lbyl_onnx, kind.__name__, None) is not kind] == []


def test_each_exported_name_has_one_home() -> None:
    homes = [name for names in lbyl_onnx._HOMES.values() for name in names.split()]
    assert sorted([*homes, "__version__"]) == lbyl_onnx.__all__
    for name in lbyl_onnx.__all__:
        assert getattr(lbyl_onnx, name) is not None


def test_type_checkers_are_told_the_same_homes() -> None:
    tree = ast.parse(Path(lbyl_onnx.__file__).read_text())
    told = {
        (str(node.module), name.name)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
        if name.asname == name.name  # what makes it an export to them
    }
    homes = {
        (f"lbyl_onnx.{home}", name)
        for home, names in lbyl_onnx._HOMES.items()
        for name in names.split()
    }
    assert told == homes


def test_the_page_has_each_exported_name_and_nothing_else() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    shown = re.findall(r"^::: lbyl_onnx\.(\w+)$", page, re.MULTILINE)
    assert sorted(shown) == sorted(set(lbyl_onnx.__all__) - {"__version__"})
