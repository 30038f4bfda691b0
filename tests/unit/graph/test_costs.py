"""Multiply-accumulates, against loops that count each one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

import pytest
from onnx import ModelProto, TensorProto, helper

from lbyl_onnx.graph.costs import count_costs
from lbyl_onnx.graph.tensor_info import TensorInfo

Shape = Sequence[int]


def one_node(
    op_type: str, shapes: Sequence[Shape | None], attributes: Mapping[str, Any], opset: int = 23
) -> ModelProto:
    """A model of one node, all of whose operands are inputs; None leaves an operand out."""
    names = ["" if shape is None else f"x{i}" for i, shape in enumerate(shapes)]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip(names, shapes, strict=True)
        if shape is not None
    ]
    node = helper.make_node(op_type, names, ["y"], **attributes)
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def macs(op_type: str, shapes: Sequence[Shape | None], **attributes: Any) -> int:
    model = one_node(op_type, shapes, attributes)
    facts = {
        v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in model.graph.input
    }
    return count_costs(model, TensorInfo(model, facts, facts)).macs


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@pytest.mark.parametrize("op_type", GATES)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("batch_first", [0, 1])
def test_recurrent_layers(op_type: str, directions: int, batch_first: int) -> None:
    steps, batch, size, hidden, gates = 5, 2, 3, 4, GATES[op_type]
    counted = 0
    for _ in product(range(directions), range(steps), range(batch)):
        for _ in product(range(gates), range(hidden)):
            counted += size  # what is read
            counted += hidden  # the state before
    shapes = (
        (batch, steps, size) if batch_first else (steps, batch, size),
        (directions, gates * hidden, size),
        (directions, gates * hidden, hidden),
    )
    attributes = {
        "hidden_size": hidden,
        "layout": batch_first,
        "direction": "bidirectional" if directions == 2 else "forward",
    }
    assert macs(op_type, shapes, **attributes) == counted


@pytest.mark.parametrize(
    ("equation", "shapes", "letters"),
    [
        ("ij,jk->ik", [(2, 3), (3, 5)], (2, 3, 5)),
        ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)], (2, 3, 4, 6, 5)),
        ("ij, jk", [(2, 3), (3, 5)], (2, 3, 5)),
        ("i,i->", [(4,), (4,)], (4,)),
        ("i,j,k->ijk", [(2,), (3,), (4,)], (2, 3, 4)),
        ("...ij,...jk->...ik", [(7, 2, 3), (7, 3, 5)], (7, 2, 3, 5)),
        ("...ij,jk->...ik", [(6, 7, 2, 3), (3, 5)], (6, 7, 2, 3, 5)),
        ("bij,bjk->bik", [(1, 2, 3), (7, 3, 5)], (7, 2, 3, 5)),
    ],
)
def test_einsum(equation: str, shapes: Sequence[Shape], letters: Shape) -> None:
    counted = sum(1 for _ in product(*map(range, letters)))
    assert macs("Einsum", shapes, equation=equation) == counted


def test_einsum_of_one_operand_multiplies_nothing() -> None:
    assert macs("Einsum", [(2, 3)], equation="ij->ji") == 0


@pytest.mark.parametrize(
    ("op_type", "shapes", "attributes", "letters"),
    [
        ("MatMul", [(2, 3, 4, 5), (2, 3, 5, 6)], {}, (2, 3, 4, 6, 5)),
        ("MatMul", [(7, 4, 5), (5, 6)], {}, (7, 4, 6, 5)),
        ("MatMul", [(5,), (5, 6)], {}, (6, 5)),
        ("Gemm", [(4, 5), (5, 6)], {}, (4, 6, 5)),
        ("Gemm", [(5, 4), (6, 5)], {"transA": 1, "transB": 1}, (4, 6, 5)),
    ],
)
def test_products_of_two_activations(
    op_type: str, shapes: Sequence[Shape], attributes: Mapping[str, int], letters: Shape
) -> None:
    counted = sum(1 for _ in product(*map(range, letters)))
    assert macs(op_type, shapes, **attributes) == counted


@pytest.mark.parametrize("past", [0, 3])
@pytest.mark.parametrize("flat", [False, True])
def test_attention(past: int, flat: bool) -> None:
    batch, heads, key_heads, queries, keys, size, width = 2, 6, 2, 4, 5, 3, 7
    counted = 0
    for _ in product(range(batch), range(heads), range(queries), range(keys + past)):
        counted += size  # a query by a key
        counted += width  # its share of a value
    shapes: list[Shape | None]
    if flat:
        shapes = [
            (batch, queries, heads * size),
            (batch, keys, key_heads * size),
            (batch, keys, key_heads * width),
        ]
    else:
        shapes = [
            (batch, heads, queries, size),
            (batch, key_heads, keys, size),
            (batch, key_heads, keys, width),
        ]
    if past:
        shapes += [None, (batch, key_heads, past, size), (batch, key_heads, past, width)]
    attributes = {"q_num_heads": heads, "kv_num_heads": key_heads} if flat else {}
    assert macs("Attention", shapes, **attributes) == counted


@pytest.mark.parametrize(
    ("op_type", "shapes", "attributes", "output"),
    [
        ("Conv", [(2, 6, 9, 9), (4, 3, 3, 3)], {"group": 2}, (2, 4, 7, 7)),
        ("Conv", [(2, 6, 9), (6, 1, 3)], {"group": 6, "pads": [1, 1]}, (2, 6, 9)),
    ],
)
def test_convolutions(
    op_type: str, shapes: Sequence[Shape], attributes: Mapping[str, Any], output: Shape
) -> None:
    counted = 0
    for _ in product(*map(range, output)):
        counted += prod(shapes[1][1:])
    assert macs(op_type, shapes, **attributes) == counted


def test_an_operator_of_another_domain_is_not_taken_for_its_namesake() -> None:
    model = one_node("MatMul", [(4, 5), (5, 6)], {"domain": "somewhere"})
    shapes = {"x0": (4, 5), "x1": (5, 6)}
    assert count_costs(model, TensorInfo(model, shapes, shapes)).macs == 0
