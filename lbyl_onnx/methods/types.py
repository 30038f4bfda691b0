"""What passes between the pipeline, the criteria and the methods: arrays in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lbyl_onnx.types import Floats

# Rows of a matrix of pairs of columns that are worked out at a time.
_STRIP = 512
# The ridge on C: this share of its mean diagonal, and this much more for each column per sample,
# as the error of an estimated covariance grows with their ratio.
RIDGE, RIDGE_PER_SAMPLE = 1e-3, 0.01


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of the D values that a consumer sees, D = n channels * taps.

    Attributes
    ----------
    mean : (D,) float64
    covariance : (D, D) float64
        Centred, divided by `rows`.
    rows : int
        Samples that they were taken from.
    taps : int
        Values per channel, which follow each other.
    ridge_share, ridge_per_row : float
        The ridge as a share of the mean variance: for any number of rows, and for each column per
        row.
    """

    mean: Floats
    covariance: Floats
    rows: int
    taps: int = 1
    ridge_share: float = RIDGE
    ridge_per_row: float = RIDGE_PER_SAMPLE

    @property
    def finite(self) -> bool:
        """Whether every moment is a number."""
        return bool(np.all(np.isfinite(self.mean)) and np.all(np.isfinite(self.covariance)))

    @property
    def ridge(self) -> float:
        """What is added to the diagonal of the covariance: rho in METHODS' notation."""
        share = self.ridge_share + self.ridge_per_row * len(self.mean) / max(1, self.rows)
        return float(share * np.mean(np.diag(self.covariance))) or 1.0

    def per_channel(self) -> Moments:
        """Return the moments of the channels with their taps taken for samples of one value."""
        if self.taps == 1:
            return self
        n = len(self.mean) // self.taps
        mean = self.mean.reshape(n, self.taps)
        covariance = np.einsum("itjt->ij", self.covariance.reshape(n, self.taps, n, self.taps))
        # The taps' own means differ at padded borders only; that is within a channel's variance.
        mean, covariance, rows = mean.mean(axis=1), covariance / self.taps, self.rows * self.taps
        return replace(self, mean=mean, covariance=covariance, rows=rows, taps=1)


@dataclass(frozen=True, eq=False)
class FoldedRows:
    """What the producer of a group of n channels computes, as rows.

    Channel i is ``z_i = scale[i] * (weight[i] @ x) + shift[i]``, with x the patch of d inputs
    that the producer sees.

    Attributes
    ----------
    weight : (n, d) float64
        Rows as stored, flattened, without the bias.
    scale : (n,) float64
        ``gamma / sqrt(var + eps)`` of the BatchNormalization that follows; ones without one.
    shift : (n,) float64
        Folded bias, ``beta + scale * (bias - mean)``; the plain bias without a
        BatchNormalization.
    normalized : bool
        True when a BatchNormalization (or an equal scale and shift) follows the producer directly.
    constant_output : (n,) float64
        Value at the consumer's input of a channel that emits the constant ``shift[i]``.

    Raises
    ------
    ValueError
        For a wrong shape or dtype, a value that is not finite, or a scale other than one where
        ``normalized`` is False.
    """

    weight: NDArray[np.float64]
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    normalized: bool
    constant_output: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Raise ValueError for arrays that break the contract above."""
        if self.weight.ndim != 2 or 0 in self.weight.shape:
            raise ValueError(
                f"FoldedRows.weight has shape {self.weight.shape}; "
                "give one flattened row per channel: (n, d), n and d at least 1"
            )
        n = self.weight.shape[0]
        _check_array("FoldedRows.weight", self.weight, self.weight.shape)
        _check_array("FoldedRows.scale", self.scale, (n,))
        _check_array("FoldedRows.shift", self.shift, (n,))
        _check_array("FoldedRows.constant_output", self.constant_output, (n,))
        if not self.normalized and np.any(self.scale != 1.0):
            raise ValueError(
                "FoldedRows.scale differs from one although normalized is False; "
                "set normalized=True where a scale and shift follow the producer"
            )

    @property
    def constant(self) -> NDArray[np.bool_]:
        """(n,) bool: the channels whose folded row is zero, so that they emit ``shift[i]``."""
        constant: NDArray[np.bool_] = (self.scale == 0.0) | ~np.any(self.weight, axis=1)
        return constant


@dataclass(frozen=True, eq=False)
class Delivery:
    """How the kept channels stand in for the removed ones: ``a_P ~ rows @ a_K + shift``.

    A channel is one value, or, where `taps` is above 1, the `taps` values of it that a window of
    the consumer sees; these follow each other, so
    channel i is at ``i * taps`` to ``(i + 1) * taps``.

    Attributes
    ----------
    kept : (k,) intp
        Indices of the kept channels, ascending, at least one.
    rows : ((n - k) * taps, k * taps) float64
        The removed channels' rows of S, in ascending order of channel.
    shift : ((n - k) * taps,) float64
        The removed channels' part of c, likewise.
    taps : int
        Values of a channel that are told apart; with 1 all of them are delivered alike.
    note : str
        What a report is to say of the fit beside the method's name; "" for nothing.
    own : tuple of (k, k) and (k,) float64, or None
        The kept channels' rows of S and part of c, where mixtures in their places stand for them
        less well than all mixtures together do; None where they are what they were. One tap only.

    Raises
    ------
    ValueError
        For a wrong shape or dtype, or a value that is not finite.
    """

    kept: NDArray[np.intp]
    rows: NDArray[np.float64]
    shift: NDArray[np.float64]
    taps: int = 1
    note: str = ""
    own: tuple[Floats, Floats] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for arrays that break the contract above."""
        if self.own is not None:
            _check_array("Delivery.own[0]", self.own[0], (len(self.kept), len(self.kept)))
            _check_array("Delivery.own[1]", self.own[1], (len(self.kept),))
        if self.shift.ndim != 1 or self.shift.size % self.taps:
            raise ValueError(
                f"Delivery.shift has shape {self.shift.shape}; give ((n - k) * {self.taps},)"
            )
        kept = checked_kept(self.size, self.kept)
        _check_array("Delivery.rows", self.rows, (self.shift.size, kept.size * self.taps))
        _check_array("Delivery.shift", self.shift, self.shift.shape)

    @property
    def size(self) -> int:
        """The number n of channels in the group."""
        return len(self.kept) + self.shift.size // self.taps

    @property
    def removed(self) -> NDArray[np.intp]:
        """(n - k,) intp: the channels outside ``kept``, ascending."""
        return removed_channels(self.size, self.kept)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """(n * taps, k * taps) float64: S whole, with ``S[kept] = I`` unless `own` says else."""
        matrix = np.zeros((self.size, self.taps, self.rows.shape[1]))
        own = np.eye(self.rows.shape[1]) if self.own is None else self.own[0]
        matrix[self.kept] = own.reshape(-1, self.taps, self.rows.shape[1])
        matrix[self.removed] = self.rows.reshape(-1, self.taps, self.rows.shape[1])
        return matrix.reshape(-1, self.rows.shape[1])  # (n, taps, ..) -> (n * taps, k * taps)

    @property
    def offset(self) -> NDArray[np.float64]:
        """(n * taps,) float64: c whole, with ``c[kept] = 0`` unless `own` says else."""
        offset = np.zeros((self.size, self.taps))
        if self.own is not None:
            offset[self.kept] = self.own[1][:, None]
        offset[self.removed] = self.shift.reshape(-1, self.taps)
        return offset.reshape(-1)  # (n, taps) -> (n * taps,)


@dataclass(frozen=True, eq=False)
class ConsumerLoss:
    """How one consumer reads the channels.

    Attributes
    ----------
    moments : Moments
        Of its input, D columns.
    weights : (D, outputs) float64
        The consumer's weights, ``B^T``; where taps are not told apart, each tap's are outputs of
        their own.
    """

    moments: Moments
    weights: Floats

    @property
    def gram(self) -> Floats:
        """(D, D): inner products of the weights over the outputs, ``B^T B``."""
        return self.weights @ self.weights.T

    @property
    def total(self) -> float:
        """Variance of the consumer's outputs, summed over them: ``tr(B^T B C)``."""
        weights, covariance, total = self.weights, self.moments.covariance, 0.0
        for start in range(0, len(weights), _STRIP):  # B^T B itself may be as large as C
            strip = slice(start, start + _STRIP)
            products = weights[strip] @ weights[start:].T
            products *= covariance[strip, start:]
            own = products[:, : len(products)]
            total += 2.0 * float(products.sum()) - float(own.sum())
        return total


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """Parameters of a BatchNormalization that follows a producer of the group.

    Each is (n, positions) float64; a channel has more than one position where a Reshape or the
    groups of a Conv spread it over several of the producer's outputs.
    """

    gamma: Floats
    beta: Floats
    mean: Floats
    variance: Floats


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a criterion knows of the n channels of a group.

    Attributes
    ----------
    weight : (n, d) float64
        The producers' rows as stored, flattened, side by side; a Gemm's bias is appended.
    batch_norms : tuple of BatchNorm
        Of the producers that a BatchNormalization follows directly.
    losses : tuple of ConsumerLoss
        How each layer reads the channels, with finite moments; empty unless the criterion needs
        moments.
    blocks : (n,) intp or None
        Number of the block of each channel, such as its head: of each go as many. None where all
        are one. A ranking that does not keep to it is brought into such an order.
    """

    weight: Floats
    batch_norms: tuple[BatchNorm, ...] = ()
    losses: tuple[ConsumerLoss, ...] = ()
    blocks: NDArray[np.intp] | None = None


@dataclass(frozen=True, eq=False)
class Ranking:
    """The order in which channels go, and what that costs each consumer.

    Attributes
    ----------
    size : int
        Channels of the group, n.
    order : (m,) intp
        Channels that go, first to last.
    losses : (m + 1, consumers) float64
        Squared error of each consumer's output once that many have gone, as a share of the
        variance that the group gives it; the first row is 0. (0, 0) where the criterion does not
        predict it.
    totals : (consumers,) float64
        That variance, summed over the output's channels as what follows scales them.

    Raises
    ------
    ValueError
        Unless `order` names different channels of the group, and `losses`, where there are any,
        have a row for each number of channels.
    """

    size: int
    order: NDArray[np.intp]
    losses: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    totals: Floats = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        """Raise ValueError for arrays that break the contract above."""
        order = np.asarray(self.order)
        named = order.ndim == 1 and np.issubdtype(order.dtype, np.integer)
        if not named or np.any(order < 0) or np.any(order >= self.size):
            raise ValueError(f"Ranking.order must hold channels from 0 to {self.size - 1}: (m,)")
        if len(np.unique(order)) < len(order):
            raise ValueError("Ranking.order names a channel twice")
        if self.has_losses and self.losses.shape != (len(order) + 1, len(self.totals)):
            raise ValueError(
                f"Ranking.losses has shape {self.losses.shape}; "
                f"expected {(len(order) + 1, len(self.totals))}"
            )

    @classmethod
    def of_scores(cls, scores: NDArray[np.floating[Any]], keep: int) -> Ranking:
        """Rank by importance: the least important goes first, of equals the higher index.

        The larger a score, (n,), the more a channel is worth keeping; `keep` are left in the end, 1
        to n.

        Raises
        ------
        ValueError
            If ``scores`` is not one-dimensional, holds NaN, or ``keep`` is out of its range.
        """
        if scores.ndim != 1:
            raise ValueError(f"scores has shape {scores.shape}; give one score per channel: (n,)")
        if np.any(np.isnan(scores)):
            raise ValueError("scores holds NaN; every channel needs a score that can be compared")
        if not 1 <= keep <= scores.size:
            raise ValueError(f"keep is {keep}; keep 1 to {scores.size} of {scores.size} channels")
        best_first = np.argsort(-scores, kind="stable")
        return cls(scores.size, best_first[keep:][::-1])

    @property
    def has_losses(self) -> bool:
        """Whether the criterion predicts what the consumers lose."""
        return bool(self.losses.size)

    def kept(self, count: int) -> NDArray[np.intp]:
        """Return the (count,) channels that are left, ascending."""
        return np.setdiff1d(np.arange(self.size), self.order[: self.size - count])

    def balanced(self, blocks: NDArray[np.intp]) -> Ranking:
        """Return the order in which one channel of each block, (n,), goes after the other.

        The j-th that goes of each block goes in round j; within a round they go as they did. What
        the losses were of was another order.
        """
        return Ranking(self.size, self.order[np.argsort(self._turns(blocks), kind="stable")])

    def takes_in_turn(self, blocks: NDArray[np.intp]) -> bool:
        """Whether one of each block, (n,), goes before a second one of any."""
        count, size = len(np.unique(blocks)), len(self.order)
        turns = np.arange(size) // count
        return size % count == 0 and np.array_equal(self._turns(blocks), turns)

    def _turns(self, blocks: NDArray[np.intp]) -> NDArray[np.intp]:
        """For each channel of the order how many of its block go before it."""
        order_blocks = blocks[self.order]
        turns = np.zeros(len(self.order), dtype=np.intp)
        for block in np.unique(order_blocks):
            members = np.flatnonzero(order_blocks == block)
            turns[members] = np.arange(len(members))
        return turns

    def spread(self, layers: NDArray[np.intp]) -> Ranking:
        """Give each consumer the losses and the total of its layer, (consumers,)."""
        if not self.has_losses:
            return self
        return replace(self, losses=self.losses[:, layers], totals=self.totals[layers])


def checked_kept(n: int, kept: ArrayLike) -> NDArray[np.intp]:
    """Return ``kept`` as an index array, once it names channels of a group of n.

    Raises
    ------
    ValueError
        Unless ``kept`` is one-dimensional, of integers, not empty, strictly ascending and inside
        [0, n).
    """
    indices = np.asarray(kept)
    if indices.ndim != 1 or indices.size == 0:
        raise ValueError(f"kept has shape {indices.shape}; name at least one channel: (k,), k >= 1")
    if not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"kept has dtype {indices.dtype}; give integer indices, not a mask")
    if indices[0] < 0 or indices[-1] >= n or np.any(indices[1:] <= indices[:-1]):
        raise ValueError(f"kept must be strictly ascending channel indices from 0 to {n - 1}")
    return indices.astype(np.intp, copy=False)


def removed_channels(n: int, kept: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the (n - k,) channels of a group of n that are not in ``kept``, ascending."""
    is_removed = np.ones(n, dtype=np.bool_)
    is_removed[kept] = False
    return np.flatnonzero(is_removed)


def columns_of(channels: NDArray[np.intp], taps: int) -> NDArray[np.intp]:
    """Return the columns of some channels, (channels * taps,): a channel's follow each other."""
    return (channels[:, None] * taps + np.arange(taps)).reshape(-1)


def _check_array(name: str, array: NDArray[np.float64], shape: tuple[int, ...]) -> None:
    """Raise ValueError unless ``array`` is finite float64 of ``shape``."""
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; expected {shape}")
    if array.dtype != np.float64:
        raise ValueError(f"{name} has dtype {array.dtype}; convert it to float64 first")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} holds NaN or infinity; every value must be finite")
