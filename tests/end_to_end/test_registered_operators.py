"""Operators that a user registers, of another domain than ONNX's: from outside the package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from onnx import ModelProto, NodeProto

import lbyl_onnx
from lbyl_onnx import Config, OptionError, compress, inspect, register_operator
from lbyl_onnx.channels.rules.elementwise import elementwise
from lbyl_onnx.errors import NothingToPruneError
from lbyl_onnx.graph.inference import TensorFact, like_first_input
from lbyl_onnx.graph.layers.linear_layer import LinearLayer, Operation, TensorShapes
from lbyl_onnx.graph.layers.standard import conv
from lbyl_onnx.methods.registry import method_names
from tests.support.net import Net
from tests.support.oracle import assert_same, compressed, interpret, make_feeds, masked, run
from tests.support.registered import tables_restored

DOMAIN = "com.microsoft"
METHODS: tuple[str, ...] = method_names()

every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    with tables_restored():
        yield


def activated(op_type: str) -> ModelProto:
    """Two layers with an activation of ONNX Runtime's between them."""
    net = Net(("N", 6))
    x = net.gemm("x", 6, 12)
    operands = (
        [x] if op_type != "BiasGelu" else [x, net.constant("p", net.cast(net.rng.normal(size=12)))]
    )
    x = net.node(op_type, operands, {"domain": DOMAIN})
    return net.declared(net.gemm(x, 12, 4), "N", 4)  # fmt: skip


def tokens() -> ModelProto:
    """Two products by transposed matrices, with an alpha, and a Relu between them."""
    net = Net(("N", 5, 6))
    x = net.node(
        "TransposeMatMul",
        ["x", net.weight("w0", 12, 6)],
        {"domain": DOMAIN, "transB": 1, "alpha": 0.5},
    )
    x = net.node(
        "TransposeMatMul", [net.relu(x), net.weight("w1", 12, 4)], {"domain": DOMAIN, "alpha": 2.0}
    )
    return net.declared(x, "N", 5, 4)


def product(node: Operation, tensors: TensorShapes) -> LinearLayer | str:
    """TransposeMatMul: Y = alpha A B', with a matrix B."""
    rank, weight = node.rank(0, tensors), node.shape(1, tensors)
    if rank is None or weight is None or len(weight) != 2 or node.number("transA", 0):
        return "TransposeMatMul of unknown shapes"
    last, turned = rank - 1, bool(node.number("transB", 0))
    return LinearLayer(
        node,
        weight,
        data_axes=(None, last) if turned else (last, None),
        output_axes=(last, None) if turned else (None, last),
        rank=rank,
        in_axis=int(turned),
        out_axis=int(not turned),
        alpha=float(node.attributes.get("alpha", 1.0)),
        passed=tuple((axis, axis) for axis in range(last)),
    )


def product_shape(node: NodeProto, inputs: Sequence[TensorFact | None]) -> list[TensorFact]:
    data, weight = inputs
    assert data is not None
    assert weight is not None
    turned = any(item.name == "transB" and item.i for item in node.attribute)
    rows, outputs = data.shape, weight.shape
    if rows is None or outputs is None:
        return [TensorFact(data.dtype)]
    return [TensorFact(data.dtype, (*rows[:-1], outputs[0 if turned else 1]))]


def same_as_masked(model: ModelProto) -> None:
    analysis, feeds = interpret(model), make_feeds(model)
    config = Config(round_to=1, ratio=0.4, method="none", provider="cpu")
    expected = masked(model, analysis.plan(0.4), analysis)
    assert_same(run(compressed(model, config), feeds), run(expected, feeds))


@pytest.mark.parametrize("op_type", ["QuickGelu", "BiasGelu"])
def test_an_operator_is_prunable_only_once_it_is_registered(op_type: str) -> None:
    model = activated(op_type)
    with pytest.raises(NothingToPruneError, match=f"operator {DOMAIN}::{op_type} has no rule"):
        compress(model, config=Config(provider="cpu", ratio=0.3))
    register_operator(op_type, domain=DOMAIN, rule=elementwise, infer=like_first_input)
    assert [group.channels for group in inspect(model).groups] == [12]
    same_as_masked(model)


@pytest.mark.parametrize("op_type", ["QuickGelu", "Gelu"])
@every_method
def test_each_method_prunes_across_it(method: str, op_type: str) -> None:
    """One that ONNX has under the same name is not taken for that."""
    register_operator(op_type, domain=DOMAIN, rule=elementwise, infer=like_first_input)
    config = Config(round_to=1, ratio=0.5, method=method, provider="cpu")
    result = compress(activated(op_type), config=config)
    assert result.verification.values > 0
    assert [group.kept for group in result.groups] == [6]


def test_a_layer_is_prunable_only_once_it_is_registered() -> None:
    model = tokens()
    assert inspect(model).groups == ()
    register_operator("TransposeMatMul", domain=DOMAIN, layer=product, infer=product_shape)
    inspection = inspect(model)
    assert [group.channels for group in inspection.groups] == [12]
    assert inspection.costs.macs == 5 * 6 * 12 + 5 * 12 * 4
    same_as_masked(model)


@every_method
def test_each_method_prunes_a_registered_layer(method: str) -> None:
    register_operator("TransposeMatMul", domain=DOMAIN, layer=product, infer=product_shape)
    config = Config(round_to=1, ratio=0.5, method=method, provider="cpu")
    result = compress(tokens(), config=config)
    assert result.verification.values > 0
    assert result.after.macs == 5 * 6 * 6 + 5 * 6 * 4


def test_a_budget_counts_a_registered_layer() -> None:
    register_operator("TransposeMatMul", domain=DOMAIN, layer=product, infer=product_shape)
    result = compress(tokens(), config=Config(macs="50%", round_to=1, provider="cpu"))
    assert result.after.macs == 5 * 6 * 6 + 5 * 6 * 4


def same_plane(node: NodeProto, inputs: Sequence[TensorFact | None]) -> list[TensorFact]:
    """A convolution with pads: the plane stays."""
    data, weight = inputs[:2]
    assert data is not None
    assert weight is not None
    rows, outputs = data.shape, weight.shape
    if rows is None or outputs is None:
        return [TensorFact(data.dtype)]
    return [TensorFact(data.dtype, (rows[0], outputs[0], *rows[2:]))]


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_registered_layer_may_have_groups(groups: int) -> None:
    """A convolution under another name: its channels are those of a Conv."""
    net = Net(("N", 3, 6, 6))
    x = net.relu(net.conv("x", (3, 8)))
    operands = [
        x,
        net.weight("w", 8, 8 // groups, 3, 3),
        net.constant("b", net.cast(net.rng.normal(size=8))),
    ]
    x = net.node("Conv", operands, {"group": groups, "pads": [1] * 4})
    model = net.declared(net.head(net.relu(x), 8), "N", 10)
    groups_of_conv = interpret(model).channels.groups
    renamed = ModelProto()
    renamed.CopyFrom(model)
    node = next(n for n in renamed.graph.node if n.output[0] == x)
    node.op_type, node.domain = "Convolution", "somewhere.else"
    assert len(interpret(renamed).channels.groups) == 0
    register_operator("Convolution", domain="somewhere.else", layer=conv, infer=same_plane)
    groups_registered = interpret(renamed).channels.groups
    assert [group.size for group in groups_registered] == [group.size for group in groups_of_conv]
    for one, other in zip(groups_registered, groups_of_conv, strict=True):
        for role in ("producers", "followers", "consumers"):
            places = [
                (p.binding.node, p.binding.operand, p.binding.axis) for p in getattr(one, role)
            ]
            assert places == [
                (p.binding.node, p.binding.operand, p.binding.axis) for p in getattr(other, role)
            ]


@pytest.mark.parametrize(("op_type", "domain"), [("Conv", ""), ("Relu", "ai.onnx")])
def test_what_is_known_is_not_registered_again(op_type: str, domain: str) -> None:
    with pytest.raises(OptionError, match=f"operator .*{op_type} is registered already"):
        register_operator(op_type, rule=elementwise, domain=domain)


def test_a_name_is_registered_once() -> None:
    register_operator("QuickGelu", domain=DOMAIN, rule=elementwise)
    with pytest.raises(OptionError, match=f"operator {DOMAIN}::QuickGelu is registered already"):
        register_operator("QuickGelu", domain=DOMAIN, rule=elementwise)


def test_neither_rule_nor_layer_is_an_error() -> None:
    with pytest.raises(OptionError, match="needs a rule or a layer"):
        register_operator("QuickGelu", domain=DOMAIN)


def test_it_is_public() -> None:
    assert "register_operator" in lbyl_onnx.__all__
    assert lbyl_onnx.register_operator is register_operator
