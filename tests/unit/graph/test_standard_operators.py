"""Functions and fused nodes: they are pruned as what they stand for, and lose nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper

from lbyl_onnx import Config, ModelError, NothingToPruneError, compress, inspect
from lbyl_onnx.errors import VerificationError
from lbyl_onnx.graph import source
from lbyl_onnx.graph.functions import written_out
from lbyl_onnx.graph.fused import ACTIVATIONS
from lbyl_onnx.methods.registry import method_names
from tests.support.architectures import chain
from tests.support.net import Net
from tests.support.oracle import assert_same, make_feeds, run, values

METHODS = method_names()
every_method = pytest.mark.parametrize("method", METHODS)


def cut(model: ModelProto, method: str = "none") -> ModelProto:
    result = compress(model, config=Config(round_to=1, ratio=0.5, method=method, provider="cpu"))
    assert result.groups
    assert result.model is not None
    return result.model


def loaded(model: ModelProto, folder: Path) -> ModelProto:
    onnx.save(model, folder / "model.onnx")
    return source.load_model(folder / "model.onnx")[0]


def assert_cut_alike(model: ModelProto, plain: ModelProto, method: str) -> None:
    """Compare with what becomes of the same model in single standard operators."""
    left, right = values(cut(model, method)), values(cut(plain, method))
    assert sorted(left) == sorted(right)
    for name, value in right.items():
        np.testing.assert_array_equal(left[name], value)


# --- fused nodes --------------------------------------------------------------------------------


def saved_by_runtime(model: ModelProto, folder: Path) -> ModelProto:
    """A model as ONNX Runtime saves it after its extended optimisations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "saved.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "saved.onnx")


def convs() -> ModelProto:
    net = Net(("N", 3, 6, 6))
    x = net.node("LeakyRelu", [net.conv("x", (3, 8))], {"alpha": 0.3})
    bounds = [net.constant(k, np.float32(v)) for k, v in (("low", -1.0), ("high", 6.0))]
    x = net.node("Clip", [net.conv(x, (8, 8)), *bounds])
    x = net.node("HardSigmoid", [net.conv(x, (8, 8))], {"alpha": 0.25, "beta": 0.4})
    for op_type in ("Tanh", "Sigmoid", "Relu"):
        x = net.node(op_type, [net.conv(x, (8, 8), (1, 1))])
    return net.model(net.head(x, 8))


def gemms() -> ModelProto:
    net = Net(("N", 6))
    x, width = "x", 6
    kinds: dict[str, Mapping[str, float]] = {
        "Elu": {"alpha": 0.7},
        "LeakyRelu": {"alpha": 0.2},
        "Softplus": {},
        "Selu": {},
        "HardSigmoid": {"alpha": 0.3},
        "Tanh": {},
    }
    for op_type, attributes in kinds.items():
        x, width = net.node(op_type, [net.gemm(x, width, 8)], attributes), 8
    return net.model(net.gemm(x, 8, 3))


def matmuls() -> ModelProto:
    """Scaled and transposed products, of a weight and of two activations."""
    net = Net(("N", 4, 6))
    half = net.constant("half", np.float32(0.5))
    x = net.node("Mul", [net.node("MatMul", ["x", net.weight("w0", 6, 8)]), half])
    keys = net.node("Transpose", [x], {"perm": [0, 2, 1]})
    scores = net.node("Softmax", [net.node("Mul", [net.node("MatMul", [x, keys]), half])])
    x = net.node("MatMul", [scores, x])
    x = net.relu(net.node("Mul", [net.node("MatMul", [x, net.weight("w1", 8, 12)]), half]))
    return net.model(net.node("MatMul", [x, net.weight("w2", 12, 3)]))


FUSED = {"FusedConv": convs, "FusedGemm": gemms, "FusedMatMul": matmuls}


class TestFused:
    @every_method
    @pytest.mark.parametrize("op_type", FUSED)
    def test_it_is_cut_as_what_it_was_fused_from(
        self, tmp_path: Path, op_type: str, method: str
    ) -> None:
        plain = FUSED[op_type]()
        model = saved_by_runtime(plain, tmp_path)
        assert op_type in {node.op_type for node in model.graph.node}
        left, right = cut(model, method), cut(plain, method)
        feeds = make_feeds(plain)
        assert_same(run(left, feeds), run(right, feeds))
        assert {n.domain for n in left.graph.node} == {""}

    @pytest.mark.parametrize("op_type", FUSED)
    def test_it_computes_the_same(self, tmp_path: Path, op_type: str) -> None:
        model = saved_by_runtime(FUSED[op_type](), tmp_path)
        feeds = make_feeds(model)
        assert_same(run(loaded(model, tmp_path), feeds), run(model, feeds))

    def test_names_stay_and_are_not_given_twice(self, tmp_path: Path) -> None:
        model = saved_by_runtime(convs(), tmp_path)
        fused = {n.name: n.output[0] for n in model.graph.node if n.op_type == "FusedConv"}
        nodes = loaded(model, tmp_path).graph.node
        assert fused.keys() <= {n.name for n in nodes if n.op_type == "Conv"}
        assert set(fused.values()) <= {name for n in nodes for name in n.output}
        names = [n.name for n in nodes] + [name for n in nodes for name in n.output]
        assert len(set(names)) == len(names)

    def test_what_is_added_before_the_activation(self, tmp_path: Path) -> None:
        """The fourth input: a residual branch."""
        net = Net(("N", 3, 6, 6))
        trunk = net.block("x", (3, 8))
        inner = net.relu(net.conv(trunk, (8, 6)))
        inputs = [inner, net.weight("w", 8, 6, 3, 3), net.weight("b", 8), trunk]
        fused = net.node("FusedConv", inputs, {"pads": [1] * 4, "activation": "Relu"})
        net.nodes[-1].domain = "com.microsoft"
        model = net.declared(net.conv(fused, (8, 4), (1, 1)), "N", 4, 6, 6)
        ops = [node.op_type for node in loaded(model, tmp_path).graph.node]
        assert ops[-4:] == ["Conv", "Add", "Relu", "Conv"]
        feeds = make_feeds(model)
        assert_same(run(loaded(model, tmp_path), feeds), run(model, feeds))
        config = Config(round_to=1, ratio=0.5, scope="all", method="lbyl", provider="cpu")
        result = compress(model, config=config)
        assert [group.channels for group in result.groups] == [8, 6]

    @pytest.mark.parametrize(
        ("sizes", "mask", "more"),
        [
            ((8, 8, 8), False, {}),
            ((8, 8, 12), True, {"scale": 0.2, "mask_filter_value": -50.0}),
            ((12, 12, 4), True, {"unidirectional": 1}),
        ],
    )
    def test_attention_makes_its_parts_by_one_product(
        self, sizes: tuple[int, ...], mask: bool, more: dict[str, Any], tmp_path: Path
    ) -> None:
        net = Net((5, 5, 6))
        inputs = ["x", net.weight("w", 6, sum(sizes))]
        inputs.append(net.constant("b", net.cast(net.rng.normal(size=sum(sizes)))))
        if mask:
            inputs.append(
                net.constant("mask", np.tile(np.asarray([1, 1, 1, 0, 0], np.int32), (5, 1)))
            )
        attributes = {"num_heads": 2, "qkv_hidden_sizes": [*sizes], **more}
        y = net.node("Attention", inputs, attributes)
        net.nodes[-1].domain = "com.microsoft"
        y = net.node("MatMul", [y, net.weight("out", sizes[2], 3)])
        model = net.declared(y, 5, 5, 3)
        plain = loaded(model, tmp_path)
        ops = [n.op_type for n in plain.graph.node if n.op_type not in ("Constant", "Add")]
        assert ops == ["MatMul", "Split", "MultiHeadAttention", "MatMul"]
        feeds = make_feeds(model)
        assert_same(run(plain, feeds), run(model, feeds))
        result = cut(model)
        assert values(result)["w"].shape == (6, sum(sizes) // 2)

    @pytest.mark.parametrize("kept", ["past", "mask of lengths"])
    def test_attention_that_cannot_be_written_out_stays(self, kept: str, tmp_path: Path) -> None:
        net = Net(("N", 5, 6))
        bias = net.constant("b", net.cast(np.ones(24)))
        inputs = ["x", net.weight("w", 6, 24), bias]
        inputs.append(
            net.constant("lengths", np.asarray([5], np.int32)) if kept == "mask of lengths" else ""
        )
        if kept == "past":
            inputs.append(net.constant("past", net.cast(np.zeros((2, 1, 2, 3, 4)))))
        y = net.node("Attention", inputs, {"num_heads": 2})
        net.nodes[-1].domain = "com.microsoft"
        model = net.declared(y, "N", 5, 8)
        ops = [node.op_type for node in loaded(model, tmp_path).graph.node]
        assert ops == ["Attention"]

    def test_an_activation_that_is_not_known_is_named(self) -> None:
        net = Net(("N", 3, 6, 6))
        inputs = [net.relu(net.conv("x", (3, 8))), net.weight("w", 6, 8, 1, 1)]
        x = net.node("FusedConv", inputs, {"activation": "Erf"})
        net.nodes[-1].domain = "com.microsoft"
        model = net.declared(x, "N", 6, 6, 6)
        assert "Erf" not in ACTIVATIONS
        with pytest.raises(ModelError):  # nor does ONNX Runtime know it
            compress(model, config=Config(round_to=1, provider="cpu", ratio=0.3))


# --- functions ----------------------------------------------------------------------------------

OPSETS = [helper.make_opsetid("", 17)]


def function(name: str, inputs: list[str], nodes: list[NodeProto], **more: Any) -> FunctionProto:
    opsets = [*OPSETS, helper.make_opsetid("blocks", 1)]
    return helper.make_function("blocks", name, inputs, ["Y"], nodes, opsets, **more)


def conv_block() -> FunctionProto:
    """Conv and LeakyRelu, whose slope is an attribute with a default."""
    bend = helper.make_node("LeakyRelu", ["t"], ["Y"], name="bend")
    bend.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    nodes = [helper.make_node("Conv", ["X", "W", "B"], ["t"], name="c", pads=[1] * 4), bend]
    default = helper.make_attribute("slope", 0.2)
    return function("Block", ["X", "W", "B"], nodes, attribute_protos=[default])


def pair() -> FunctionProto:
    """Two blocks in a row: a function that calls another."""
    nodes = [
        helper.make_node("Block", ["X", "W", "B"], ["t"], domain="blocks", slope=0.3),
        helper.make_node("Block", ["t", "V", "C"], ["Y"], domain="blocks"),
    ]
    return function("Pair", ["X", "W", "B", "V", "C"], nodes)


def blocks(as_functions: bool) -> ModelProto:
    """Four layers, of which two are called by one function; or all spelled out."""
    net, x = Net(("N", 3, 6, 6)), "x"
    weights = []
    for number, (c_in, c_out) in enumerate(((3, 8), (8, 12), (12, 6), (6, 4))):
        bias = net.constant(f"b{number}", net.cast(net.rng.normal(size=c_out)))
        weights.append([net.weight(f"w{number}", c_out, c_in, 3, 3), bias])
    if as_functions:
        x = net.node("Pair", [x, *weights[0], *weights[1]], {"domain": "blocks"})
        for number in (2, 3):
            x = net.node("Block", [x, *weights[number]], {"domain": "blocks"})
    else:
        for number in range(4):
            x = net.node("Conv", [x, *weights[number]], {"pads": [1] * 4})
            x = net.node("LeakyRelu", [x], {"alpha": 0.3 if number == 0 else 0.2})
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x])])
    info = helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph(net.nodes, "net", net.inputs, [info], net.initializers)
    opsets = [*OPSETS, helper.make_opsetid("blocks", 1)]
    functions = [pair(), conv_block()] if as_functions else []
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=9)


class TestFunctions:
    @every_method
    def test_it_is_cut_as_what_it_stands_for(self, method: str) -> None:
        assert_cut_alike(blocks(True), blocks(False), method)

    def test_it_computes_the_same(self, tmp_path: Path) -> None:
        """Attributes that a call leaves out have the function's own defaults."""
        model = blocks(True)
        feeds = make_feeds(model)
        written = loaded(model, tmp_path)
        assert not written.functions
        assert_same(run(written, feeds), run(blocks(False), feeds))
        assert_same(run(model, feeds), run(blocks(False), feeds))

    def test_inspect_sees_them(self) -> None:
        assert [group.channels for group in inspect(blocks(True), provider="cpu").groups] == [
            8,
            12,
            6,
        ]

    def test_names_are_not_given_twice(self, tmp_path: Path) -> None:
        model = blocks(True)
        model.graph.node[1].name = "c__1"  # as the inliner would call a layer
        nodes = loaded(model, tmp_path).graph.node
        names = [n.name for n in nodes if n.name] + [name for n in nodes for name in n.output]
        assert len(set(names)) == len(names)

    def test_everything_else_survives(self) -> None:
        model = blocks(True)
        model.doc_string, model.producer_name, model.graph.doc_string = "model", "maker", "graph"
        model.opset_import.append(helper.make_opsetid("org.unused", 4))
        helper.set_model_props(model, {"classes": "four"})
        model.graph.input[0].doc_string = "image"
        result = cut(model)
        assert result.doc_string == "model"
        assert result.producer_name == "maker"
        assert result.graph.doc_string == "graph"
        assert result.graph.input[0] == model.graph.input[0]
        assert result.metadata_props == model.metadata_props
        assert result.opset_import == model.opset_import

    def test_operator_sets_that_functions_alone_brought_are_imported(self, tmp_path: Path) -> None:
        node = helper.make_node("QuickGelu", ["X"], ["Y"], domain="com.microsoft", alpha=1.7)
        opsets = [*OPSETS, helper.make_opsetid("com.microsoft", 1)]
        gelu = helper.make_function("blocks", "Gelu", ["X"], ["Y"], [node], opsets)
        model = blocks(True)
        model.functions.append(gelu)
        last = model.graph.node[-1]
        model.graph.node.append(
            helper.make_node("Gelu", ["wide"], [last.output[0]], domain="blocks")
        )
        last.output[0] = "wide"
        written = loaded(model, tmp_path)
        assert ("com.microsoft", 1) in {(x.domain, x.version) for x in written.opset_import}
        feeds = make_feeds(model)
        cut(model)
        assert_same(run(written, feeds), run(model, feeds))

    def test_an_output_that_is_an_input(self, tmp_path: Path) -> None:
        same = function("Same", ["Y"], [helper.make_node("Relu", ["Y"], ["unread"])])
        model = blocks(True)
        model.functions.append(same)
        last = model.graph.node[-1]
        model.graph.node.append(
            helper.make_node("Same", ["wide"], [last.output[0]], domain="blocks")
        )
        last.output[0] = "wide"
        feeds = make_feeds(model)
        assert_same(run(loaded(model, tmp_path), feeds), run(blocks(False), feeds))

    def test_a_function_of_another_operator_set_stays(self, tmp_path: Path) -> None:
        model = blocks(True)
        old = helper.make_function(
            "old", "Old", ["X"], ["Y"], [helper.make_node("Relu", ["X"], ["Y"])],
            [helper.make_opsetid("", 11)],
        )  # fmt: skip
        model.functions.append(old)
        model.opset_import.append(helper.make_opsetid("old", 1))
        model.graph.node[-1].input[0] = "bent"
        model.graph.node.insert(
            len(model.graph.node) - 1,
            helper.make_node("Old", [model.graph.node[-2].output[0]], ["bent"], domain="old"),
        )
        written = loaded(model, tmp_path)
        assert [f.name for f in written.functions] == ["Old"]

    def test_functions_that_nothing_calls_are_left_out(self) -> None:
        """However often they would be written out, or without end."""
        model = blocks(True)
        again = helper.make_node("Again", ["X"], ["Y"], domain="blocks")
        model.functions.append(function("Again", ["X"], [again]))
        model.functions.append(function("F0", ["X"], [helper.make_node("Relu", ["X"], ["Y"])]))
        for number in range(40):
            twice = [
                helper.make_node(f"F{number}", [a], [b], domain="blocks")
                for a, b in (("X", "t"), ("t", "Y"))
            ]
            model.functions.append(function(f"F{number + 1}", ["X"], twice))
        assert len(written_out(Path("model.onnx"), model).graph.node) == 10
        assert_same(run(cut(model), make_feeds(model)), run(cut(blocks(True)), make_feeds(model)))

    def test_a_call_that_does_not_fit_is_one_line(self) -> None:
        model = blocks(True)
        model.graph.node[1].input.append("x")
        with pytest.raises(ModelError, match="more inputs or outputs than it has"):
            written_out(Path("model.onnx"), model)

    def test_a_model_without_them_is_itself(self) -> None:
        model = chain()
        assert written_out(Path("model.onnx"), model) is model


@pytest.mark.parametrize("build", [lambda: blocks(True), convs])
def test_what_is_written_out_must_compute_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Callable[[], ModelProto]
) -> None:
    """A wrong expansion is not proved right by comparing it with itself."""
    model = build()
    if not model.functions:
        model = saved_by_runtime(model, tmp_path)
    load = source.load_model

    def wrong(path: Path) -> tuple[ModelProto, int]:
        actual, size = load(path)
        node = next(n for n in actual.graph.node if n.op_type == "LeakyRelu")
        node.attribute[0].f -= 3.0
        return actual, size

    monkeypatch.setattr(source, "load_model", wrong)
    with pytest.raises(VerificationError, match="written out in standard operators"):
        compress(model, config=Config(round_to=1, ratio=0.5, method="none", provider="cpu"))


# --- weights that other operators hold ----------------------------------------------------------


def blocked(folder: Path) -> ModelProto:
    """A Conv in the layout of ONNX Runtime's own domain; its weight is already in blocks."""
    net = Net(("N", 16, 6, 6))
    inputs = ["x", net.weight("w", 16, 16, 3, 3), net.weight("b", 16)]
    x = net.node("Conv", inputs, {"pads": [1] * 4})
    net.nodes[-1].domain = "com.microsoft.nchwc"
    return net.declared(x, "N", 16, 6, 6)


def recurrent(folder: Path) -> ModelProto:
    net = Net(("N", 9, 4))
    weights = [net.weight("w", 1, 15, 4), net.weight("r", 1, 15, 5)]
    return net.model(net.node("GRU", ["x", *weights], {"hidden_size": 5}))


def one_output(folder: Path) -> ModelProto:
    net = Net(("N", 6))
    return net.model(net.node("MatMul", ["x", net.weight("w", 6, 1)]))


def in_a_body(folder: Path) -> ModelProto:
    net = Net(("N", 6))
    net.weight("w", 6, 4)
    bodies = {
        f"{branch}_branch": helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], [branch])],
            branch,
            [],
            [helper.make_tensor_value_info(branch, TensorProto.FLOAT, ["N", 4])],
        )
        for branch in ("then", "else")
    }
    x = net.node("If", [net.constant("condition", np.asarray(True))], bodies)
    return net.declared(x, "N", 4)


@pytest.mark.parametrize(
    ("build", "names", "way_out"),
    [
        (blocked, "com.microsoft.nchwc::Conv", "compress the one that it was made from"),
        (recurrent, "GRU (1)", ""),
        (one_output, "MatMul (1)", ""),
        (in_a_body, "MatMul in the body of If (2)", "export the model without control flow"),
    ],
)
def test_operators_that_hold_the_weights_are_named(
    tmp_path: Path, build: Callable[[Path], ModelProto], names: str, way_out: str
) -> None:
    with pytest.raises(NothingToPruneError) as caught:
        compress(build(tmp_path), config=Config(round_to=1, provider="cpu", ratio=0.3))
    assert "nothing could be pruned" in str(caught.value)
    assert names in str(caught.value)
    assert way_out in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("build", [recurrent, one_output, in_a_body])
def test_inspect_names_them_in_place_of_an_empty_table(
    tmp_path: Path, build: Callable[[Path], ModelProto]
) -> None:
    with pytest.raises(NothingToPruneError, match="weights are held by"):
        inspect(build(tmp_path), provider="cpu")


def test_inspect_lists_what_another_domain_holds(tmp_path: Path) -> None:
    (refusal,) = inspect(blocked(tmp_path), provider="cpu").refusals
    assert (refusal.name, refusal.channels) == ("conv_0", 16)
    assert refusal.reason == "operator com.microsoft.nchwc::Conv has no rule"


def test_a_model_without_weights_is_told_so() -> None:
    net = Net(("N", 6))
    with pytest.raises(NothingToPruneError, match="the model holds no weights"):
        compress(net.model(net.relu("x")), config=Config(round_to=1, provider="cpu", ratio=0.3))
