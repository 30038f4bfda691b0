"""The packages by floors: each imports only from those above it.

Usage: ``python -m docs.figures.packages [FILE.svg]``
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from docs.figures.writing import alone, write

PACKAGE = Path(__file__).resolve().parents[2] / "lbyl_onnx"
# Not rooms of the house: what Python asks for first.
ENTRANCES = ("__init__", "__main__")
WIDTH, HEIGHT, GAP, MARGIN = 112, 30, 22, 12


def imports() -> Iterator[tuple[str, str]]:
    """Yield (importer, imported) for each import between two packages of the project."""
    for path in sorted(PACKAGE.rglob("*.py")):
        importer = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            first, _, rest = node.module.partition(".")
            names = [rest.split(".")[0]] if rest else [alias.name for alias in node.names]
            for imported in names if first == "lbyl_onnx" else ():
                exists = (PACKAGE / imported).is_dir() or (PACKAGE / f"{imported}.py").exists()
                if importer not in (*ENTRANCES, imported) and exists:
                    yield importer, imported


def levels(edges: Mapping[str, set[str]]) -> dict[str, int]:
    """Return the floor of each package: one below the last of those that it imports."""
    level_of: dict[str, int] = {}

    def level(name: str) -> int:
        if name not in level_of:
            level_of[name] = 1 + max((level(other) for other in edges.get(name, ())), default=-1)
        return level_of[name]

    for name in sorted(set(edges) | {other for others in edges.values() for other in others}):
        level(name)
    return level_of


def needed(edges: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Yield the imports that do not follow from others: those that a picture needs."""

    def behind(name: str) -> set[str]:
        return {y for x in edges.get(name, ()) for y in {x, *behind(x)}}

    for importer, others in sorted(edges.items()):
        indirect = {y for x in others for y in behind(x)}
        yield from ((importer, imported) for imported in sorted(others - indirect))


def draw() -> str:
    """Return the packages as boxes, a row per floor, with lines for their imports, as SVG."""
    edges: dict[str, set[str]] = {}
    for importer, imported in imports():
        edges.setdefault(importer, set()).add(imported)
    rows: dict[int, list[str]] = {}
    for name, level in sorted(levels(edges).items()):
        rows.setdefault(level, []).append(name)
    widest = max(len(names) for names in rows.values())
    width = 2 * MARGIN + widest * (WIDTH + GAP) - GAP
    height = 2 * MARGIN + len(rows) * (HEIGHT + GAP) - GAP
    place: dict[str, tuple[float, float]] = {}
    for level, names in rows.items():
        left = (width - len(names) * (WIDTH + GAP) + GAP) / 2
        for index, name in enumerate(names):
            place[name] = left + index * (WIDTH + GAP), MARGIN + level * (HEIGHT + GAP)
    lines = [
        f'<line x1="{place[a][0] + WIDTH / 2:.0f}" y1="{place[a][1]:.0f}" '
        f'x2="{place[b][0] + WIDTH / 2:.0f}" y2="{place[b][1] + HEIGHT:.0f}" '
        'stroke="#999" stroke-width="1"/>'
        for a, b in needed(edges)
    ]
    boxes = [
        f"<g><title>{name} imports {', '.join(sorted(edges.get(name, ()))) or 'nothing'}</title>"
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="5" '
        'fill="#fff" stroke="#345"/>'
        f'<text x="{x + WIDTH / 2:.0f}" y="{y + HEIGHT / 2 + 4:.0f}" text-anchor="middle" '
        f'font-size="12" fill="#123">{name}</text></g>'
        for name, (x, y) in sorted(place.items())
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="The packages of lbyl_onnx by floors">'
    )
    return alone("\n".join([head, *lines, *boxes, "</svg>"]))


if __name__ == "__main__":
    write(draw(), __file__)
