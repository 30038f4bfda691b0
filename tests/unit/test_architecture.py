"""The order of the packages: what may import what, and why."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "lbyl_onnx"
# From the first floor to the last; a module imports from its own package and from those above it.
ORDER = {
    "errors": "every package raises them",
    "types": "every package shares them",
    "text": "messages of every package are made of it",
    "guard": "the parent process has the standard library alone",
    "methods": "mathematics on arrays, which knows no ONNX",
    "target": "targets as the user writes them, which are options",
    "input_options": "the user's words for inputs, which are options",
    "option_types": "the types of options, which Config checks",
    "config": "options are values: what acts on them comes later",
    "signature": "the help of functions that take options",
    "io": "files, whatever is in them",
    "data": "samples, whatever model takes them",
    "graph": "a model without running it",
    "runtime": "a model run, whatever its channels are",
    "channels": "the analysis, which neither runs a model nor makes samples",
    "inputs": "what the graph tells of the samples that a model takes",
    "evaluate": "two models compared, however one came of the other",
    "observe": "statistics, whatever is fitted to them",
    "compensate": "fits, whatever is written with them",
    "rewrite": "one compressed model for given numbers of channels",
    "factor": "one model in layers of lower rank, whatever becomes of its channels",
    "quantise": "one model in whole numbers, whatever became of its channels",
    "budget": "the numbers of channels, by models made and measured",
    "results": "what a compression gives back, and its text",
    "stages": "one model made of another, whatever is told of it",
    "pipeline": "the stages in order",
    "inspection": "the stages without a result",
    "report": "results, rendered",
    "integrations": "the pipeline in other tools",
    "sweeps": "many compressions",
    "cli": "the command line",
    "process": "the processes in which the command line runs",
}
# Third-party packages that few may import: a module or package, and those that may.
RESERVED = {
    "click": ("cli",),
    "onnxruntime": ("runtime",),
    "onnx_graphsurgeon": ("graph.model_graph", "rewrite.assemble"),
    "scipy": (
        *("methods", "channels.labels", "data.synthetic", "data.files.audio_files", "observe"),
        "inputs.image_fit",  # least squares of powers, which are not negative
    ),
}
# What these import of the world outside the standard library.
ALLOWED = {
    "errors": (),
    "guard": (),
    "io.atomic": (),
    "process": (),
    "methods": ("numpy", "scipy"),
}
# Packages that know nothing of these, though they come before.
APART = {"channels": ("runtime", "data")}
STANDARD = __import__("sys").stdlib_module_names
MOST_FILES = 12


@dataclass(frozen=True)
class Import:
    """One import: by which module, of which, in which line."""

    importer: str
    imported: str
    line: int


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports() -> Iterator[Import]:
    """Yield each import of the package, those inside functions too."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                for name in node.names:
                    yield Import(module_of(path), name.name, node.lineno)
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                for name in node.names:
                    whole = f"{node.module}.{name.name}"
                    yield Import(module_of(path), whole, node.lineno)


def own(module: str) -> str:
    """The package or module on the first level."""
    return module.removeprefix("lbyl_onnx.").split(".")[0]


def within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


INTERNAL = [x for x in imports() if x.imported.startswith("lbyl_onnx.")]
EXTERNAL = [x for x in imports() if not x.imported.startswith("lbyl_onnx")]
ENTRANCES = ("__init__", "__main__")


def test_every_package_has_its_place() -> None:
    packages = {own(module_of(path)) for path in PACKAGE.rglob("*.py")} - set(ENTRANCES)
    assert packages == set(ORDER)


def test_no_package_imports_a_later_one() -> None:
    order = list(ORDER)
    wrong = [
        f"lbyl_onnx/{x.importer.replace('.', '/')}.py:{x.line} imports {x.imported}: "
        f"{own(x.importer)} comes before {own(x.imported)} ({ORDER[own(x.importer)]})"
        for x in INTERNAL
        if own(x.importer) not in ENTRANCES
        and own(x.imported) in ORDER
        and order.index(own(x.imported)) > order.index(own(x.importer))
    ]
    assert wrong == []


@pytest.mark.parametrize(("package", "apart"), APART.items())
def test_packages_that_know_nothing_of_each_other(package: str, apart: tuple[str, ...]) -> None:
    crossing = [x for x in INTERNAL if own(x.importer) == package and own(x.imported) in apart]
    assert crossing == []


@pytest.mark.parametrize(("library", "places"), RESERVED.items())
def test_libraries_that_few_import(library: str, places: tuple[str, ...]) -> None:
    users = [x for x in EXTERNAL if x.imported.split(".")[0] == library]
    assert users
    assert [x for x in users if not within(x.importer, places)] == []


@pytest.mark.parametrize(("place", "libraries"), ALLOWED.items())
def test_places_that_import_little(place: str, libraries: tuple[str, ...]) -> None:
    mine = [x for x in EXTERNAL if within(x.importer, (place,))]
    assert [x for x in mine if x.imported.split(".")[0] not in {*STANDARD, *libraries}] == []


def test_private_names_stay_in_their_module() -> None:
    private = [x for x in INTERNAL if x.imported.rpartition(".")[2].startswith("_")]
    assert [x for x in private if not x.imported.endswith("__")] == []


def test_there_is_no_circle_of_modules() -> None:
    """Modules that import each other cannot be read one after the other."""
    names = {module_of(path) for path in PACKAGE.rglob("*.py")}
    edges: dict[str, set[str]] = {name: set() for name in names}
    for x in INTERNAL:
        whole = x.imported.removeprefix("lbyl_onnx.")
        target = whole if whole in names else whole.rpartition(".")[0]
        if target in names and target != x.importer and not target.endswith("__init__"):
            edges[x.importer].add(target)
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in finished:
            for other in sorted(edges[module]):
                visit(other, (*path, module))
            finished.add(module)

    for module in sorted(names):
        visit(module, ())


@pytest.mark.parametrize(
    "folder",
    [PACKAGE, *(p for p in sorted(PACKAGE.rglob("*")) if (p / "__init__.py").exists())],
    ids=lambda path: path.name,
)
def test_a_folder_can_be_looked_over(folder: Path) -> None:
    assert len([path for path in folder.iterdir() if path.is_file()]) <= MOST_FILES
    if folder != PACKAGE:
        lines = (folder / "README.md").read_text("utf-8").splitlines()
        assert 0 < len(lines) <= 10
