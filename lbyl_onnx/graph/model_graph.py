"""A model as a graph of nodes and tensors, and what is asked of one everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import onnx
import onnx_graphsurgeon as gs
from onnx import GraphProto, NodeProto
from onnx_graphsurgeon.logger import G_LOGGER

# From this IR version on initializers need not be listed among the graph's inputs, too.
UNLISTED_FROM = 4

if TYPE_CHECKING:
    # graphsurgeon declares no types: these are those of its attributes that are used here.
    class Tensor:
        """A named value; `inputs` produce it, `outputs` consume it."""

        name: str
        dtype: Any
        shape: Any
        inputs: list[Node]
        outputs: list[Node]

    class Variable(Tensor):
        """A tensor that is computed or given."""

    class Constant(Tensor):
        """A tensor whose value the model stores."""

        values: Any

    class Node:
        """An operator with its tensors."""

        op: str
        name: str | None
        domain: str | None
        attrs: dict[str, Any]
        inputs: list[Tensor]
        outputs: list[Tensor]

        def subgraphs(self, recursive: bool = False) -> Iterator[Graph]:
            """Yield the graphs among the attributes."""
            ...

    class Graph:
        """Nodes in the order of the model, with the graph's inputs and outputs."""

        nodes: list[Node]
        inputs: list[Tensor]
        outputs: list[Tensor]
        opset: int

        def tensors(self) -> dict[str, Tensor]:
            """Return the tensors by name."""
            ...

else:
    from onnx_graphsurgeon import Constant, Graph, Node, Tensor, Variable

__all__ = [
    "Constant",
    "Graph",
    "Node",
    "Tensor",
    "Variable",
    "bodies",
    "captured",
    "names_of",
    "names_read",
    "node_name",
    "subgraphs",
    "to_graph",
]


def to_graph(model: onnx.ModelProto) -> Graph:
    """Import a model; its nodes stand in the order of `model.graph.node`."""
    with G_LOGGER.suppress(G_LOGGER.CRITICAL):  # it warns of types it only has to pass on
        graph: Graph = gs.import_onnx(model)
    return graph


def bodies(node: Node) -> Iterator[Graph]:
    """Yield the subgraphs that a node holds as attributes."""
    yield from (value for value in node.attrs.values() if isinstance(value, Graph))


def names_read(body: Graph) -> set[str]:
    """Return the names of all tensors that a subgraph's nodes read, its own subgraphs' too."""
    names = {tensor.name for node in body.nodes for tensor in node.inputs}
    names |= {tensor.name for tensor in body.outputs}
    for node in body.nodes:
        for inner in bodies(node):
            names |= names_read(inner)
    return names


def node_name(node: Node) -> str:
    """Return a node's name; where it has none, its operator and first output."""
    return str(node.name) or f"{node.op}({node.outputs[0].name if node.outputs else ''})"


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs that a node holds as attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def captured(node: NodeProto) -> set[str]:
    """Names that the bodies of a node may read from outside."""
    bodies = list(subgraphs(node))
    names = {name for body in bodies for inner in body.node for name in inner.input}
    names |= {out.name for body in bodies for out in body.output}
    return names.union(*(captured(inner) for body in bodies for inner in body.node))


def names_of(graph: GraphProto) -> Iterator[str]:
    """Yield all names of nodes and tensors, those in bodies too."""
    yield from (value.name for value in (*graph.input, *graph.initializer))
    for node in graph.node:
        yield from (node.name, *node.output)
        for body in subgraphs(node):
            yield from names_of(body)
