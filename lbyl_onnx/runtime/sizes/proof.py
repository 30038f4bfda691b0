"""Input sizes at which a model is verified beside those that were found first: small, odd, large.

Each kind is a list of shapes, of which the first that the model runs at is taken. Dimensions of
the same name are equal; the others get sizes of their own where the model lets them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]
Declared = Sequence[tuple[str, str, tuple[object, ...]]]
SMALL = (1, 2, 3, 5, 8, 16, 32, 64, 128)
# Batches tried with small sizes, with odd ones, and where nothing but the batch is dynamic.
MANY, FEWER, ALONE = (4, 3), (3,), (17, 9, 5)
# A step that sizes keep to where a model halves them again and again.
STEP = 32


@dataclass(frozen=True)
class _Dimensions:
    """The dynamic dimensions of a model's inputs.

    `batches` and `sizes` are their places, (input, axis), those with a number for each name.
    """

    first: Shapes
    batches: frozenset[tuple[str, int]]
    sizes: Mapping[tuple[str, int], int]

    @staticmethod
    def of(inputs: Declared, first: Shapes, second: Shapes) -> _Dimensions:
        dynamic = {
            (name, axis): dim if isinstance(dim, str) and dim else f"{name}/{axis}"
            for name, _, dims in inputs
            for axis, dim in enumerate(dims)
            if not (isinstance(dim, int) and dim >= 0)
        }
        lead = {(first[n][0], second[n][0]) for n, a in dynamic if a == 0}
        batches = frozenset(
            (n, a) for n, a in dynamic if a == 0 or (first[n][a], second[n][a]) in lead
        )
        names = dict.fromkeys(name for place, name in dynamic.items() if place not in batches)
        numbers = {name: i for i, name in enumerate(names)}
        sizes = {p: numbers[name] for p, name in dynamic.items() if p not in batches}
        return _Dimensions(first, batches, sizes)

    def filled(
        self, batch: int | None, size: Callable[[int, int], int]
    ) -> dict[str, tuple[int, ...]]:
        """Shapes of a batch (None: the first one) and of sizes by the first size and the number."""

        def dim(name: str, axis: int, was: int) -> int:
            if (name, axis) in self.batches:
                return was if batch is None else batch
            number = self.sizes.get((name, axis))
            return was if number is None else max(1, size(was, number))

        return {n: tuple(dim(n, a, d) for a, d in enumerate(s)) for n, s in self.first.items()}


def kinds(inputs: Declared, first: Shapes, second: Shapes) -> list[list[Shapes]]:
    """Return lists of input shapes; of each list the first that a model runs at is used.

    Parameters
    ----------
    inputs
        Name, type and declared dimensions of the inputs; what is no number is dynamic.
    first, second
        Shapes that the model runs at.
    """
    dims = _Dimensions.of(inputs, first, second)
    made = (_small(dims), _odd(dims), _large(dims))
    return [[s for s in kind if s not in (first, second)] for kind in made]


def elements(shapes: Shapes) -> int:
    """Elements of all inputs together."""
    return sum(math.prod(shape) for shape in shapes.values())


def _batches(dims: _Dimensions, some: Sequence[int]) -> list[int | None]:
    return [*some, None] if dims.batches else [None]


def _small(dims: _Dimensions) -> Iterator[Shapes]:
    if not dims.sizes:
        yield from (dims.filled(batch, lambda was, _: was) for batch in _batches(dims, MANY))
        return
    least = min(dims.first[name][axis] for name, axis in dims.sizes)
    for size in (s for s in SMALL if s < least):
        for batch in _batches(dims, MANY):
            yield dims.filled(batch, lambda _, __, size=size: size)  # type: ignore[misc]


def _odd(dims: _Dimensions) -> Iterator[Shapes]:
    sizes: tuple[Callable[[int, int], int], ...] = (
        lambda was, i: (3 * was // 5 | 1) + 2 * i,
        lambda was, _: 3 * was // 5 | 1,
        lambda was, i: (was | 1) + 2 + 2 * i,
        lambda was, i: STEP * (was // STEP // 2 + i) or was,
        lambda was, _: STEP * (was // STEP // 2) or was,
        lambda was, i: was + STEP * (i + 2),
        lambda was, _: was + 2 * STEP,
        lambda was, _: was,
    )
    for size in sizes:
        for batch in _batches(dims, FEWER):
            yield dims.filled(batch, size)


def _large(dims: _Dimensions) -> Iterator[Shapes]:
    if not dims.sizes:
        yield from (dims.filled(batch, lambda was, _: was) for batch in _batches(dims, ALONE))
        return
    sizes: tuple[Callable[[int, int], int], ...] = (
        lambda was, i: 2 * was + 33 + 2 * i,
        lambda was, _: 2 * was + 1,
        lambda was, i: STEP * (2 * was // STEP + 1 + i),
        lambda was, _: 2 * was,
        lambda was, i: was + STEP * (i + 3),
        lambda was, _: was + 3 * STEP,
    )
    yield from (dims.filled(None, size) for size in sizes)
