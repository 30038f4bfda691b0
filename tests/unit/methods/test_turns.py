"""Rankings by which as many channels go of each block, and deliveries that touch kept ones."""

from __future__ import annotations

import numpy as np
import pytest

from lbyl_onnx.methods.obs import eliminate
from lbyl_onnx.methods.types import ConsumerLoss, Delivery, Ranking
from lbyl_onnx.types import Floats
from tests.support.correlated import correlated, moments_of


@pytest.mark.parametrize(
    ("order", "blocks", "turned"),
    [
        # blocks that follow each other; the second has the weaker channels
        ([4, 5, 3, 0, 1, 2], [0, 0, 0, 1, 1, 1], [4, 0, 5, 1, 3, 2]),
        # blocks that lie in turn
        ([0, 2, 4, 1, 3, 5], [0, 1, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5]),
        # one block: as it was
        ([3, 1, 0, 2], [0, 0, 0, 0], [3, 1, 0, 2]),
        # each channel a block of its own: one round
        ([3, 1, 0, 2], [0, 1, 2, 3], [3, 1, 0, 2]),
    ],
)
def test_a_balanced_order_takes_one_of_each_block_and_is_else_as_it_was(
    order: list[int], blocks: list[int], turned: list[int]
) -> None:
    ranking = Ranking(len(order), np.asarray(order, np.intp))
    balanced = ranking.balanced(np.asarray(blocks, np.intp))
    assert balanced.order.tolist() == turned
    assert balanced.takes_in_turn(np.asarray(blocks, np.intp))


@pytest.mark.parametrize(
    ("order", "in_turn"),
    [
        ([0, 3, 1, 4], True),
        ([0, 3, 4, 1], True),  # within a round any may be first
        ([0, 1, 3, 4], False),
        ([0, 3, 1], False),  # a round that is not over
        ([], True),
    ],
)
def test_whether_an_order_takes_blocks_in_turn(order: list[int], in_turn: bool) -> None:
    blocks = np.asarray([0, 0, 0, 1, 1, 1], np.intp)
    assert Ranking(6, np.asarray(order, np.intp)).takes_in_turn(blocks) is in_turn


def loss_of(size: int, seed: int = 0) -> ConsumerLoss:
    weight = np.random.default_rng(seed + 1).standard_normal((4, size))
    return ConsumerLoss(moments_of(correlated(300, size, seed)), weight.T)


@pytest.mark.parametrize("blocks", [[0] * 5 + [1] * 5, [0, 1] * 5, [0] * 100 + [1] * 100])
def test_elimination_takes_blocks_in_turn(blocks: list[int]) -> None:
    """With 200 channels several go at a time."""
    numbers = np.asarray(blocks, np.intp)
    count = len(blocks) // 2 // 2 * 2
    ranking = eliminate([loss_of(len(blocks))], count, blocks=numbers)
    assert ranking.takes_in_turn(numbers)
    assert np.bincount(numbers[ranking.kept(count)]).tolist() == [count // 2] * 2
    assert ranking.losses.shape == (len(blocks) - count + 1, 1)
    assert np.all(np.diff(ranking.losses[:, 0]) >= 0.0)


def test_the_first_of_each_round_is_the_cheapest_of_all_that_may_go() -> None:
    """Without blocks the same channel goes first; with them the next is of the other block."""
    loss, blocks = loss_of(10), np.asarray([0] * 5 + [1] * 5, np.intp)
    free, bound = eliminate([loss], 4), eliminate([loss], 4, blocks=blocks)
    assert free.order[0] == bound.order[0]
    assert blocks[bound.order[0]] != blocks[bound.order[1]]


def test_one_block_is_no_bond() -> None:
    free = eliminate([loss_of(10)], 4)
    bound = eliminate([loss_of(10)], 4, blocks=np.zeros(10, np.intp))
    np.testing.assert_array_equal(free.order, bound.order)
    np.testing.assert_allclose(free.losses, bound.losses)


def mixed_delivery() -> Delivery:
    rng = np.random.default_rng(0)
    own = rng.standard_normal((2, 2)), rng.standard_normal(2)
    kept = np.asarray([1, 4], np.intp)
    return Delivery(kept, rng.standard_normal((3, 2)), rng.standard_normal(3), own=own)


def test_a_delivery_of_its_own_kept_channels_has_them_in_its_matrix() -> None:
    delivery = mixed_delivery()
    assert delivery.own is not None
    np.testing.assert_array_equal(delivery.matrix[[1, 4]], delivery.own[0])
    np.testing.assert_array_equal(delivery.offset[[1, 4]], delivery.own[1])
    np.testing.assert_array_equal(delivery.matrix[[0, 2, 3]], delivery.rows)
    np.testing.assert_array_equal(delivery.offset[[0, 2, 3]], delivery.shift)


def test_without_it_they_are_what_they_were() -> None:
    delivery = Delivery(np.asarray([1, 4], np.intp), np.ones((3, 2)), np.ones(3))
    np.testing.assert_array_equal(delivery.matrix[[1, 4]], np.eye(2))
    np.testing.assert_array_equal(delivery.offset[[1, 4]], 0.0)


@pytest.mark.parametrize(
    ("own", "named"),
    [((np.eye(3), np.zeros(2)), r"own\[0\]"), ((np.eye(2), np.zeros(3)), r"own\[1\]")],
)
def test_its_shape_is_checked(own: tuple[Floats, Floats], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Delivery(np.asarray([1, 4], np.intp), np.ones((3, 2)), np.ones(3), own=own)
