"""What the bodies of If, Loop and Scan read from outside."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs


def bodies(node: gs.Node) -> Iterator[gs.Graph]:
    """Yield the subgraphs that a node holds as attributes."""
    yield from (value for value in node.attrs.values() if isinstance(value, gs.Graph))


def names_read(body: gs.Graph) -> set[str]:
    """Return the names of all tensors that a subgraph's nodes read, its own subgraphs' too."""
    names = {tensor.name for node in body.nodes for tensor in node.inputs}
    names |= {tensor.name for tensor in body.outputs}
    for node in body.nodes:
        for inner in bodies(node):
            names |= names_read(inner)
    return names
