"""How a layer is cut in two: which axes of its window each of the factors sees."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from lbyl_onnx.graph.layers.linear_layer import LinearLayer, Window
from lbyl_onnx.graph.model_graph import Graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.observe.planning import output_moments_spec, plane_strides
from lbyl_onnx.observe.spec import MomentSpec
from lbyl_onnx.types import Floats


@dataclass(frozen=True, eq=False)
class Split:
    """A layer as two: the first sees some axes of the window, the second the others.

    A k x k Conv is k x k and then 1 x 1, or k x 1 and then 1 x k.

    Parameters
    ----------
    axes
        How many axes of the window the first factor sees, from the first axis on.
    taps
        Positions of the window that the first sees, and the second.
    moments
        What is measured: the outputs where the first sees the whole window, else what it sees.
    positions
        Positions of the tensor between the two, for each position of the output.
    """

    axes: int
    taps: tuple[int, int]
    moments: MomentSpec
    positions: float

    def matrix(self, weight: Floats) -> Floats:
        """Return a weight (in, outputs, window) as (in * taps[0], outputs * taps[1])."""
        inputs, outputs, _ = weight.shape
        first, second = self.taps
        split = weight.reshape(inputs, outputs, first, second)
        # -> (in, first, outputs, second) -> (in * first, outputs * second)
        return np.moveaxis(split, 2, 1).reshape(inputs * first, outputs * second)

    def each_output(self, values: Floats) -> Floats:
        """Sum (outputs * taps[1],) over what the second factor sees: (outputs,)."""
        return np.asarray(values.reshape(-1, self.taps[1]).sum(axis=1))

    def first_weight(self, matrix: Floats) -> Floats:
        """Return (in * taps[0], r) as the weight (in, r, taps[0]) of the first factor."""
        return np.moveaxis(matrix.reshape(-1, self.taps[0], matrix.shape[1]), 2, 1)

    def second_weight(self, matrix: Floats) -> Floats:
        """Return (outputs * taps[1], r) as the weight (outputs, r, taps[1]) of the second."""
        return np.moveaxis(matrix.reshape(-1, self.taps[1], matrix.shape[1]), 2, 1)


def splits_of(
    graph: Graph, tensor_info: TensorInfo, index: int, layer: LinearLayer, samples: int, most: int
) -> tuple[Split, ...]:
    """Return the ways to cut a layer in two, the one whose first factor sees all of it in front.

    Parameters
    ----------
    graph, tensor_info
        The model.
    index, layer
        The layer, and its node.
    samples
        How many there are to measure on.
    most
        Columns of what is measured, at most.

    Returns
    -------
    tuple of Split
        Empty where the outputs cannot be measured.
    """
    outputs = output_moments_spec(graph, tensor_info, index, samples)
    if outputs is None:
        return ()
    taps = math.prod(layer.shape) // (layer.shape[layer.in_axis] * layer.channels)
    whole = Split(layer.sides, (taps, 1), outputs, 1.0)
    across = _across(tensor_info, layer, samples, outputs.rank)
    if across is None:
        return (whole,)
    columns = across.moments.columns, layer.channels * across.taps[1]
    return (whole, across) if max(columns) <= most else (whole,)


def _across(tensor_info: TensorInfo, layer: LinearLayer, samples: int, rank: int) -> Split | None:
    """Return the split of a plane's window into its two axes; None where one of them is 1."""
    window, inner = layer.window, tensor_info.shape(layer.data_name)
    if window is None or len(window.kernel) != 2 or min(window.kernel) == 1:
        return None
    output = tensor_info.shape(layer.node.outputs[0])
    if inner is None or output is None or None in inner or None in output:
        return None
    height, width = output[2] or 1, inner[3] or 1
    strip = Window(
        (window.kernel[0], 1),
        (window.strides[0], 1),
        (window.pads[0], 0, window.pads[2], 0),
        (window.dilations[0], 1),
    )
    channels = np.arange(inner[1] or 0)[:, None]
    moments = MomentSpec(layer.data_name, 1, rank, channels, window=strip)
    strides = plane_strides((height, width), samples, moments.columns, spatial=True)
    positions = width / (output[3] or width)
    return Split(1, window.kernel, replace(moments, strides=strides), positions)
