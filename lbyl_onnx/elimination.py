"""Which channels to keep when what is left makes up for what goes: backward elimination."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from lbyl_onnx.compensate import Moments

Floats = NDArray[np.float64]
# Channels that go at a time: one in so many of those that are there.
_AT_A_TIME = 32
# Of those, channels that make up for each other beyond this wait; and how many more are looked at.
_COUPLED, _LOOKED_AT = 0.1, 4
# The arrays shrink when fewer than this share of their channels is left.
_SHRINK_BELOW = 0.75
# Columns above which a channel's taps are taken for samples of one value: the choice would
# otherwise take longer than the restoration, which tells them apart at any size.
LARGEST = 1200


@dataclass(frozen=True, eq=False)
class Reading:
    """How one consumer reads the channels.

    Attributes
    ----------
    moments : Moments
        Of its input, D columns.
    gram : (D, D) float64
        Inner products of the consumer's weights over its outputs, ``B^T B``.
    """

    moments: Moments
    gram: Floats

    @property
    def total(self) -> float:
        """Variance of the consumer's outputs, summed over them."""
        return float(np.einsum("ij,ij->", self.gram, self.moments.covariance))

    def reduced(self) -> Reading:
        """Return the reading by whole channels where it is too large."""
        taps, size = self.moments.taps, len(self.gram)
        if size <= LARGEST or taps == 1:
            return self
        n = size // taps
        gram = np.einsum("itjt->ij", self.gram.reshape(n, taps, n, taps))
        return Reading(self.moments.per_channel(), gram)


@dataclass
class _State:
    """A consumer on the channels that are left: Q = (C + rho I)^-1, and B^T B.

    Channels that have gone stay in the arrays as zeros until `shrink`.
    """

    inverse: Floats
    gram: Floats
    taps: int
    total: float

    def losses(self, channels: NDArray[np.intp]) -> Floats:
        """Growth of the consumer's squared error for each of these channels, if it went."""
        index = channels[:, None] * self.taps + np.arange(self.taps)  # (channels, taps)
        blocks = (index[:, :, None], index[:, None, :])
        ratio = np.linalg.solve(self.inverse[blocks], self.gram[blocks])
        return np.asarray(np.trace(ratio, axis1=1, axis2=2) / self.total, dtype=np.float64)

    def remove(self, channels: NDArray[np.intp]) -> None:
        """Take channels out; what is left takes over, by the rank-m formulas."""
        gone = self._columns(channels)
        q, g = self.inverse, self.gram
        carry = np.linalg.solve(q[np.ix_(gone, gone)], q[gone])  # (gone, D)
        cross = g[:, gone] @ carry
        cross -= 0.5 * carry.T @ (g[np.ix_(gone, gone)] @ carry)
        q -= q[:, gone] @ carry
        g -= cross
        g -= cross.T

    def coupling(self, channel: int, others: Sequence[int]) -> float:
        """How far one channel makes up for others, 0 to 1: a squared partial correlation."""
        each = [self._columns(np.asarray([c])) for c in (channel, *others)]
        own, *norms = (np.linalg.norm(self.inverse[np.ix_(c, c)]) for c in each)
        between = (np.linalg.norm(self.inverse[np.ix_(each[0], c)]) for c in each[1:])
        return max(float(x * x / (own * norm)) for x, norm in zip(between, norms, strict=True))

    def shrink(self, channels: NDArray[np.intp]) -> None:
        """Leave only these channels in the arrays."""
        left = np.ix_(self._columns(channels), self._columns(channels))
        self.inverse, self.gram = self.inverse[left], self.gram[left]

    def joint_loss(self, channels: NDArray[np.intp]) -> float:
        """Growth of the consumer's squared error if all these channels went."""
        gone = np.ix_(self._columns(channels), self._columns(channels))
        return float(np.trace(np.linalg.solve(self.inverse[gone], self.gram[gone])) / self.total)

    def _columns(self, channels: NDArray[np.intp]) -> NDArray[np.intp]:
        columns = channels[:, None] * self.taps + np.arange(self.taps)  # (channels, taps)
        return columns.reshape(-1)


@dataclass(frozen=True, eq=False)
class Elimination:
    """The order in which channels go, and what that costs each consumer.

    Attributes
    ----------
    size : int
        Channels of the group, n.
    order : (m,) intp
        Channels that go, first to last.
    losses : (m + 1, consumers) float64
        Squared error of each consumer's output once that many have gone, as a share of the
        variance that the group gives it; the first row is 0.
    totals : (consumers,) float64
        That variance, summed over the output's channels as what follows scales them.
    """

    size: int
    order: NDArray[np.intp]
    losses: Floats
    totals: Floats

    def kept(self, count: int) -> NDArray[np.intp]:
        """Return the (count,) channels that are left, ascending."""
        return np.setdiff1d(np.arange(self.size), self.order[: self.size - count])


def eliminate(readings: Sequence[Reading], count: int) -> Elimination:
    """Take channels away, one or a few at a time, those first whose loss changes least.

    Parameters
    ----------
    readings
        One for each consumer of the group's n channels, with finite moments.
    count
        How many are left in the end, 1 to n.

    Returns
    -------
    Elimination
        What goes to keep any number from `count` up is a prefix of its order.

    Notes
    -----
    Optimal brain surgeon on the consumers' outputs (Hassibi and Stork, NIPS 1992): with B the
    consumer's weights on the channels left and ``Q = (C + rho I)^-1``, a channel with columns J
    costs ``tr((Q_JJ)^-1 B_J^T B_J)`` once the others take over what it can be told from. The
    cheapest go, B and Q are brought up to date, and so on. Each consumer counts relative to the
    variance of its output. O(D^3) time.
    """
    readings = [reading.reduced() for reading in readings]
    n = len(readings[0].gram) // readings[0].moments.taps
    states = [_begin(reading) for reading in readings]
    held, alive = np.arange(n), np.ones(n, dtype=np.bool_)
    order, lost = list[int](), [np.zeros((1, len(states)))]
    while (left := int(alive.sum())) > count:
        at = np.flatnonzero(alive)
        losses = np.sum([state.losses(at) for state in states], axis=0)
        many = min(left - count, max(1, left // _AT_A_TIME))
        picked = _apart(states, at[np.argsort(losses, kind="stable")], many)
        order += held[picked].tolist()
        going = np.sort(picked)
        together = np.asarray([state.joint_loss(going) for state in states])
        parts = np.cumsum(np.maximum(losses[np.searchsorted(at, picked)], 0.0))
        shares = parts / parts[-1] if parts[-1] else np.ones(len(parts))
        lost.append(lost[-1][-1] + shares[:, None] * together)  # (picked, consumers)
        for state in states:
            state.remove(going)
        alive[going] = False
        if left - len(going) < _SHRINK_BELOW * len(held):
            for state in states:
                state.shrink(np.flatnonzero(alive))
            held, alive = held[alive], np.ones(left - len(going), dtype=np.bool_)
    totals = np.asarray([state.total for state in states])
    return Elimination(n, np.asarray(order, np.intp), np.concatenate(lost), totals)


def _apart(states: Sequence[_State], cheapest: NDArray[np.intp], many: int) -> NDArray[np.intp]:
    """The cheapest channels, cheapest first, of which none is what makes another of them cheap.

    Two that are alike cost nothing each, and much together.
    """
    going = [int(cheapest[0])]
    for channel in cheapest[1 : _LOOKED_AT * many].tolist():
        if len(going) == many:
            break
        if all(state.coupling(channel, going) < _COUPLED for state in states):
            going.append(channel)
    return np.asarray(going, dtype=np.intp)


def _begin(reading: Reading) -> _State:
    c = reading.moments.covariance
    system = c + reading.moments.ridge * np.eye(len(c))
    try:
        factor = scipy.linalg.cho_factor(system, lower=True)
        inverse = scipy.linalg.cho_solve(factor, np.eye(len(c)))
    except scipy.linalg.LinAlgError:
        inverse = np.asarray(scipy.linalg.pinvh(system), dtype=np.float64)
    return _State(
        (inverse + inverse.T) / 2, reading.gram.copy(), reading.moments.taps, reading.total or 1.0
    )
