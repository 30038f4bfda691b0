"""Delivery matrices: what every method keeps, drop only, Neuron Merging, and the checked types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from lbyl_onnx.methods import lbyl, neuron_merging, none
from lbyl_onnx.methods.types import Delivery, FoldedRows
from tests.support.rows import assert_close, changed, make_rows

Array = NDArray[np.float64]
Method = Callable[[FoldedRows, ArrayLike], Delivery]


def output(rows: FoldedRows, inputs: Array) -> Array:
    """The n channels after BatchNormalization on (d, samples) inputs; the activation is linear."""
    value: Array = rows.scale[:, None] * (rows.weight @ inputs) + rows.shift[:, None]
    return value


def with_dead_channels(rows: FoldedRows, cause: str, channels: list[int]) -> FoldedRows:
    """Make channels constant, by a scale of zero or a row of zeros."""
    if cause == "scale":
        return replace(rows, scale=changed(rows.scale, channels, 0.0))
    return replace(rows, weight=changed(rows.weight, channels, 0.0))


METHODS: dict[str, Method] = {
    "none": lambda rows, kept: none.deliver(rows.scale.size, kept),
    "nm": neuron_merging.deliver,
    "lbyl": lbyl.deliver,
}


class TestEveryMethod:
    @pytest.mark.parametrize("normalized", [True, False])
    @pytest.mark.parametrize("name", METHODS)
    def test_keeping_everything_delivers_the_identity(self, name: str, normalized: bool) -> None:
        delivery = METHODS[name](make_rows(5, 7, normalized=normalized), range(5))
        np.testing.assert_array_equal(delivery.matrix, np.eye(5))
        np.testing.assert_array_equal(delivery.offset, np.zeros(5))
        assert delivery.removed.size == 0

    @pytest.mark.parametrize("name", METHODS)
    def test_a_kept_channel_passes_unchanged(self, name: str) -> None:
        delivery = METHODS[name](make_rows(6, 9), [1, 2, 5])
        np.testing.assert_array_equal(delivery.matrix[[1, 2, 5]], np.eye(3))
        np.testing.assert_array_equal(delivery.removed, [0, 3, 4])

    @pytest.mark.parametrize(
        ("kept", "message"),
        [
            ([], "at least one"),
            ([[0, 1]], "at least one"),
            ([0, 6], "ascending"),
            ([-1, 2], "ascending"),
            ([2, 1], "ascending"),
            ([1, 1], "ascending"),
            ([0.0, 1.0], "integer"),
            ([True, False, True, True, False, True], "integer"),
        ],
    )
    @pytest.mark.parametrize("name", METHODS)
    def test_kept_must_name_channels(self, name: str, kept: list[int], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            METHODS[name](make_rows(6, 9), kept)

    @pytest.mark.parametrize("cause", ["scale", "weight"])
    @pytest.mark.parametrize("name", ["nm", "lbyl"])
    def test_a_removed_constant_moves_into_the_offset(self, name: str, cause: str) -> None:
        rows = make_rows(6, 9)
        rows = with_dead_channels(rows, cause, [3])
        rows = replace(rows, constant_output=np.arange(6.0) + 1.0)
        delivery = METHODS[name](rows, [0, 2, 5])
        np.testing.assert_array_equal(delivery.matrix[3], np.zeros(3))
        np.testing.assert_array_equal(delivery.offset, [0, 0, 0, 4, 0, 0])

    @pytest.mark.parametrize("name", ["nm", "lbyl"])
    def test_a_kept_channel_of_zero_scale_is_not_drawn_upon(self, name: str) -> None:
        rows = make_rows(6, 9)
        rows = replace(
            rows,
            scale=changed(rows.scale, 2, 0.0),
            weight=changed(rows.weight, 3, rows.weight[2]),  # its perfect match otherwise
        )
        delivery = METHODS[name](rows, [0, 2, 5])
        np.testing.assert_array_equal(delivery.matrix[:, 1], [0, 0, 1, 0, 0, 0])
        assert np.any(delivery.matrix[3])

    @pytest.mark.parametrize("cause", ["scale", "weight"])
    @pytest.mark.parametrize("name", ["nm", "lbyl"])
    def test_only_constants_kept_drops_the_rest(self, name: str, cause: str) -> None:
        rows = make_rows(4, 5)
        rows = with_dead_channels(rows, cause, [0, 1])
        delivery = METHODS[name](replace(rows, shift=np.zeros(4)), [0, 1])
        np.testing.assert_array_equal(delivery.matrix, np.eye(4)[:, :2])

    @pytest.mark.parametrize("normalized", [True, False])
    @pytest.mark.parametrize("name", ["nm", "lbyl"])
    def test_a_single_kept_channel(self, name: str, normalized: bool) -> None:
        rows = make_rows(4, 9, normalized=normalized)
        twice = changed(rows.weight, 3, 2.0 * rows.weight[1])
        doubled = replace(rows, weight=twice, shift=changed(rows.shift, 3, 2 * rows.shift[1]))
        options = {"nm": neuron_merging.deliver, "lbyl": _lbyl_without_penalty}
        delivery = options[name](doubled, [1])
        assert_close(delivery.matrix[3, 0], 2 * rows.scale[3] / rows.scale[1])


def _lbyl_without_penalty(rows: FoldedRows, kept: ArrayLike) -> Delivery:
    return lbyl.deliver(rows, kept, lambda1=0.0, lambda2=0.0)


class TestNone:
    def test_removed_channels_are_zero(self) -> None:
        delivery = none.deliver(4, [1, 3])
        np.testing.assert_array_equal(delivery.matrix, [[0, 0], [1, 0], [0, 0], [0, 1]])
        np.testing.assert_array_equal(delivery.offset, np.zeros(4))


class TestNeuronMerging:
    @pytest.mark.parametrize(
        ("cosine_weight", "threshold", "expected"),
        [
            (0.72, 0.99, [0.25, 0.0, 0.0]),
            (0.715, 0.79, [0.0, 0.0, 10.0]),
            (0.705, 0.59, [0.0, 10.0, 0.0]),
            (0.705, 0.61, [0.0, 0.0, 0.0]),  # channel 2 is chosen, and is not like enough
        ],
    )
    def test_by_hand_with_batch_normalization(
        self, cosine_weight: float, threshold: float, expected: list[float]
    ) -> None:
        """Removed channel 0 is (3, 4), of scale 2 and shift 1; the others are kept.

        ======= ========= ================== ========================== ======================
        channel 1 - cos   s_jk               bias distance              of that, min-max scaled
        ======= ========= ================== ========================== ======================
        1       0         5/10 * 2/4 = 0.25  |1 - 0.25 * 8| / 0.25 = 4  1
        2       0.4       5/1 * 2/1 = 10     |1 - 10 * 0.2| / 10 = 0.1  0
        3       0.2       5/1 * 2/1 = 10     |1 - 10 * 2.1| / 10 = 2    1.9 / 3.9
        ======= ========= ================== ========================== ======================

        So channel 1 wins for lambda above 0.7195, channel 2 below 0.709, channel 3 between.
        """
        rows = FoldedRows(
            weight=np.array([[3.0, 4.0], [6.0, 8.0], [1.0, 0.0], [0.0, 1.0]]),
            scale=np.array([2.0, 4.0, 1.0, 1.0]),
            shift=np.array([1.0, 8.0, 0.2, 2.1]),
            normalized=True,
            constant_output=np.zeros(4),
        )
        delivery = neuron_merging.deliver(
            rows, [1, 2, 3], cosine_weight=cosine_weight, cosine_threshold=threshold
        )
        assert_close(delivery.matrix[0], expected)

    def test_by_hand_without_batch_normalization(self) -> None:
        """With its bias appended, (3, 0 | 4) is at cosine 0.6 of (2, 0 | 0), 0.8 of (0, 0 | 1)."""
        rows = FoldedRows(
            weight=np.array([[3.0, 0.0], [2.0, 0.0], [0.0, 0.0]]),
            scale=np.ones(3),
            shift=np.array([4.0, 0.0, 1.0]),
            normalized=False,
            constant_output=np.zeros(3),
        )
        delivery = neuron_merging.deliver(rows, [1, 2])
        assert_close(delivery.matrix[0], [0.0, 5.0])

    @pytest.mark.parametrize("normalized", [True, False])
    def test_an_exact_positive_multiple_leaves_the_output_unchanged(self, normalized: bool) -> None:
        rows = make_rows(6, 9, normalized=normalized)
        factor = np.array([2.5, 0.4, 7.0])
        share = factor * rows.scale[[1, 3, 4]] / rows.scale[[0, 2, 5]]
        rows = replace(
            rows,
            weight=changed(rows.weight, [1, 3, 4], factor[:, None] * rows.weight[[0, 2, 5]]),
            shift=changed(rows.shift, [1, 3, 4], share * rows.shift[[0, 2, 5]]),
        )
        delivery = neuron_merging.deliver(rows, [0, 2, 5])
        values = output(rows, np.random.default_rng(1).standard_normal((9, 20)))
        assert_close(delivery.matrix @ values[[0, 2, 5]], values)

    def test_opposite_channels_are_dropped(self) -> None:
        rows = make_rows(2, 4)
        rows = replace(rows, weight=np.stack([rows.weight[0], -rows.weight[0]]))
        np.testing.assert_array_equal(neuron_merging.deliver(rows, [0]).matrix, [[1.0], [0.0]])

    @pytest.mark.parametrize(
        ("name", "value"),
        [("cosine_threshold", 1.1), ("cosine_threshold", np.nan), ("cosine_weight", -0.1)],
    )
    def test_options_out_of_range(self, name: str, value: float) -> None:
        with pytest.raises(ValueError, match=name):
            neuron_merging.deliver(make_rows(4, 4), [0, 1], **{name: value})


class TestTypes:
    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("weight", np.zeros(4), "one flattened row per channel"),
            ("weight", np.zeros((4, 0)), "one flattened row per channel"),
            ("weight", np.full((4, 3), np.nan), "NaN"),
            ("weight", np.zeros((4, 3), dtype=np.float32), "float64"),
            ("scale", np.ones(3), "expected"),
            ("shift", np.full(4, np.inf), "infinity"),
            ("constant_output", np.zeros((4, 1)), "expected"),
        ],
    )
    def test_rows_are_checked(self, name: str, value: Array, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            FoldedRows(
                weight=value if name == "weight" else np.ones((4, 3)),
                scale=value if name == "scale" else np.ones(4),
                shift=value if name == "shift" else np.zeros(4),
                normalized=True,
                constant_output=value if name == "constant_output" else np.zeros(4),
            )

    def test_a_scale_needs_a_normalization(self) -> None:
        with pytest.raises(ValueError, match="normalized=True"):
            replace(make_rows(4, 3, normalized=False), scale=np.full(4, 2.0))

    @pytest.mark.parametrize(
        ("matrix", "offset", "message"),
        [
            (np.ones((1, 3)), np.zeros(1), "expected"),
            (np.ones((1, 2)), np.zeros((1, 1)), "shape"),
            (np.array([[np.nan, 0.0]]), np.zeros(1), "NaN"),
            (np.ones((1, 2)), np.zeros(1, np.float32), "float64"),
        ],
    )
    def test_delivery_is_checked(self, matrix: Array, offset: Array, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Delivery(np.array([0, 1]), matrix, offset)
