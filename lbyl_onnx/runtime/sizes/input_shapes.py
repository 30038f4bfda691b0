"""At which input shapes a model runs: two sets, which differ in the dynamic dimensions."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeGuard

from lbyl_onnx.errors import ModelError, OptionError, TooSlowError
from lbyl_onnx.input_options.shapes import Shapes, SuppliedShapes, check_shapes, shape_text
from lbyl_onnx.runtime.session import Signature

Sizes = Mapping[tuple[str, int], int]
"""Sizes of dimensions, by input and axis."""
# Sizes tried for a dynamic dimension that is no batch, until the model runs.
SIZES = (224, 64, 32, 128, 256, 16, 8, 1, 299, 384, 512, 640)
# What a dimension becomes at the second shapes; it may be the largest that the model takes.
_CHANGES: tuple[Callable[[int], int], ...] = (
    lambda d: d + 32,
    lambda d: 2 * d,
    lambda d: (d + 1) // 2,
)
# Names of inputs that an error lists.
_MOST_NAMES = 8


@dataclass
class _Search:
    """Runs a model at shapes, and keeps why it did not."""

    run: Callable[[Shapes], object]
    end: float
    failures: list[ModelError] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return bool(self.failures) and time.monotonic() > self.end

    def accepts(self, shapes: Shapes) -> bool:
        try:
            self.run(shapes)
        except TooSlowError:
            raise
        except ModelError as error:
            self.failures.append(error)
            return False
        return True


def runnable_shapes(
    signature: Signature,
    run: Callable[[Shapes], object],
    seconds: float,
    needed: Callable[[], Sizes],
    supplied_shapes: SuppliedShapes = (),
    likely: Sizes | None = None,
    sampled: Sizes | None = None,
) -> tuple[Shapes, Shapes]:
    """Find two sets of shapes that a model runs at; they differ in the dynamic dimensions.

    Parameters
    ----------
    signature
        What the model takes.
    run
        Runs it once at such shapes; raises ModelError where it does not run.
    seconds
        After so many no more shapes are tried once one has failed.
    needed
        Tells the sizes that the weights prescribe; asked where the first try fails.
    supplied_shapes
        Shapes that the first set has to have.
    likely
        Sizes that dynamic dimensions of the first set have where the model runs at them.
    sampled
        Sizes that the user's samples have along dynamic axes, for the first set, too; where a given
        shape says otherwise, that is taken.

    Raises
    ------
    OptionError
        Where a given shape names no input or does not fit what is declared.
    ModelError
        Where the model runs at none of the shapes.
    """
    search = _Search(run, time.monotonic() + seconds)
    if supplied_shapes or sampled:
        return _at_given(signature, search, needed, supplied_shapes, sampled or {})
    at_likely = _at_likely(signature, search, needed, likely or {})
    if at_likely is not None:
        return at_likely
    tried: list[Shapes] = []
    for declared, (size, batch, together) in _candidates(signature, needed):
        first = _shapes(declared, batch, size, together)
        if first in tried:
            continue
        if search.over:
            break
        tried.append(first)
        if not search.accepts(first):
            continue
        others = itertools.product((size + 32, 2 * size, size), (batch + 1, batch))
        for other, more in others:  # some models run at one size, whatever they declare
            second = _shapes(declared, more, other, together)
            if second == first or search.accepts(second):
                return first, second
    raise _nowhere(signature, search.failures[0], len(tried))


def _at_likely(
    signature: Signature, search: _Search, needed: Callable[[], Sizes], likely: Sizes
) -> tuple[Shapes, Shapes] | None:
    """Shapes of which the first have likely sizes; None where the model runs at no such."""
    if _with_sizes(signature, likely) == signature:
        return None
    for prescribed in (dict, needed):
        sizes = prescribed()
        first = _shapes(_with_sizes(signature, {**likely, **sizes}), 1, SIZES[0], True)
        if search.accepts(first):
            return first, _varied(signature, search, first, sizes)
    return None


Option = tuple[int, int, bool]


def _candidates(
    signature: Signature, needed: Callable[[], Sizes]
) -> Iterator[tuple[Signature, Option]]:
    """What inputs are taken to declare, with the sizes to fill in."""
    options = list(itertools.product(SIZES, (1, 2), (True, False)))
    yield signature, options[0]
    prescribed = _with_sizes(signature, needed())
    if prescribed != signature:
        yield from ((prescribed, option) for option in options)
    yield from ((signature, option) for option in options[1:])


def is_fixed(dim: object) -> TypeGuard[int]:
    """Whether a declared dimension is a size, no name and not left open."""
    return isinstance(dim, int) and dim >= 0


def _with_sizes(signature: Signature, sizes: Sizes) -> Signature:
    """The signature with sizes in place of dynamic dimensions."""
    inputs = tuple(
        (name, kind, tuple(
            d if is_fixed(d) else sizes.get((name, axis), d) for axis, d in enumerate(dims)
        ))
        for name, kind, dims in signature.inputs
    )  # fmt: skip
    return replace(signature, inputs=inputs)


def _shapes(signature: Signature, batch: int, size: int, together: bool) -> Shapes:
    """Fill dynamic dimensions: the first axis with `batch`, others with `size`.

    Inputs after the first may be states, whose dynamic dimensions are batches on any axis; unless
    `together` is True they are filled so.
    """
    return {
        name: tuple(
            d if isinstance(d, int) and d >= 0 else batch if axis == 0 or state else size
            for axis, d in enumerate(dims)
        )
        for (name, _, dims), state in zip(
            signature.inputs, itertools.chain([False], itertools.repeat(not together)), strict=False
        )
    }


def _nowhere(signature: Signature, failure: ModelError, tried: int) -> ModelError:
    """Return the error for a model that ran at no shape that was tried."""
    example = [
        f"{name}:{','.join(str(d) if is_fixed(d) else '?' for d in dims)}"
        for name, _, dims in signature.inputs
        if not all(map(is_fixed, dims))
    ]
    if not example:
        return failure
    return ModelError(
        f"{failure}; so it was at all {tried} input shapes tried: give sizes that it runs at in "
        f"place of the ?, as --input-shape {example[0]}"
    )


def _at_given(
    signature: Signature,
    search: _Search,
    needed: Callable[[], Sizes],
    supplied_shapes: SuppliedShapes,
    sampled: Sizes,
) -> tuple[Shapes, Shapes]:
    """The supplied shapes, and second ones that differ in what is dynamic."""
    checked = checked_shapes(signature, supplied_shapes)
    sizes = {(name, axis): d for name, dims in checked.items() for axis, d in enumerate(dims)}
    symbols = {
        symbol: dims[axis]
        for name, _, declared in signature.inputs
        for dims in [checked.get(name, ())]
        for axis, symbol in enumerate(declared)
        if isinstance(symbol, str) and axis < len(dims)
    }
    bound = {
        (name, axis): symbols[symbol]
        for name, _, declared in signature.inputs
        for axis, symbol in enumerate(declared)
        if isinstance(symbol, str) and symbol in symbols
    }
    prescribed = needed()
    filled = _with_sizes(signature, {**prescribed, **sampled, **bound, **sizes})
    batches = dict.fromkeys([*(dims[0] for dims in checked.values() if dims), 1, 2])
    tried: list[Shapes] = []
    for size, batch, together in itertools.product(SIZES, batches, (True, False)):
        first = {**_shapes(filled, batch, size, together), **checked}
        if first in tried:
            continue
        if search.over:
            break
        tried.append(first)
        if search.accepts(first):
            return first, _varied(signature, search, first, prescribed)
    if sampled:
        sides = {
            name: ",".join("?" if axis == 0 else str(d) for axis, d in enumerate(dims))
            for name, _, dims in filled.inputs
        }
        asked = " ".join(f"{name}:{sides[name]}" for name in dict.fromkeys(n for n, _ in sampled))
        raise ModelError(
            f"{search.failures[0]}; so it was at the size of the calibration samples, {asked}: "
            "give samples of a size that the model takes, or --input-shape, to which images are "
            "scaled"
        )
    asked = " ".join(shape_text(name, dims) for name, dims in checked.items())
    raise ModelError(f"{search.failures[0]}; give another --input-shape than {asked}")


def checked_shapes(
    signature: Signature, supplied_shapes: SuppliedShapes
) -> dict[str, tuple[int, ...]]:
    """Return the given shapes by the names of the inputs, once they fit what is declared.

    Raises
    ------
    OptionError
        Where one names no input or does not fit.
    """
    check_shapes(supplied_shapes)
    declared = {name: dims for name, _, dims in signature.inputs}
    names = ", ".join(
        [*list(declared)[:_MOST_NAMES], *(["..."] if len(declared) > _MOST_NAMES else [])]
    )
    checked: dict[str, tuple[int, ...]] = {}
    for name, dims in supplied_shapes:
        asked = shape_text(name, dims)
        if not name and len(declared) != 1:
            raise OptionError(
                f"--input-shape {asked} names no input; the model has {names or 'none'}"
            )
        input_name = name or next(iter(declared))
        if input_name not in declared:
            raise OptionError(
                f"--input-shape {asked}: the model has no input {name}, but {names or 'none'}"
            )
        if input_name in checked:
            raise OptionError("--input-shape gives one input twice; give each once")
        own = declared[input_name]
        differs = any(is_fixed(d) and d != size for d, size in zip(own, dims, strict=False))
        if differs or len(own) != len(dims):
            shown = ",".join(str(d) if is_fixed(d) else "?" for d in own) or "a scalar"
            raise OptionError(
                f"--input-shape {asked} does not fit input {input_name}, which is "
                f"declared as {shown}"
            )
        checked[input_name] = tuple(dims)
    return checked


def _varied(signature: Signature, search: _Search, first: Shapes, prescribed: Sizes) -> Shapes:
    """Shapes that differ from the first in as many dynamic dimensions as the model allows."""
    alike: dict[object, list[tuple[str, int]]] = {}
    for name, _, dims in signature.inputs:
        for axis, d in enumerate(dims):
            if not is_fixed(d) and (name, axis) not in prescribed:
                alike.setdefault(d if isinstance(d, str) else (name, axis), []).append((name, axis))
    groups = list(alike.values())
    for change in _CHANGES:
        second = _changed(first, groups, change)
        if second != first and search.accepts(second):
            return second
    varied = first
    for group, change in itertools.product(groups, _CHANGES):  # one name after the other
        if search.over:
            break
        second = _changed(varied, [group], change)
        done = any(varied[name][axis] != first[name][axis] for name, axis in group)
        if not done and second != varied and search.accepts(second):
            varied = second
    return varied


def _changed(
    shapes: Shapes, groups: Sequence[Sequence[tuple[str, int]]], change: Callable[[int], int]
) -> Shapes:
    """The shapes with the dimensions of some names changed: batches by one, others by `change`."""
    new = {
        place: size + 1 if any(axis == 0 for _, axis in group) else change(size)
        for group in groups
        for place in group
        for size in [shapes[place[0]][place[1]]]
    }
    return {
        name: tuple(new.get((name, axis), size) for axis, size in enumerate(dims))
        for name, dims in shapes.items()
    }
