"""Small seeded models for operators that newer exporters write, and for what must stay."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from onnx import ModelProto

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


# Builder, and how many channels can be pruned at scope inner and at scope all.
OPERATORS: dict[str, tuple[Callable[[], ModelProto], int, int]] = {
    "sequence_even": (partial(sequence, 6), 18, 22),
    "sequence_sizes": (partial(sequence, 4, 8), 18, 22),
    "sequence_spatial": (partial(sequence, 3, axis=2), 18, 22),
}
