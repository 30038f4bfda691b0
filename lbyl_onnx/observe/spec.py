"""What of a model is measured, and what is done to it meanwhile: values without behaviour."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.graph.layers.linear_layer import Window
from lbyl_onnx.types import Floats

# Columns from which on pairs are multiplied by BLAS, which takes less for them than ONNX Runtime.
# Of fewer columns there may be many rows, which would take more memory than the products do.
MANY = 1024
# Columns to a strip of a second moment, of few columns and of many.
STRIPS = 256, 512


@dataclass(frozen=True, eq=False)
class MomentSpec:
    """A tensor as rows of samples: which of its numbers are the columns.

    Parameters
    ----------
    tensor
        Its name.
    axis, rank
        The axis of its channels, 1 or the last; its number of axes.
    positions
        (n, positions): where channel i lies along that axis.
    joint
        Whether the positions of a channel are columns of their own, and not more samples of it.
    window
        Makes each value that a Conv's window sees a column of its own.
    strides
        Only every stride-th place along each axis of the plane is a sample, or where there is no
        plane every stride-th row; () for all.
    cross
        Whether all pairs of columns are wanted, or each column alone.
    among
        Axes before that of the channels on which columns lie, too, as those of heads do: positions
        are along all of them and the axis, flattened. The axis may then be any; None for none.
    """

    tensor: str
    axis: int
    rank: int
    positions: NDArray[np.intp]
    joint: bool = False
    window: Window | None = None
    strides: tuple[int, ...] = ()
    cross: bool = True
    among: tuple[int, ...] | None = None

    @property
    def taps(self) -> int:
        """Columns of one channel."""
        window = 1 if self.window is None else int(np.prod(self.window.kernel))
        return window * (self.positions.shape[1] if self.joint else 1)

    @property
    def columns(self) -> int:
        """Columns of all channels."""
        return len(self.positions) * self.taps

    @property
    def is_spatial(self) -> bool:
        """Whether the channels lie on axis 1, before the axes of a plane."""
        return self.among is None and self.axis == 1 and self.rank > 2

    @property
    def rows_first(self) -> bool:
        """Whether the tensor has its columns last, so that it holds the rows as they are."""
        return self.gives_rows and not self.is_spatial and self.columns == self.positions.size

    @property
    def gives_rows(self) -> bool:
        """Whether its rows leave the runtime, to be multiplied outside of it."""
        return self.cross and self.columns >= MANY

    @property
    def strips(self) -> tuple[slice, ...]:
        """Rows of the second moment that are worked out together, each from its diagonal on.

        The rest follows by symmetry: of many columns that is near half of the work.
        """
        count = max(1, self.columns // STRIPS[self.gives_rows]) if self.cross else 1
        edges = [self.columns * i // count for i in range(count + 1)]
        return tuple(slice(*pair) for pair in itertools.pairwise(edges))


@dataclass(frozen=True, eq=False)
class Renormalization:
    """Mean and standard deviation, each (channels,), that a tensor is brought to on every batch."""

    axis: int
    rank: int
    mean: Floats
    std: Floats


@dataclass(frozen=True)
class Centring:
    """Brings each channel of a tensor to mean zero on every batch; its deviation stays."""

    axis: int
    rank: int


Target = Renormalization | Centring


@dataclass(frozen=True)
class Noise:
    """Noise added at the input of a matrix product, shaped as its weight: xi W.

    Parameters
    ----------
    feed
        Name of the input that brings xi, (samples, outputs), standard normal or zero.
    outputs
        Of the layer.
    operands
        Which of its inputs bring the activations, and the weight.
    transposed
        Whether the weight is (outputs, inputs).
    power
        Mean squared output of the layer on white inputs, which its outputs are scaled to; None
        where they stay as they are.
    """

    feed: str
    outputs: int
    operands: tuple[int, int]
    transposed: bool
    power: float | None
