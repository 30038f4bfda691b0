"""Neuron Merging: each removed channel is merged into the one kept channel most like it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lbyl_onnx.methods.registry import Method, MethodOption, register_method
from lbyl_onnx.methods.types import Delivery, FoldedRows, checked_kept, removed_channels

# Within what the paper publishes for convolutions: t 0.1 to 0.45, lambda 0.7 to 0.85.
DEFAULT_COSINE_THRESHOLD = 0.1
DEFAULT_COSINE_WEIGHT = 0.85


def deliver(
    rows: FoldedRows,
    kept: ArrayLike,
    *,
    cosine_threshold: float = DEFAULT_COSINE_THRESHOLD,
    cosine_weight: float = DEFAULT_COSINE_WEIGHT,
) -> Delivery:
    """Return the delivery that merges each removed channel into one kept channel.

    Parameters
    ----------
    rows : FoldedRows
        The n channels.
    kept : (k,) array_like of int
        Kept channels, ascending.
    cosine_threshold : float
        A removed channel is dropped where its cosine similarity to the channel chosen for it is
        below this; in [-1, 1]. The default, 0.1, is the low end of the published 0.1 to 0.45.
    cosine_weight : float
        Share of the cosine distance, against the bias distance, in the choice; in [0, 1].
        The default, 0.85, is the high end of the published 0.7 to 0.85. Without
        BatchNormalization the cosine alone chooses.

    Returns
    -------
    Delivery
        At most one entry in each removed channel's row. The offset is zero but for removed
        channels that emit a constant, which it carries whole.

    Raises
    ------
    ValueError
        If ``kept`` does not name channels of the group, or an option is out of its range.

    Notes
    -----
    With ``s = |w_j| / |w_k|`` and ``s_jk = s scale_j / scale_k``, the folded row of a removed
    channel with ``w_j = s w_k`` is ``s_jk`` times that of the kept one, so that is what is
    delivered: ``s (gamma_j sigma_k) / (gamma_k sigma_j)``. The paper's text and its released code
    write ``s (gamma_k sigma_j) / (gamma_j sigma_k)`` instead, which does not leave the output
    unchanged even where w_j is an exact multiple of w_k.

    The kept channel is the one of least ``lambda cos_jk + (1 - lambda) bias_jk``, the first of
    equals; cos_jk is the cosine distance of the rows as stored and bias_jk is
    ``|shift_j - s_jk shift_k| / |s_jk|``, min-max scaled over k (zero where all are equal).
    Without BatchNormalization the bias is appended to the row and s_jk is the plain norm ratio.
    A kept channel of zero scale or zero row has nothing to scale and is never chosen.

    References
    ----------
    Kim, Kim, Park, Kim, "Neuron Merging: Compensating for Pruned Neurons", NeurIPS 2020.
    """
    if not -1.0 <= cosine_threshold <= 1.0:
        raise ValueError(f"cosine_threshold is {cosine_threshold}; choose it in [-1, 1]")
    if not 0.0 <= cosine_weight <= 1.0:
        raise ValueError(f"cosine_weight is {cosine_weight}; choose it in [0, 1]")
    n = rows.scale.size
    kept = checked_kept(n, kept)
    removed = removed_channels(n, kept)
    constant = rows.constant[removed]
    offset = np.where(constant, rows.constant_output[removed], 0.0)
    matrix = np.zeros((removed.size, kept.size))
    matrix[~constant] = _merge(rows, kept, removed[~constant], cosine_threshold, cosine_weight)
    return Delivery(kept, matrix, offset)


def _merge(
    rows: FoldedRows,
    kept: NDArray[np.intp],
    targets: NDArray[np.intp],
    cosine_threshold: float,
    cosine_weight: float,
) -> NDArray[np.float64]:
    """Return the (targets, k) rows of the delivery for removed channels that are not constant."""
    matrix = np.zeros((targets.size, kept.size))
    vectors = rows.weight if rows.normalized else np.column_stack([rows.weight, rows.shift])
    norm = np.linalg.norm(vectors, axis=1)
    usable = np.flatnonzero((norm[kept] > 0.0) & (rows.scale[kept] != 0.0))
    if targets.size == 0 or usable.size == 0:
        return matrix
    sources = kept[usable]
    unit = vectors / np.where(norm > 0.0, norm, 1.0)[:, None]
    similarity = np.clip(unit[targets] @ unit[sources].T, -1.0, 1.0)  # (targets, sources)
    factor = np.divide.outer(norm[targets], norm[sources])
    distance = 1.0 - similarity
    if rows.normalized:
        factor *= np.divide.outer(rows.scale[targets], rows.scale[sources])
        bias = _bias_distance(rows.shift[targets], rows.shift[sources], factor)
        distance = cosine_weight * distance + (1.0 - cosine_weight) * bias
    pick = np.argmin(distance, axis=1)
    line = np.arange(targets.size)
    merged = similarity[line, pick] >= cosine_threshold
    matrix[line, usable[pick]] = np.where(merged, factor[line, pick], 0.0)
    return matrix


def _bias_distance(
    target_shift: NDArray[np.float64],
    source_shift: NDArray[np.float64],
    factor: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return ``|shift_j - s_jk shift_k| / |s_jk|``, (targets, sources), min-max scaled over k."""
    gap = np.abs(target_shift[:, None] - factor * source_shift[None, :]) / np.abs(factor)
    low = gap.min(axis=1, keepdims=True)
    spread = gap.max(axis=1, keepdims=True) - low
    scaled: NDArray[np.float64] = (gap - low) / np.where(spread > 0.0, spread, 1.0)
    return scaled


register_method(
    Method(
        "nm",
        "Neuron Merging",
        "rows",
        deliver,
        (
            MethodOption("cosine_threshold", DEFAULT_COSINE_THRESHOLD, "t", -1.0, 1.0),
            MethodOption("cosine_weight", DEFAULT_COSINE_WEIGHT, "lambda", 0.0, 1.0),
        ),
    )
)
