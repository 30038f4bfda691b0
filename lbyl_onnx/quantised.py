"""Quantised models: they are refused as a whole."""

from __future__ import annotations

import re

import onnx_graphsurgeon as gs

from lbyl_onnx.channels import node_name
from lbyl_onnx.errors import NothingToPruneError

# Operators of quantised models, of ONNX and of ONNX Runtime's own domain.
QUANTISED = re.compile(r"Quantize|^QLinear|^QGemm|Integer$|NBits$|^QAttention|^QEmbed")


def refuse_quantised(graph: gs.Graph) -> None:
    """Raise NothingToPruneError for a graph that holds an operator of a quantised model."""
    quantised = [node_name(node) for node in graph.nodes if QUANTISED.search(node.op)]
    if quantised:
        raise NothingToPruneError(
            f"nothing could be pruned: the model is quantised ({quantised[0]} and "
            f"{len(quantised) - 1} other nodes); prune first, quantise after"
        )
