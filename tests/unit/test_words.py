"""Names in the package say what they hold: some words are not names of anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "lbyl_onnx"
# Words that name no thing, and what to name instead.
LOST = {
    "found": "what was looked for: producers, layers, a header",
    "told": "what carries it: messages, notes, texts",
    "seen": "visited, in a walk; or the thing itself",
    "given": "the thing, or `supplied` and the thing",
    "known": "what is known: shapes, facts, states",
    "wanted": "the thing, or `requested`; in a test `expected`",
    "places": "positions, indices, axes or bindings",
    "reading": "a consumer's loss",
    "readings": "consumers' losses",
    "making": "producers",
    "goal": "a target",
    "uncut": "the reference",
    "silenced": "the reference",
    "probe": "a baseline, or an instrumented model",
    "sight": "an observation of an input",
    "sights": "observations of inputs",
    "way": "a path",
    "ways": "paths, or rankings",
    "few": "what there are few of",
}
# Words that are no file: a stage is a part of the pipeline, a target what the result is to be.
NO_PATHS = {"stage": "staged", "target": "output"}
# Fields of the report's JSON, which others read.
KEPT = {("budget.reached", "wanted")}


def named(tree: ast.AST) -> Iterator[tuple[str, int, str]]:
    """Yield each name that a module binds, its line, and its annotation."""
    for node in ast.walk(tree):
        match node:
            case ast.arg(arg=name):
                annotation = node.annotation
            case ast.AnnAssign(target=ast.Name(id=name) | ast.Attribute(attr=name)):
                annotation = node.annotation
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                annotation = None
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                annotation = None
            case _:
                continue
        yield name, node.lineno, "" if annotation is None else ast.unparse(annotation)


def lost(tree: ast.AST) -> list[tuple[str, int]]:
    """Return the names that are lost words, an underscore before them or not, and their lines."""
    return [
        (word, line)
        for name, line, annotation in named(tree)
        if (word := name.strip("_").lower()) in LOST
        or (word in NO_PATHS and annotation in ("Path", "Path | None"))
    ]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("found = 1", ["found"]),
        ("def _given(seen): pass", ["given", "seen"]),
        ("class Probe:\n    stage: Path", ["probe", "stage"]),
        ("for places, self.told in (known := x): pass", ["places", "told", "known"]),
        ("def f(target: Path, stage: str): return found", ["target"]),
    ],
)
def test_a_lost_word_is_noticed(source: str, words: list[str]) -> None:
    assert sorted(word for word, _ in lost(ast.parse(source))) == sorted(words)


def test_no_name_is_a_lost_word() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        wrong += [
            f"{path.relative_to(ROOT)}:{line}: {word}; rather {(LOST | NO_PATHS)[word]}"
            for word, line in lost(ast.parse(path.read_text("utf-8")))
            if (module, word) not in KEPT
        ]
    assert wrong == []
