"""Mean and variance over the channels that stay, in the reference that a cut model must equal.

A normalisation over groups of channels takes its statistics over those that are there. In the uncut
model a removed channel still is: it is given the mean of those that stay in its group, so that
it adds nothing to the mean and nothing to the sum of squares. That sum is then divided by too many
values, by 1 / r^2 where r^2 is the share that stays. So all are divided by r before, which gives
the variance v of those that stay, and the scale gamma is multiplied by it:
``(x / r - m / r) / sqrt(v + eps) * (r * gamma) = (x - m) / sqrt(v + eps) * gamma``.
The same holds for a layer normalisation, over the last axis; an RMS normalisation has no mean. Of
one in single operators each ReduceMean is over values divided by r^2, with removed ones zero.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from lbyl_onnx.channels.groups import ChannelMap
from lbyl_onnx.channels.labels import Labels
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.io.writer import ModelDraft
from lbyl_onnx.types import Array

# From this version on ReduceMean takes its axes as an input.
_AXES_AS_INPUT = 18
PREFIX = "lbyl_onnx/kept/"


@dataclass(frozen=True, eq=False)
class NormMask:
    """The channels over which a normalisation takes its statistics.

    Parameters
    ----------
    output
        Name of what the normalisation gives, which tells the node.
    stays
        Which channels stay, broadcasting to the normalisation's first input.
    groups
        Of a GroupNormalization; None where statistics are over all channels, as they come.
    rank, dtype
        Of the first input.
    """

    output: str
    stays: NDArray[np.bool_]
    groups: int | None
    rank: int
    dtype: np.dtype[np.generic]


def norm_masks(
    model: ModelProto, tensor_info: TensorInfo, channels: ChannelMap, removed: Labels
) -> tuple[NormMask, ...]:
    """Return a mask for each normalisation that takes statistics over channels of which some go.

    Parameters
    ----------
    model, tensor_info, channels
        The original, and where its channels lie.
    removed
        Roots of the removed channels.
    """
    alive = ~np.isin(channels.roots, removed)
    masks = []
    for norm in channels.norms:
        node = model.graph.node[norm.node]
        stays = alive[norm.labels]
        if np.all(stays):
            continue
        dtype = helper.tensor_dtype_to_np_dtype(tensor_info.dtype(node.input[0]))
        rank = len(tensor_info.shape(node.input[0]) or ())
        masks.append(NormMask(node.output[0], stays, norm.groups, rank, dtype))
    return tuple(masks)


def with_kept_statistics(draft: ModelDraft, masks: Sequence[NormMask], opset: int) -> ModelDraft:
    """Return a reference whose normalisations see the channels that stay alone.

    Parameters
    ----------
    draft
        The model; it is not changed.
    masks
        Of its normalisations.
    opset
        Version of its default operator set.
    """
    by_output = {mask.output: mask for mask in masks}
    return with_nodes_replaced(
        draft, by_output.keys(), lambda n: _Masked(by_output[n.output[0]], n, opset).written()
    )


def with_nodes_replaced(
    draft: ModelDraft,
    outputs: Collection[str],
    written: Callable[[NodeProto], Sequence[NodeProto]],
) -> ModelDraft:
    """Return a model with the nodes of some outputs replaced; `draft` is not changed.

    Parameters
    ----------
    draft
        The model.
    outputs
        Names of the first outputs of these nodes.
    written
        Gives what stands in the place of each.
    """
    if not outputs:
        return draft
    skeleton = ModelProto()
    skeleton.CopyFrom(draft.skeleton)
    nodes: list[NodeProto] = []
    for node in draft.skeleton.graph.node:
        nodes += written(node) if node.output and node.output[0] in outputs else [node]
    del skeleton.graph.node[:]
    skeleton.graph.node.extend(nodes)
    return ModelDraft(skeleton, draft.initializers)


@dataclass(eq=False)
class _Masked:
    """One normalisation with the nodes before it, in the making."""

    mask: NormMask
    node: NodeProto
    opset: int
    nodes: list[NodeProto] = field(default_factory=list)

    def written(self) -> list[NodeProto]:
        """Return the nodes."""
        stays = self.mask.stays
        share = float(np.mean(stays))
        node = NodeProto()
        node.CopyFrom(self.node)
        if node.op_type == "ReduceMean":
            node.input[0] = self._node("Mul", [node.input[0], self._constant(stays / share)])
            return [*self.nodes, node]
        root = np.sqrt(share)
        x = self._node("Mul", [self.node.input[0], self._constant(stays / root)])
        node.input[0] = x if node.op_type == "RMSNormalization" else self._centred(x, share)
        node.input[1] = self._node("Mul", [node.input[1], self._constant(np.asarray(root))])
        return [*self.nodes, node]

    def _centred(self, x: str, share: float) -> str:
        """Give the removed channels of x, which are 0, the mean of those that stay."""
        mask = self.mask
        filler = ~mask.stays / share  # the means that it multiplies are over all
        if mask.groups is None:
            last = self.node.op_type == "LayerNormalization"
            mean = self._mean(x, [mask.rank - 1] if last else range(2, mask.rank))
            filled = self._node("Mul", [mean, self._constant(filler)])
        else:
            grouped = self._node("Reshape", [x, self._ints(0, mask.groups, -1)])
            mean = self._mean(grouped, [2])  # (N, groups, 1)
            grid = filler.reshape(1, mask.groups, -1)  # (1, C, 1, ..) -> (1, groups, C / groups)
            filled = self._node("Mul", [mean, self._constant(grid)])
            shape = self._ints(0, filler.size, *(1,) * (mask.rank - 2))
            filled = self._node("Reshape", [filled, shape])  # -> (N, C, 1, ..)
        return self._node("Add", [x, filled])

    def _mean(self, x: str, axes: Sequence[int]) -> str:
        if self.opset < _AXES_AS_INPUT:
            return self._node("ReduceMean", [x], {"axes": list(axes), "keepdims": 1})
        return self._node("ReduceMean", [x, self._ints(*axes)], {"keepdims": 1})

    def _constant(self, value: Array) -> str:
        return self._stored(value.astype(self.mask.dtype))

    def _ints(self, *values: int) -> str:
        return self._stored(np.asarray(values, np.int64))

    def _stored(self, value: Array) -> str:
        return self._node("Constant", [], {"value": numpy_helper.from_array(value)})

    def _node(
        self, op_type: str, inputs: Sequence[str], attributes: Mapping[str, Any] | None = None
    ) -> str:
        name = f"{PREFIX}{self.mask.output}/{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], **(attributes or {})))
        return name
