"""Discontinuous nodes: models are compared in front of each, and behind each.

The compressed model and the one that it must equal compute the same sums in another order. Where a
node is discontinuous (TopK, ArgMax, Round, ..) that may flip whole outputs, and says nothing of
the rewrite. So what such nodes read is compared, and to what follows them both models are given
the same: in a temporary copy of the compressed model, each such node is replaced by an input that
is fed what the other model's node gave.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from lbyl_onnx.graph import source
from lbyl_onnx.graph.costs import FLOATS
from lbyl_onnx.graph.model_graph import captured, subgraphs
from lbyl_onnx.graph.tensor_info import InputShapes, TensorInfo
from lbyl_onnx.io.external_data import TensorReader
from lbyl_onnx.io.writer import ModelDraft, write_draft

# Operators that jump where what they read is no whole number.
_JUMPS = frozenset(
    "ArgMax ArgMin Ceil Equal Floor Greater GreaterOrEqual Hardmax IsInf IsNaN Less LessOrEqual "
    "NonMaxSuppression NonZero Round Sign TopK Unique".split()
)


@dataclass(frozen=True)
class Cuts:
    """Where two models are cut to be compared.

    Parameters
    ----------
    nodes
        Names of the discontinuous nodes.
    fronts
        What they read, in both models.
    injected
        Their outputs, which the compressed model is fed.
    outputs
        The graph's outputs that depend on them.
    unproven
        Names of such nodes at which the models are not cut, since removed channels pass them.
    """

    nodes: tuple[str, ...]
    fronts: tuple[str, ...]
    injected: tuple[str, ...]
    outputs: frozenset[str]
    unproven: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Model:
    proto: onnx.ModelProto
    tensor_info: TensorInfo
    path: Path

    @staticmethod
    def of(path: Path, shapes: InputShapes) -> _Model:
        proto, _ = source.load_model(path)
        return _Model(proto, TensorInfo(proto, shapes, shapes, TensorReader(path)), path)

    def jumps(self) -> list[NodeProto]:
        """Nodes that jump, and read floats that depend on the input's values."""
        return [node for node in self.proto.graph.node if _may_jump(node) and self.read(node)]

    def read(self, node: NodeProto) -> list[str]:
        """What a node reads of floats that depend on the input's values."""
        outside = {i.name for i in self.proto.graph.input}
        return [
            name
            for name in dict.fromkeys(node.input)
            if name
            and name not in outside
            and self.tensor_info.dtype(name) in FLOATS
            and not self.tensor_info.is_known(name)
        ]

    def depending(self, names: Iterable[str]) -> frozenset[str]:
        """Outputs of the graph that depend on some tensors."""
        reached = set(names)
        for node in self.proto.graph.node:
            if not reached.isdisjoint((*node.input, *captured(node))):
                reached.update(node.output)
        return frozenset(o.name for o in self.proto.graph.output) & reached

    def write(self, output: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Write a copy that takes some tensors from outside, and gives some from its inside."""
        copy = onnx.ModelProto()
        copy.CopyFrom(self.proto)
        graph = copy.graph
        kept = [node for node in graph.node if set(inputs).isdisjoint(node.output)]
        nodes = [NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)
        own = [o for o in graph.output if o.name not in inputs]
        declared = [ValueInfoProto.FromString(o.SerializeToString()) for o in own]
        names = {o.name for o in declared}
        del graph.output[:]
        graph.output.extend(declared)
        graph.output.extend(ValueInfoProto(name=n) for n in outputs if n not in names)
        types = {name: self.tensor_info.dtype(name) for name in inputs}
        graph.input.extend(helper.make_tensor_value_info(n, t, None) for n, t in types.items())
        infos = [i for i in graph.value_info if i.name not in inputs]
        left = [ValueInfoProto.FromString(i.SerializeToString()) for i in infos]
        del graph.value_info[:]
        graph.value_info.extend(left)
        write_draft(ModelDraft.of(copy), output, TensorReader(self.path), "auto")


def cut(
    compressed: Path, expected: Path, shapes: InputShapes, outputs: tuple[Path, Path, Path]
) -> Cuts | None:
    """Find discontinuous nodes, and write the copies in which the models are cut at them.

    Parameters
    ----------
    compressed, expected
        The model, and the reference that it must equal.
    shapes
        Of the inputs.
    outputs
        Where copies are written: of the compressed model and of the expected one, which take what
        such nodes give, and give what they read; of the expected one, which gives both.

    Returns
    -------
    Cuts or None
        None where there is no such node; then nothing is written.
    """
    if not any(_may_jump(node) for node in source.load_model(compressed)[0].graph.node):
        return None
    one, two = _Model.of(compressed, shapes), _Model.of(expected, shapes)
    jumps = one.jumps()
    if not jumps:
        return None
    there = {name for node in two.proto.graph.node for name in node.output}
    plain = [node for node in jumps if _same(node, one, two, there)]
    injected = [name for node in plain for name in node.output if name]
    fronts = dict.fromkeys(
        name for node in plain for name in one.read(node) if name not in injected
    )
    one.write(outputs[0], injected, [*fronts])
    two.write(outputs[1], injected, [*fronts])
    two.write(outputs[2], [], [*fronts, *injected])
    after = one.depending(name for node in jumps for name in node.output if name)
    return Cuts(
        tuple(_name(node) for node in jumps),
        tuple(fronts),
        tuple(injected),
        after,
        tuple(_name(node) for node in jumps if node not in plain),
    )


def _same(node: NodeProto, one: _Model, two: _Model, there: Iterable[str]) -> bool:
    """Whether a node's tensors are of the same shapes in both models, and can be fed."""
    outputs = [name for name in node.output if name]
    return all(name in there and one.tensor_info.dtype(name) for name in outputs) and all(
        one.tensor_info.shape(name) == two.tensor_info.shape(name)
        for name in (*outputs, *one.read(node))
    )


def _name(node: NodeProto) -> str:
    return node.name or f"{node.op_type}({node.output[0]})"


def _may_jump(node: NodeProto) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in ("Cast", "CastLike"):
        to = next((a.i for a in node.attribute if a.name == "to"), TensorProto.INT64)
        return to not in FLOATS
    return node.op_type in _JUMPS or any(_may_jump(n) for g in subgraphs(node) for n in g.node)
