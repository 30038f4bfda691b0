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
_AT_A_TIME = 64
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
    """A consumer on the channels that are left: Q = (C + rho I)^-1, and B^T B."""

    inverse: Floats
    gram: Floats
    taps: int
    total: float

    def losses(self) -> Floats:
        """Growth of the consumer's squared error for each channel that would go, (left,)."""
        left = len(self.inverse) // self.taps
        index = np.arange(left * self.taps).reshape(left, self.taps)
        blocks = (index[:, :, None], index[:, None, :])
        ratio = np.linalg.solve(self.inverse[blocks], self.gram[blocks])
        return np.asarray(np.trace(ratio, axis1=1, axis2=2) / self.total, dtype=np.float64)

    def remove(self, channels: NDArray[np.intp]) -> None:
        """Take channels out; what is left takes over, by the rank-m formulas."""
        gone = (channels[:, None] * self.taps + np.arange(self.taps)).reshape(-1)
        left = np.delete(np.arange(len(self.inverse)), gone)
        q, g = self.inverse, self.gram
        carry = np.linalg.solve(q[np.ix_(gone, gone)], q[np.ix_(gone, left)])  # (gone, left)
        cross = g[np.ix_(left, gone)] @ carry
        self.inverse = q[np.ix_(left, left)] - q[np.ix_(left, gone)] @ carry
        self.gram = (
            g[np.ix_(left, left)] - cross - cross.T + carry.T @ g[np.ix_(gone, gone)] @ carry
        )


def keep(readings: Sequence[Reading], count: int) -> NDArray[np.intp]:
    """Choose the channels to keep, so that their consumers' outputs change least.

    Parameters
    ----------
    readings
        One for each consumer of the group's n channels, with finite moments.
    count
        How many to keep, 1 to n.

    Returns
    -------
    (count,) intp
        Ascending.

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
    alive = np.arange(n)
    while len(alive) > count:
        losses = np.sum([state.losses() for state in states], axis=0)
        many = min(len(alive) - count, max(1, len(alive) // _AT_A_TIME))
        going = np.sort(np.argsort(losses, kind="stable")[:many])
        for state in states:
            state.remove(going)
        alive = np.delete(alive, going)
    return alive


def _begin(reading: Reading) -> _State:
    c = reading.moments.covariance
    inverse = scipy.linalg.inv(c + reading.moments.ridge * np.eye(len(c)))
    total = float(np.einsum("ij,ij->", reading.gram, c))
    return _State((inverse + inverse.T) / 2, reading.gram, reading.moments.taps, total or 1.0)
