"""Mixing of channels in a layer whose outputs other layers read linearly."""

from __future__ import annotations

import numpy as np

from lbyl_onnx.channels.groups import GroupBinding
from lbyl_onnx.channels.paths import LinearPath
from lbyl_onnx.compensate.fits import ProducerMixing
from lbyl_onnx.graph.model_graph import Graph
from lbyl_onnx.graph.norms.batch_norm import epsilon_of, scale_of
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.methods.mixing.reduced_rank import ReducedRank
from lbyl_onnx.types import Floats


def mixture(
    graph: Graph, tensor_info: TensorInfo, channel_path: LinearPath, reduced_rank: ReducedRank
) -> ProducerMixing | None:
    """Apply a reduced rank to its producer; None where its BatchNormalization is not finite.

    The BatchNormalization goes on telling what it does: gamma and beta become the mixtures'
    deviation and mean, and mean and var follow from those that were stored.
    """
    kept, producer = reduced_rank.delivery.kept, channel_path.group.producers[0]
    weights, shift = reduced_rank.mixing, reduced_rank.shift
    if channel_path.added is not None:
        added = added_mixing(graph, tensor_info, channel_path.added, weights, shift)
        return ProducerMixing(producer, kept, weights, np.zeros(len(kept)), (added,))
    if channel_path.norm is None:
        return ProducerMixing(producer, kept, weights, shift, ())
    norm = graph.nodes[channel_path.norm]
    norm_bindings = {
        p.binding.operand: p
        for p in channel_path.group.followers
        if p.binding.node == channel_path.norm
    }
    gamma, beta, mean, var = (
        tensor_info.value(norm.inputs[i].name)[norm_bindings[i].positions[:, 0]].astype(np.float64)
        for i in range(1, 5)
    )
    eps = epsilon_of(norm)
    with np.errstate(invalid="ignore"):
        weights = reduced_rank.mixing * scale_of(norm, gamma, var)
    values = (
        np.sqrt(reduced_rank.std**2 + eps),
        reduced_rank.mixing @ beta + reduced_rank.shift,
        weights @ mean,
        reduced_rank.std**2,
    )
    if not all(np.all(np.isfinite(x)) for x in (weights, *values)):
        return None
    followers = tuple((norm_bindings[i], value) for i, value in enumerate(values, start=1))
    return ProducerMixing(producer, kept, weights, np.zeros(len(kept)), followers)


def added_mixing(
    graph: Graph, tensor_info: TensorInfo, place: GroupBinding, weights: Floats, shift: Floats
) -> tuple[GroupBinding, Floats]:
    """Mix a constant that is added behind a producer, (k,); `shift`, (k,), goes on top."""
    name = graph.nodes[place.binding.node].inputs[place.binding.operand].name
    value = tensor_info.value(name).astype(np.float64)
    along = np.moveaxis(value, place.binding.axis, 0).reshape(-1)  # (1, .., C) -> (C,)
    return place, weights @ along[place.positions[:, 0]] + shift
