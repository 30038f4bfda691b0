"""Network structures with seeded random weights, for benchmarks of time and memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Attributes = Mapping[str, float | list[int]]

OPSET = 17
IR_VERSION = 8


@dataclass
class GraphWriter:
    """Collects nodes and initializers while a structure is written down layer by layer."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def weight(self, name: str, value: NDArray[np.floating]) -> str:
        """Store a weight as float32 and return its name."""
        self.initializers.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def node(
        self, op_type: str, name: str, inputs: list[str], attributes: Attributes | None = None
    ) -> str:
        """Append a node and return the name of its output."""
        output = f"{name}_out"
        node = helper.make_node(op_type, inputs, [output], name=name)
        pairs = (attributes or {}).items()
        node.attribute.extend(helper.make_attribute(key, value) for key, value in pairs)
        self.nodes.append(node)
        return output

    def conv_bn(
        self, x: str, name: str, channels: tuple[int, int], kernel: int, stride: int
    ) -> str:
        """Conv without bias, BatchNormalization with the statistics of a trained layer's order."""
        c_in, c_out = channels
        std = np.sqrt(2.0 / (c_in * kernel * kernel))
        w = self.rng.normal(0.0, std, (c_out, c_in, kernel, kernel))
        pad = kernel // 2
        x = self.node(
            "Conv",
            f"{name}.conv",
            [x, self.weight(f"{name}.weight", w)],
            {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4},
        )
        parameters = {
            "gamma": self.rng.uniform(0.5, 1.5, c_out),
            "beta": self.rng.normal(0.0, 0.2, c_out),
            "mean": self.rng.normal(0.0, 0.2, c_out),
            "var": self.rng.uniform(0.5, 1.5, c_out),
        }
        inputs = [self.weight(f"{name}.{key}", value) for key, value in parameters.items()]
        return self.node("BatchNormalization", f"{name}.bn", [x, *inputs], {"epsilon": 1e-5})


RESNET_50, RESNET_101 = (3, 4, 6, 3), (3, 4, 23, 3)


def resnet50(seed: int = 0, image_size: int = 224) -> onnx.ModelProto:
    """ResNet-50 (He et al., 2016; 25.6 million parameters) with random weights, BatchNorm kept."""
    return resnet(RESNET_50, seed, image_size)


def resnet(
    blocks_of_stages: tuple[int, int, int, int],
    seed: int = 0,
    image_size: int = 224,
    narrowest: int = 64,
) -> onnx.ModelProto:
    """Bottleneck residual network (He et al., 2016) with random weights, BatchNorm kept.

    `narrowest` channels in the stem and the first stage's blocks, 64 in the networks of the paper.
    """
    g = GraphWriter(np.random.default_rng(seed))
    x = g.node("Relu", "stem.relu", [g.conv_bn("input", "stem", (3, narrowest), 7, 2)])
    x = g.node(
        "MaxPool", "stem.pool", [x], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    )
    c_in = narrowest
    for stage, blocks in enumerate(blocks_of_stages, start=1):
        width = narrowest << (stage - 1)
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = g.node("Relu", f"{name}.relu1", [g.conv_bn(x, f"{name}.1", (c_in, width), 1, 1)])
            y = g.conv_bn(y, f"{name}.2", (width, width), 3, stride)
            y = g.node("Relu", f"{name}.relu2", [y])
            y = g.conv_bn(y, f"{name}.3", (width, 4 * width), 1, 1)
            if block == 0:
                x = g.conv_bn(x, f"{name}.shortcut", (c_in, 4 * width), 1, stride)
            x = g.node("Relu", f"{name}.relu3", [g.node("Add", f"{name}.add", [x, y])])
            c_in = 4 * width
    x = g.node("Flatten", "flatten", [g.node("GlobalAveragePool", "pool", [x])])
    fc = g.weight("fc.weight", g.rng.normal(0.0, 0.02, (1000, c_in)))
    bias = g.weight("fc.bias", np.zeros(1000))
    g.nodes.append(helper.make_node("Gemm", [x, fc, bias], ["logits"], name="fc", transB=1))
    image: list[str | int | None] = ["batch", 3, image_size, image_size]
    graph = helper.make_graph(
        g.nodes,
        "resnet50",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1000])],
        g.initializers,
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )


@dataclass(frozen=True)
class EncoderShape:
    """Sizes of a text encoder: layers, the widths of its stream and between two products, .."""

    layers: int
    width: int
    between: int
    heads: int
    vocabulary: int = 30522
    length: int = 512


BERT_BASE = EncoderShape(12, 768, 3072, 12)


def encoder(shape: EncoderShape, seed: int = 0) -> onnx.ModelProto:
    """Text encoder (BERT, Devlin et al., 2019) with random weights, as exporters write it.

    Its inputs are `input_ids` and `attention_mask`, (batch, sequence) int64; its output are the
    states of all tokens, (batch, sequence, width).
    """
    g = GraphWriter(np.random.default_rng(seed))
    table = g.weight("words", g.rng.normal(0.0, 0.02, (shape.vocabulary, shape.width)))
    places = g.weight("places", g.rng.normal(0.0, 0.02, (shape.length, shape.width)))
    words = g.node("Gather", "embed.words", [table, "input_ids"])
    sizes = g.node("Shape", "embed.shape", ["input_ids"])
    count = g.node("Slice", "embed.count", [sizes, *(_ints(g, v) for v in ([1], [2]))])
    start = _ints(g, [0])
    placed = g.node("Slice", "embed.places", [places, start, count])
    x = _normalised(g, "embed", g.node("Add", "embed.add", [words, placed]), shape.width)
    mask = g.node("Cast", "mask.float", ["attention_mask"], {"to": TensorProto.FLOAT})
    one, far = (
        g.weight("one", np.array(1.0, np.float32)),
        g.weight("far", np.array(-1e9, np.float32)),
    )
    mask = g.node("Mul", "mask.far", [g.node("Sub", "mask.not", [one, mask]), far])
    mask = g.node("Unsqueeze", "mask.wide", [mask, _ints(g, [1, 2])])
    for layer in range(shape.layers):
        x = _encoder_layer(g, f"layer{layer}", x, mask, shape)
    g.nodes.append(helper.make_node("Identity", [x], ["states"], name="states"))
    sizes_in: list[str | int | None] = ["batch", "sequence"]
    graph = helper.make_graph(
        g.nodes,
        "encoder",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, sizes_in)
            for name in ("input_ids", "attention_mask")
        ],
        [
            helper.make_tensor_value_info(
                "states", TensorProto.FLOAT, ["batch", "sequence", shape.width]
            )
        ],
        g.initializers,
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )


def _encoder_layer(g: GraphWriter, name: str, x: str, mask: str, shape: EncoderShape) -> str:
    """Self-attention and two products with Gelu between, each added and normalised."""
    split = _ints(g, [0, 0, shape.heads, shape.width // shape.heads])
    parts = {}
    for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
        y = _dense(g, f"{name}.{part}", x, (shape.width, shape.width))
        y = g.node("Reshape", f"{name}.{part}.split", [y, split])
        parts[part] = g.node("Transpose", f"{name}.{part}.turn", [y], {"perm": order})
    y = g.node("MatMul", f"{name}.scores", [parts["query"], parts["key"]])
    root = g.weight(f"{name}.root", np.array((shape.width / shape.heads) ** 0.5, np.float32))
    y = g.node("Add", f"{name}.masked", [g.node("Div", f"{name}.scaled", [y, root]), mask])
    y = g.node("Softmax", f"{name}.softmax", [y])
    y = g.node("MatMul", f"{name}.mixed", [y, parts["value"]])
    y = g.node("Transpose", f"{name}.mixed.turn", [y], {"perm": [0, 2, 1, 3]})
    y = g.node("Reshape", f"{name}.joined", [y, _ints(g, [0, 0, shape.width])])
    y = _dense(g, f"{name}.output", y, (shape.width, shape.width))
    x = _normalised(g, f"{name}.1", g.node("Add", f"{name}.add1", [x, y]), shape.width)
    y = _dense(g, f"{name}.up", x, (shape.width, shape.between))
    half, unit = (
        g.weight(f"{name}.half", np.array(0.5, np.float32)),
        g.weight(f"{name}.1", np.array(1.0, np.float32)),
    )
    two = g.weight(f"{name}.two", np.array(2.0**0.5, np.float32))
    erf = g.node("Erf", f"{name}.erf", [g.node("Div", f"{name}.erf.in", [y, two])])
    y = g.node("Mul", f"{name}.gelu", [y, g.node("Add", f"{name}.erf.add", [erf, unit])])
    y = g.node("Mul", f"{name}.gelu.half", [y, half])
    y = _dense(g, f"{name}.down", y, (shape.between, shape.width))
    return _normalised(g, f"{name}.2", g.node("Add", f"{name}.add2", [x, y]), shape.width)


def _dense(g: GraphWriter, name: str, x: str, sizes: tuple[int, int]) -> str:
    """MatMul and Add of a bias."""
    w = g.weight(f"{name}.weight", g.rng.normal(0.0, sizes[0] ** -0.5, sizes))
    y = g.node("MatMul", f"{name}.product", [x, w])
    return g.node("Add", name, [y, g.weight(f"{name}.bias", g.rng.normal(0.0, 0.02, sizes[1]))])


def _normalised(g: GraphWriter, name: str, x: str, width: int) -> str:
    gamma = g.weight(f"{name}.gamma", g.rng.uniform(0.5, 1.5, width))
    beta = g.weight(f"{name}.beta", g.rng.normal(0.0, 0.2, width))
    return g.node("LayerNormalization", f"{name}.norm", [x, gamma, beta])


def _ints(g: GraphWriter, values: list[int]) -> str:
    name = f"ints{len(g.initializers)}"
    g.initializers.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
    return name
