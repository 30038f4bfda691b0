"""Attention blocks as they may be drawn, and what they compute in NumPy without some channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from tests.support.net import Net

Floats = NDArray[np.float64]
Kept = Mapping[str, NDArray[np.bool_]]
WIDTH, OUT, EPSILON = 6, 5, 0.01


@dataclass(frozen=True)
class Block:
    """One block of attention.

    Parameters
    ----------
    heads, shared
        Heads of keys and values, and how many heads of queries read each.
    size
        Channels of a head.
    fused, bias, masked, operator, dynamic
        Whether one weight makes queries, keys and values; whether it has a bias; whether a mask is
        added; whether Attention is one operator; whether batch and length are dynamic.
    seed
        Of the weights.
    by_head
        Whether each head has a mask of its own.
    norm
        What queries and keys are normalised by, head by head, each with a scale of its own: "rms"
        or "layer", as one node or, as "rms, written out", in single operators; "" for nothing.
    """

    heads: int
    shared: int
    size: int
    fused: bool
    bias: bool
    masked: bool
    operator: bool
    dynamic: bool
    seed: int = 0
    by_head: bool = False
    norm: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """Heads of queries, keys and values."""
        return {"q": self.heads * self.shared, "k": self.heads, "v": self.heads}

    @property
    def tokens(self) -> int:
        """How many of them the mask is for."""
        return 4

    def weights(self) -> dict[str, Floats]:
        """Weights (in, out) and biases of the projections, in float32's precision, and the mask."""
        rng = np.random.default_rng(self.seed)
        values: dict[str, Floats] = {}
        for name, count in self.counts.items():
            values[name] = rng.standard_normal((WIDTH, count * self.size)) / np.sqrt(WIDTH)
            values[f"{name}.bias"] = rng.standard_normal(count * self.size)
        inner = self.counts["q"] * self.size
        values["out"] = rng.standard_normal((inner, OUT)) / np.sqrt(inner)
        masks = (self.counts["q"],) * self.by_head
        for name in "qk":
            values[f"{name}.gamma"] = 0.5 + rng.random(self.size)
            values[f"{name}.beta"] = rng.standard_normal(self.size)
        drawn = rng.random((*masks, self.tokens, self.tokens))
        values["mask"] = np.where(drawn < 0.3, -5.0, 0.0)
        return {name: value.astype(np.float32).astype(np.float64) for name, value in values.items()}

    def model(self) -> ModelProto:
        """The block, with a projection of its outputs."""
        length: int | str = "T" if self.dynamic and not self.masked else self.tokens
        batch: int | str = "N" if self.dynamic else 2
        net = Net((batch, length, WIDTH), opset=23)
        parts = self._fused(net) if self.fused else self._split(net)
        inner = self.counts["q"] * self.size
        y = self._one_node(net, parts) if self.operator else self._written_out(net, parts)
        out = net.constant("out", net.cast(self.weights()["out"]))
        assert inner == len(self.weights()["out"])
        return net.declared(net.node("MatMul", [y, out]), batch, length, OUT)

    def _normalised(self, net: Net, x: str, name: str) -> str:
        """Normalise queries or keys, (.., d), over the channels of each head."""
        values = {k: net.cast(self.weights()[f"{name}.{k}"]) for k in ("gamma", "beta")}
        gamma = net.constant(f"{name}.gamma", values["gamma"])
        centred, written_out = "layer" in self.norm, "written out" in self.norm
        inputs = [gamma, net.constant(f"{name}.beta", values["beta"])] if centred else [gamma]
        if not written_out:
            op = "LayerNormalization" if centred else "RMSNormalization"
            return net.node(op, [x, *inputs], {"epsilon": EPSILON, "axis": -1})
        last = net.ints(-1)
        if centred:
            x = net.node("Sub", [x, net.node("ReduceMean", [x, last])])
        square = net.node("Mul", [x, x])
        epsilon = net.constant(f"{name}.epsilon", net.cast(np.asarray(EPSILON)))
        variance = net.node("Add", [net.node("ReduceMean", [square, last]), epsilon])
        root = net.node("Sqrt", [variance])
        if centred:
            x = net.node("Mul", [net.node("Div", [x, root]), gamma])
            return net.node("Add", [x, inputs[1]])
        return net.node("Mul", [gamma, net.node("Mul", [x, net.node("Reciprocal", [root])])])

    def _projected(self, net: Net, names: str) -> str:
        values = self.weights()
        weight = np.concatenate([values[name] for name in names], axis=1)
        x = net.node("MatMul", ["x", net.constant(f"{names}.w", net.cast(weight))])
        if self.bias:
            bias = np.concatenate([values[f"{name}.bias"] for name in names])
            x = net.node("Add", [net.constant(f"{names}.b", net.cast(bias)), x])
        return x

    def _fused(self, net: Net) -> list[str]:
        sizes = [count * self.size for count in self.counts.values()]
        net.node("Split", [self._projected(net, "qkv"), net.ints(*sizes)], {"axis": -1})
        net.nodes[-1].output[:] = ["q", "k", "v"]
        return ["q", "k", "v"]

    def _split(self, net: Net) -> list[str]:
        return [self._projected(net, name) for name in "qkv"]

    def _one_node(self, net: Net, parts: list[str]) -> str:
        mask = [net.constant("mask", net.cast(self.weights()["mask"]))] if self.masked else []
        counts = {"q_num_heads": self.counts["q"], "kv_num_heads": self.heads}
        if self.norm:  # heads on an axis of their own
            x = net.node("Attention", [self._by_head(net, p, n) for n, p in parts_of(parts)] + mask)
            x = net.node("Transpose", [x], {"perm": [0, 2, 1, 3]})
            return net.node("Reshape", [x, net.ints(0, 0, self.counts["q"] * self.size)])
        return net.node("Attention", [*parts, *mask], counts)

    def _by_head(self, net: Net, part: str, name: str) -> str:
        """Queries, keys or values as (N, heads, T, d), normalised if they are to be."""
        x = net.node("Reshape", [part, net.ints(0, 0, self.counts[name], self.size)])
        x = net.node("Transpose", [x], {"perm": [0, 2, 1, 3]})
        return self._normalised(net, x, name) if self.norm and name != "v" else x

    def _written_out(self, net: Net, parts: list[str]) -> str:
        by_head: list[str] = []
        for name, part in parts_of(parts):
            x, count = self._by_head(net, part, name), self.counts[name]
            if count < self.counts["q"]:  # (N, heads, T, d) -> (N, heads * shared, T, d)
                order = np.repeat(np.arange(count), self.shared)
                x = net.node("Gather", [x, net.ints(*order.tolist())], {"axis": 1})
            by_head.append(x)
        q, k, v = by_head
        scale = net.constant("scale", net.cast(np.asarray(1.0 / np.sqrt(self.size))))
        q = net.node("Mul", [q, scale])
        scores = net.node("MatMul", [q, net.node("Transpose", [k], {"perm": [0, 1, 3, 2]})])
        if self.masked:
            mask = net.constant("mask", net.cast(self.weights()["mask"]))
            scores = net.node("Add", [scores, mask])
        y = net.node("MatMul", [net.node("Softmax", [scores], {"axis": -1}), v])
        y = net.node("Transpose", [y], {"perm": [0, 2, 1, 3]})
        return net.node("Reshape", [y, net.ints(0, 0, self.counts["q"] * self.size)])

    def computed(self, x: NDArray[Any], kept: Kept) -> Floats:
        """What the block gives for x, (N, T, width), with the channels that are gone set to zero.

        Parameters
        ----------
        x
            The input.
        kept
            For queries and keys, `k`, and for values, `v`, which stay, (heads of keys, d).
        """
        values = self.weights()
        by_head = {}
        for name, count in self.counts.items():
            y = x.astype(np.float64) @ values[name] + self.bias * values[f"{name}.bias"]
            y = y.reshape(*x.shape[:2], count, self.size).transpose(0, 2, 1, 3)  # (N, heads, T, d)
            times = self.counts["q"] // count
            stays = np.repeat(kept["v" if name == "v" else "k"], self.shared, axis=0)
            y = np.repeat(y, times, axis=1) * stays[:, None, :]
            by_head[name] = y if name == "v" or not self.norm else self._over(y, stays, name)
        scores = by_head["q"] @ by_head["k"].transpose(0, 1, 3, 2) / np.sqrt(self.size)
        scores += values["mask"] if self.masked else 0.0
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        y = weights / weights.sum(axis=-1, keepdims=True) @ by_head["v"]
        flat = y.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1)  # (N, T, heads * d)
        return np.asarray(flat @ values["out"])

    def _over(self, y: Floats, stays: NDArray[np.bool_], name: str) -> Floats:
        """Normalise (N, heads, T, d) over the channels that stay, (heads, d); others are 0."""
        values, mask = self.weights(), stays[:, None, :]
        count = np.maximum(mask.sum(axis=-1, keepdims=True), 1)  # a head may be gone whole
        if "layer" in self.norm:
            y = (y - y.sum(axis=-1, keepdims=True) / count) * mask
        variance = np.sum(y * y, axis=-1, keepdims=True) / count
        y = y / np.sqrt(variance + np.float32(EPSILON)) * values[f"{name}.gamma"]
        return np.asarray((y + values[f"{name}.beta"]) * mask if "layer" in self.norm else y)


def parts_of(parts: list[str]) -> list[tuple[str, str]]:
    """Name queries, keys and values."""
    return list(zip("qkv", parts, strict=True))
