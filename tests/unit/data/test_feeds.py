"""Synthetic samples: each input gets what it takes, and what belongs together agrees.

The tolerances are those of the sample: a fixed seed, and figures that scatter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from lbyl_onnx.data.input_kind import InputKind, InputRange, InputSpec, Vocabulary, kind_by_shape
from lbyl_onnx.data.synthetic.feeds import synthetic_feeds, synthetic_input


def batch_of(shape: tuple[int, ...], dtype: DTypeLike, seed: int = 0) -> NDArray[Any]:
    """What an input gets of which only the shape and type are known."""
    spec = InputSpec(np.dtype(dtype), shape, kind_by_shape(shape, dtype))
    return synthetic_input(spec, np.random.default_rng(seed))


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_]
)
@pytest.mark.parametrize(
    "shape",
    [
        (6, 3, 16, 16),
        (6, 16, 18, 3),
        (6, 28, 28),
        (6, 10),
        (6,),
        (),
        (0, 3, 8, 8),
        (2, 0),
        (4, 7, 9),
    ],
)
def test_a_batch_has_the_asked_shape_and_type(shape: tuple[int, ...], dtype: DTypeLike) -> None:
    batch = batch_of(shape, dtype)
    again = batch_of(shape, dtype)
    assert batch.shape == shape
    assert batch.dtype == dtype
    assert batch.tobytes() == again.tobytes()


@pytest.mark.parametrize(
    ("shape", "neighbour"),
    [((64, 3, 24, 24), 3), ((64, 24, 24, 3), 2), ((64, 24, 24), 2), ((64, 1, 200), 2)],
)
def test_what_is_shaped_like_an_image_is_one(shape: tuple[int, ...], neighbour: int) -> None:
    batch: NDArray[np.float32] = batch_of(shape, np.float32)
    side = shape[neighbour]
    near, far = (batch.take(range(i, i + side - 1), axis=neighbour).ravel() for i in (0, 1))
    assert np.corrcoef(near, far)[0, 1] > 0.7


@pytest.mark.parametrize("shape", [(400, 48), (100, 7, 20), (50, 64, 6, 6)])
def test_what_is_not_is_white(shape: tuple[int, ...]) -> None:
    batch: NDArray[np.float32] = batch_of(shape, np.float32)
    near, far = batch[..., 1:].ravel(), batch[..., :-1].ravel()
    # 4 deviations of the correlation of this many independent pairs.
    assert abs(np.corrcoef(near, far)[0, 1]) < 4 / len(near) ** 0.5


def test_whole_numbers_are_bytes_in_images_and_small_elsewhere() -> None:
    image = batch_of((128, 3, 32, 32), np.uint8).astype(float)
    assert image.mean() == pytest.approx(127.0, abs=15.0)
    assert image.std() == pytest.approx(64.0, abs=8.0)
    assert set(np.unique(batch_of((20, 7), np.int64))) == {0, 1}


def texts(length: int, samples: int = 64, **kinds: InputKind) -> dict[str, NDArray[Any]]:
    specs = {n: InputSpec(np.dtype(np.int64), (samples, length), k) for n, k in kinds.items()}
    return synthetic_feeds(specs, np.random.default_rng(0))


VOCABULARY = Vocabulary(100, special=(0, 1, 2), first=1, last=2, padding=0)


class TestTexts:
    """Tokens, their mask and their segments are those of the same texts."""

    @pytest.fixture
    def feeds(self) -> dict[str, NDArray[Any]]:
        return texts(
            40,
            ids=InputKind("tokens", vocabulary=VOCABULARY),
            there=InputKind("mask"),
            parts=InputKind("segments"),
            places=InputKind("positions"),
        )

    def test_special_tokens_stand_where_they_belong(self, feeds: dict[str, NDArray[Any]]) -> None:
        ids, lengths = feeds["ids"], feeds["there"].sum(axis=1)
        for text, length in zip(ids, lengths, strict=True):
            assert text[0] == 1
            assert text[length - 1] == 2
            assert not np.isin(text[1 : length - 1], VOCABULARY.special).any()
            assert np.all(text[length:] == 0)

    def test_most_fill_the_batch_and_some_are_shorter(self, feeds: dict[str, NDArray[Any]]) -> None:
        lengths = feeds["there"].sum(axis=1)
        assert 0.5 < np.mean(lengths == 40) < 1.0
        assert lengths.min() >= 0.4 * 40
        # A mask is ones, then zeros.
        assert np.all(np.diff(feeds["there"], axis=1) <= 0)

    def test_second_segments_lie_within_their_texts(self, feeds: dict[str, NDArray[Any]]) -> None:
        assert set(np.unique(feeds["parts"])) == {0, 1}
        assert np.all(np.less_equal(feeds["parts"], feeds["there"]))

    def test_positions_count_from_zero(self, feeds: dict[str, NDArray[Any]]) -> None:
        np.testing.assert_array_equal(feeds["places"], np.tile(np.arange(40), (64, 1)))

    def test_plain_tokens_are_all_used_alike(self) -> None:
        kind = InputKind("tokens", vocabulary=Vocabulary(8, special=(0, 7)))
        counts = np.bincount(texts(50, 400, ids=kind)["ids"][:, :20].ravel(), minlength=8)
        assert counts[0] == counts[7] == 0
        # 8,000 tokens of 6 kinds: 5 standard deviations of a count.
        np.testing.assert_allclose(counts[1:7], 8000 / 6, atol=5 * (8000 / 6) ** 0.5)


def test_positions_stay_within_their_table() -> None:
    kind = InputKind("positions", vocabulary=Vocabulary(4))
    np.testing.assert_array_equal(texts(6, 1, places=kind)["places"], [[0, 1, 2, 3, 3, 3]])


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
def test_a_mask_has_the_type_of_its_input(dtype: DTypeLike) -> None:
    spec = InputSpec(np.dtype(dtype), (5, 9), InputKind("mask"))
    mask = synthetic_input(spec, np.random.default_rng(0))
    assert mask.dtype == dtype
    assert np.all(mask[:, 0] == 1)


def test_a_constant_is_one() -> None:
    spec = InputSpec(np.dtype(np.float32), (2, 3), InputKind("constant", mean=0.25))
    np.testing.assert_array_equal(synthetic_input(spec, np.random.default_rng(0)), 0.25)


@pytest.mark.parametrize("kind", ["image", "photo", "document"])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_images_keep_within_their_range(kind: str, dtype: DTypeLike) -> None:
    pixels = InputRange(0.0, 255.0, (100.0, 120.0, 140.0), (60.0, 60.0, 60.0), 1)
    spec = InputSpec(np.dtype(dtype), (128, 3, 24, 24), InputKind(kind, pixels=pixels))
    images = synthetic_input(spec, np.random.default_rng(0)).astype(float)
    assert images.min() >= 0.0
    assert images.max() <= 255.0
    # 128 images whose means deviate by half a range's deviation or by one: a standard error of 5.
    np.testing.assert_allclose(images.mean(axis=(0, 2, 3)), [100, 120, 140], atol=20)


@pytest.mark.parametrize(
    ("name", "shape", "neighbour"),
    [("waveform", (4, 8000), 1), ("waveform", (4, 1, 8000), 2), ("spectrogram", (8, 40, 100), 2)],
)
def test_sounds_are_smooth_in_time(name: str, shape: tuple[int, ...], neighbour: int) -> None:
    spec = InputSpec(np.dtype(np.float32), shape, InputKind(name))
    values = np.asarray(synthetic_input(spec, np.random.default_rng(0)), np.float32)
    assert values.shape == shape
    side = shape[neighbour]
    near, far = (values.take(range(i, i + side - 1), axis=neighbour).ravel() for i in (0, 1))
    assert np.corrcoef(near, far)[0, 1] > 0.5
    if name == "waveform":
        assert np.abs(values).max() <= 1.0
    else:
        assert values.mean() == pytest.approx(0.0, abs=0.2)
        assert values.std() == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    ("shape", "frequencies"), [((6, 40, 100), 1), ((6, 1, 40, 100), 2), ((6, 100, 40, 1), 2)]
)
def test_spectrograms_fall_towards_high_frequencies(
    shape: tuple[int, ...], frequencies: int
) -> None:
    spec = InputSpec(np.dtype(np.float32), shape, InputKind("spectrogram"))
    values = synthetic_input(spec, np.random.default_rng(0))
    other = tuple(axis for axis in range(len(shape)) if axis != frequencies)
    means = values.mean(axis=other)
    assert np.polyfit(np.arange(len(means)), means, 1)[0] < 0


def test_every_other_spectrogram_has_another_texture() -> None:
    spec = InputSpec(np.dtype(np.float32), (64, 40, 100), InputKind("spectrogram"))
    values = synthetic_input(spec, np.random.default_rng(0))
    means = values.mean(axis=2)  # (64, 40)
    falls = np.polyfit(np.arange(40), means.T, 1)[0] < 0
    assert np.all(falls[::2])
    assert not np.all(falls[1::2])


def test_values_are_moved_and_cut_as_the_user_says() -> None:
    kind = InputKind("vector", mean=3.0, spread=2.0, low=1.0, high=6.0)
    spec = InputSpec(np.dtype(np.float32), (200, 30), kind)
    values = np.asarray(synthetic_input(spec, np.random.default_rng(0)), np.float32)
    assert values.min() == 1.0
    assert values.max() == 6.0
    assert np.median(values) == pytest.approx(3.0, abs=0.15)


@pytest.mark.parametrize("name", ["waveform", "spectrogram", "tokens", "mask", "positions"])
@pytest.mark.parametrize("shape", [(3, 2), (1, 1), (2, 1, 5), (2, 3, 4, 5)])
def test_every_kind_fits_every_shape(name: str, shape: tuple[int, ...]) -> None:
    for dtype in (np.float32, np.int64):
        spec = InputSpec(np.dtype(dtype), shape, InputKind(name))
        values: Any = synthetic_input(spec, np.random.default_rng(0))
        assert (values.shape, values.dtype) == (shape, dtype)
        assert np.all(np.isfinite(values))
