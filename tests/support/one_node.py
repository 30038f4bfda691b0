"""Attention as one operator of ONNX Runtime's own domain, in an encoder of standard operators."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

WIDTH, HEADS, HIDDEN, WORDS, TOKENS = 64, 4, 256, 50, 16
DOMAIN, OPSET, IR_VERSION = "com.microsoft", 20, 10


class _Writer:
    """Nodes and weights of the encoder, in the making."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def weight(self, name: str, *shape: int) -> str:
        value = self.rng.normal(0.0, 0.1, shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op: str, name: str, *inputs: str) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}_out"], name=name))
        return f"{name}_out"

    def attend(self, op: str, name: str, *inputs: str) -> str:
        node = helper.make_node(
            op, list(inputs), [f"{name}_out"], name=name, domain=DOMAIN, num_heads=HEADS
        )
        self.nodes.append(node)
        return f"{name}_out"

    def linear(self, x: str, name: str, into: int, out: int, bias: bool = True) -> str:
        y = self.node("MatMul", f"{name}/MatMul", x, self.weight(f"{name}.weight", into, out))
        return self.node("Add", f"{name}/Add", y, self.weight(f"{name}.bias", out)) if bias else y

    def added(self, x: str, y: str, name: str) -> str:
        scale, shift = (self.weight(f"{name}.{part}", WIDTH) for part in ("scale", "shift"))
        total = self.node("Add", f"{name}/Add", x, y)
        return self.node("LayerNormalization", f"{name}/norm", total, scale, shift)


def encoder() -> ModelProto:
    """BERT's encoder: its first layer attends by `Attention`, its second by `MultiHeadAttention`.

    The first takes the projections of queries, keys and values as one weight, the second takes
    their results and adds one bias to them.
    """
    w = _Writer()
    x = w.node("Gather", "embed", w.weight("words", WORDS, WIDTH), "x")
    weights = w.weight("0.qkv.weight", WIDTH, 3 * WIDTH), w.weight("0.qkv.bias", 3 * WIDTH)
    y = w.attend("Attention", "0/Attention", x, *weights)
    x = w.added(x, w.linear(y, "0.out", WIDTH, WIDTH), "0.first")
    x = _feed_forward(w, x, 0)
    parts = [w.linear(x, f"1.{part}", WIDTH, WIDTH, bias=False) for part in ("q", "k", "v")]
    y = w.attend("MultiHeadAttention", "1/MHA", *parts, w.weight("1.qkv.bias", 3 * WIDTH))
    x = w.added(x, w.linear(y, "1.out", WIDTH, WIDTH), "1.first")
    x = _feed_forward(w, x, 1)
    graph = helper.make_graph(
        w.nodes,
        "encoder",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", TOKENS])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", TOKENS, WIDTH])],
        w.weights,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _feed_forward(w: _Writer, x: str, layer: int) -> str:
    y = w.node("Gelu", f"{layer}/Gelu", w.linear(x, f"{layer}.wide", WIDTH, HIDDEN))
    return w.added(x, w.linear(y, f"{layer}.narrow", HIDDEN, WIDTH), f"{layer}.second")
