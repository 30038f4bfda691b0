"""Prove that a compressed model is what the plan says, and measure how near the original it is."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from lbyl_onnx.errors import ModelError, VerificationError, first_line
from lbyl_onnx.evaluate.discontinuous import Cuts, cut
from lbyl_onnx.evaluate.metrics import Fidelity, fidelity
from lbyl_onnx.evaluate.randomness import same_randomness
from lbyl_onnx.graph.source import check_fully
from lbyl_onnx.guard.memory import release
from lbyl_onnx.runtime.baseline import Baseline
from lbyl_onnx.runtime.execute import Record, run_as_written, run_batches, run_model
from lbyl_onnx.runtime.session import Feeds
from lbyl_onnx.types import Array

# The compressed model and the reference with zeroed channels compute the same sums in another
# order. Bounds on the largest difference, relative to the largest output, by output type: some
# thousand roundings of float32 (6e-8 each), of float16 (5e-4 each) where weights are stored so.
TOLERANCE = {"float64": 1e-3, "float32": 1e-3, "float16": 3e-2}
# An output this much smaller than the original's is measured by that part of the original's.
FLOOR = 1e-3
# Where the expected model's own rounding is larger: that many times it, and never more than this.
NOISE_FACTOR, NOISE_LIMIT = 5.0, 0.1
# Whole numbers (class indices) flip only where two scores are equal up to rounding.
MISMATCHES = 0.02
# Bytes of the original's outputs that are held for the comparison: fewer samples where they pass.
HELD = 1 << 28


@dataclass(frozen=True)
class Verification:
    """The proof that goes with a compressed model.

    Parameters
    ----------
    provider
        Execution provider that ran the models.
    deviation
        Largest difference from the reference with zeroed channels, relative to the largest
        value of the same output over all inputs.
    values
        How many output values were compared.
    shapes
        How many different input shapes were run.
    fidelity
        Nearness to the original.
    optimised
        Whether the models ran with ONNX Runtime's graph optimisations.
    discontinuous
        Nodes in front of which, and behind which, the models were compared.
    random
        Nodes that draw random numbers, for which both models were given the same.
    """

    provider: str
    deviation: float
    values: int
    shapes: int
    fidelity: Fidelity
    optimised: bool = True
    discontinuous: tuple[str, ...] = ()
    random: tuple[str, ...] = ()


def verify(
    baseline: Baseline,
    original: Path,
    compressed: Path,
    reference: Path,
    samples: Iterable[Feeds],
    inputs: str = "samples",
) -> Verification:
    """Check a compressed model with onnx's full checker and with ONNX Runtime.

    Parameters
    ----------
    baseline
        The original as it runs.
    original, compressed, reference
        Its file; the compressed model's; the reference's that it must equal.
    samples, inputs
        What the fidelity is measured on, and what that is.

    Raises
    ------
    VerificationError
        When it is malformed, does not load or run, changes inputs or outputs, or computes anything
        else than the expected model: its file has channels instead of zeros, or a wrong weight.
        Also where a value differs that must not, is not finite, or nothing was compared.
    """
    try:
        check_fully(compressed)
        with same_randomness(compressed, reference) as ((made, settled), random):
            proof = _proven(baseline, made, settled)
        release()
        near = sampled_fidelity(original, compressed, baseline, samples, inputs)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VerificationError(f"the checker rejects the output: {first_line(error)}") from error
    except ModelError as error:
        raise VerificationError(str(error)) from error
    return Verification(
        baseline.provider,
        proof.deviation,
        proof.values,
        baseline.shapes,
        near,
        baseline.optimise,
        proof.discontinuous,
        random,
    )


@dataclass(frozen=True)
class _Proof:
    deviation: float
    values: int
    discontinuous: tuple[str, ...]


def _proven(baseline: Baseline, compressed: Path, reference: Path) -> _Proof:
    """Run both models and compare; cut them at discontinuous nodes where there are any."""
    release()
    after = run_model(compressed, baseline.provider, baseline.feeds, baseline.optimise)
    release()
    before = baseline.record
    if after.signature != before.signature:
        raise VerificationError(
            f"inputs or outputs changed: {before.signature} became {after.signature}"
        )
    reference_run = run_as_written(reference, baseline.provider, baseline.feeds)
    with tempfile.TemporaryDirectory(prefix="lbyl-onnx-") as folder:
        files = Path(folder) / "cut.onnx", Path(folder) / "again.onnx", Path(folder) / "given.onnx"
        cuts = cut(compressed, reference, baseline.first, files)
        if cuts is None:
            deviation, values = _compare_or_explain(
                baseline, before, after, reference_run, reference
            )
            return _Proof(deviation, values, ())
        _check_form(before, after, cuts.outputs)
        plain = [
            n for n, (name, _, _) in enumerate(before.signature.outputs) if name not in cuts.outputs
        ]
        deviation, values = 0.0, 0
        if plain:
            old, new, want = (_only(record, plain) for record in (before, after, reference_run))
            deviation, values = _compare_or_explain(baseline, old, new, want, reference)
        release()
        more = _proven_cut(baseline, cuts, files)
    return _Proof(max(deviation, more[0]), values + more[1], cuts.nodes)


def _proven_cut(
    baseline: Baseline, cuts: Cuts, files: tuple[Path, Path, Path]
) -> tuple[float, int]:
    """Compare what discontinuous nodes read, and what follows where both are given the same."""
    # One at the first shapes, one at each of the others.
    feeds = baseline.feeds[baseline.effort.random_inputs - 1 :]
    prefix_run = run_as_written(files[2], baseline.provider, feeds)
    names = [name for name, _, _ in prefix_run.signature.outputs]
    fed = tuple(
        {**batch, **{n: v for n, v in zip(names, outputs, strict=True) if n in cuts.injected}}
        for batch, outputs in zip(feeds, prefix_run.outputs, strict=True)
    )
    after = run_model(files[0], baseline.provider, fed, baseline.optimise)
    kept = [name for name, _, _ in after.signature.outputs]
    reference_run = _only(prefix_run, [names.index(name) for name in kept])
    again = replace(baseline, feeds=fed)
    try:
        return _compare_or_explain(again, reference_run, after, reference_run, files[1])
    except VerificationError as error:
        if not cuts.unproven:
            raise
        raise VerificationError(
            f"the rewrite cannot be proven: {', '.join(cuts.unproven[:3])} may jump where rounding "
            "differs, and channels that go pass through; leave the layers in front of them out "
            "with --exclude"
        ) from error


def _only(record: Record, numbers: Sequence[int]) -> Record:
    """A record of some of the outputs."""
    signature = replace(
        record.signature, outputs=tuple(record.signature.outputs[n] for n in numbers)
    )
    outputs = tuple(tuple(batch[n] for n in numbers) for batch in record.outputs)
    return replace(record, signature=signature, outputs=outputs)


def _check_form(before: Record, after: Record, names: Collection[str]) -> None:
    """Check type, rank and finiteness of outputs whose values may differ."""
    for olds, news in zip(before.outputs, after.outputs, strict=True):
        for (name, _, _), old, new in zip(before.signature.outputs, olds, news, strict=True):
            if name in names and (new.dtype != old.dtype or new.ndim != old.ndim):
                raise VerificationError(
                    f"output {name} has {new.ndim} axes and type {new.dtype}, "
                    f"not {old.ndim} and {old.dtype}"
                )
            if name in names and new.dtype.kind == "f" and not np.all(np.isfinite(new)):
                raise VerificationError(f"output {name} is not finite")


def _compare_or_explain(
    baseline: Baseline, before: Record, after: Record, reference_run: Record, reference: Path
) -> tuple[float, int]:
    """Compare; where the bound is passed, first measure how much the reference differs by itself.

    Some models amplify rounding: the very same file gives other outputs with ONNX Runtime's
    optimisations than without. What it differs by then is the yardstick.
    """
    try:
        return compare(before, after, reference_run, 0.0)
    except VerificationError:
        if not baseline.optimise:  # nor were the others: the reference would not differ from itself
            raise
        release()
        again = run_model(reference, baseline.provider, baseline.feeds)
        names = [name for name, _, _ in again.signature.outputs]
        again = _only(again, [names.index(name) for name, _, _ in reference_run.signature.outputs])
        scales = _scales(before, reference_run)
        noises = [
            _deviation(*values)
            for one, two in zip(again.outputs, reference_run.outputs, strict=True)
            for values in zip(one, two, scales, strict=True)
        ]
        return compare(before, after, reference_run, max(noises, default=0.0))


def compare(
    before: Record, after: Record, reference: Record, noise: float = 0.0
) -> tuple[float, int]:
    """Compare outputs with those expected; return the largest deviation and the values compared.

    Parameters
    ----------
    before, after, reference
        The original, the compressed model, the reference that it must equal.
    noise
        What rounding alone changes in the outputs, relative to the largest.

    Raises
    ------
    VerificationError
        As `verify` says.
    """
    largest, values = 0.0, 0
    names = [name for name, _, _ in before.signature.outputs]
    scales = _scales(before, reference)
    for original, batch, reference_batch in zip(
        before.outputs, after.outputs, reference.outputs, strict=True
    ):
        for name, scale, old, new, want in zip(
            names, scales, original, batch, reference_batch, strict=True
        ):
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


def _scales(before: Record, reference: Record) -> list[float]:
    """What differences of each output are relative to: its largest value over all inputs.

    One input alone may give nothing but a probability near 0, and pruning may zero an output
    down to the rounding of its last kernel (a sigmoid is right to about 1e-7, however small);
    `FLOOR` of the original's largest value is the least scale, 1 where all is zero.
    """
    outputs = zip(*before.outputs, strict=True), zip(*reference.outputs, strict=True)
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


def sampled_fidelity(
    original: Path, compressed: Path, baseline: Baseline, samples: Iterable[Feeds], inputs: str
) -> Fidelity:
    """Measure how near a model is to the original on samples, both as they are deployed.

    Parameters
    ----------
    original, compressed
        Their files.
    baseline
        The original as it runs.
    samples, inputs
        What they are compared on, and what that is.

    Raises
    ------
    ModelError
        When ONNX Runtime does not load or run one of them.
    """
    pairs, again = itertools.tee(paired_outputs(original, compressed, baseline, samples))
    names = [name for name, _, _ in baseline.record.signature.outputs]
    return fidelity(names, (old for old, _ in pairs), (new for _, new in again), inputs)


def paired_outputs(
    original: Path, compressed: Path, baseline: Baseline, samples: Iterable[Feeds]
) -> Iterator[tuple[tuple[Array, ...], tuple[Array, ...]]]:
    """Yield the outputs of both models, as they are deployed, for each batch of samples.

    Of the original's outputs no more than `HELD` bytes are held: samples beyond are left out.

    Raises
    ------
    ModelError
        When ONNX Runtime does not load or run one of them.
    """
    with same_randomness(original, compressed) as ((one, two), _):
        feeds, before, held = list[Feeds](), list[tuple[Array, ...]](), 0
        runs = iter(samples)
        for batch, outputs in _outputs(one, baseline, runs):
            feeds.append(batch)
            before.append(outputs)
            held += sum(array.nbytes for array in outputs)
            held += sum(array.nbytes for array in batch.values())
            if held > HELD:
                break
        release()
        yield from zip(before, (new for _, new in _outputs(two, baseline, feeds)), strict=True)


def _outputs(
    path: Path, baseline: Baseline, samples: Iterable[Feeds]
) -> Iterator[tuple[Feeds, tuple[Array, ...]]]:
    """Inputs and outputs of a model, batch by batch."""
    fed: list[Feeds] = []

    def remembered() -> Iterator[Feeds]:
        for batch in samples:
            fed.append(batch)
            yield batch

    baseline.progress("comparing outputs", 0, 0)
    runs = run_batches(path, baseline.provider, remembered(), baseline.optimise)
    for number, outputs in enumerate(runs, start=1):
        baseline.progress("comparing outputs", number, 0)
        yield fed.pop(), tuple(outputs.values())
