"""Backward elimination: which channels to keep when those that are left compensate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.linalg import lapack

from lbyl_onnx.methods.registry import Criterion, register_criterion
from lbyl_onnx.methods.types import ConsumerLoss, Evidence, Ranking, columns_of
from lbyl_onnx.types import Floats

# Channels that go at a time: one in so many of those that are there.
_AT_A_TIME = 32
# Of those, channels that make up for each other beyond this wait; and how many more are looked at.
_COUPLED, _LOOKED_AT = 0.1, 4
# The arrays shrink when fewer than this share of their channels is left.
_SHRINK_BELOW = 0.5
# Eigenvalues below this share of the largest are rounding.
_ROUNDING = 1e-14
# The least that a variance is taken for where there is none at all.
_TINY = float(np.finfo(np.float64).tiny) ** 0.5
# Rows of the weights that are brought up to date at a time.
_ROWS = 2048
# Columns of a square block that is mirrored at a time: two of them lie in the cache.
_MIRRORED = 128
# Columns above which a channel's taps are taken for samples of one value: the choice would
# otherwise take longer than the restoration, which tells them apart at any size.
LARGEST = 1200


@dataclass
class _State:
    """A consumer on the channels that are left: Q = (C + rho I)^-1, and its weights B^T.

    Q is held as it was, and what has changed since as a product of few rows, ``Q - P^T P``. Only
    the rows that are asked for are worked out, until `shrink` works out all of them for the
    channels that are left. The weights are brought up to date as channels go.
    """

    inverse: Floats
    weights: Floats
    taps: int
    total: float
    carried: list[Floats]  # P, (columns that went, columns) each: one array would be copied to grow
    blocks: Floats  # Q of each channel with itself, (channels, taps, taps)

    @staticmethod
    def of(inverse: Floats, weights: Floats, taps: int, total: float) -> _State:
        """Return the state before any channel goes."""
        size = len(inverse)
        own = np.arange(size).reshape(-1, taps)  # (channels, taps)
        blocks = inverse[own[:, :, None], own[:, None, :]]
        return _State(inverse, weights.copy(), taps, total, [], blocks)

    def losses(self, channels: NDArray[np.intp]) -> Floats:
        """Growth of the consumer's squared error for each of these channels, if it went."""
        by_channel = self.weights.reshape(len(self.blocks), self.taps, -1)  # (n, taps, outputs)
        gram = by_channel @ by_channel.transpose(0, 2, 1)  # (n, taps, taps)
        ratio = np.linalg.solve(self.blocks[channels], gram[channels])
        return np.asarray(np.trace(ratio, axis1=1, axis2=2) / self.total, dtype=np.float64)

    def remove(self, channels: NDArray[np.intp]) -> float:
        """Take channels out, by the rank-m formulas; return how much the consumer's error grows."""
        gone = columns_of(channels, self.taps)
        q = self.inverse[gone]  # (gone, D)
        for p in self.carried:
            q -= p[:, gone].T @ p
        values, vectors = np.linalg.eigh(q[:, gone])
        values = np.maximum(values, _ROUNDING * values[-1])
        root = (vectors / np.sqrt(values)).T  # root^T root = Q_gone^-1
        new, own = root @ q, root @ self.weights[gone]  # (gone, D), (gone, outputs)
        self.carried.append(new)
        for start in range(0, len(self.weights), _ROWS):
            rows = slice(start, start + _ROWS)
            self.weights[rows] -= new[:, rows].T @ own
        each = new.reshape(len(gone), -1, self.taps).transpose(1, 2, 0)  # (channels, taps, gone)
        self.blocks -= each @ each.transpose(0, 2, 1)
        return float(np.sum(own**2) / self.total)

    def coupling(self, channels: NDArray[np.intp]) -> Floats:
        """Redundancy of pairs of channels, 0 to 1: squared partial correlations."""
        columns = columns_of(channels, self.taps)
        block = self.inverse[np.ix_(columns, columns)]
        for p in self.carried:
            block -= p[:, columns].T @ p[:, columns]
        parts = block.reshape(len(channels), self.taps, len(channels), self.taps)
        squares = np.einsum("itju,itju->ij", parts, parts)
        norms = np.sqrt(np.diag(squares))
        return np.asarray(squares / np.outer(norms, norms), dtype=np.float64)

    def shrink(self, channels: NDArray[np.intp]) -> None:
        """Work out and leave only these channels."""
        left = columns_of(channels, self.taps)
        self.inverse = self.inverse[np.ix_(left, left)]
        for p in self.carried:
            self.inverse -= p[:, left].T @ p[:, left]
        self.weights, self.carried = self.weights[left], []
        self.blocks = self.blocks[channels]


def eliminate(
    consumer_losses: Sequence[ConsumerLoss],
    count: int,
    largest: int = LARGEST,
    blocks: NDArray[np.intp] | None = None,
) -> Ranking:
    """Take channels away, one or a few at a time, those first whose loss changes least.

    Parameters
    ----------
    consumer_losses
        One for each consumer of the group's n channels, with finite moments.
    count
        How many are left in the end, 1 to n.
    largest
        Columns of a consumer above which its taps are not told apart.
    blocks
        Number of each channel's block, (n,): one of each block goes before a second one of any.

    Returns
    -------
    Ranking
        What goes to keep any number from `count` up is a prefix of its order.

    Notes
    -----
    Optimal brain surgeon on the consumers' outputs (Hassibi and Stork, NIPS 1992): with B the
    consumer's weights on the channels left and ``Q = (C + rho I)^-1``, a channel with columns J
    costs ``tr((Q_JJ)^-1 B_J^T B_J)`` once the others take over what it can be told from. The
    cheapest go, B and Q are brought up to date, and so on. Each consumer counts relative to the
    variance of its output. O(D^3) time.
    """
    consumer_losses = [reduced(loss, largest) for loss in consumer_losses]
    n = len(consumer_losses[0].weights) // consumer_losses[0].moments.taps
    states = [_begin(loss) for loss in consumer_losses]
    held, alive = np.arange(n), np.ones(n, dtype=np.bool_)
    order, lost = list[int](), [np.zeros((1, len(states)))]
    gone = None if blocks is None else np.zeros(int(blocks.max()) + 1, dtype=np.intp)
    while (left := int(alive.sum())) > count:
        at = np.flatnonzero(alive)
        losses = np.sum([state.losses(at) for state in states], axis=0)
        many = min(left - count, max(1, left // _AT_A_TIME))
        cheapest = at[np.argsort(losses, kind="stable")]
        if blocks is not None and gone is not None:
            cheapest = _in_turn(cheapest, blocks[held], gone)
        picked = _apart(states, cheapest, many)
        if blocks is not None and gone is not None:
            gone[blocks[held[picked]]] += 1
        order += held[picked].tolist()
        going = np.sort(picked)
        together = np.asarray([state.remove(going) for state in states])
        parts = np.cumsum(np.maximum(losses[np.searchsorted(at, picked)], 0.0))
        shares = parts / parts[-1] if parts[-1] else np.ones(len(parts))
        lost.append(lost[-1][-1] + shares[:, None] * together)  # (picked, consumers)
        alive[going] = False
        if left - len(going) < _SHRINK_BELOW * len(held):
            for state in states:
                state.shrink(np.flatnonzero(alive))
            held, alive = held[alive], np.ones(left - len(going), dtype=np.bool_)
    totals = np.asarray([state.total for state in states])
    return Ranking(n, np.asarray(order, np.intp), np.concatenate(lost), totals)


def _in_turn(
    cheapest: NDArray[np.intp], blocks: NDArray[np.intp], gone: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Of channels, cheapest first, the first of each block of which fewest have gone."""
    first = np.unique(blocks[cheapest], return_index=True)[1]
    next_ones = cheapest[np.sort(first)]
    in_turn: NDArray[np.intp] = next_ones[gone[blocks[next_ones]] == gone.min()]
    return in_turn


def reduced(loss: ConsumerLoss, largest: int = LARGEST) -> ConsumerLoss:
    """Return a reading by whole channels where it has more than so many columns."""
    taps, size = loss.moments.taps, len(loss.weights)
    if size <= largest or taps == 1:
        return loss
    # (n * taps, outputs) -> (n, taps * outputs)
    return ConsumerLoss(loss.moments.per_channel(), loss.weights.reshape(size // taps, -1))


def _apart(states: Sequence[_State], cheapest: NDArray[np.intp], many: int) -> NDArray[np.intp]:
    """The cheapest channels, cheapest first, of which none is what makes another of them cheap.

    Two that are alike cost nothing each, and much together.
    """
    cheapest = cheapest[: _LOOKED_AT * many]
    if many == 1:
        return cheapest[:1]
    coupling = np.max([state.coupling(cheapest) for state in states], axis=0)
    going = [0]
    for place in range(1, len(cheapest)):
        if len(going) == many:
            break
        if np.all(coupling[place, going] < _COUPLED):
            going.append(place)
    return cheapest[going]


def _begin(loss: ConsumerLoss) -> _State:
    c, ridge = loss.moments.covariance, loss.moments.ridge
    inverse = inverse_of(c, ridge)
    if inverse is None:
        # Rounding may leave a singular covariance with variances below zero: they are zero.
        values, vectors = scipy.linalg.eigh(c)
        spread = np.maximum(values, 0.0) + max(ridge, _ROUNDING * values[-1], _TINY)
        inverse = (vectors / spread) @ vectors.T
        inverse = (inverse + inverse.T) / 2
    return _State.of(inverse, loss.weights, loss.moments.taps, loss.total or 1.0)


def inverse_of(c: Floats, ridge: float) -> Floats | None:
    """Return (C + ridge I)^-1 of a symmetric C, (D, D); None where that is not positive definite.

    In one array, in place: LAPACK's lower triangle by columns is the upper one by rows.
    """
    inverse = c.astype(np.float64, order="C")
    inverse.flat[:: len(c) + 1] += ridge
    factor, failed = lapack.dpotrf(inverse.T, lower=True, overwrite_a=True)
    if failed:
        return None
    inverse = np.asarray(lapack.dpotri(factor, lower=True, overwrite_c=True)[0], np.float64).T
    mirror(inverse)
    return inverse


def mirror(matrix: Floats, block: int = _MIRRORED) -> None:
    """Copy what lies above the diagonal of a matrix, (D, D), to below it; block by block."""
    for start in range(0, len(matrix), block):
        rows = slice(start, start + block)
        own = matrix[rows, rows]
        below = np.tril_indices(len(own), -1)
        own[below] = own.T[below]
        for other in range(start + block, len(matrix), block):
            columns = slice(other, other + block)
            matrix[columns, rows] = matrix[rows, columns].T


def _rank(evidence: Evidence, keep: int, rng: np.random.Generator) -> Ranking:
    return eliminate(evidence.losses, keep, blocks=evidence.blocks)


register_criterion(
    Criterion("obs", "whose loss changes the layers behind most", "moments", _rank, "l2")
)
