"""What an image input takes, as the arithmetic between it and the first layer tells.

Exporters often put the normalisation of pixels into the graph: (x - 127) / 128, x / 255,
(x - mean) / std for each channel. Where such a chain maps an affine function y = scale x + shift,
the value that becomes 0 is the mean that its author had in mind, and tells pixels of 0 to 255 from
those of 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from lbyl_onnx.data.input_kind import InputRange
from lbyl_onnx.data.synthetic.images import image_layout
from lbyl_onnx.graph.costs import FLOATS
from lbyl_onnx.graph.model_graph import Graph, Node, Tensor, node_name
from lbyl_onnx.graph.tensor_info import TensorInfo
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


@dataclass(frozen=True, eq=False)
class _Chain:
    """What has been followed: y = scale x + shift for each channel of the input.

    `order` are the input's channels as they lie on the axis now.
    """

    axis: int
    scale: Floats
    shift: Floats
    order: NDArray[np.intp]
    clip: tuple[float, float] | None = None
    nodes: tuple[str, ...] = field(default=())

    @staticmethod
    def of(axis: int, channels: int) -> _Chain:
        """The input itself."""
        return _Chain(axis, np.ones(channels), np.zeros(channels), np.arange(channels))

    @property
    def unchanged(self) -> bool:
        return bool(np.all(self.scale == 1.0) and np.all(self.shift == 0.0))


def input_ranges(graph: Graph, tensor_info: TensorInfo, layout: Layout) -> dict[str, InputRange]:
    """Return what the image inputs of a graph take, where the graph tells it, by name.

    Parameters
    ----------
    graph, tensor_info
        The graph, and its shapes and constants.
    layout
        Where images have their channels.
    """
    ranges = {x.name: _input_range(x, tensor_info, layout) for x in graph.inputs}
    return {name: found for name, found in ranges.items() if found is not None}


def _input_range(tensor: Tensor, tensor_info: TensorInfo, layout: Layout) -> InputRange | None:
    shape, dtype = tensor_info.static_shape(tensor.name), tensor_info.dtype(tensor.name)
    if shape is None or len(shape) != 4 or dtype not in FLOATS | {TensorProto.UINT8}:
        return None
    where = image_layout((None, *shape[1:]), layout)
    axis = 3 if where == "nhwc" else 1
    channels = shape[axis]
    if where is None or channels is None:
        return None
    chain = _followed(tensor, tensor_info, _Chain.of(axis, channels))
    limits = _limits(chain, dtype == TensorProto.UINT8)
    if limits is None:
        return None
    low, high = limits
    mean, spread = _moments(chain, low, high)
    return InputRange(low, high, mean, spread, axis, chain.nodes)


def _followed(tensor: Tensor, tensor_info: TensorInfo, chain: _Chain) -> _Chain:
    """Follow a tensor to the first node that does other things, or to several that read it."""
    while True:
        readers = [node for node in tensor.outputs if node.op != "Shape"]
        if len(readers) != 1:
            return chain
        step = _step(readers[0], tensor, tensor_info, chain)
        if step is None:
            return chain
        chain, tensor = step, readers[0].outputs[0]


def _step(node: Node, tensor: Tensor, tensor_info: TensorInfo, chain: _Chain) -> _Chain | None:
    """The chain with one more node; None where the node is no part of it."""
    if node.op == "Identity" or (node.op == "Cast" and node.attrs.get("to") in FLOATS):
        return chain
    if node.op == "Transpose" and "perm" in node.attrs:
        return replace(chain, axis=list(node.attrs["perm"]).index(chain.axis))
    if node.op in ("Gather", "Slice"):
        chosen = _reordered(node, tensor_info, chain)
        return None if chosen is None else replace(chain, order=chain.order[chosen])
    if tensor_info.dtype(tensor.name) not in FLOATS:
        return None  # whole numbers wrap around
    named = replace(chain, nodes=(*chain.nodes, node_name(node)))
    if node.op == "Clip":
        limits = _clip_limits(node, tensor_info)
        return replace(named, clip=limits) if chain.unchanged and limits is not None else chain
    if node.op not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    first = node.inputs[0] is tensor
    constant = _per_channel(node.inputs[1 if first else 0], tensor_info, chain)
    return None if constant is None else _affine(node.op, first, constant, named)


def _affine(op_type: str, first: bool, constant: Floats, chain: _Chain) -> _Chain | None:
    """The chain behind an operator whose first operand, or second, is the tensor."""
    scale, shift = chain.scale, chain.shift
    if op_type == "Add":
        return replace(chain, shift=shift + constant)
    if op_type == "Sub":
        sign = 1.0 if first else -1.0
        return replace(chain, scale=sign * scale, shift=sign * (shift - constant))
    if np.any(constant == 0.0) or (op_type == "Div" and not first):
        return None
    factor = constant if op_type == "Mul" else 1.0 / constant
    return replace(chain, scale=scale * factor, shift=shift * factor)


def _per_channel(tensor: Tensor, tensor_info: TensorInfo, chain: _Chain) -> Floats | None:
    """Return a constant operand as (channels,), in the order of the input's channels.

    None where it is no constant, or varies otherwise.
    """
    shape, channels = tensor_info.shape(tensor.name), len(chain.scale)
    if shape is None or len(shape) > 4 or not tensor_info.is_constant(tensor.name):
        return None
    aligned = (*[1] * (4 - len(shape)), *shape)
    if any(
        d not in ((1, channels) if axis == chain.axis else (1,)) for axis, d in enumerate(aligned)
    ):
        return None
    value = np.asarray(tensor_info.value(tensor.name), np.float64).reshape(
        -1
    )  # (1, c, 1, 1) -> (c,)
    if not np.all(np.isfinite(value)):
        return None
    ordered = np.empty(channels)
    ordered[chain.order] = value
    return ordered


def _reordered(node: Node, tensor_info: TensorInfo, chain: _Chain) -> NDArray[np.intp] | None:
    """Return the order that a Gather or Slice brings the channels into; None for anything else."""
    numbers = np.arange(len(chain.order))
    if any(not tensor_info.is_constant(tensor.name) for tensor in node.inputs[1:]):
        return None
    values = [tensor_info.value(tensor.name).reshape(-1).tolist() for tensor in node.inputs[1:]]
    if node.op == "Gather":
        axes, chosen = [node.attrs.get("axis", 0)], [int(i) % len(numbers) for i in values[0]]
    elif len(values) == 4 and all(len(value) == 1 for value in values):
        (start,), (end,), axes, (step,) = values
        chosen = numbers[start:end:step].tolist()
    else:
        return None
    whole = sorted(chosen) == numbers.tolist() and axes[0] % 4 == chain.axis
    return np.asarray(chosen) if whole else None


def _clip_limits(node: Node, tensor_info: TensorInfo) -> tuple[float, float] | None:
    limits = [node.attrs[name] for name in ("min", "max") if name in node.attrs]
    given = [
        tensor for tensor in node.inputs[1:] if tensor.name and tensor_info.is_constant(tensor.name)
    ]
    limits = limits or [float(tensor_info.value(tensor.name).reshape(())) for tensor in given]
    if len(limits) != 2 or not np.all(np.isfinite(limits)) or limits[0] >= limits[1]:
        return None
    return float(limits[0]), float(limits[1])


def _limits(chain: _Chain, is_bytes: bool) -> tuple[float, float] | None:
    """Least and largest value of the input; None where the chain does not tell."""
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


def _inside(chain: _Chain, low: float, high: float) -> bool:
    """Whether what becomes 0 lies well inside a range."""
    zero, margin = -chain.shift / chain.scale, MARGIN * (high - low)
    return bool(np.all(zero >= low + margin) and np.all(zero <= high - margin))


def _moments(chain: _Chain, low: float, high: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of photographs: those that the chain takes away, where they can be."""
    channels, width = len(chain.scale), high - low
    mean: Sequence[float] = [(low + high) / 2] * channels
    if _inside(chain, low, high):
        mean = (-chain.shift / chain.scale).tolist()
    spread = 1.0 / np.abs(chain.scale)
    least, most = (share * width for share in SPREADS)
    if np.any(spread < least) or np.any(spread > most):
        spread = np.full(channels, SPREAD * width)
    return tuple(mean), tuple(spread.tolist())
