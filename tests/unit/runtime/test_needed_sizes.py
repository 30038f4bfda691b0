"""Sizes of inputs that layers prescribe, told by their rows in `LAYERS` alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import ModelProto

from lbyl_onnx import register_operator
from lbyl_onnx.graph.layers import LAYERS
from lbyl_onnx.graph.layers.linear_layer import LinearLayer, Operation, TensorShapes
from lbyl_onnx.graph.source import load_model
from lbyl_onnx.runtime.baseline import input_shapes
from lbyl_onnx.runtime.session import CPU
from lbyl_onnx.runtime.sizes.needed import needed_sizes
from tests.support.einsums import einsum
from tests.support.net import Net
from tests.support.registered import tables_restored

MICROSOFT = "com.microsoft"
Needed = dict[int, int]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    with tables_restored():
        yield


def dynamic(rank: int) -> Net:
    return Net([f"d{axis}" for axis in range(rank)])


def needed(model: ModelProto) -> Needed:
    """Sizes that are needed along the axes of the one input, x."""
    sizes = needed_sizes(model)
    assert {name for name, _ in sizes} <= {"x"}
    return {axis: size for (_, axis), size in sizes.items()}


def layer(
    rank: int, op_type: str, *weight: int, domain: str = "", outputs: int = 1, **attributes: Any
) -> ModelProto:
    """One layer that reads the input, of which only the rank is declared."""
    net = dynamic(rank)
    operands = ["x", net.weight("w", *weight)]
    x = net.node(op_type, operands, {**attributes, **({"domain": domain} if domain else {})})
    return net.declared(x, *(f"e{axis}" for axis in range(outputs)))


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (layer(4, "Conv", 8, 2, 3, 3, group=4), {1: 8}),
        (layer(3, "Conv", 8, 5, 3), {1: 5}),
        (layer(4, "ConvTranspose", 12, 2, 3, 3), {1: 12}),
        (layer(4, "ConvTranspose", 12, 2, 3, 3, group=3), {1: 12}),
        (layer(2, "Gemm", 7, 6, transA=1), {0: 7}),
        (layer(2, "Gemm", 6, 7, transA=1, transB=1), {0: 7}),
        (layer(4, "MatMul", 7, 6), {3: 7}),
        (layer(4, "MatMul", 2, 7, 6), {1: 2, 3: 7}),
        (layer(3, "MatMul", 1, 7, 6), {2: 7}),  # one matrix for all
        (layer(2, "MatMul", 2, 7, 6), {1: 7}),
    ],
)
def test_a_weight_tells_the_channels(model: ModelProto, sizes: Needed) -> None:
    assert needed(model) == sizes


@pytest.mark.parametrize(
    ("equation", "rank", "weight", "first", "sizes"),
    [
        ("btk,kh->bth", 3, (7, 6), False, {2: 7}),
        ("btk,hk->bth", 3, (6, 7), False, {2: 7}),
        ("kh,bkt->bht", 3, (7, 6), True, {1: 7}),
        ("...k,kh->...h", 4, (7, 6), False, {3: 7}),
        ("bthk,hkd->btd", 4, (2, 7, 6), False, {2: 2, 3: 7}),
        ("bhtk,hkd->bhtd", 4, (2, 7, 6), False, {1: 2, 3: 7}),
        ("bk,kh->b", 2, (7, 6), False, {}),  # no layer: its weight is summed up
    ],
)
def test_an_einsum_does_by_the_letters_of_its_equation(
    equation: str, rank: int, weight: tuple[int, ...], first: bool, sizes: Needed
) -> None:
    net = dynamic(rank)
    assert needed(net.model(einsum(net, equation, "x", weight, first))) == sizes


@pytest.mark.parametrize("op_type", ["MatMul", "Einsum"])
def test_axes_that_a_layer_keeps_are_followed_behind_it(op_type: str) -> None:
    """A mixer: one product along the channels, one along the tokens."""
    net = dynamic(3)
    if op_type == "MatMul":
        x = net.node("MatMul", ["x", net.weight("w", 7, 6)])
        x = net.node("Transpose", [x], {"perm": [0, 2, 1]})
        x = net.node("MatMul", [x, net.weight("v", 5, 4)])
    else:
        x = einsum(net, "btk,kh->bht", "x", (7, 6))
        x = einsum(net, "bht,ts->bhs", x, (5, 4))
    assert needed(net.model(x)) == {2: 7, 1: 5}


def test_a_product_of_two_activations_needs_nothing() -> None:
    net = dynamic(2)
    product = net.node("Einsum", ["x", net.relu("x")], {"equation": "ab,cb->ac"})
    assert needed(net.model(net.node("MatMul", ["x", product]))) == {}


def turned(node: Operation, tensors: TensorShapes) -> LinearLayer | str:
    """A product along the axis behind the batch, whose weight is (in, out), over any axes."""
    rank, weight = node.rank(0, tensors), node.shape(1, tensors)
    if rank is None or weight is None:
        return "no weight"
    return LinearLayer(
        node,
        weight,
        data_axes=(1, None),
        output_axes=(None, 1),
        rank=rank,
        in_axis=0,
        out_axis=1,
        passed=tuple((axis, axis) for axis in range(rank) if axis != 1),
    )


def test_a_layer_of_another_domain_does_once_it_is_registered() -> None:
    model = layer(4, "Turned", 7, 6, domain="somewhere.else", outputs=4)
    assert needed(model) == {}
    register_operator("Turned", domain="somewhere.else", layer=turned)
    assert needed(model) == {1: 7}


def test_its_row_alone_tells_which_axes_it_keeps() -> None:
    net = dynamic(3)
    x = net.node("Turned", ["x", net.weight("w", 7, 6)], {"domain": "somewhere.else"})
    model = net.declared(net.node("MatMul", [x, net.weight("v", 5, 4)]), "a", "b", "c")
    register_operator("Turned", domain="somewhere.else", layer=turned)
    assert needed(model) == {1: 7, 2: 5}


def test_no_operator_with_a_row_is_read_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    models = [layer(4, "Conv", 8, 5, 3, 3), layer(2, "Gemm", 5, 6), layer(2, "MatMul", 5, 6)]
    assert [needed(model) for model in models] == [{1: 5}] * 3
    for key in list(LAYERS):
        monkeypatch.delitem(LAYERS, key)
    assert [needed(model) for model in models] == [{}] * 3


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (layer(4, "FusedConv", 8, 5, 3, 3, domain=MICROSOFT, activation="Relu"), {1: 5}),
        (layer(4, "FusedConv", 8, 5, 3, 3, domain=MICROSOFT, activation="Relu", group=2), {1: 10}),
        (layer(2, "FusedGemm", 6, 7, domain=MICROSOFT, activation="Relu", transB=1), {1: 7}),
        (layer(3, "FusedMatMul", 6, 7, domain=MICROSOFT, transB=1, alpha=0.5), {2: 7}),
    ],
)
def test_fused_nodes_do_as_the_layers_that_they_stand_for(
    model: ModelProto, sizes: Needed, tmp_path: Path
) -> None:
    onnx.save(model, tmp_path / "m.onnx")
    assert needed(load_model(tmp_path / "m.onnx")[0]) == sizes


@pytest.mark.parametrize(
    ("equation", "rank", "weight", "sizes"),
    [("btk,kh->bth", 3, (7, 6), {2: 7}), ("bhtk,hkd->bhtd", 4, (2, 7, 6), {1: 2, 3: 7})],
)
def test_a_model_that_declares_no_size_is_run_at_them(
    equation: str, rank: int, weight: tuple[int, ...], sizes: Needed, tmp_path: Path
) -> None:
    net = dynamic(rank)
    onnx.save(net.model(einsum(net, equation, "x", weight)), tmp_path / "m.onnx")
    for shapes in input_shapes(tmp_path / "m.onnx", CPU):
        assert {axis: shapes["x"][axis] for axis in sizes} == sizes
