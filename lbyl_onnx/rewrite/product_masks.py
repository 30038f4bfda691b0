"""Products without the channels that are gone, in the reference that a cut model must equal.

A product that is summed over channels, as that of queries by keys, has no weight that could be set
to zero where a channel is gone: its first operand is multiplied by 0 there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from lbyl_onnx.channels.groups import ChannelMap
from lbyl_onnx.channels.labels import Labels
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.io.writer import ModelDraft
from lbyl_onnx.rewrite.norm_masks import with_nodes_replaced
from lbyl_onnx.types import Array

PREFIX = "lbyl_onnx/met/"


@dataclass(frozen=True, eq=False)
class ProductMask:
    """Which channels of a product's operand stay.

    Parameters
    ----------
    output
        Name of what the product gives, which tells the node.
    operand
        The input.
    stays
        Ones and zeros that broadcast to it, in its type.
    """

    output: str
    operand: int
    stays: Array


def product_masks(
    model: ModelProto, tensor_info: TensorInfo, channels: ChannelMap, removed: Labels
) -> tuple[ProductMask, ...]:
    """Return a mask for each product in which removed channels meet others.

    Parameters
    ----------
    model, tensor_info, channels
        The original, and where its channels lie.
    removed
        Roots of the removed channels.
    """
    alive = ~np.isin(channels.roots, removed)
    masks: dict[tuple[int, int], ProductMask] = {}
    for product in (product for group in channels.groups for product in group.products):
        node = model.graph.node[product.node]
        operands = [(product.operand, product.labels)]
        operands += [] if product.added is None else [product.added]
        for operand, labels in operands:
            stays = alive[labels]
            if not np.all(stays):
                dtype = helper.tensor_dtype_to_np_dtype(tensor_info.dtype(node.input[operand]))
                mask = ProductMask(node.output[0], operand, stays.astype(dtype))
                masks[product.node, operand] = mask
    return tuple(masks.values())


def with_masked_products(draft: ModelDraft, masks: Sequence[ProductMask]) -> ModelDraft:
    """Return a reference whose products see the channels that stay alone.

    Parameters
    ----------
    draft
        The model; it is not changed.
    masks
        Of its products.
    """
    by_output: dict[str, list[ProductMask]] = {}
    for mask in masks:
        by_output.setdefault(mask.output, []).append(mask)

    def written(node: NodeProto) -> list[NodeProto]:
        nodes = [node]
        for mask in by_output[node.output[0]]:
            nodes[-1:] = _masked(nodes[-1], mask)
        return nodes

    return with_nodes_replaced(draft, by_output.keys(), written)


def _masked(node: NodeProto, mask: ProductMask) -> list[NodeProto]:
    names = [f"{PREFIX}{mask.output}/{mask.operand}/{what}" for what in ("stays", "operand")]
    constant = helper.make_node(
        "Constant", [], [names[0]], value=numpy_helper.from_array(mask.stays)
    )
    product = NodeProto()
    product.CopyFrom(node)
    product.input[mask.operand] = names[1]
    return [
        constant,
        helper.make_node("Mul", [node.input[mask.operand], names[0]], [names[1]]),
        product,
    ]
