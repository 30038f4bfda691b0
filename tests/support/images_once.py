"""Synthetic images that many tests take, made once for each state of the random numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lbyl_onnx.data.synthetic.images import Floats, Subject

# Bytes of one batch, at most, and of all that are kept.
LARGEST, KEPT = 1 << 20, 64 << 20

Maker = Callable[[int, Sequence[int], np.random.Generator, Subject], Floats]


def made_once(images: Maker, largest: int = LARGEST, most: int = KEPT) -> Maker:
    """Return what gives the images that `images` does, and leaves the generator as it does.

    Parameters
    ----------
    images
        It draws from children of its generator alone.
    largest, most
        Bytes of a batch that is kept, and of all of them.
    """
    kept: dict[tuple[object, ...], tuple[Floats, int]] = {}

    def made(
        count: int, shape: Sequence[int], rng: np.random.Generator, subject: Subject = "image"
    ) -> Floats:
        seed = rng.bit_generator.seed_seq
        assert isinstance(seed, np.random.SeedSequence)
        before = seed.n_children_spawned
        key = (count, tuple(shape), subject, repr(seed.entropy), seed.spawn_key, before)
        if key not in kept:
            values = images(count, shape, rng, subject)
            held = sum(array.nbytes for array, _ in kept.values())
            if values.nbytes > largest or held + values.nbytes > most:
                return values
            kept[key] = values, seed.n_children_spawned - before
            return values.copy()
        values, children = kept[key]
        seed.spawn(children)
        return values.copy()

    return made
