"""Chains of Gemm."""

from __future__ import annotations

from onnx import ModelProto, TensorProto

from tests.support.net import Net


def gemms(
    alpha: float = 1.0,
    beta: float = 1.0,
    bias: str = "(N,)",
    dtype: int = TensorProto.FLOAT,
    trans_b: int = 1,
) -> ModelProto:
    """Five Gemms."""
    net = Net(("N", 6), dtype=dtype)
    x, sizes = "x", (6, 12, 10, 9, 8, 5)
    for layer in range(5):
        rows, columns = sizes[layer : layer + 2]
        shape = (columns, rows) if trans_b else (rows, columns)
        inputs = [x, net.weight(f"w{layer}", *shape)]
        if bias != "none":
            # One bias for all channels couples them; behind it they are not pruned.
            kind = "(N,)" if bias in ("(1,)", "()") and layer % 2 == 0 else bias
            size = {"(N,)": (columns,), "(1,N)": (1, columns), "(1,)": (1,), "()": ()}[kind]
            inputs.append(net.constant(f"b{layer}", net.cast(net.rng.normal(size=size))))
        x = net.node("Gemm", inputs, {"transB": trans_b, "alpha": alpha, "beta": beta})
        x = net.relu(x) if layer < 4 else x
    return net.model(x)
