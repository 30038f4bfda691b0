"""Tables: constants of which each run reads the rows that it needs, as embeddings are."""

from __future__ import annotations

from lbyl_onnx.channels.labels import Labels, Role
from lbyl_onnx.channels.rules.view import NodeView

# Operators that read rows of a constant; which ones, other inputs tell.
READ_ROWS = ("Gather", "Slice")
# Columns from which on a table holds channels, and not pairs or the like.
FEWEST = 4


def started(view: NodeView) -> list[Labels | None]:
    """Start new labels at the last axis of a constant of which rows are read; else none.

    What each run reads of it brings channels as a layer does: an embedding is a layer on tokens
    of which one is 1.
    """
    shape = view.shape(0)
    if view.op_type not in READ_ROWS or not view.is_constant(0) or shape is None:
        return []
    columns = shape[-1] if len(shape) > 1 else 0
    output = view.output_shape()
    if columns < FEWEST or output is None or output[-1] != columns or not _takes_rows(view):
        return []
    fresh = view.flow.coupling.fresh(columns)
    view.binding(0, len(shape) - 1, fresh, Role.PRODUCER)
    return [fresh.reshape((1,) * (len(output) - 1) + (columns,))]  # (C,) -> (1, .., C)


def _takes_rows(view: NodeView) -> bool:
    """Whether a node reads the last axis whole."""
    last = len(view.shape(0) or ()) - 1
    if view.op_type == "Gather":
        return view.int_attribute("axis", 0) % (last + 1) != last
    axes = view.ints(3, "axes")
    return axes is not None and all(axis % (last + 1) != last for axis in axes)
