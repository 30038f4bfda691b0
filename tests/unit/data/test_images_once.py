"""What the tests take for the synthetic images is what the tool makes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from lbyl_onnx.data.synthetic.images import Floats, Subject, images
from tests.support.images_once import made_once


@pytest.mark.parametrize("largest", [0, 1 << 20])
def test_images_and_what_is_drawn_after_them_are_the_same(largest: int) -> None:
    made = made_once(images, largest)
    for seed in (0, 1, 0, 1):
        own, kept = np.random.default_rng([seed, 3]), np.random.default_rng([seed, 3])
        for shape in ((3, 6, 6), (3, 6, 6), (1, 9)):
            expected, actual = images(5, shape, own), made(5, shape, kept, "image")
            np.testing.assert_array_equal(actual, expected)
            actual[:] = 0.0  # whoever takes them may write there
        assert kept.spawn(1)[0].random() == own.spawn(1)[0].random()
        assert kept.random() == own.random()


def test_the_same_images_are_made_once_and_others_apart() -> None:
    calls: list[tuple[int, tuple[int, ...], str]] = []

    def noted(
        count: int, shape: Sequence[int], rng: np.random.Generator, subject: Subject
    ) -> Floats:
        calls.append((count, tuple(shape), subject))
        return images(count, shape, rng, subject)

    made = made_once(noted)
    for _ in range(2):
        for subject in ("image", "photo"):
            made(4, (3, 6, 6), np.random.default_rng(0), subject)
    assert calls == [(4, (3, 6, 6), "image"), (4, (3, 6, 6), "photo")]
