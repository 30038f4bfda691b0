"""Attention whose products are Einsum nodes, with their operands' axes in any order."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from tests.support.net import Net

WIDTH, HEADS, EACH, TOKENS = 12, 2, 6, 5
# Axes of the projections; equations of queries by keys, of scores by values, of the output.
EQUATIONS = {
    "heads_last": ("bthd", "bthd,bshd->bhts", "bhts,bshd->bthd", "bthd,hdc->btc"),
    "heads_first": ("bhtd", "bhtd,bhsd->bhts", "bhts,bhsd->bhtd", "bhtd,hdc->btc"),
    "keys_before_queries": ("bthd", "bthd,bshd->bhst", "bhst,bthd->bshd", "bthd,hdc->btc"),
}


def attention(order: str) -> ModelProto:
    """One block; `order` is a key of `EQUATIONS`."""
    made, met, mixed, read = EQUATIONS[order]
    net = Net(("N", TOKENS, WIDTH))
    queries, keys, values = (_projection(net, made) for _ in range(3))
    scale = net.constant("scale", np.float32(EACH**-0.5))
    scores = net.node("Mul", [net.node("Einsum", [queries, keys], {"equation": met}), scale])
    weights = net.node("Softmax", [scores], {"axis": -1})
    y = net.node("Einsum", [weights, values], {"equation": mixed})
    out = net.weight("out", HEADS, EACH, WIDTH)
    y = net.node("Add", ["x", net.node("Einsum", [y, out], {"equation": read})])
    return net.model(net.node("MatMul", [y, net.weight("last", WIDTH, 3)]))


def _projection(net: Net, made: str) -> str:
    weight = net.weight(f"w{len(net.nodes)}", WIDTH, HEADS, EACH)
    return net.node("Einsum", ["x", weight], {"equation": f"btc,chd->{made}"})
