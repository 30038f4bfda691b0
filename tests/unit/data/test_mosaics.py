"""Mosaics, and the other samples that no statistics are taken of."""

from __future__ import annotations

import numpy as np
import pytest

from lbyl_onnx.data.input_kind import InputKind, InputRange, InputSpec, Vocabulary
from lbyl_onnx.data.source import SampleSource
from lbyl_onnx.data.synthetic.feeds import Family, synthetic_feeds
from lbyl_onnx.data.synthetic.images import images
from lbyl_onnx.data.synthetic.mosaics import mosaics
from lbyl_onnx.types import Array


def fed(kind: InputKind, shape: tuple[int, ...], dtype: str, family: Family) -> Array:
    spec = InputSpec(np.dtype(dtype), shape, kind)
    return synthetic_feeds({"x": spec}, np.random.default_rng(0), family=family)["x"]


@pytest.mark.parametrize("plane", [(1, 1), (1, 9), (5, 7), (40, 32)])
def test_each_field_has_mean_0_and_variance_1(plane: tuple[int, int]) -> None:
    made = mosaics(3, 2, plane, np.random.default_rng(0)).astype(float)
    assert made.shape == (3, 2, plane[0] * plane[1])
    assert np.allclose(made.mean(axis=2), 0.0, atol=1e-6)
    assert np.allclose(made.std(axis=2), float(plane != (1, 1)), atol=1e-5)


def test_the_same_state_gives_the_same_bytes() -> None:
    one, two, other = (
        images(6, (3, 16, 20), np.random.default_rng(seed), "mosaic") for seed in (0, 0, 1)
    )
    assert one.tobytes() == two.tobytes() != other.tobytes()


def test_polygons_lie_beside_each_other() -> None:
    """Most neighbours are nearly alike, and some are far apart: edges, which noise has not."""
    made = mosaics(16, 1, (64, 64), np.random.default_rng(0)).reshape(16, 64, 64)
    steps = np.abs(np.diff(made, axis=2)).ravel()
    assert np.median(steps) < 0.25 * np.mean(steps**2) ** 0.5


def test_another_family_has_the_same_mean_and_spread() -> None:
    pixels = InputRange(0.0, 1.0, (0.4,), (0.1,), 1)
    kind = InputKind("photo", pixels=pixels)
    usual, unseen = (fed(kind, (256, 1, 12, 12), "float32", f) for f in ("usual", "unseen"))
    assert not np.array_equal(usual, unseen)
    assert unseen.min() >= 0.0
    assert unseen.max() <= 1.0
    assert abs(unseen.mean() - 0.4) < 0.02
    assert 0.08 < unseen.std() < 0.12


def test_few_tokens_are_frequent_in_the_other_family() -> None:
    kind = InputKind("tokens", vocabulary=Vocabulary(50, (0, 1, 2), 1, 2, 0))
    shares = []
    for family in ("usual", "unseen"):
        tokens = fed(kind, (64, 24), "int64", family).astype(int)
        assert np.all(tokens[:, 0] == 1)
        assert tokens.max() < 50
        counts = np.sort(np.bincount(tokens[tokens > 2], minlength=50))
        assert counts[:3].sum() == 0  # the special ones
        shares.append(counts[-5:].sum() / counts.sum())
    assert shares[1] > 2.0 * shares[0]


def test_a_source_gives_the_family_that_it_names() -> None:
    spec = InputSpec(np.dtype("float32"), (4, 3, 8, 8), InputKind("photo"))
    usual, unseen = (
        [batch["x"] for batch in SampleSource({"x": spec}, 8, 4, 0, family=family).batches()]
        for family in ("usual", "unseen")
    )
    assert len(usual) == len(unseen) == 2
    assert not np.array_equal(usual[0], unseen[0])
