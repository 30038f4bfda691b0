"""What lies between producer and consumer as numbers, against running the chain itself."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from lbyl_onnx.channels.affine import Response, producer_rows, respond
from lbyl_onnx.channels.groups import ChannelGroup, GroupBinding
from lbyl_onnx.channels.paths import Affine
from lbyl_onnx.channels.rules import ELEMENTWISE
from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.methods.types import Delivery
from tests.support.models import MODELS
from tests.support.net import Net
from tests.support.oracle import Interpreted, interpret, make_feeds, run, tap

Floats = NDArray[np.float64]
# Chains of some tens of float32 products against the same in float64.
RTOL, ATOL = 1e-4, 1e-5


def response_of(analysis: Interpreted, group: ChannelGroup, place: GroupBinding) -> Response:
    graph = to_graph(analysis.model)
    response = respond(analysis.model, graph, analysis.tensor_info, analysis.channels, group, place)
    assert response is not None
    return response


def channels_first(value: Floats, op_type: str) -> Floats:
    """Bring a producer's output to (channels, everything else)."""
    axis = 1 if op_type in ("Conv", "Gemm") else value.ndim - 1
    return np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1)


def input_before_activation(name: str, activation: str) -> tuple[Floats, Floats]:
    """Run a model: outputs of the first producer, and what enters the first activation."""
    model = MODELS[name]()
    producer = next(n for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul"))
    reader = next(n for n in model.graph.node if n.op_type == activation)
    tapped = tap(model, producer.output[0], reader.input[0])
    outputs = run(tapped, make_feeds(model))[len(model.graph.output) :]
    raw, before = (channels_first(o.astype(np.float64), producer.op_type) for o in outputs)
    return raw, before


class TestPrefix:
    @pytest.mark.parametrize(
        "name",
        [
            "chain_1d",
            "chain_2d",
            "chain_3d",
            "folded",
            "caffe_scale",
            "dynamo_batch_norm",
            "mlp",
            "mlp_alpha_beta",
            "mlp_without_bias",
            "mlp_row_bias",
            "matmul_chain",
            "matmul_without_bias",
            "constant_nodes",
            "identity_chains",
            "constant_of_shape",
        ],
    )
    def test_scale_and_shift_give_what_enters_the_activation(self, name: str) -> None:
        """The rows' own share, weight @ x, is the producer's output less its bias."""
        raw, before = input_before_activation(name, "Relu")
        analysis = interpret(MODELS[name]())
        group = analysis.channels.groups[0]
        response = response_of(analysis, group, group.consumers[0])
        rows = response.rows
        weight, bias = producer_rows(
            to_graph(analysis.model), analysis.tensor_info, group.producers[0]
        )
        node = to_graph(analysis.model).nodes[group.producers[0].binding.node]
        beta = float(node.attrs.get("beta", 1.0)) if node.op == "Gemm" else 1.0
        linear = raw - (0.0 if bias is None else beta * bias)  # bias: (n, 1)
        np.testing.assert_allclose(
            rows.scale[:, None] * linear + rows.shift[:, None], before, rtol=RTOL, atol=ATOL
        )
        alpha = float(node.attrs.get("alpha", 1.0)) if node.op == "Gemm" else 1.0
        np.testing.assert_allclose(rows.weight, alpha * weight[:, 0], rtol=1e-12)

    @pytest.mark.parametrize(
        ("name", "normalized"),
        [("chain_2d", True), ("caffe_scale", True), ("folded", False), ("mlp", False)],
    )
    def test_normalized_where_batch_normalization_follows(
        self, name: str, normalized: bool
    ) -> None:
        analysis = interpret(MODELS[name]())
        group = analysis.channels.groups[0]
        assert response_of(analysis, group, group.consumers[0]).rows.normalized == normalized

    def test_a_scale_for_each_position_is_no_prefix(self) -> None:
        analysis = interpret(MODELS["bn_after_flatten"]())
        group = analysis.channels.groups[0]
        rows = response_of(analysis, group, group.consumers[0]).rows
        assert not rows.normalized
        np.testing.assert_array_equal(rows.scale, np.ones(8))

    def test_each_consumer_has_its_own_way(self) -> None:
        """In a dense block every layer normalises the first layer's channels anew."""
        analysis = interpret(MODELS["dense"]())
        group = analysis.channels.groups[0]
        shifts = [response_of(analysis, group, place).rows.shift for place in group.consumers]
        assert not np.allclose(shifts[0], shifts[1])


class TestSuffix:
    def test_batch_norm_behind_the_activation(self) -> None:
        model = MODELS["bn_after_activation"]()
        analysis = interpret(model)
        group = analysis.channels.groups[0]
        suffix = response_of(analysis, group, group.consumers[0]).suffix
        tapped = tap(model, "relu_1_out", "batchnormalization_2_out")
        before, after = run(tapped, make_feeds(model))[1:]
        shape = (1, 8, 1, 1)
        np.testing.assert_allclose(
            suffix.scale.reshape(shape) * before + suffix.shift.reshape(shape),
            after,
            rtol=RTOL,
            atol=ATOL,
        )

    def test_ways_that_meet_with_scales_of_their_own_end_it(self) -> None:
        analysis = interpret(MODELS["forked_scales"]())
        group = analysis.channels.groups[0]
        suffix = response_of(analysis, group, group.consumers[0]).suffix
        np.testing.assert_array_equal(suffix.scale, np.ones(8))
        np.testing.assert_array_equal(suffix.shift, np.zeros(8))

    def test_a_delivery_is_carried_through_scale_and_shift(self) -> None:
        """With a = g r + h and r = S r_K + c for every r_K."""
        rng = np.random.default_rng(0)
        kept = np.array([0, 2])
        matrix, offset = rng.normal(size=(4, 2)), rng.normal(size=4)
        matrix[kept], offset[kept] = np.eye(2), 0.0
        suffix = Affine(rng.uniform(1, 2, 4), rng.normal(size=4))
        analysis = interpret(MODELS["folded"]())
        group = analysis.channels.groups[0]
        rows = response_of(analysis, group, group.consumers[0]).rows
        carried = Response(rows, suffix).at_consumer(Delivery(kept, matrix[[1, 3]], offset[[1, 3]]))
        r_kept = rng.normal(size=2)
        a = suffix.scale * (matrix @ r_kept + offset) + suffix.shift
        np.testing.assert_allclose(carried.matrix @ a[kept] + carried.offset, a, rtol=1e-12)

    def test_a_kept_channel_scaled_to_zero_carries_nothing(self) -> None:
        kept = np.array([0, 1])
        matrix = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 3.0]])
        analysis = interpret(MODELS["folded"]())
        group = analysis.channels.groups[0]
        rows = response_of(analysis, group, group.consumers[0]).rows
        suffix = Affine(np.array([0.0, 1.0, 1.0]), np.zeros(3))
        carried = Response(rows, suffix).at_consumer(Delivery(kept, matrix[2:], np.zeros(1)))
        np.testing.assert_array_equal(carried.matrix[2], [0.0, 3.0])


def with_constant_channel(op_type: str, operands: int) -> ModelProto:
    """Conv whose filters are zero, an operator, Conv: each channel is constant."""
    net = Net((2, 3, 4, 4), opset=20)
    x = net.conv("x", (3, 8))
    for tensor, value in zip(net.initializers, (0.0, None), strict=True):
        stored = numpy_helper.to_array(tensor)
        new = np.zeros_like(stored) if value == 0.0 else np.abs(stored) * np.float32(0.2)
        tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))
    others = [
        net.constant(f"c{i}", np.full((8, 1, 1), 0.5, np.float32)) for i in range(operands - 1)
    ]
    y = net.node(op_type, [x, *others])
    return net.model(net.head(net.conv(y, (8, 5), (1, 1)), 5))


UNARY = sorted(
    set(ELEMENTWISE)
    & set(
        "Abs Acos Asin Asinh Atan Atanh Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid "
        "HardSwish LeakyRelu Log Mish Neg Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh "
        "Softplus Softsign Sqrt Tan Tanh ThresholdedRelu".split()
    )
)
BINARY = ["Add", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum"]


class TestConstantChannels:
    @pytest.mark.parametrize(
        ("op_type", "operands"), [(o, 1) for o in UNARY] + [(o, 2) for o in BINARY]
    )
    def test_the_value_at_the_consumer(self, op_type: str, operands: int) -> None:
        model = with_constant_channel(op_type, operands)
        analysis = interpret(model)
        group = analysis.channels.groups[0]
        response = response_of(analysis, group, group.consumers[0])
        consumer = model.graph.node[group.consumers[0].binding.node]
        (value,) = run(tap(model, consumer.input[0]), make_feeds(model))[1:]
        rows, suffix = response.rows, response.suffix
        np.testing.assert_allclose(
            suffix.scale * rows.constant_output + suffix.shift,
            value[0, :, 0, 0],
            rtol=RTOL,
            atol=ATOL,
        )

    @pytest.mark.parametrize("attributes", [{"kernel_shape": [2, 2]}])
    def test_what_is_not_known_is_not_delivered(self, attributes: dict[str, object]) -> None:
        net = Net((2, 3, 4, 4))
        x = net.conv("x", (3, 8))
        zeros = np.zeros((8, 3, 3, 3), np.float32)
        net.initializers[0].CopyFrom(numpy_helper.from_array(zeros, "w0"))
        y = net.relu(net.node("LpPool", [x], attributes))
        analysis = interpret(net.model(net.head(net.conv(y, (8, 5), (1, 1)), 5)))
        group = analysis.channels.groups[0]
        rows = response_of(analysis, group, group.consumers[0]).rows
        np.testing.assert_array_equal(rows.constant_output, np.zeros(8))

    def test_a_channel_that_varies_does_not_refuse_the_group(self) -> None:
        """The root of a bias below zero is not finite, but nothing is made of it."""
        net = Net(("N", 3, 4, 4))
        x = net.conv("x", (3, 8))
        weight = numpy_helper.to_array(net.initializers[0]).copy()
        weight[0] = 0.0
        net.initializers[0].CopyFrom(numpy_helper.from_array(weight, "w0"))
        bias = np.full(8, -1.0, np.float32)
        bias[0] = 4.0
        net.initializers[1].CopyFrom(numpy_helper.from_array(bias, "b0"))
        analysis = interpret(net.model(net.head(net.conv(net.node("Sqrt", [x]), (8, 5)), 5)))
        group = analysis.channels.groups[0]
        rows = response_of(analysis, group, group.consumers[0]).rows
        np.testing.assert_array_equal(rows.constant_output, [2.0] + [0.0] * 7)


class TestNotFinite:
    @pytest.mark.parametrize(("operand", "value"), [("var1", -2.0), ("gamma1", np.nan)])
    def test_no_response(self, operand: str, value: float) -> None:
        model = MODELS["chain_2d"]()
        tensor = next(t for t in model.graph.initializer if t.name == operand)
        broken = numpy_helper.to_array(tensor).copy()
        broken[0] = value
        tensor.CopyFrom(numpy_helper.from_array(broken, operand))
        analysis = interpret(model)
        group = analysis.channels.groups[0]
        graph = to_graph(model)
        place = group.consumers[0]
        assert respond(model, graph, analysis.tensor_info, analysis.channels, group, place) is None
