"""What is predicted of real inputs: the error, the maps, and who gets an interval."""

from __future__ import annotations

import json
import math
from dataclasses import astuple, replace
from typing import ClassVar

import numpy as np
import pytest

from benchmarks.prediction_fit import COSINE, SHARE, Row, Scale, fitted, left_out
from lbyl_onnx.data.input_kind import InputKind
from lbyl_onnx.evaluate.prediction.calibration import (
    COSINES,
    SHARES,
    Line,
    cosine_of,
    log_odds,
    log_ratio,
    predicted_cosine,
    predicted_share,
    share_of,
)
from lbyl_onnx.evaluate.prediction.predict import Prediction, prediction
from lbyl_onnx.evaluate.prediction.separation import Separation
from lbyl_onnx.types import Array, Floats
from tests.conftest import ROOT

RECORD = ROOT / "benchmarks" / "results" / "prediction.json"
PHOTOS = {"x": InputKind("photo")}


def logits(seed: int = 0, noise: float = 0.5, count: int = 40) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    old = 3.0 * rng.standard_normal((count, 6))
    return old, old + noise * rng.standard_normal(old.shape) + rng.standard_normal(6)


def separation(*batches: tuple[Array, Array]) -> Separation:
    made = Separation()
    for old, new in batches:
        made.add(old, new)
    return made


def slow_variation(old: Floats, new: Floats) -> float:
    """The cosine by its definition, value by value."""
    sums = np.zeros(3)
    for sample in range(len(old)):
        for column in range(old.shape[1]):
            one, two = (
                part[sample, column] - part[sample].mean() - part[:, column].mean() + part.mean()
                for part in (old, new)
            )
            sums += one * one, two * two, one * two
    return float(sums[2] / math.sqrt(sums[0] * sums[1]))


class TestSeparation:
    def test_it_is_the_cosine_of_what_varies(self) -> None:
        old, new = logits()
        made = separation((old, new))
        assert made.logits.cosine == pytest.approx(slow_variation(old, new))
        assert made.outputs.plain == pytest.approx(
            np.sum(old * new) / np.linalg.norm(old) / np.linalg.norm(new)
        )
        assert made.share == np.mean(old.argmax(axis=1) == new.argmax(axis=1)) < 1.0

    def test_batches_change_nothing(self) -> None:
        old, new = logits()
        whole, parts = (
            separation((old, new)),
            separation((old[:7], new[:7]), (old[7:], new[7:])),
        )
        assert parts.logits.cosine == pytest.approx(whole.logits.cosine)
        assert parts.outputs.cosine == pytest.approx(whole.outputs.cosine)
        assert (parts.share, parts.values, parts.classes) == (whole.share, old.size, 6)

    def test_neither_a_common_error_nor_the_scale_counts(self) -> None:
        old, new = logits()
        shifted = 2.0 * new + np.arange(6) + np.arange(40)[:, None]
        assert separation((old, shifted)).logits.cosine == pytest.approx(slow_variation(old, new))

    def test_probabilities_are_taken_back_to_logits(self) -> None:
        pair = logits()
        softmax = [np.exp(part) / np.exp(part).sum(axis=1, keepdims=True) for part in pair]
        assert separation((softmax[0], softmax[1])).logits.cosine == pytest.approx(
            slow_variation(*pair), abs=1e-6
        )

    def test_what_does_not_vary_tells_nothing(self) -> None:
        old, new = logits()
        assert separation((old, np.tile(new[:1], (40, 1)))).logits.cosine == 0.0

    def test_other_outputs_have_no_classes(self) -> None:
        rng = np.random.default_rng(0)
        image, other = rng.standard_normal((2, 5, 3, 4, 4))
        made = separation((image, other + 7.0))
        assert (made.classes, made.values) == (0, image.size)
        one, two = (part - part.mean(axis=0) for part in (image, other))
        slow = np.sum(one * two) / np.linalg.norm(one) / np.linalg.norm(two)
        assert made.outputs.cosine == pytest.approx(slow)

    def test_samples_of_several_shapes_keep_what_is_common(self) -> None:
        rng = np.random.default_rng(0)
        image, other = rng.standard_normal((2, 5, 3, 4, 4))
        parts = [(image[..., :n], other[..., :n] + 7.0) for n in (4, 2, 4)]
        made = separation(*parts)
        one, two = (np.concatenate([p[i].ravel() for p in parts]) for i in (0, 1))
        slow = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
        assert made.outputs.cosine == made.outputs.plain == pytest.approx(slow)

    def test_infinite_values_are_noticed(self) -> None:
        old, new = logits()
        new[3, 2] = np.inf
        assert not separation((old, new)).finite


class TestMaps:
    @pytest.mark.parametrize("cosine", [0.1, 0.5, 0.9, 0.999])
    def test_the_axes_can_be_undone(self, cosine: float) -> None:
        assert cosine_of(log_ratio(cosine)) == pytest.approx(cosine)
        assert share_of(log_odds(cosine, 100), 100) == pytest.approx(cosine)

    @pytest.mark.parametrize("classes", [2, 10, 1000])
    def test_nearer_logits_predict_more_equal_classes(self, classes: int) -> None:
        made = [predicted_share(c, classes) for c in (-0.2, 0.0, 0.3, 0.8, 0.95, 0.999, 1.0)]
        assert all(0.0 <= low <= value <= high <= 1.0 for value, low, high in made)
        assert made == sorted(made)
        assert made[0][0] == pytest.approx(1.0 / classes, abs=0.01)  # chance
        assert made[-1][1] > 0.97

    def test_the_interval_is_widest_in_the_middle(self) -> None:
        width = [high - low for _, low, high in (predicted_share(c, 10) for c in (0.5, 0.9, 0.999))]
        assert width == sorted(width, reverse=True)

    def test_a_line_with_more_spread_gives_a_wider_interval(self) -> None:
        wide = predicted_share(0.9, 10, replace(SHARES, spread=2.0 * SHARES.spread))
        value, low, high = predicted_share(0.9, 10)
        assert wide[0] == value
        assert wide[1] < low < high < wide[2]

    def test_cosines(self) -> None:
        made = [predicted_cosine(c) for c in (0.0, 0.5, 0.9, 0.99)]
        assert made == sorted(made)
        assert all(0.0 <= low <= value <= high <= 1.0 for value, low, high in made)


class TestPrediction:
    def test_classes(self) -> None:
        old, new = logits()
        made = prediction([((old,), (new,))], PHOTOS)
        expected = predicted_share(slow_variation(old, new), 6)
        assert made is not None
        assert (made.quantity, made.samples, made.kind) == ("equal top-1", 40, "mosaics")
        assert (made.value, made.low, made.high) == pytest.approx(expected)

    def test_the_least_of_several_outputs_counts(self) -> None:
        near, far = logits(0, 0.1), logits(1, 3.0)
        both = prediction([((near[0], far[0]), (near[1], far[1]))], PHOTOS)
        assert both == prediction([((far[0],), (far[1],))], PHOTOS)
        assert both != prediction([((near[0],), (near[1],))], PHOTOS)

    def test_an_output_without_classes_has_its_cosine_predicted(self) -> None:
        old, new = logits()
        made = prediction([((old, old[:, :1]), (new, new[:, :1]))], PHOTOS)
        assert made is not None
        assert made.quantity == "cosine"
        assert made.low is not None
        assert made.high is not None
        assert made.low < made.value < made.high

    @pytest.mark.parametrize(
        ("kind", "samples"), [("tokens", "texts"), ("vector", "samples as of the statistics")]
    )
    def test_other_inputs_have_no_interval(self, kind: str, samples: str) -> None:
        old, new = logits()
        kinds = {"x": InputKind(kind), "mask": InputKind("mask")}
        share = float(np.mean(old.argmax(axis=1) == new.argmax(axis=1)))
        expected = Prediction("equal top-1", share, None, None, 40, samples)  # type: ignore[arg-type]
        assert prediction([((old,), (new,))], kinds) == expected

    def test_nothing_is_predicted_without_finite_floats(self) -> None:
        whole = np.zeros((4, 2), np.int64)
        assert prediction([((whole,), (whole,))], PHOTOS) is None
        old, new = logits()
        assert prediction([((old,), (np.full_like(new, np.nan),))], PHOTOS) is None
        assert prediction([], PHOTOS) is None


class TestRecord:
    """The coefficients, by the cells that `benchmarks.prediction` has on record."""

    ROWS: ClassVar[list[Row]] = [Row(**row) for row in json.loads(RECORD.read_text())["rows"]]

    @pytest.mark.parametrize(("scale", "line"), [(SHARE, SHARES), (COSINE, COSINES)])
    def test_the_package_holds_those_that_are_fitted(self, scale: Scale, line: Line) -> None:
        made = fitted(scale, self.ROWS)
        assert astuple(made) == pytest.approx(astuple(line), abs=2e-3)

    def test_a_network_that_is_left_out_has_no_part_in_its_map(self) -> None:
        """Its own truth is spoiled, and its predictions stay."""
        spoiled = [replace(r, equal=0.5) if r.model == "digits" else r for r in self.ROWS]
        before, after = (left_out(SHARE, rows) for rows in (self.ROWS, spoiled))
        own = [row.model == "digits" for row in self.ROWS]
        assert [x for x, mine in zip(after, own, strict=True) if mine] == [
            x for x, mine in zip(before, own, strict=True) if mine
        ]
        assert after != before

    @pytest.mark.parametrize("scale", [SHARE, COSINE])
    def test_nine_in_ten_lie_inside(self, scale: Scale) -> None:
        pairs = zip(self.ROWS, left_out(scale, self.ROWS), strict=True)
        inside = [low <= scale.truth(row) <= high for row, (_, low, high) in pairs]
        assert np.mean(inside) >= 0.9
