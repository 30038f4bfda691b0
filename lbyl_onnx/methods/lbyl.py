"""LBYL: each removed channel is spread over all kept channels, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from lbyl_onnx.methods.registry import Method, MethodOption, register_method
from lbyl_onnx.methods.types import Delivery, FoldedRows, checked_kept, removed_channels

# Mid-range of what the paper publishes: 1e-6 to 5e-4 for lambda1, 1e-4 to 0.1 for lambda2.
DEFAULT_LAMBDA1 = 1e-5
DEFAULT_LAMBDA2 = 1e-2
_EPS = 2.0**-52  # spacing of float64 at one
_COLUMNS = 1024  # of the rows at a time in products: the copies stay small enough to be reused


@dataclass(frozen=True, eq=False)
class _Problem:
    """One ridge problem per target (a removed channel), over the same sources (kept channels).

    Target j minimises ``|row_j - s rows|^2 + bias_weight_j (bias_j - s . bias)^2 + ridge_j |s|^2``
    over the rows of `_folded`: the paper's L(s), times scale_j^2 where a BatchNormalization
    follows. So written, a scale near zero makes the weights small instead of making L overflow.
    """

    rows: FoldedRows
    source: NDArray[np.intp]  # (k,)
    target: NDArray[np.intp]  # (m,)
    source_bias: NDArray[np.float64]  # (k,), zeros where the rows of `_folded` hold the bias
    target_bias: NDArray[np.float64]  # (m,), likewise
    bias_weight: NDArray[np.float64]  # (m,)
    ridge: NDArray[np.float64]  # (m,)


@dataclass(frozen=True, eq=False)
class _Spectrum:
    """The Gram matrix of the sources in its own basis, r directions, and the targets seen there."""

    basis: NDArray[np.float64]  # (k, r), orthonormal columns
    power: NDArray[np.float64]  # (r,), eigenvalues of the Gram matrix, none negative
    moment: NDArray[np.float64]  # (m, r), target . sources . basis


def deliver(
    rows: FoldedRows,
    kept: ArrayLike,
    *,
    lambda1: float = DEFAULT_LAMBDA1,
    lambda2: float = DEFAULT_LAMBDA2,
) -> Delivery:
    """Return the delivery that minimises L(s) for each removed channel.

    Parameters
    ----------
    rows : FoldedRows
        The n channels.
    kept : (k,) array_like of int
        Kept channels, ascending.
    lambda1 : float
        Weight of the batch-normalisation error, at least 0; no effect without
        BatchNormalization. The default, 1e-5, is mid-range of the published 1e-6 to 5e-4.
    lambda2 : float
        Weight of the activation error, at least 0. The default, 1e-2, is mid-range of the
        published 1e-4 to 0.1.

    Returns
    -------
    Delivery
        The offset is zero but for removed channels whose folded row is zero: they emit a
        constant, which the offset carries whole and for which s is 0. Kept channels of zero scale
        are never drawn upon.

    Raises
    ------
    ValueError
        If ``kept`` does not name channels of the group, or a lambda is negative or not finite.
    numpy.linalg.LinAlgError
        If an eigenvalue or singular value iteration does not converge.

    Notes
    -----
    With folded rows ``w~ = scale w`` and folded biases ``b~ = shift``, the vector s of a removed
    channel j minimises ::

        L(s) = |w~_j - s W~_K|^2 / scale_j^2  +  lambda1 (b~_j - s . b~_K)^2  +  lambda2 |s|^2

    (RE, BE and the bound of AE). Without BatchNormalization the bias is appended to the row, the
    factor is 1 and only the ridge stays. Where zero penalties leave s free, it is the shortest.

    The released code solves one k x k system per removed channel. Times scale_j^2 the systems
    differ by a rank-one term and a multiple of I, so one symmetric eigendecomposition of
    ``G = W~_K W~_K^T`` and the formula of Sherman and Morrison serve all: O(k^3 + (n - k) k^2)
    time beside forming G, O(n k) memory.

    Working on G squares the condition number. Where some ridge is below sqrt(eps) of the largest
    eigenvalue, that would cost more than half the digits, and the singular values of W~_K
    are taken instead: slower and with a copy of the rows, but with the accuracy and the cutoff of
    ``numpy.linalg.lstsq``.

    References
    ----------
    Lee, Kim, Choi, "Training-Free Restoration of Pruned Neural Networks", arXiv 2502.08474,
    the loss L(s) and its closed-form minimiser.
    """
    _check_lambdas(lambda1, lambda2)
    n = rows.scale.size
    kept = checked_kept(n, kept)
    removed = removed_channels(n, kept)
    constant = rows.constant[removed]
    offset = np.where(constant, rows.constant_output[removed], 0.0)
    matrix = np.zeros((removed.size, kept.size))
    usable = rows.scale[kept] != 0.0
    if np.any(usable) and not np.all(constant):
        problem = _pose(rows, kept[usable], removed[~constant], lambda1, lambda2)
        matrix[np.ix_(~constant, usable)] = _solve(problem)
    return Delivery(kept, matrix, offset)


def objective(
    rows: FoldedRows, delivery: Delivery, lambda1: float, lambda2: float
) -> NDArray[np.float64]:
    """Return L(s) of `deliver`'s notes for each removed channel of any delivery.

    The result is (n - k,), in ascending order of channel; the delivery's offset is no part of L.
    The residual error of a channel of zero scale is 0 where its row of the delivery draws on no
    channel of another scale, infinite elsewhere.

    Raises
    ------
    ValueError
        If the delivery is of another number of channels, or a lambda is negative or not finite.
    """
    _check_lambdas(lambda1, lambda2)
    if delivery.size != rows.scale.size:
        raise ValueError(
            f"the delivery is of {delivery.size} channels, the rows are of "
            f"{rows.scale.size}; give the delivery of the same group"
        )
    removed = delivery.removed
    s = delivery.rows
    residual = _folded(rows, removed) - s @ _folded(rows, delivery.kept)
    penalty = lambda2 * np.einsum("jk,jk->j", s, s)
    if rows.normalized:
        scale = rows.scale[removed][:, None]
        at_zero = np.where(residual != 0.0, np.inf, 0.0)
        residual = np.divide(residual, scale, out=at_zero, where=scale != 0.0)
        penalty += lambda1 * (rows.shift[removed] - s @ rows.shift[delivery.kept]) ** 2
    value: NDArray[np.float64] = np.einsum("jd,jd->j", residual, residual) + penalty
    return value


def _check_lambdas(lambda1: float, lambda2: float) -> None:
    """Raise ValueError unless both weights are finite and at least 0."""
    for name, value in (("lambda1", lambda1), ("lambda2", lambda2)):
        if not (math.isfinite(value) and value >= 0.0):
            raise ValueError(f"{name} is {value}; give a finite number of at least 0")


def _pose(
    rows: FoldedRows,
    source: NDArray[np.intp],
    target: NDArray[np.intp],
    lambda1: float,
    lambda2: float,
) -> _Problem:
    """Pose the removed channels ``target`` over the kept channels ``source``."""
    factor = rows.scale[target] ** 2  # ones without BatchNormalization
    has_bias = float(rows.normalized)
    return _Problem(
        rows=rows,
        source=source,
        target=target,
        source_bias=has_bias * rows.shift[source],
        target_bias=has_bias * rows.shift[target],
        bias_weight=has_bias * lambda1 * factor,
        ridge=lambda2 * factor,
    )


def _folded(rows: FoldedRows, channels: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the (channels, d) folded rows, or (channels, d + 1) with the bias appended."""
    if rows.normalized:
        return rows.weight[channels] * rows.scale[channels, None]
    return np.column_stack([rows.weight[channels], rows.shift[channels]])


def _products(problem: _Problem) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the inner products of the folded sources (k, k), and of targets with them (m, k)."""
    rows, source, target = problem.rows, problem.source, problem.target
    gram = np.zeros((source.size, source.size))
    cross = np.zeros((target.size, source.size))
    for start in range(0, rows.weight.shape[1], _COLUMNS):
        columns = rows.weight[:, start : start + _COLUMNS]
        sources = columns[source]
        gram += sources @ sources.T
        cross += columns[target] @ sources.T
    if rows.normalized:
        gram *= np.multiply.outer(rows.scale[source], rows.scale[source])
        cross *= np.multiply.outer(rows.scale[target], rows.scale[source])
    else:
        gram += np.multiply.outer(rows.shift[source], rows.shift[source])
        cross += np.multiply.outer(rows.shift[target], rows.shift[source])
    return gram, cross


def _solve(problem: _Problem) -> NDArray[np.float64]:
    """Return the (m, k) minimisers of the problem, by the faster method that is accurate."""
    gram, cross = _products(problem)
    power, basis = np.linalg.eigh(gram)
    if problem.ridge.min() > math.sqrt(_EPS) * power[-1]:
        # The ridge dwarfs the rounding of the eigenvalues, so only their sign needs care.
        return _minimise(problem, _Spectrum(basis, np.maximum(power, 0.0), cross @ basis))
    return _minimise(problem, _singular_spectrum(problem))


def _relative_cutoff(problem: _Problem) -> float:
    """Return the relative size under which numpy.linalg.lstsq takes a singular value for zero."""
    d = problem.rows.weight.shape[1] + 1  # the stacked system has a row for the bias
    return float(_EPS * max(problem.source.size, d))


def _singular_spectrum(problem: _Problem) -> _Spectrum:
    """Return the spectrum by singular values, only the directions above lstsq's cutoff.

    The moments are taken from the right singular vectors: through inner products their rounding
    would be divided by the square of a singular value instead of its first power.
    """
    left, singular, right = scipy.linalg.svd(
        _folded(problem.rows, problem.source), full_matrices=False, check_finite=False
    )
    rank = int(np.count_nonzero(singular > _relative_cutoff(problem) * singular[0]))
    singular = singular[:rank]
    moment = (_folded(problem.rows, problem.target) @ right[:rank].T) * singular
    return _Spectrum(left[:, :rank], singular**2, moment)


def _minimise(problem: _Problem, spectrum: _Spectrum) -> NDArray[np.float64]:
    """Return the (m, k) shortest minimisers.

    Without the bias, ``s0 = basis (moment / (power + ridge))``. With it, Sherman and Morrison
    give ``s = s0 + gain A^-1 b``, A the matrix without the bias, b the source biases and ::

        gain = bias_weight gap / (1 + bias_weight b . A^-1 b),   gap = target_bias - s0 . b

    b is split into its part in the basis and its rest, on which A is the bare ridge. Multiplied
    through by the ridge, the formula holds at ridge 0 too, where the rest alone closes the gap.
    """
    bias = spectrum.basis.T @ problem.source_bias  # (r,)
    rest = problem.source_bias - spectrum.basis @ bias  # (k,)
    weight, ridge = problem.bias_weight, problem.ridge

    denominator = spectrum.power[None, :] + ridge[:, None]  # (m, r)
    fitted = spectrum.moment / denominator
    bias_seen = bias / denominator
    pull = weight * (problem.target_bias - fitted @ bias)
    inner = 1.0 + weight * (bias_seen @ bias)

    # A rest at the rounding of the stacked system is no direction of its own, as in lstsq.
    rest_square = weight * (rest @ rest)
    largest = spectrum.power.max(initial=0.0) + weight * (problem.source_bias @ problem.source_bias)
    real = rest_square > _relative_cutoff(problem) ** 2 * largest
    outer = np.where(real, ridge * inner + rest_square, 1.0)
    gain = np.where(real, ridge * (pull / outer), pull / inner)
    rest_gain = np.where(real, pull / outer, 0.0)
    solution: NDArray[np.float64] = (
        fitted + gain[:, None] * bias_seen
    ) @ spectrum.basis.T + rest_gain[:, None] * rest
    return solution


register_method(
    Method(
        "lbyl",
        "LBYL",
        "rows",
        deliver,
        (
            MethodOption("lambda1", DEFAULT_LAMBDA1, "weight of the BatchNorm error", 0.0),
            MethodOption("lambda2", DEFAULT_LAMBDA2, "weight of the activation error", 0.0),
        ),
    )
)
