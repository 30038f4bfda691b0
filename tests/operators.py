"""Small seeded models for operators that newer exporters write, and for what must stay."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from onnx import ModelProto, TensorProto, helper

from tests.net import Net
from tests.topologies import IMAGE, finish


def sequence(*parts: int, axis: int = 1) -> ModelProto:
    """Two parts of one layer taken from a sequence, as PyTorch's chunk is traced.

    Sizes are one number for all parts, or one for each.
    """
    net = Net(IMAGE)
    x = net.block("x", (3, 12))
    sizes = net.constant("sizes", np.asarray(parts if len(parts) > 1 else parts[0], np.int64))
    cut = net.node("SplitToSequence", [x, sizes], {"axis": axis})
    positions = [net.constant(f"at_{i}", np.asarray(i, np.int64)) for i in (0, -1)]
    first, last = (net.node("SequenceAt", [cut, position]) for position in positions)
    wide = [12, 12] if axis != 1 else [parts[0], parts[-1]]
    branches = [net.block(x, (c, 4)) for x, c in zip((first, last), wide, strict=True)]
    return finish(net, net.node("Add", branches), 4)


# --- sizes that the graph computes --------------------------------------------------------------


def leading(net: Net, x: str, *rest: int) -> str:
    """The first two sizes of a tensor, then others, as interpolation to a size is exported."""
    sizes = net.node("Shape", [x])
    return net.node(
        "Concat",
        [net.node("Slice", [sizes, net.ints(0), net.ints(2)]), net.ints(*rest)],
        {"axis": 0},
    )


def resize_computed() -> ModelProto:
    """Sizes with a dynamic batch and the channels of what is resized."""
    net = Net(IMAGE)
    x = net.block("x", (3, 8))
    return finish(net, net.node("Resize", [x, "", "", leading(net, x, 12, 9)]), 8)


def flatten_and_back() -> ModelProto:
    """Flattened over dynamic height and width, and given its own shape again."""
    net = Net(("N", 3, "H", "W"))
    x = net.block("x", (3, 8))
    flat = net.relu(net.node("Reshape", [x, net.ints(0, 8, -1)]))
    return finish(net, net.node("Reshape", [flat, net.node("Shape", [x])]), 8)


def shaped_as_another() -> ModelProto:
    """A target that counts the channels of another layer: it can be rewritten."""
    net = Net(IMAGE)
    first, second = (net.block("x", (3, 8)) for _ in range(2))
    flat = net.node("Reshape", [second, leading(net, first, -1)])
    back = net.node("Reshape", [flat, net.ints(0, 0, 6, 6)])
    return finish(net, net.node("Concat", [first, back], {"axis": 1}), 16)


def shaped_as_another_of_its_kind(coupled: bool) -> ModelProto:
    """The same with dynamic height and width: it is right only where both lose the same."""
    net = Net(("N", 3, "H", "W"))
    first, second = (net.block("x", (3, 8)) for _ in range(2))
    flat = net.node("Reshape", [second, net.ints(0, 8, -1)])
    back = net.node("Reshape", [net.relu(flat), net.node("Shape", [first])])
    if coupled:
        return finish(net, net.node("Add", [first, back]), 8)
    return finish(net, net.node("Concat", [first, back], {"axis": 1}), 16)


def input_shaped_as_a_layer() -> ModelProto:
    """What has no channels of its own is given the shape of a layer."""
    net = Net(("N", 8, "H", "W"))
    x = net.block("x", (8, 8))
    image = net.node("Reshape", ["x", net.node("Shape", [x])])
    return finish(net, net.node("Concat", [x, image], {"axis": 1}), 16)


def number_in_a_body() -> ModelProto:
    """The body of If multiplies by a number of channels."""
    net = Net(IMAGE)
    x = net.block("x", (3, 8))
    number = net.node("Gather", [net.node("Shape", [x]), net.ints(1)])
    number = net.node("Cast", [number], {"to": TensorProto.FLOAT})
    logits = net.head(net.block(x, (8, 6)), 6)
    condition = net.constant("condition", np.asarray(True))
    bodies = {
        f"{branch}_branch": helper.make_graph(
            [helper.make_node("Mul", [logits, number], [f"{branch}_out"])],
            branch,
            [],
            [helper.make_tensor_value_info(f"{branch}_out", TensorProto.FLOAT, ["N", 10])],
        )
        for branch in ("then", "else")
    }
    return net.model(net.relu(net.node("If", [condition], bodies)))


def number_as_output() -> ModelProto:
    """The shape of a layer is an output of the model."""
    net = Net(IMAGE)
    x = net.block("x", (3, 8))
    y = net.head(net.block(x, (8, 6)), 6)
    return net.model(y, net.node("Cast", [net.node("Shape", [x])], {"to": TensorProto.FLOAT}))


# Builder, and how many channels can be pruned at scope inner and at scope all.
OPERATORS: dict[str, tuple[Callable[[], ModelProto], int, int]] = {
    "sequence_even": (partial(sequence, 6), 18, 22),
    "sequence_sizes": (partial(sequence, 4, 8), 18, 22),
    "sequence_spatial": (partial(sequence, 3, axis=2), 18, 22),
    "resize_computed": (resize_computed, 14, 14),
    "flatten_and_back": (flatten_and_back, 14, 14),
    "shaped_as_another": (shaped_as_another, 22, 22),
    "shaped_as_another_coupled": (partial(shaped_as_another_of_its_kind, True), 6, 14),
    "shaped_as_another_alone": (partial(shaped_as_another_of_its_kind, False), 6, 6),
    "input_shaped_as_a_layer": (input_shaped_as_a_layer, 6, 6),
    "number_in_a_body": (number_in_a_body, 6, 6),
    "number_as_output": (number_as_output, 6, 6),
}
