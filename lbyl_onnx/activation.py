"""What lies between a group and a consumer where that is an activation alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from lbyl_onnx.channels import ChannelGroup, ChannelMap, Placement
from lbyl_onnx.facts import GraphFacts
from lbyl_onnx.rules import ELEMENTWISE
from lbyl_onnx.ways import MOVES, Way, apply, between

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Activation:
    """The elementwise nodes between one producer's affine prefix and a consumer.

    Parameters
    ----------
    tensor
        What enters them.
    place
        Where the channels lie along the producer's output, and along that tensor.
    """

    tensor: str
    place: Placement
    _way: Way
    _nodes: tuple[int, ...]

    def __call__(self, values: Floats) -> Floats:
        """Evaluate them on (points, n) values, channel i in column i; NaN where one cannot be."""
        known = {self.tensor: values}
        last = values
        for index in self._nodes:
            node = self._way.graph.nodes[index]
            source = next(known[t.name] for t in node.inputs if t.name in known)
            step = self._way.affine(index)
            applied = step.scale * source + step.shift if step else apply(self._way, index, known)
            last = np.full_like(source, np.nan) if applied is None else applied
            known[node.outputs[0].name] = last
        return last


def activation_between(
    model: onnx.ModelProto,
    graph: gs.Graph,
    facts: GraphFacts,
    channels: ChannelMap,
    group: ChannelGroup,
    consumer: Placement,
) -> Activation | None:
    """Return the activation between a group and a consumer; None where there is more than that.

    Several producers that meet, a pooling, a depthwise Conv: what is behind those is no function
    of one channel's value at one place.
    """
    nodes, producers = between(graph, channels, group, consumer)
    if len(producers) != 1 or producers[0].positions.shape[1] != 1:
        return None
    tensor = graph.nodes[producers[0].slot.node].outputs[0].name
    way = Way(nodes, frozenset(), group, graph, model, facts)
    after = list(nodes)
    while True:
        readers = [i for i in after if any(t.name == tensor for t in graph.nodes[i].inputs)]
        if len(readers) != 1 or graph.nodes[readers[0]].op in MOVES or not way.affine(readers[0]):
            break
        after.remove(readers[0])
        tensor = graph.nodes[readers[0]].outputs[0].name
    activation = Activation(tensor, producers[0], way, tuple(after))
    for index in after:
        op = graph.nodes[index].op
        if op == "Concat" or not (op in MOVES or op in ELEMENTWISE or way.affine(index)):
            return None
    with np.errstate(all="ignore"):
        trial = activation(np.zeros((1, group.size)))
    return activation if trial.shape == (1, group.size) and np.all(np.isfinite(trial)) else None
