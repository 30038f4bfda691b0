"""Pixel range of an image input, from the arithmetic between it and the first layer.

Exporters often put the normalisation of pixels into the graph: (x - 127) / 128, x / 255,
(x - mean) / std for each channel. Where such a chain maps an affine function y = scale x + shift,
the value that becomes 0 is the mean that its author had in mind, and tells pixels of 0 to 255 from
those of 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from lbyl_onnx.data.input_kind import InputRange
from lbyl_onnx.graph.model_graph import Graph, Tensor
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.inputs.affine_chain import AffineChain, image_chain
from lbyl_onnx.option_types import Layout
from lbyl_onnx.types import Floats

# Largest values of pixels, where the least is 0.
HIGHEST = (1.0, 255.0)
# A mean nearer to the ends of the range than this share of it is no mean of photographs.
MARGIN = 0.02
# Least and largest range of what the first layer reads: 0 to 255 less a mean is the largest.
NARROWEST, WIDEST = 0.3, 300.0
# Standard deviation of photographs, as a share of their range; and what else is believed to be one.
SPREAD, SPREADS = 1 / 4, (1 / 8, 1 / 3)


def input_ranges(graph: Graph, tensor_info: TensorInfo, layout: Layout) -> dict[str, InputRange]:
    """Return the pixel ranges of the image inputs, where the graph determines them, by name.

    Parameters
    ----------
    graph, tensor_info
        The graph, and its shapes and constants.
    layout
        Where images have their channels.
    """
    ranges = {x.name: _input_range(x, tensor_info, layout) for x in graph.inputs}
    return {name: pixel_range for name, pixel_range in ranges.items() if pixel_range is not None}


def _input_range(tensor: Tensor, tensor_info: TensorInfo, layout: Layout) -> InputRange | None:
    followed = image_chain(tensor, tensor_info, layout)
    if followed is None:
        return None
    chain, _ = followed
    limits = _limits(chain, tensor_info.dtype(tensor.name) == TensorProto.UINT8)
    if limits is None:
        return None
    low, high = limits
    mean, spread = _moments(chain, low, high)
    return InputRange(low, high, mean, spread, chain.source_axis, chain.nodes)


def _limits(chain: AffineChain, is_bytes: bool) -> tuple[float, float] | None:
    """Least and largest value of the input; None where the chain does not determine them."""
    if is_bytes:
        return None if chain.unchanged else (0.0, HIGHEST[-1])
    if chain.clip is not None or chain.unchanged:
        return chain.clip
    moved = bool(np.any(chain.shift != 0.0))
    for high in HIGHEST if moved else HIGHEST[-1:]:  # by its scale alone, x is taken for bytes only
        ranges = np.abs(chain.scale) * high
        if _inside(chain, 0.0, high) != moved:
            continue
        if np.all(ranges >= NARROWEST) and np.all(ranges <= (WIDEST if moved else 2.55)):
            return 0.0, high
    return None


def _inside(chain: AffineChain, low: float, high: float) -> bool:
    """Whether what becomes 0 lies well inside a range."""
    zero, margin = -chain.shift / chain.scale, MARGIN * (high - low)
    return bool(np.all(zero >= low + margin) and np.all(zero <= high - margin))


def _moments(
    chain: AffineChain, low: float, high: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of photographs: those that the chain takes away, where they can be."""
    channels, width = len(chain.scale), high - low
    mean: Sequence[float] = [(low + high) / 2] * channels
    if _inside(chain, low, high):
        mean = (-chain.shift / chain.scale).tolist()
    return tuple(mean), tuple(photographs_spread(1.0 / np.abs(chain.scale), width).tolist())


def photographs_spread(divisors: Floats, width: float) -> Floats:
    """Return what pixels are divided by, where photographs in a range so wide may deviate by that.

    Parameters
    ----------
    divisors
        (channels,).
    width
        Of the range of pixels.

    Returns
    -------
    (channels,) float64
        Else the same share of the range for all.
    """
    least, most = (share * width for share in SPREADS)
    usual = np.all((divisors >= least) & (divisors <= most))
    return divisors if usual else np.full(len(divisors), SPREAD * width)
