"""The original as it runs: at which shapes, on which inputs, and what it gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from lbyl_onnx.data.samples import Input
from lbyl_onnx.errors import ModelError, OptionError, TooSlowError
from lbyl_onnx.graph.source import load_model
from lbyl_onnx.guard.effort import USUAL, Effort
from lbyl_onnx.input_options.shapes import Shapes, SuppliedShapes, shape_text
from lbyl_onnx.runtime import timing
from lbyl_onnx.runtime.execute import (
    LARGEST_INPUT,
    Record,
    checked_signature,
    dtype_of,
    is_finite,
    random_batch,
    random_feeds,
)
from lbyl_onnx.runtime.session import Feeds, Session, Signature, as_written
from lbyl_onnx.runtime.sizes.input_shapes import Sizes, checked_shapes, is_fixed, runnable_shapes
from lbyl_onnx.runtime.sizes.likely import likely_sizes
from lbyl_onnx.runtime.sizes.needed import needed_sizes
from lbyl_onnx.runtime.sizes.proof import elements, kinds
from lbyl_onnx.types import Array, Progress, untold

Outputs = tuple[Array, ...]
Stated = Callable[[Signature], Sizes]
"""Tells sizes of inputs that the user gave, once what the model declares is known."""
# Seconds for finding other shapes.
OTHERS_SECONDS = 10.0


@dataclass(frozen=True)
class Baseline:
    """A model as it is before compression, seen from outside.

    Parameters
    ----------
    provider
        Name of the execution provider that runs it.
    first, second
        Two sets of input shapes that it runs on; they differ in the dynamic dimensions.
    feeds
        Random inputs: `Effort.random_inputs` at the first shapes, one at the second, one at each of
        the others.
    record
        What it gave on them.
    optimise
        Whether ONNX Runtime optimised its graph.
    others
        More shapes that it runs on: small, odd and large ones.
    effort
        How much is spent on what is measured of it, and of what becomes of it.
    progress
        Told of each run of it, and of what becomes of it.
    """

    provider: str
    first: Shapes
    second: Shapes
    feeds: tuple[Feeds, ...]
    record: Record
    optimise: bool = True
    others: tuple[Shapes, ...] = ()
    effort: Effort = USUAL
    progress: Progress = untold

    @property
    def batch(self) -> int:
        """Samples of one run at the first input shapes."""
        return max((shape[0] for shape in self.first.values() if shape), default=1)

    @property
    def shapes(self) -> int:
        """How many different input shapes there are."""
        return len({tuple(sorted(shapes.items())) for shapes in self.shape_sets})

    @property
    def shape_sets(self) -> tuple[Shapes, ...]:
        """All sets of input shapes: the first, the second, the others."""
        return (self.first, self.second, *self.others)

    def times(self, original: Path, other: Path) -> timing.PairedLatency:
        """Time the original's file and another, in turns, as the original ran."""
        feeds = self.feeds[0]
        step = partial(self.progress, "timing both models")
        paths = original, other
        return timing.paired(*paths, self.provider, feeds, self.optimise, self.effort, step)


def run_baseline(
    path: Path,
    provider: str,
    seed: int,
    optimise: bool = True,
    supplied_shapes: SuppliedShapes = (),
    effort: Effort = USUAL,
    stated: Stated | None = None,
    sampled: Sizes | None = None,
    progress: Progress = untold,
) -> Baseline:
    """Run a model as it came: find input shapes it accepts, record what it gives.

    Parameters
    ----------
    path
        The model's file.
    provider
        An execution provider's name.
    seed
        Of the random inputs.
    optimise
        Whether ONNX Runtime may optimise the graph, for which it copies the weights.
    supplied_shapes
        Input shapes that the user gave, for the first set.
    effort
        What may be spent, here on runs at large shapes.
    stated
        Tells sizes that the user gave of what the model takes.
    sampled
        Sizes that the user's samples have along dynamic axes, for the first set.
    progress
        Told of each run.

    Returns
    -------
    Baseline
        Its outputs on normally distributed inputs; uniform ones where those overflow.

    Raises
    ------
    ModelError
        When ONNX Runtime does not load it or runs it on no input that could be made.
    OptionError
        When a given shape does not fit the model.
    """
    session = Session.of(path, provider, None if optimise else as_written())
    signature = session.signature
    first, second = _runnable_shapes(session, supplied_shapes, stated, sampled)
    for uniform in (False, True):
        rng = np.random.default_rng(seed)
        feeds = random_feeds(signature, (first, second), effort.random_inputs, rng, uniform)
        outputs = tuple(_counted(map(session.run, feeds), len(feeds), progress))
        if all(is_finite(array) for batch in outputs for array in batch):
            break
    others = _others(session, (first, second), seed, uniform, effort.slowest_run)
    record = Record(signature, (*outputs, *(o for _, _, o in others)))
    feeds = (*feeds, *(batch for _, batch, _ in others))
    more = tuple(shapes for shapes, _, _ in others)
    return Baseline(provider, first, second, feeds, record, optimise, more, effort, progress)


def _counted(runs: Iterable[Outputs], total: int, progress: Progress) -> Iterator[Outputs]:
    """Tell of each run as it is there."""
    for number, outputs in enumerate(runs, start=1):
        progress("running the original", number, total)
        yield outputs


def input_shapes(
    path: Path, provider: str, supplied_shapes: SuppliedShapes = (), stated: Stated | None = None
) -> tuple[Shapes, Shapes]:
    """Two sets of input shapes that a model accepts; they differ in the dynamic dimensions.

    The first has the shapes that are given, and the sizes that are stated.

    Raises
    ------
    ModelError, OptionError
        As `baseline` does.
    """
    session = Session.of(path, provider, as_written())
    return _runnable_shapes(session, supplied_shapes, stated)


def _others(
    session: Session, shapes_found: tuple[Shapes, Shapes], seed: int, uniform: bool, slowest: float
) -> list[tuple[Shapes, Feeds, tuple[Array, ...]]]:
    """Shapes of each kind that the model runs at soon enough, inputs of them, and its outputs.

    A size at which it fails, gives nothing, or what is not finite, is none to verify at.
    """
    signature, runs = session.signature, list[tuple[Shapes, Feeds, tuple[Array, ...]]]()
    first, second = shapes_found
    begun = time.monotonic()
    session.run(random_batch(signature, first, np.random.default_rng(seed), uniform))
    each = (time.monotonic() - begun) / max(1, elements(first))  # seconds for an element
    end = time.monotonic() + OTHERS_SECONDS
    for number, kind in enumerate(kinds(signature.inputs, first, second)):
        for shapes in kind:
            size = elements(shapes)
            if (each * size > slowest and size > elements(first)) or size > LARGEST_INPUT:
                continue
            if time.monotonic() > end:
                break
            batch = random_batch(signature, shapes, np.random.default_rng([seed, number]), uniform)
            try:
                outputs = session.run(batch)
            except ModelError:  # it may declare more sizes than it takes, or take too long
                continue
            if all(array.size and is_finite(array) for array in outputs):
                runs.append((shapes, batch, outputs))
                break
    return runs


def calibration_inputs(
    path: Path, provider: str, supplied_shapes: SuppliedShapes = ()
) -> tuple[Input, ...]:
    """What samples a model takes, as many as there are; sizes that weights prescribe are fixed.

    Raises
    ------
    ModelError
        When ONNX Runtime does not load it, or an input is no tensor of numbers.
    OptionError
        When a given shape does not fit the model.
    """
    signature = checked_signature(Session.of(path, provider, as_written()).signature)
    shapes, prescribed = (
        checked_shapes(signature, supplied_shapes),
        needed_sizes(load_model(path)[0]),
    )
    return tuple(
        Input(
            name,
            dtype_of(kind),
            tuple(
                None if axis == 0 else d if is_fixed(d) else prescribed.get((name, axis))
                for axis, d in enumerate(dims)
            ),
            shapes.get(name, ()),
            tuple(d if isinstance(d, str) else None for d in dims),
        )
        for name, kind, dims in signature.inputs
    )


def sampled_sizes(inputs: Sequence[Input], shapes: Shapes) -> Sizes:
    """Sizes along dynamic axes of samples of these shapes, but of inputs whose shape was given."""
    return {
        (i.name, axis): size
        for i in inputs
        if not i.stated_shape
        for axis, size in enumerate(shapes.get(i.name, ()), start=1)
        if i.shape[axis] is None
    }


def runs_at(path: Path, provider: str) -> Callable[[Shapes], bool]:
    """Return what tells whether a model runs on random inputs of given shapes.

    It loads the model where it is first asked.
    """
    session = cache(lambda: Session.of(path, provider, as_written()))

    def runs(shapes: Shapes) -> bool:
        loaded = session()
        try:
            loaded.run(random_batch(loaded.signature, shapes, np.random.default_rng(0), False))
        except TooSlowError:
            raise
        except ModelError:
            return False
        return True

    return runs


def _runnable_shapes(
    session: Session,
    supplied_shapes: SuppliedShapes,
    stated: Stated | None,
    sampled: Sizes | None = None,
) -> tuple[Shapes, Shapes]:
    signature = checked_signature(session.signature)
    sizes = {} if stated is None else stated(signature)
    first, second = runnable_shapes(
        signature,
        lambda shapes: session.run(
            random_batch(signature, shapes, np.random.default_rng(0), False)
        ),
        session.seconds,
        lambda: needed_sizes(load_model(session.path)[0]),
        supplied_shapes,
        {} if supplied_shapes or sampled else {**_likely(session.path, signature), **sizes},
        {**sampled, **sizes} if sampled else None,
    )
    for (name, axis), size in sizes.items():
        if first[name][axis] != size:
            raise OptionError(
                f"--input says that axis {axis} of {name} has the size {size}, but the model runs "
                f"at {shape_text('', first[name])}; give another size, or --input-shape"
            )
    return first, second


def _likely(path: Path, signature: Signature) -> Sizes:
    """Likely sizes of what is dynamic behind the batch."""
    fixed = all(is_fixed(d) for _, _, dims in signature.inputs for d in dims[1:])
    return {} if fixed else likely_sizes(load_model(path)[0])
