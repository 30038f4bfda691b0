"""Small attention blocks whose queries and keys are turned by a rotary embedding."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from tests.support.net import Net

WIDTH, HEADS, KEY_HEADS, EACH, TOKENS = 16, 4, 2, 8, 5
BASE = 100.0


def rotary(tables: str, tokens: int = TOKENS) -> ModelProto:
    """Two blocks with grouped queries.

    Parameters
    ----------
    tables
        Whether cosines and sines are `stored`, `computed` from stored angles, or, of as many tokens
        as there are, from their `positions`.
    tokens
        How many there are; a longer table is larger beside the weights.
    """
    net = Net(("N", "T" if tables == "positions" else tokens, WIDTH))
    cos_sin = _tables(net, tables, tokens)
    x = "x"
    for _ in range(2):
        x = net.node("Add", [x, _attention(net, x, cos_sin)])
    return net.model(net.node("MatMul", [x, net.weight("last", WIDTH, 3)]))


def _tables(net: Net, tables: str, tokens: int) -> list[str]:
    """Cosines and sines, (1, T, dims of a head)."""
    each = (BASE ** -(np.arange(EACH // 2) / (EACH // 2))).astype(np.float32)
    angles = np.tile(np.arange(tokens, dtype=np.float32)[:, None] * each, 2)[None]
    if tables == "stored":
        return [net.constant("cos", np.cos(angles)), net.constant("sin", np.sin(angles))]
    if tables == "computed":
        name = net.constant("angles", angles)
    else:
        length = net.node("Gather", [net.node("Shape", ["x"]), net.constant("one", np.int64(1))])
        limits = [net.constant(f"limit_{n}", np.int64(n)) for n in (0, 1)]
        positions = net.node("Range", [limits[0], length, limits[1]])
        positions = net.node("Cast", [positions], {"to": 1})
        positions = net.node("Reshape", [positions, net.ints(1, 1, -1)])
        turned = net.node("MatMul", [net.constant("each", each.reshape(1, -1, 1)), positions])
        turned = net.node("Transpose", [turned], {"perm": [0, 2, 1]})
        name = net.node("Concat", [turned, turned], {"axis": -1})
    return [net.node(op, [name]) for op in ("Cos", "Sin")]


def _attention(net: Net, x: str, cos_sin: list[str]) -> str:
    parts = [_heads(net, x, heads) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    tables = [net.node("Unsqueeze", [table, net.ints(1)]) for table in cos_sin]
    queries, keys = (_turned(net, part, tables) for part in parts[:2])
    keys, values = (_repeated(net, part) for part in (keys, parts[2]))
    keys = net.node("Transpose", [keys], {"perm": [0, 1, 3, 2]})
    scale = net.constant(f"scale{len(net.nodes)}", np.float32(EACH**-0.5))
    met = net.node("Softmax", [net.node("Mul", [net.node("MatMul", [queries, keys]), scale])])
    y = net.node("Transpose", [net.node("MatMul", [met, values])], {"perm": [0, 2, 1, 3]})
    y = net.node("Reshape", [y, net.ints(0, 0, HEADS * EACH)])
    return net.node("MatMul", [y, net.weight(f"w{len(net.nodes)}", HEADS * EACH, WIDTH)])


def _heads(net: Net, x: str, heads: int) -> str:
    """A projection, as (N, heads, T, dims)."""
    y = net.node("MatMul", [x, net.weight(f"w{len(net.nodes)}", WIDTH, heads * EACH)])
    y = net.node("Reshape", [y, net.ints(0, 0, heads, EACH)])
    return net.node("Transpose", [y], {"perm": [0, 2, 1, 3]})


def _turned(net: Net, x: str, tables: list[str]) -> str:
    """Turn the j-th dim of the first half with the j-th of the second."""
    half, ends = EACH // 2, net.ints(2**31)
    axes = net.ints(-1)
    first = net.node("Slice", [x, net.ints(0), net.ints(half), axes])
    second = net.node("Slice", [x, net.ints(half), ends, axes])
    other = net.node("Concat", [net.node("Neg", [second]), first], {"axis": -1})
    return net.node("Add", [net.node("Mul", [x, tables[0]]), net.node("Mul", [other, tables[1]])])


def _repeated(net: Net, x: str) -> str:
    """The heads of the keys, each for as many heads of queries."""
    times = HEADS // KEY_HEADS
    y = net.node("Unsqueeze", [x, net.ints(2)])
    y = net.node("Expand", [y, net.ints(1, 1, times, 1, 1)])
    return net.node("Reshape", [y, net.ints(0, HEADS, -1, EACH)])
