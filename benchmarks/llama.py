"""A decoder-only transformer of LLaMA's structure, with seeded weights that go straight to disk.

The structure is that of Touvron et al., *LLaMA: Open and Efficient Foundation Language Models*,
arXiv 2302.13971: RMSNorm before each block, rotary positions, a gated feed-forward of SiLU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

BASE, EPSILON = 10_000.0, 1e-5
# Values that are drawn at a time.
DRAWN = 1 << 24


@dataclass(frozen=True)
class Sizes:
    """Sizes of a decoder; `tokens` is the longest text that its tables hold."""

    layers: int
    width: int
    hidden: int
    heads: int
    vocabulary: int = 32_000
    tokens: int = 2048

    @property
    def parameters(self) -> int:
        """Weights of the matrices and gains of the normalisations."""
        each = 4 * self.width**2 + 3 * self.width * self.hidden + 2 * self.width
        return self.layers * each + 2 * self.vocabulary * self.width + self.width


@dataclass
class _Writer:
    """Nodes, and weights that go to a data file as they are drawn."""

    file: BinaryIO
    dtype: np.dtype[np.generic]
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    names: dict[bytes, str] = field(default_factory=dict)

    def node(
        self, op: str, inputs: Sequence[str], attributes: Mapping[str, object] | None = None
    ) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name))
        pairs = (attributes or {}).items()
        self.nodes[-1].attribute.extend(helper.make_attribute(*pair) for pair in pairs)
        return name

    def weight(self, name: str, shape: tuple[int, int]) -> str:
        """Draw a matrix, of variance 1 / inputs, into the data file."""
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        tensor = TensorProto(name=name, data_type=kind, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        size = shape[0] * shape[1]
        length = size * self.dtype.itemsize
        entries = {"location": "weights.bin", "offset": self.file.tell(), "length": length}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        scale = np.float32(shape[0] ** -0.5)
        for start in range(0, size, DRAWN):
            drawn = self.rng.standard_normal(min(DRAWN, size - start), np.float32)
            self.file.write((drawn * scale).astype(self.dtype).data)
        self.initializers.append(tensor)
        return name

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> str:
        """Store a small constant once."""
        array = np.asarray(value, self.dtype if dtype is None else dtype)
        key = f"{array.dtype}{array.shape}".encode() + array.tobytes()
        if key not in self.names:
            self.names[key] = f"constant{len(self.names)}"
            self.initializers.append(numpy_helper.from_array(array, self.names[key]))
        return self.names[key]

    def whole(self, *numbers: int) -> str:
        return self.constant(numbers, np.int64)


def build(path: Path, sizes: Sizes, dtype: str) -> None:
    """Write a decoder beside ``weights.bin``: token numbers in, a score for each word out."""
    with path.with_name("weights.bin").open("wb") as file:
        net = _Writer(file, np.dtype(dtype), np.random.default_rng(0))
        x = net.node("Gather", [net.weight("embedding", (sizes.vocabulary, sizes.width)), "ids"])
        tables = _tables(net, sizes)
        for number in range(sizes.layers):
            x = net.node(
                "Add", [x, _attention(net, f"{number}.", _norm(net, x, sizes), sizes, tables)]
            )
            x = net.node("Add", [x, _feed_forward(net, f"{number}.", _norm(net, x, sizes), sizes)])
        head = net.weight("head", (sizes.width, sizes.vocabulary))
        net.nodes.append(helper.make_node("MatMul", [_norm(net, x, sizes), head], ["scores"]))
    kind = helper.np_dtype_to_tensor_dtype(net.dtype)
    graph = helper.make_graph(
        net.nodes,
        "decoder",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "T"])],
        [helper.make_tensor_value_info("scores", kind, ["N", "T", sizes.vocabulary])],
        net.initializers,
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    path.write_bytes(model.SerializeToString())


def _tables(net: _Writer, sizes: Sizes) -> list[str]:
    """Cosines and sines of the positions there are, (T, dims of a head)."""
    each = sizes.width // sizes.heads
    frequencies = BASE ** -(np.arange(each // 2) / (each // 2))
    angles = np.tile(np.arange(sizes.tokens)[:, None] * frequencies, 2)
    length = net.node("Slice", [net.node("Shape", ["ids"]), net.whole(1), net.whole(2)])
    stored = [net.constant(table(angles)) for table in (np.cos, np.sin)]
    return [net.node("Slice", [table, net.whole(0), length, net.whole(0)]) for table in stored]


def _norm(net: _Writer, x: str, sizes: Sizes) -> str:
    """RMSNorm, in float32 as exporters write it."""
    wide = net.node("Cast", [x], {"to": TensorProto.FLOAT})
    square = net.node("Pow", [wide, net.constant(2.0, np.float32)])
    power = net.node("ReduceMean", [square], {"axes": [-1]})
    root = net.node("Sqrt", [net.node("Add", [power, net.constant(EPSILON, np.float32)])])
    back = {"to": helper.np_dtype_to_tensor_dtype(net.dtype)}
    plain = net.node("Cast", [net.node("Div", [wide, root])], back)
    return net.node("Mul", [plain, net.constant(np.ones(sizes.width))])


def _attention(net: _Writer, at: str, x: str, sizes: Sizes, tables: Sequence[str]) -> str:
    each, heads = sizes.width // sizes.heads, sizes.heads
    square = (sizes.width, sizes.width)

    def projected(name: str) -> str:
        y = net.node("MatMul", [x, net.weight(f"{at}{name}", square)])
        y = net.node("Reshape", [y, net.whole(0, 0, heads, each)])
        return net.node("Transpose", [y], {"perm": [0, 2, 1, 3]})  # (N, heads, T, each)

    queries, keys, values = map(projected, ("queries", "keys", "values"))
    queries, keys = (_turned(net, part, tables, each) for part in (queries, keys))
    keys = net.node("Transpose", [keys], {"perm": [0, 1, 3, 2]})
    met = net.node("Mul", [net.node("MatMul", [queries, keys]), net.constant(each**-0.5)])
    met = net.node("Softmax", [net.node("Add", [met, _mask(net)])], {"axis": -1})
    y = net.node("Transpose", [net.node("MatMul", [met, values])], {"perm": [0, 2, 1, 3]})
    y = net.node("Reshape", [y, net.whole(0, 0, sizes.width)])
    return net.node("MatMul", [y, net.weight(f"{at}outputs", square)])


def _mask(net: _Writer) -> str:
    """Large negative numbers above the diagonal of (T, T), computed once."""
    if "mask" not in net.names.values():
        length = net.node("Slice", [net.node("Shape", ["ids"]), net.whole(1), net.whole(2)])
        both = net.node("Concat", [length, length], {"axis": 0})
        full = net.node("Expand", [net.constant(-1e4), both])
        net.nodes.append(
            helper.make_node("Trilu", [full, net.constant(1, np.int64)], ["mask"], "mask", upper=1)
        )
        net.names[b"mask"] = "mask"
    return "mask"


def _turned(net: _Writer, x: str, tables: Sequence[str], each: int) -> str:
    """Turn the j-th dim of the first half with the j-th of the second."""
    axes, half, end = net.whole(3), net.whole(each // 2), net.whole(each)
    first = net.node("Slice", [x, net.whole(0), half, axes])
    second = net.node("Slice", [x, half, end, axes])
    other = net.node("Concat", [net.node("Neg", [second]), first], {"axis": -1})
    return net.node("Add", [net.node("Mul", [x, tables[0]]), net.node("Mul", [other, tables[1]])])


def _feed_forward(net: _Writer, at: str, x: str, sizes: Sizes) -> str:
    gate, up = (
        net.node("MatMul", [x, net.weight(f"{at}{name}", (sizes.width, sizes.hidden))])
        for name in ("gate", "up")
    )
    gated = net.node("Mul", [net.node("Mul", [gate, net.node("Sigmoid", [gate])]), up])
    return net.node("MatMul", [gated, net.weight(f"{at}down", (sizes.hidden, sizes.width))])
