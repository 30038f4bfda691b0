"""Limits are arguments: what a test spends is seen where it calls, and no test changes a constant.

Functions may be patched; `Effort` and parameters with a default hold what tests want otherwise.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lbyl_onnx import Config, compress
from lbyl_onnx.guard.effort import USUAL
from lbyl_onnx.runtime import timing
from lbyl_onnx.runtime.timing import PairedLatency
from tests.conftest import ROOT
from tests.support.models import MODELS

# Test files that may do so all the same.
EXCEPTIONS: tuple[str, ...] = ()
CONSTANT = re.compile(r"(?:.*\.)?_?[A-Z][A-Z0-9_]*")
# In the text of a program that a test starts, after an import from the package.
IN_A_PROGRAM = re.compile(r"\b[a-z_]+\.[A-Z][A-Z0-9_]*(?:, ?[\w.]+)* = ")
PATCHERS = ("setattr", "patch", "object")


def changed_constants(source: str) -> Iterator[int]:
    """Yield the lines in which a constant of a module is changed, or a name that is not told."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            changed = _is_patch(node) and CONSTANT.fullmatch(_patched(node))
        elif isinstance(node, ast.Assign):
            parts = [part for target in node.targets for part in ast.walk(target)]
            names = [part.attr for part in parts if isinstance(part, ast.Attribute)]
            changed = next(filter(None, map(CONSTANT.fullmatch, names)), None)
        elif isinstance(node, ast.Constant) and "lbyl_onnx" in str(node.value):
            changed = IN_A_PROGRAM.search(str(node.value))
        else:
            continue
        if changed:
            yield node.lineno


def _is_patch(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr in PATCHERS and bool(call.args)


def _patched(call: ast.Call) -> str:
    """The name of what is patched; "UNKNOWN" where it is worked out."""
    told = [str(x.value) for x in call.args[:2] if isinstance(x, ast.Constant)]
    return told[0] if told else "UNKNOWN" if len(call.args) > 1 else ""


@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_no_constant_is_changed(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in files
        if str(path.relative_to(ROOT)) not in EXCEPTIONS and path != Path(__file__)
        for line in changed_constants(path.read_text("utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        ('monkeypatch.setattr(timing, "REST", 0.0)', True),
        ('monkeypatch.setattr("lbyl_onnx.io.writer.LARGEST_MESSAGE", 1)', True),
        ("for name in names:\n    patch.setattr(timing, name, 2)", True),
        ('patch.object(timing, "ROUNDS", 2)', True),
        ("timing.FEWEST_ROUNDS = timing.ROUNDS = 2", True),
        ("bounds.SECONDS, bounds.LATE = 3.0, 1.0", True),
        ('program = "from lbyl_onnx.guard import bounds; bounds.SECONDS = 3.0"', True),
        ('monkeypatch.setattr(pipeline, "verify", fail)', False),
        ('mock.patch("lbyl_onnx.observe.session.measure", noted)', False),
        ("self.seconds = timing.SECONDS", False),
        ("SECONDS = 3.0", False),
    ],
)
def test_changes_are_told_from_what_is_none(source: str, changes: bool) -> None:
    assert bool(list(changed_constants(source))) == changes


def test_the_samples_are_as_many_as_the_effort_says() -> None:
    config = Config(round_to=1, method="none", provider="cpu", ratio=0.3)
    little = replace(USUAL, most_unmeasured=8, fewest_compared=8)
    found = [
        compress(MODELS["mlp"](), config=config, effort=effort).verification.fidelity.samples
        for effort in (USUAL, little)
    ]
    assert found == [64, 8]


@pytest.mark.parametrize("options", [{"ratio": 0.3}, {"latency": "1000ms"}])
def test_models_are_timed_with_the_effort(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    told: list[object] = []
    paired = timing.paired

    def noted(*arguments: Any) -> PairedLatency:
        told.append(arguments[5])
        return paired(*arguments)

    monkeypatch.setattr(timing, "paired", noted)
    effort = replace(USUAL, rounds=3)
    config = Config(round_to=1, method="none", provider="cpu", **options)
    compress(MODELS["mlp"](), config=config, effort=effort)
    assert told
    assert all(one is effort for one in told)
