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
    blocks_of_stages: tuple[int, int, int, int], seed: int = 0, image_size: int = 224
) -> onnx.ModelProto:
    """Bottleneck residual network (He et al., 2016) with random weights, BatchNorm kept."""
    g = GraphWriter(np.random.default_rng(seed))
    x = g.node("Relu", "stem.relu", [g.conv_bn("input", "stem", (3, 64), 7, 2)])
    x = g.node(
        "MaxPool", "stem.pool", [x], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    )
    c_in = 64
    for stage, (blocks, width) in enumerate(
        zip(blocks_of_stages, (64, 128, 256, 512), strict=True), start=1
    ):
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
    fc = g.weight("fc.weight", g.rng.normal(0.0, 0.02, (1000, 2048)))
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
