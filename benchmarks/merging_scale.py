"""Neuron Merging with the scale of its authors' code, to compare with the derived one.

The package delivers ``s (gamma_j sigma_k) / (gamma_k sigma_j)`` from a kept channel k to the
consumers of a removed one j, which is exact where ``w_j = s w_k``. The authors' code has the
BatchNormalization factors inverted. This module is that, and nothing else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray

from lbyl_onnx import Config
from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import Selection
from lbyl_onnx.compensate.fits import ConsumerFit
from lbyl_onnx.compensate.selection import choose_channels
from lbyl_onnx.graph import source
from lbyl_onnx.guard.effort import USUAL
from lbyl_onnx.io.lazy_array import load
from lbyl_onnx.methods.importance import kept_count
from lbyl_onnx.methods.types import Delivery, FoldedRows, removed_channels
from lbyl_onnx.rewrite.weights import compensated
from lbyl_onnx.runtime import providers
from lbyl_onnx.runtime.baseline import run_baseline


def inverted_delivery(rows: FoldedRows, kept: NDArray[np.intp], config: Config) -> Delivery:
    """Return Neuron Merging's delivery with the factors inverted, for rows with BatchNormalization.

    With ``f_jk = |w_j| / |w_k| * scale_k / scale_j`` the channel of least
    ``lambda cos_jk + (1 - lambda) |shift_k - f_jk shift_j| / f_jk`` (the last min-max scaled over
    k) delivers f_jk. The authors' code also takes the variance for sigma; this does not.

    References
    ----------
    github.com/friendshipkim/neuron-merging, decompose.py, of Kim et al., NeurIPS 2020.

    Raises
    ------
    ValueError
        Without BatchNormalization, and for a channel that emits a constant.
    """
    if not rows.normalized or np.any(rows.constant):
        raise ValueError("the inverted scale needs BatchNormalization and no constant channel")
    removed = removed_channels(rows.scale.size, kept)
    norm = np.linalg.norm(rows.weight, axis=1)
    unit = rows.weight / norm[:, np.newaxis]
    cosine = unit[removed] @ unit[kept].T  # (n - k, k)
    factor = np.outer(norm[removed] / rows.scale[removed], rows.scale[kept] / norm[kept])
    gap = np.abs(rows.shift[kept] - factor * rows.shift[removed][:, np.newaxis]) / factor
    low, high = gap.min(axis=1, keepdims=True), gap.max(axis=1, keepdims=True)
    gap = (gap - low) / (high - low)
    pick = np.argmin(
        config.cosine_weight * (1.0 - cosine) + (1.0 - config.cosine_weight) * gap, axis=1
    )
    line = np.arange(removed.size)
    matrix = np.zeros(factor.shape)
    merged = cosine[line, pick] >= config.cosine_threshold
    matrix[line, pick] = np.where(merged, factor[line, pick], 0.0)
    return Delivery(kept, matrix, np.zeros(removed.size))


def merged_inverted(path: Path, config: Config) -> onnx.ModelProto:
    """Return a model merged with the inverted scale, its removed channels only zeroed.

    It computes what the model without them would; nothing is verified.
    """
    baseline = run_baseline(path, providers.provider_name("cpu"), config.seed)
    files = source.check_source(path)
    selection = Selection(config.include, config.exclude)
    analyzed = AnalyzedModel.open(files, baseline.shape_sets[:2], selection)
    model, graph, tensor_info = analyzed.model, analyzed.graph, analyzed.tensor_info
    channels = analyzed.channels
    counts = {group.key: kept_count(group.size, config.target.value) for group in channels.groups}
    plan = choose_channels(graph, tensor_info, channels.groups, counts, config.score, config.seed)
    fits = []
    for entry in plan.groups:
        for place in entry.group.consumers:
            response = analyzed.respond(entry.group, place)
            if response is None:
                raise ValueError(f"{entry.group.name}: its weights are not finite")
            delivery = inverted_delivery(response.rows, entry.kept, config)
            fits.append(ConsumerFit(entry.group, place, response.at_consumer(delivery)))
    edits = compensated(graph, tensor_info, fits, (), {}, (), USUAL.held_weight)
    if edits.added:
        raise ValueError(f"{path}: a delivery with an offset cannot be written here")
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for (index, operand), value in edits.operands.items():
        name = model.graph.node[index].input[operand]
        stored[name].CopyFrom(onnx.numpy_helper.from_array(load(value), name))
    return model
