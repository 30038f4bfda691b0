"""What was fitted for each consumer: compensation, mixing, repair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.channels.groups import ChannelGroup, GroupBinding
from lbyl_onnx.methods.types import Delivery
from lbyl_onnx.types import Array, Floats


@dataclass(frozen=True, eq=False)
class ConsumerMixing:
    """Weights (k, n) and shift (k,) that make the k channels of a delivery of all n."""

    weights: Floats
    shift: Floats


@dataclass(frozen=True)
class ConsumerFit:
    """One consumer of one group, with what it is given in place of the removed channels.

    Parameters
    ----------
    group, consumer
        Where.
    delivery
        From the kept channels.
    mixing
        What the consumer makes these of, when their producer does not; None where it reads them
        as they come.
    """

    group: ChannelGroup
    consumer: GroupBinding
    delivery: Delivery
    mixing: ConsumerMixing | None = None

    @property
    def offset(self) -> Floats:
        """What stands in for the removed channels where the kept ones, unmixed, are zero."""
        if self.mixing is None:
            return self.delivery.shift
        return self.delivery.shift + self.delivery.rows @ self.mixing.shift

    @property
    def kept_offset(self) -> Floats:
        """Likewise what stands in for the kept ones themselves, (k * taps,)."""
        own, mixing = self.delivery.own, self.mixing
        shift = np.zeros(self.delivery.rows.shape[1]) if mixing is None else mixing.shift
        return shift if own is None else own[0] @ shift + own[1]


@dataclass(frozen=True, eq=False)
class Repair:
    """Scale and shift, each (out,), that bring a layer's output back to where it was."""

    gain: Floats
    shift: Floats


@dataclass(frozen=True, eq=False)
class NormFit:
    """New constants of a normalisation that loses channels.

    Parameters
    ----------
    scale_at, scale
        The node and the input that gamma is, and what gamma is multiplied by, (channels,).
    epsilon_at, epsilon
        The node and the input, None for its attribute, and the new value.
    """

    scale_at: tuple[int, int]
    scale: Floats
    epsilon_at: tuple[int, int | None]
    epsilon: float


@dataclass(frozen=True, eq=False)
class ProducerMixing:
    """A producer whose kept outputs become mixtures of all n outputs of its group.

    Parameters
    ----------
    producer
        The layer, and where the group lies along its outputs, (n, taps); taps are mixed alike.
    kept
        (k,): the channels in whose places the mixtures stand.
    weights, shift
        (k, n) and (k,): the mixtures, of the outputs as they were.
    followers
        New values, (k,) each, of constants behind it, with where all n of theirs lie.
    """

    producer: GroupBinding
    kept: NDArray[np.intp]
    weights: Floats
    shift: Floats
    followers: tuple[tuple[GroupBinding, Floats], ...]

    def of(self, values: Array, axis: int) -> Floats:
        """Mix what lies along the producer's outputs on an axis; the rest stays."""
        moved = np.moveaxis(values.astype(np.float64), axis, 0)  # -> (out, ..)
        for positions in self.producer.positions.T:
            moved[positions[self.kept]] = np.tensordot(self.weights, moved[positions], axes=1)
        return np.moveaxis(moved, 0, axis)


Repairs = Mapping[int, Repair]
"""By the index of the layer's node."""
