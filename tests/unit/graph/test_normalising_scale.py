"""What the normalisation behind a layer scales its channels by, however that is written."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.graph.norms.normalisations import normalising_scale
from lbyl_onnx.types import Floats
from tests.support.net import Net
from tests.support.oracle import interpret

WIDTH = 4
GAMMA = np.asarray([2.0, -0.5, 1.0, 3.0])
KINDS = ("LayerNormalization", "RMSNormalization", "layer", "rms", "layer, Div", "rms, Reciprocal")


def vector(net: Net, value: Floats) -> str:
    return net.constant(f"vector_{len(net.initializers)}", net.cast(value))


def normalised(net: Net, x: str, kind: str, gamma: Floats = GAMMA) -> str:
    """Normalise over the last axis, as one node or written out in single operators."""
    scale, axes = vector(net, gamma), net.ints(-1)
    if kind == "LayerNormalization":
        return net.node(kind, [x, scale, vector(net, 7.0 + gamma)])
    if kind == "RMSNormalization":
        return net.node(kind, [x, scale])
    if kind.startswith("layer"):
        mean = net.node("ReduceMean", [x, axes])
        x = net.node("Sub", [x, mean])
    squares = net.node("Pow", [x, net.constant(f"two_{len(net.nodes)}", np.float32(2.0))])
    epsilon = net.constant(f"epsilon_{len(net.nodes)}", np.float32(1e-5))
    root = net.node("Sqrt", [net.node("Add", [net.node("ReduceMean", [squares, axes]), epsilon])])
    if kind.endswith("Reciprocal"):
        x = net.node("Mul", [x, net.node("Reciprocal", [root])])
    else:
        x = net.node("Div", [x, root])
    x = net.node("Mul", [scale, x] if kind == "rms" else [x, scale])
    return net.node("Add", [x, vector(net, 7.0 + gamma)]) if kind.startswith("layer") else x


def layer(net: Net, x: str) -> str:
    return net.node("MatMul", [x, net.weight(f"w{len(net.nodes)}", WIDTH, WIDTH)])


def scale_behind(model: ModelProto, node: str = "matmul_0", channels: int = WIDTH) -> Floats | None:
    found = next(n for n in to_graph(model).nodes if n.name == node)
    return normalising_scale(found, channels, interpret(model).tensor_info)


def assert_is_gamma(scale: Floats | None) -> None:
    assert scale is not None
    np.testing.assert_allclose(scale, np.abs(GAMMA))


def net_of() -> Net:
    return Net(("N", 3, WIDTH), opset=23)


@pytest.mark.parametrize("kind", KINDS)
class TestEachForm:
    def test_directly_behind(self, kind: str) -> None:
        net = net_of()
        model = net.model(layer(net, normalised(net, layer(net, "x"), kind)))
        assert_is_gamma(scale_behind(model))

    def test_behind_two_residual_sums(self, kind: str) -> None:
        """The first layer's output enters a stream, to which another adds; then it is normalised.

        The second layer of the branch, too, is scaled by what is behind the stream.
        """
        net = net_of()
        first = net.node("Add", ["x", layer(net, "x")])
        second = net.node("Add", [first, net.relu(layer(net, "x"))])
        model = net.model(layer(net, normalised(net, second, kind)))
        assert_is_gamma(scale_behind(model))

    def test_the_nearest_counts(self, kind: str) -> None:
        net = net_of()
        x = net.node("Add", ["x", layer(net, "x")])
        branch = layer(net, normalised(net, x, kind))
        model = net.model(normalised(net, net.node("Add", [x, branch]), kind, 5.0 + GAMMA))
        assert_is_gamma(scale_behind(model))

    def test_not_past_what_bends_the_channels(self, kind: str) -> None:
        net = net_of()
        model = net.model(layer(net, normalised(net, net.relu(layer(net, "x")), kind)))
        assert scale_behind(model) is None


def test_without_a_normalisation_there_is_none() -> None:
    net = net_of()
    assert scale_behind(net.model(net.node("Add", ["x", layer(net, "x")]))) is None


def test_a_scale_and_a_mean_that_normalise_nothing_are_none() -> None:
    net = net_of()
    x = layer(net, "x")
    mean = net.node("ReduceMean", [x, net.ints(-1)])
    model = net.model(net.node("Mul", [net.node("Sub", [x, mean]), vector(net, GAMMA)]))
    assert scale_behind(model) is None


def test_a_scale_of_another_length_is_none() -> None:
    net = net_of()
    model = net.model(normalised(net, layer(net, "x"), "LayerNormalization"))
    assert scale_behind(model, channels=2 * WIDTH) is None


def test_a_scale_that_is_no_number_is_none() -> None:
    net = net_of()
    gamma = np.where(GAMMA > 2.0, np.nan, GAMMA)
    assert scale_behind(net.model(normalised(net, layer(net, "x"), "layer", gamma))) is None
