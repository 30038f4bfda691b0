"""How many nodes a model is, with its bodies, and with its functions written out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import NodeProto

from lbyl_onnx.errors import ModelError

# The largest graphs in use, unrolled or detection models, have some ten thousand nodes.
MOST_NODES = 100_000
# Functions that call one another: native code goes down by recursion.
DEEPEST = 100


def check_count(path: Path, model: onnx.ModelProto) -> None:
    """Refuse a model of more nodes than ONNX Runtime and this tool can take in good time.

    ONNX Runtime writes functions out where they are called. Each may call others several times, so
    that a few lines stand for more nodes than there is memory for.

    Raises
    ------
    ModelError
        When there are more than `MOST_NODES`, or a function calls itself.
    """
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    counts: dict[tuple[str, str, str], int] = {}
    open_calls: list[tuple[str, str, str]] = []

    def count(nodes: Iterable[NodeProto]) -> int:
        total = 0
        for node in nodes:
            total += 1
            key = (node.domain, node.op_type, node.overload)
            if key in functions:
                total += called(key)
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    total += count(graph.node)
        return total

    def called(key: tuple[str, str, str]) -> int:
        if key in open_calls:
            raise ModelError(f"{path} is not a valid ONNX model: function {key[1]} calls itself")
        if len(open_calls) >= DEEPEST:
            raise ModelError(f"{path} has functions that call others {DEEPEST} deep, the most")
        if key not in counts:
            open_calls.append(key)
            counts[key] = count(functions[key].node)
            open_calls.pop()
        return counts[key]

    total = count(model.graph.node)
    if total > MOST_NODES:
        what = " once its functions are written out" if functions else ""
        raise ModelError(f"{path} has {_rounded(total)} nodes{what}, of {MOST_NODES:,} at most")


def _rounded(total: int) -> str:
    return f"{total:,}" if total < 10**12 else "more than 10^12"
