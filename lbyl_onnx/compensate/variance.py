"""Bring the outputs of compensated layers back to the mean and variance that they had."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import layer_read
from lbyl_onnx.channels.paths import behind
from lbyl_onnx.compensate.fits import ConsumerFit, Repair
from lbyl_onnx.graph.layers import linear_layer
from lbyl_onnx.graph.layers.linear_layer import by_window
from lbyl_onnx.graph.model_graph import Graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.io.writer import ModelDraft
from lbyl_onnx.methods.types import Moments, columns_of
from lbyl_onnx.observe.accumulate import SampleMoments
from lbyl_onnx.observe.pooling import pooled_outputs, shared_layers
from lbyl_onnx.observe.run import ObservationRun, measure
from lbyl_onnx.observe.spec import MomentSpec, Renormalization
from lbyl_onnx.types import Floats


@dataclass(frozen=True, eq=False)
class Statistics:
    """Where the moments come from, and those of the layers' outputs before compensation."""

    run: ObservationRun
    outputs: Mapping[int, MomentSpec]
    before: Mapping[int, SampleMoments]

    def repaired(
        self, analyzed: AnalyzedModel, compensated: ModelDraft, changed: Collection[int]
    ) -> dict[int, Repair]:
        """Measure the compensated model, and say what brings its layers back.

        Parameters
        ----------
        analyzed
            The original.
        compensated
            The compensated model in the original's shapes.
        changed
            The nodes that it differs in; they and those behind them can need a repair.
        """
        nodes = self.before.keys() & {*changed, *behind(analyzed.graph, changed)}
        outputs = {i: view for i, view in self.outputs.items() if i in nodes}
        if not outputs:
            return {}
        views = {str(i): view for i, view in outputs.items()}
        aims = targets(outputs, self.before)
        measured = measure(compensated, analyzed.tensor_info, analyzed.read, views, aims, self.run)
        after = {int(key): value for key, value in measured.items()}
        # What one weight gives is scaled once, for all of its uses.
        shared = shared_layers(analyzed.graph, analyzed.tensor_info, analyzed.channels, after)
        before = {index: self.before[index] for index in after}
        return repairs(pooled_outputs(before, shared), pooled_outputs(after, shared))


# A gain beyond this is a channel that the compensation has zeroed: nothing is left to amplify.
LARGEST_GAIN = 4.0
# Variances below this share of the layer's largest are rounding.
_ROUNDING = 1e-12


def targets(
    views: Mapping[int, MomentSpec], before: Mapping[int, SampleMoments]
) -> dict[str, Renormalization]:
    """What the outputs are brought to while they are measured again, by tensor.

    So each layer is measured with all layers before it repaired, in one run.
    """
    return {
        view.tensor: Renormalization(
            view.axis, view.rank, before[i].mean, np.sqrt(np.maximum(before[i].second, 0.0))
        )
        for i, view in views.items()
    }


def repairs(
    before: Mapping[int, SampleMoments], after: Mapping[int, SampleMoments]
) -> dict[int, Repair]:
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
        gain = gain_between(was.second, now.second)
        result[index] = Repair(gain, was.mean - gain * now.mean)
    return result


def gain_between(before: Floats, after: Floats) -> Floats:
    """What brings variances, (out,), back; 1 where none is left."""
    alive = after > _ROUNDING * float(np.max(after, initial=0.0))
    ratio = np.where(alive, before / np.where(alive, after, 1.0), 1.0)
    return np.clip(np.sqrt(np.maximum(ratio, 0.0)), 1 / LARGEST_GAIN, LARGEST_GAIN)


@dataclass(frozen=True, eq=False)
class OutputContribution:
    """What one group brings to a consumer's outputs, each (out,): mean, variance and what is left.

    `width` is how many of the weight's input positions are the group's.
    """

    mean: Floats
    before: Floats
    after: Floats
    width: int


def part(
    graph: Graph, tensor_info: TensorInfo, fit: ConsumerFit, moments: Moments
) -> OutputContribution:
    """Tell from the moments what a delivery leaves of a group's part in a consumer's outputs.

    Without taps, all that a window sees of a channel counts as one value.
    """
    layer, taps = layer_read(graph, tensor_info, fit.consumer), moments.taps
    rows = layer.rows(tensor_info, fit.consumer.positions)
    n, per_channel, out = rows.shape[:3]
    # (n, positions, window, out) -> (n, taps, what is not told apart, out) -> (n, taps, out)
    weight = by_window(rows).reshape(n, taps, -1, out).sum(axis=2)
    kept, removed = fit.delivery.kept, fit.delivery.removed
    left = weight[kept].reshape(-1, out)  # (k, taps, out) -> (k * taps, out)
    left += fit.delivery.rows.T @ weight[removed].reshape(-1, out)
    columns = columns_of(kept, taps)
    whole = weight.reshape(-1, out)  # (n, taps, out) -> (n * taps, out)
    c = moments.covariance
    return OutputContribution(
        moments.mean @ whole,
        np.einsum("do,do->o", whole, c @ whole),
        np.einsum("do,do->o", left, c[np.ix_(columns, columns)] @ left),
        n * per_channel,
    )


def modelled(
    graph: Graph, tensor_info: TensorInfo, parts: Mapping[int, Sequence[OutputContribution]]
) -> dict[int, Repair]:
    """Scale and shift of outputs, modelled from the moments.

    Parameters
    ----------
    graph, tensor_info
        The original.
    parts
        Of each consumer, by node; groups count as independent. One of which they leave out inputs
        is left alone.
    """
    result: dict[int, Repair] = {}
    for index, here in parts.items():
        layer = linear_layer(tensor_info, graph.nodes[index])
        if layer is None or sum(p.width for p in here) != layer.shape[layer.in_axis]:
            continue
        bias = layer.bias(tensor_info)
        before, after, mean = (
            np.sum([getattr(p, name) for p in here], axis=0) for name in ("before", "after", "mean")
        )
        gain = gain_between(before, after)
        mean = layer.alpha * mean
        if bias is not None:
            mean = mean + layer.beta * bias.astype(np.float64).reshape(-1)  # (1, N) -> (N,)
        result[index] = Repair(gain, mean - gain * mean)
    return result
