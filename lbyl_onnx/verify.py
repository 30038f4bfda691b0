"""Prove that a compressed model is what the plan says, and measure how near the original it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from lbyl_onnx.errors import ModelError, VerificationError
from lbyl_onnx.facts import Array
from lbyl_onnx.memory import release
from lbyl_onnx.model_io import check_fully, first_line
from lbyl_onnx.runtime import Probe, Record, run_as_written, run_model
from lbyl_onnx.timing import Latency

# The compressed model and the uncut one with zeroed channels compute the same sums in another
# order. Bounds on the largest difference, relative to the largest output, by output type: some
# thousand roundings of float32 (6e-8 each), of float16 (5e-4 each) where weights are stored so.
TOLERANCE = {"float64": 1e-3, "float32": 1e-3, "float16": 3e-2}
# An output this much smaller than the original's is measured by that part of the original's.
FLOOR = 1e-3
# Where the expected model's own rounding is larger: that many times it, and never more than this.
NOISE_FACTOR, NOISE_LIMIT = 5.0, 0.1
# Whole numbers (class indices) flip only where two scores are equal up to rounding.
MISMATCHES = 0.02


@dataclass(frozen=True)
class Fidelity:
    """How near the compressed model is to the original on the same random inputs.

    Parameters
    ----------
    relative_error
        Norm of the difference of the float outputs over the norm of the original's.
    cosine
        Cosine of the angle between them.
    top1_agreement
        Share of positions at which both have their largest value in the same class; None where
        no output has classes.
    samples
        Inputs compared.
    """

    relative_error: float
    cosine: float
    top1_agreement: float | None
    samples: int


@dataclass(frozen=True)
class Verification:
    """The proof that goes with a compressed model.

    Parameters
    ----------
    provider
        Execution provider that ran the models.
    deviation
        Largest difference from the uncut model with zeroed channels, relative to the largest
        value of the same output over all inputs.
    values
        How many output values were compared.
    shapes
        How many different input shapes were run.
    fidelity
        Nearness to the original.
    before, after
        Latencies.
    optimised
        Whether they were measured with ONNX Runtime's graph optimisations.
    """

    provider: str
    deviation: float
    values: int
    shapes: int
    fidelity: Fidelity
    before: Latency | None
    after: Latency | None
    optimised: bool = True


def verify(probe: Probe, compressed: Path, expected: Path) -> Verification:
    """Check a compressed model with onnx's full checker and with ONNX Runtime.

    Parameters
    ----------
    probe
        The original: its signature, inputs and outputs.
    compressed
        File of the compressed model.
    expected
        File of the uncut model whose consumers have the compensated weights and zeros at the
        removed channels: what the compressed model must compute.

    Returns
    -------
    Verification
        What was compared, and how near the original it is.

    Raises
    ------
    VerificationError
        When anything differs that must not, a value is not finite, or nothing was compared.
    """
    try:
        check_fully(compressed)
        release()
        after = run_model(compressed, probe.provider, probe.feeds, probe.optimise)
        release()
        goal = run_as_written(expected, probe.provider, probe.feeds)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VerificationError(f"the checker rejects the output: {first_line(error)}") from error
    except ModelError as error:
        raise VerificationError(str(error)) from error
    before = probe.record
    if after.signature != before.signature:
        raise VerificationError(
            f"inputs or outputs changed: {before.signature} became {after.signature}"
        )
    deviation, values = _compare_or_explain(probe, after, goal, expected)
    return Verification(
        probe.provider,
        deviation,
        values,
        probe.shapes,
        fidelity(before.outputs, after.outputs),
        before.latency,
        after.latency,
        probe.optimise,
    )


def _compare_or_explain(
    probe: Probe, after: Record, goal: Record, expected: Path
) -> tuple[float, int]:
    """Compare; where the bound is passed, first ask how much the expected model differs by itself.

    Some models amplify rounding: the very same file gives other outputs with ONNX Runtime's
    optimisations than without. What it differs by then is the yardstick.
    """
    try:
        return compare(probe.record, after, goal, 0.0)
    except VerificationError:
        release()
        again = run_model(expected, probe.provider, probe.feeds)
        scales = _scales(probe.record, goal)
        noises = [
            _deviation(*values)
            for one, two in zip(again.outputs, goal.outputs, strict=True)
            for values in zip(one, two, scales, strict=True)
        ]
        return compare(probe.record, after, goal, max(noises, default=0.0))


def compare(before: Record, after: Record, goal: Record, noise: float = 0.0) -> tuple[float, int]:
    """Compare outputs with those expected; return the largest deviation and the values compared.

    Parameters
    ----------
    before, after, goal
        The original, the compressed model, the uncut one it must equal.
    noise
        What rounding alone changes in the outputs, relative to the largest.

    Raises
    ------
    VerificationError
        As `verify` says.
    """
    largest, values = 0.0, 0
    names = [name for name, _, _ in before.signature.outputs]
    scales = _scales(before, goal)
    for original, batch, wanted in zip(before.outputs, after.outputs, goal.outputs, strict=True):
        for name, scale, old, new, want in zip(names, scales, original, batch, wanted, strict=True):
            if new.dtype != old.dtype or new.ndim != old.ndim or new.shape != want.shape:
                raise VerificationError(
                    f"output {name} has shape {new.shape} and type {new.dtype}, "
                    f"not {want.shape} and {old.dtype}"
                )
            if new.dtype.kind == "f" and not np.all(np.isfinite(new)):
                source = "" if np.all(np.isfinite(old)) else ", as the original's on random input"
                raise VerificationError(f"output {name} is not finite{source}")
            if want.dtype.kind == "f" and not np.all(np.isfinite(want)):
                raise VerificationError(f"output {name} is not finite before the channels are cut")
            deviation = _deviation(new, want, scale)
            bound = TOLERANCE.get(str(new.dtype), MISMATCHES)
            bound = max(bound, min(NOISE_FACTOR * noise, NOISE_LIMIT))
            if not deviation <= bound:
                raise VerificationError(
                    f"output {name} differs from what the plan gives by {deviation:.3g} "
                    f"(at most {bound:g}): the rewrite is wrong, please report this model"
                )
            largest, values = max(largest, deviation), values + new.size
    if values == 0:
        raise VerificationError("no output value could be compared")
    return largest, values


def _scales(before: Record, goal: Record) -> list[float]:
    """What differences of each output are relative to: its largest value over all inputs.

    One input alone may give nothing but a probability near 0, and pruning may silence an output
    down to the rounding of its last kernel (a sigmoid is right to about 1e-7, however small);
    `FLOOR` of the original's largest value is the least scale, 1 where all is zero.
    """
    outputs = zip(*before.outputs, strict=True), zip(*goal.outputs, strict=True)
    largest = [[max(map(_largest, batches)) for batches in record] for record in outputs]
    return [max(want, FLOOR * old) or 1.0 for old, want in zip(*largest, strict=True)]


def _largest(array: Array) -> float:
    return float(np.max(np.abs(_as_float(array)), initial=0.0)) if array.dtype.kind == "f" else 0.0


def _deviation(new: Array, want: Array, scale: float) -> float:
    """Largest difference relative to the scale; for whole numbers the share that differs."""
    if not new.size or new.shape != want.shape:
        return 0.0
    if new.dtype.kind != "f":
        return float(np.mean(new != want))
    return float(np.max(np.abs(_as_float(new) - _as_float(want)))) / scale


def _as_float(array: Array) -> NDArray[np.float64]:
    return array.astype(np.float64)


def fidelity(before: Sequence[Sequence[Array]], after: Sequence[Sequence[Array]]) -> Fidelity:
    """Measure the nearness of two models' outputs, batch by batch, output by output."""
    pairs = [
        (old, new)
        for olds, news in zip(before, after, strict=True)
        for old, new in zip(olds, news, strict=True)
        if old.shape == new.shape and old.dtype.kind == "f"
    ]
    old = np.concatenate([np.zeros(0), *(_as_float(a).reshape(-1) for a, _ in pairs)])
    new = np.concatenate([np.zeros(0), *(_as_float(b).reshape(-1) for _, b in pairs)])
    norm_old, norm_new = float(np.linalg.norm(old)), float(np.linalg.norm(new))
    error = float(np.linalg.norm(new - old))
    if norm_old == 0.0 or norm_new == 0.0:
        same = norm_old == norm_new
        relative, cosine = (0.0, 1.0) if same else (float(error > 0), 0.0)
    else:
        relative, cosine = error / norm_old, float(old @ new) / (norm_old * norm_new)
    samples = sum(len(batch[0]) if batch and batch[0].ndim else 1 for batch in before)
    return Fidelity(relative, cosine, _top1(before, after), samples)


def _top1(before: Sequence[Sequence[Array]], after: Sequence[Sequence[Array]]) -> float | None:
    """Share of equal classes, over the first output that has any."""
    agreements: list[NDArray[np.bool_]] = []
    for olds, news in zip(before, after, strict=True):
        for old, new in zip(olds, news, strict=True):
            # Classes lie last in a matrix or sequence, on axis 1 of an image.
            axis = 1 if old.ndim > 3 else old.ndim - 1
            if old.ndim < 2 or old.dtype.kind != "f" or old.shape != new.shape:
                continue
            if old.shape[axis] > 1:
                same = np.argmax(old, axis=axis) == np.argmax(new, axis=axis)
                agreements.append(np.asarray(same).reshape(-1))
                break
    return float(np.mean(np.concatenate(agreements))) if agreements else None
