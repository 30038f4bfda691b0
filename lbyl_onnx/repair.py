"""Bring the outputs of compensated layers back to the mean and variance that they had.

Least squares shrinks variance, and what is lost in one layer is lost for all behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from lbyl_onnx.facts import GraphFacts
from lbyl_onnx.probe_graph import Target, View
from lbyl_onnx.restore import Repair, own_bias
from lbyl_onnx.rules import PRODUCING
from lbyl_onnx.statistics import Measured, output_view

# A gain beyond this is a channel that the compensation has silenced: nothing is left to amplify.
LARGEST_GAIN = 4.0
# Variances below this share of the layer's largest are rounding.
_ROUNDING = 1e-12


def repairable(graph: gs.Graph, facts: GraphFacts, consumers: Iterable[int]) -> dict[int, View]:
    """View the outputs that a repair is for, by node.

    Outputs behind which no layer follows are left alone: there the least error counts, and no
    loss of variance is passed on. So are those whose node has a bias that cannot be scaled.
    """
    views: dict[int, View] = {}
    for index in sorted(set(consumers)):
        node = graph.nodes[index]
        view = output_view(graph, facts, index)
        if view is None or not _feeds_a_layer(node):
            continue
        has_bias = len(node.inputs) > 2 and bool(node.inputs[2].name)
        dtype = facts.value(node.inputs[1].name).dtype
        if has_bias and own_bias(facts, node, len(view.positions), dtype) is None:
            continue
        views[index] = view
    return views


def _feeds_a_layer(node: gs.Node) -> bool:
    seen: set[int] = set()
    waiting = [reader for tensor in node.outputs for reader in tensor.outputs]
    while waiting:
        reader = waiting.pop()
        if reader.op in PRODUCING:
            return True
        if id(reader) in seen:
            continue
        seen.add(id(reader))
        waiting += [after for tensor in reader.outputs for after in tensor.outputs]
    return False


def targets(views: Mapping[int, View], before: Mapping[int, Measured]) -> dict[str, Target]:
    """What the outputs are brought to while they are measured again, by tensor.

    So each layer is measured with all layers before it repaired, in one run.
    """
    return {
        view.tensor: Target(
            view.axis, view.rank, before[i].mean, np.sqrt(np.maximum(before[i].second, 0.0))
        )
        for i, view in views.items()
    }


def repairs(before: Mapping[int, Measured], after: Mapping[int, Measured]) -> dict[int, Repair]:
    """Scale and shift of each output, from its moments before and after the compensation.

    Parameters
    ----------
    before, after
        Mean and variance of each node's output channels; nodes with moments that are not finite
        are left out of the result.
    """
    result: dict[int, Repair] = {}
    for index, now in after.items():
        was = before[index]
        if not all(np.all(np.isfinite(x)) for x in (was.mean, was.second, now.mean, now.second)):
            continue
        least = _ROUNDING * float(np.max(now.second, initial=0.0))
        alive = now.second > least
        ratio = np.where(alive, was.second / np.where(alive, now.second, 1.0), 1.0)
        gain = np.clip(np.sqrt(np.maximum(ratio, 0.0)), 1 / LARGEST_GAIN, LARGEST_GAIN)
        result[index] = Repair(gain, was.mean - gain * now.mean)
    return result
