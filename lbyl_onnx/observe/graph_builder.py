"""Nodes and initializers of a model that is being instrumented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from lbyl_onnx.observe.spec import MomentSpec
from lbyl_onnx.types import Array

PREFIX = "lbyl_onnx_probe/"
# From these versions on, the axes of ReduceMean are an input.
_AXES_ARE_AN_INPUT = 18


@dataclass
class Writer:
    """Nodes and initializers in the making.

    `awaited` are the views that a BatchNormalization by its batch's statistics measures along, by
    the tensor that it reads: their outputs and the number of their columns.
    """

    opset: int
    trains: bool
    awaited: dict[str, list[tuple[Mapping[str, str], int]]] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)

    def constant(self, value: Array) -> str:
        """Add an initializer; return its name."""
        name = f"{PREFIX}constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def ints(self, *values: int) -> str:
        """Add a vector of int64; return its name."""
        return self.constant(np.asarray(values, np.int64))

    def op(
        self,
        op_type: str,
        inputs: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        output: str | None = None,
    ) -> str:
        """Add a node of one output; return that."""
        name = output or f"{PREFIX}{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], **(attributes or {})))
        return name

    def mean(self, x: str, axes: Sequence[int], keepdims: bool) -> str:
        """Add the mean over some axes; return its name."""
        attributes: dict[str, Any] = {"keepdims": int(keepdims)}
        if self.opset >= _AXES_ARE_AN_INPUT:
            return self.op("ReduceMean", [x, self.ints(*axes)], attributes)
        return self.op("ReduceMean", [x], {"axes": list(axes), **attributes})


def outputs_of(key: str, view: MomentSpec) -> dict[str, str]:
    """Names of the outputs that hold a view's moments, by what they are.

    They are ``mean``, with an axis of length 1 for the rows. Where `view.gives_rows` there is
    ``centred``, what is left of the rows without it: (rows, columns) where `view.rows_first`, else
    (columns, rows). Otherwise there is ``shape`` (columns, rows), and ``0``, ``1``, .. for the
    strips of the second moment; of columns alone ``0`` is the variance (columns,).
    """
    moments = ["centred"] if view.gives_rows else ["shape", *map(str, range(len(view.strips)))]
    return {part: f"{PREFIX}{key}/{part}" for part in ("mean", *moments)}
