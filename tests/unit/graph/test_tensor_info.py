"""What is known of tensors without running a model."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lbyl_onnx import ModelError
from lbyl_onnx.graph.tensor_info import TensorInfo, evaluate
from tests.support.architectures import chain, reshape_from_shape
from tests.support.files import dynamo_batch_norm
from tests.support.models import MODELS
from tests.support.net import Net
from tests.support.oracle import input_shapes, interpret, run, tap


class TestShapes:
    @pytest.mark.parametrize("name", sorted(MODELS.keys() - {"if_body", "custom_domain"}))
    def test_every_shape_is_what_onnx_runtime_gives(self, name: str) -> None:
        model = MODELS[name]()
        shapes = input_shapes(model, 2, 16)
        tensor_info = TensorInfo(model, shapes, input_shapes(model, 3, 24))
        names = [o for n in model.graph.node for o in n.output if o not in ("y", "y2")]
        types = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
        feeds = {
            n: np.zeros(s, helper.tensor_dtype_to_np_dtype(types[n])) for n, s in shapes.items()
        }
        outputs = run(tap(model, *names), feeds)[len(model.graph.output) :]
        assert {n: tensor_info.shape(n) for n in names} == {
            n: o.shape for n, o in zip(names, outputs, strict=True)
        }

    def test_a_dynamic_dimension_is_none(self) -> None:
        tensor_info = interpret(chain()).tensor_info
        assert tensor_info.shape("conv_0_out") == (2, 8, 6, 6)
        assert tensor_info.static_shape("conv_0_out") == (None, 8, 6, 6)

    def test_what_follows_an_if_is_unknown(self) -> None:
        tensor_info = interpret(MODELS["if_body"]()).tensor_info
        assert tensor_info.shape("y") is None
        assert tensor_info.static_shape("y") is None

    @pytest.mark.parametrize(("sizes", "keepdims"), [((), 0), ((), 1), ((5,), 1), ((4, 3, 5), 1)])
    def test_parts_of_a_sequence_are_what_onnx_runtime_gives(
        self, sizes: tuple[int, ...], keepdims: int
    ) -> None:
        net = Net((12, 3))
        inputs = ["x"]
        if sizes:
            split = sizes if len(sizes) > 1 else sizes[0]
            inputs.append(net.constant("split", np.asarray(split, np.int64)))
        cut = net.node("SplitToSequence", inputs, {"keepdims": keepdims})
        x = net.node("SequenceAt", [cut, net.constant("at", np.asarray(-1, np.int64))])
        model = net.model(net.node("Relu", [x]))
        (output,) = run(model, {"x": np.zeros((12, 3), np.float32)})
        assert interpret(model).tensor_info.shape(x) == output.shape

    def test_a_sequence_of_unknown_tensors_is_unknown(self) -> None:
        net = Net(IMAGE_SHAPE)
        custom = net.node("Unknown", ["x"], {"domain": "custom"})
        cut = net.node("SplitToSequence", [custom, net.ints(1, 2)])
        joined = net.node("ConcatFromSequence", [cut], {"axis": 0})
        graph = helper.make_graph(net.nodes, "net", net.inputs, [], [*net.initializers])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        tensor_info = interpret(model).tensor_info
        assert tensor_info.parts(cut) is None
        assert tensor_info.shape(joined) is None


IMAGE_SHAPE = ("N", 3, 6, 6)


class TestValues:
    def test_a_large_weight_cast_like_an_activation_is_constant(self) -> None:
        net = Net(IMAGE_SHAPE)
        weight = net.weight("w", 200, 3, 3, 3)
        cast = net.node("CastLike", [weight, "x"])
        x = net.relu(net.node("Conv", ["x", cast], {"pads": [1] * 4}))
        model = net.model(net.head(x, 200))
        analysis = interpret(model)
        assert analysis.tensor_info.is_constant(cast)
        np.testing.assert_array_equal(
            analysis.tensor_info.value(cast), numpy_helper.to_array(net.initializers[0])
        )
        assert [group.size for group in analysis.channels.groups] == [200]

    @pytest.mark.parametrize(
        "name", ["constant_nodes", "identity_chains", "dynamo_batch_norm", "constant_of_shape"]
    )
    def test_weights_are_found_whatever_computes_them(self, name: str) -> None:
        model = MODELS[name]()
        tensor_info = interpret(model).tensor_info
        weights = {
            name
            for node in model.graph.node
            if node.op_type in ("Conv", "Gemm", "BatchNormalization")
            for name in node.input[1:]
        }
        feeds = {model.graph.input[0].name: np.zeros((2, 3, 6, 6), np.float32)}
        names = sorted(weights - {t.name for t in model.graph.initializer})
        expected = run(tap(model, *names), feeds)[1:]
        assert names
        for weight, value in zip(names, expected, strict=True):
            assert tensor_info.is_constant(weight)
            np.testing.assert_array_equal(tensor_info.value(weight), value)
            assert tensor_info.value(weight).dtype == value.dtype

    def test_a_size_taken_from_shape_is_constant_where_it_is_static(self) -> None:
        model = reshape_from_shape()
        tensor_info = interpret(model).tensor_info
        gathers = [n.output[0] for n in model.graph.node if n.op_type == "Gather"]
        assert [tensor_info.is_constant(name) for name in gathers] == [False, True, False]
        assert tensor_info.value(gathers[1]) == 8
        assert tensor_info.is_known(gathers[0])
        assert not tensor_info.is_known("x")

    def test_large_constants_are_computed_only_when_asked(self) -> None:
        net = Net(("N", 70))
        weight = net.node("Transpose", [net.weight("w", 80, 70)])
        model = net.model(net.node("MatMul", ["x", weight]))
        tensor_info = interpret(model).tensor_info
        assert tensor_info.traced_value(weight) is None
        assert tensor_info.is_constant(weight)
        stored = numpy_helper.to_array(model.graph.initializer[0])
        np.testing.assert_array_equal(tensor_info.value(weight), stored.T)

    def test_an_activation_has_no_value(self) -> None:
        tensor_info = interpret(chain()).tensor_info
        assert not tensor_info.is_constant("conv_0_out")
        with pytest.raises(KeyError):
            tensor_info.value("conv_0_out")

    def test_random_numbers_are_no_constant(self) -> None:
        net = Net(("N", 3))
        noise = net.node("RandomNormal", [], {"shape": [3]})
        model = net.model(net.node("Add", ["x", noise]))
        assert not interpret(model).tensor_info.is_constant(noise)

    def test_cast_like_takes_the_type_alone(self) -> None:
        model = dynamo_batch_norm()
        tensor_info = interpret(model).tensor_info
        (first, *_) = [n.output[0] for n in model.graph.node if n.op_type == "CastLike"]
        assert (tensor_info.dtype(first), tensor_info.is_constant(first)) == (
            TensorProto.FLOAT,
            True,
        )

    def test_a_model_without_the_onnx_operators_is_an_error(self) -> None:
        model = chain()
        del model.opset_import[:]
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        with pytest.raises(ModelError, match="imports no version of the ONNX operator set"):
            TensorInfo(model, {}, {})


class TestEvaluate:
    @pytest.mark.parametrize("op_type", ["Gelu", "Mish", "HardSwish", "Relu", "Sqrt"])
    def test_a_node_is_computed_without_warnings(self, op_type: str) -> None:
        node = helper.make_node(op_type, ["a"], ["b"])
        values = np.array([-1.0, 0.0, 2.0], np.float32)
        (result,) = evaluate(node, [values], 20)
        opsets = [helper.make_opsetid("", 20)]
        value = helper.make_tensor_value_info("a", TensorProto.FLOAT, [3])
        out = helper.make_tensor_value_info("b", TensorProto.FLOAT, [3])
        graph = helper.make_graph([node], "g", [value], [out])
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        # Approximations of erf, exp and tanh in single precision.
        np.testing.assert_allclose(
            np.asarray(result, np.float32), run(model, {"a": values})[0], atol=1e-6
        )

    def test_missing_inputs_and_outputs(self) -> None:
        clip = helper.make_node("Clip", ["a", "", "high"], ["b"])
        (result,) = evaluate(clip, [np.array(7.0), None, np.array(6.0)], 17)
        assert result == 6
        split = helper.make_node("Split", ["a", "sizes"], ["", "c"])
        both = evaluate(split, [np.arange(3.0), np.array([1, 2])], 17)
        assert [x.tolist() for x in both] == [[], [1.0, 2.0]]

    def test_the_checker_agrees_that_the_builders_are_models(self) -> None:
        for build in MODELS.values():
            onnx.checker.check_model(build(), full_check=True)


@pytest.mark.parametrize("op", ["Erf", "Gelu"])
def test_the_error_function_is_that_of_python(op: str) -> None:
    """Gelu is a function that holds one."""
    values = np.linspace(-4.0, 4.0, 41, dtype=np.float32)
    (found,) = evaluate(helper.make_node(op, ["x"], ["y"]), [values], 20)
    x = values.astype(float)
    inner = np.array([math.erf(v if op == "Erf" else v / math.sqrt(2.0)) for v in x])
    wanted = inner if op == "Erf" else 0.5 * x * (1.0 + inner)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.astype(float), wanted.astype(float), rtol=1e-6, atol=1e-6)
