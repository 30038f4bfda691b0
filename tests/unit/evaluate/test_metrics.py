"""The class that an output gives at each position."""

from __future__ import annotations

import numpy as np
import pytest

from lbyl_onnx.evaluate.metrics import top1


@pytest.mark.parametrize(
    ("shape", "axis"), [((5, 3), 1), ((2, 7, 4), 2), ((2, 3, 6, 5), 1)], ids=str
)
def test_classes_lie_last_or_on_axis_1_of_an_image(shape: tuple[int, ...], axis: int) -> None:
    output = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    actual = top1(output)
    assert actual is not None
    np.testing.assert_array_equal(actual, output.argmax(axis=axis))


@pytest.mark.parametrize(
    "output", [np.zeros(4, np.float32), np.zeros((4, 1), np.float32), np.zeros((4, 3), np.int64)]
)
def test_what_has_no_classes(output: np.ndarray) -> None:
    assert top1(output) is None
