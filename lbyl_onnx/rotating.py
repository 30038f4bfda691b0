"""Where channels may be mixed: a layer whose outputs other layers read with no bend between."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from lbyl_onnx.channels import ChannelGroup, ChannelMap
from lbyl_onnx.compensate.rotation import Rotation
from lbyl_onnx.facts import GraphFacts
from lbyl_onnx.restore import Mixture, Operand, own_bias

# Operators that hand values on as they are, each to its own channel.
_HANDS_ON = frozenset(
    {"Identity", "Dropout", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"}
)


@dataclass(frozen=True)
class LinearWay:
    """A group between one layer and its consumers, and the BatchNormalization on the way if any."""

    group: ChannelGroup
    norm: int | None


def linear_way(
    graph: gs.Graph, facts: GraphFacts, channels: ChannelMap, group: ChannelGroup
) -> LinearWay | None:
    """Tell whether a group's channels may be mixed; None where something bends or joins them."""
    if len(group.producers) != 1 or group.producers[0].positions.shape[1] != 1:
        return None
    place = group.producers[0]
    producer = graph.nodes[place.slot.node]
    grouped = int(producer.attrs.get("group", 1)) != 1
    outputs = facts.value(producer.inputs[1].name).shape[place.slot.axis]
    biased = producer.op == "MatMul" or own_bias(facts, producer, outputs, _type(facts, producer))
    if grouped or biased is None:
        return None
    units = group.units
    carriers = [
        index
        for index, node in enumerate(graph.nodes)
        if index != place.slot.node
        and any(
            np.any(np.isin(channels.roots[channels.tensors[t.name]], units))
            for t in node.outputs
            if t.name in channels.tensors
        )
    ]
    norms = [i for i in carriers if graph.nodes[i].op == "BatchNormalization"]
    if len(norms) > 1 or any(
        graph.nodes[i].op not in _HANDS_ON for i in carriers if i not in norms
    ):
        return None
    followers = {(p.slot.node, p.slot.operand) for p in group.followers} - {(place.slot.node, 2)}
    wanted = {(norms[0], operand) for operand in range(1, 5)} if norms else set[Operand]()
    return LinearWay(group, norms[0] if norms else None) if followers == wanted else None


def _type(facts: GraphFacts, node: gs.Node) -> np.dtype[np.generic]:
    return facts.value(node.inputs[1].name).dtype


def mixture(
    graph: gs.Graph, facts: GraphFacts, way: LinearWay, rotation: Rotation
) -> Mixture | None:
    """Put a rotation into its producer; None where its BatchNormalization is not finite.

    The BatchNormalization goes on telling what it does: gamma and beta become the mixtures'
    deviation and mean, and mean and var follow from those that were stored.
    """
    kept, producer = rotation.delivery.kept, way.group.producers[0]
    if way.norm is None:
        return Mixture(producer, kept, rotation.mixing, rotation.shift, ())
    norm = graph.nodes[way.norm]
    places = {p.slot.operand: p for p in way.group.followers if p.slot.node == way.norm}
    gamma, beta, mean, var = (
        facts.value(norm.inputs[i].name)[places[i].positions[:, 0]].astype(np.float64)
        for i in range(1, 5)
    )
    eps = float(norm.attrs.get("epsilon", 1e-5))
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = rotation.mixing * (gamma / np.sqrt(var + eps))
    values = (
        np.sqrt(rotation.std**2 + eps),
        rotation.mixing @ beta + rotation.shift,
        weights @ mean,
        rotation.std**2,
    )
    if not all(np.all(np.isfinite(x)) for x in (weights, *values)):
        return None
    followers = tuple((places[i], value) for i, value in enumerate(values, start=1))
    return Mixture(producer, kept, weights, np.zeros(len(kept)), followers)
