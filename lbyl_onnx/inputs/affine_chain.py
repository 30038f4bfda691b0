"""The affine function of each channel that lies between an image input and its first layers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from lbyl_onnx.data.synthetic.images import image_layout
from lbyl_onnx.graph.costs import FLOATS
from lbyl_onnx.graph.model_graph import Node, Tensor, node_name
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.option_types import Layout
from lbyl_onnx.types import Floats


@dataclass(frozen=True, eq=False)
class AffineChain:
    """What has been followed: y = scale x + shift for each channel of the input.

    The channels lie along `source_axis` of the input and along `axis` now; `order` are the input's
    channels as they lie there.
    """

    source_axis: int
    axis: int
    scale: Floats
    shift: Floats
    order: NDArray[np.intp]
    clip: tuple[float, float] | None = None
    nodes: tuple[str, ...] = field(default=())

    @staticmethod
    def of(axis: int, channels: int) -> AffineChain:
        """The input itself."""
        return AffineChain(axis, axis, np.ones(channels), np.zeros(channels), np.arange(channels))

    @property
    def unchanged(self) -> bool:
        """Whether y is x."""
        return bool(np.all(self.scale == 1.0) and np.all(self.shift == 0.0))


def image_chain(
    tensor: Tensor, tensor_info: TensorInfo, layout: Layout
) -> tuple[AffineChain, Tensor] | None:
    """Follow an input of images to the first node that does other things, or to several readers.

    Parameters
    ----------
    tensor, tensor_info
        The input, and the shapes and constants of its graph.
    layout
        Where images have their channels.

    Returns
    -------
    (AffineChain, Tensor) or None
        What happens on the way, and the tensor at its end; None for what is no image of two sides.
    """
    shape, dtype = tensor_info.static_shape(tensor.name), tensor_info.dtype(tensor.name)
    if shape is None or len(shape) != 4 or dtype not in FLOATS | {TensorProto.UINT8}:
        return None
    where = image_layout((None, *shape[1:]), layout)
    axis = 3 if where == "nhwc" else 1
    channels = shape[axis]
    if where is None or channels is None:
        return None
    chain = AffineChain.of(axis, channels)
    while True:
        readers = [node for node in tensor.outputs if node.op != "Shape"]
        if len(readers) != 1:
            return chain, tensor
        step = _step(readers[0], tensor, tensor_info, chain)
        if step is None:
            return chain, tensor
        chain, tensor = step, readers[0].outputs[0]


def _step(
    node: Node, tensor: Tensor, tensor_info: TensorInfo, chain: AffineChain
) -> AffineChain | None:
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


def _affine(op_type: str, first: bool, constant: Floats, chain: AffineChain) -> AffineChain | None:
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


def _per_channel(tensor: Tensor, tensor_info: TensorInfo, chain: AffineChain) -> Floats | None:
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


def _reordered(node: Node, tensor_info: TensorInfo, chain: AffineChain) -> NDArray[np.intp] | None:
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
    operands = [
        tensor for tensor in node.inputs[1:] if tensor.name and tensor_info.is_constant(tensor.name)
    ]
    limits = limits or [float(tensor_info.value(tensor.name).reshape(())) for tensor in operands]
    if len(limits) != 2 or not np.all(np.isfinite(limits)) or limits[0] >= limits[1]:
        return None
    return float(limits[0]), float(limits[1])
