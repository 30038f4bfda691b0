"""How near a compressed model will be to the original on real inputs, as an interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lbyl_onnx.data.input_kind import IMAGES, InputKind
from lbyl_onnx.data.source import SampleSource
from lbyl_onnx.evaluate.prediction.calibration import predicted_cosine, predicted_share
from lbyl_onnx.evaluate.prediction.separation import Separation
from lbyl_onnx.evaluate.verify import paired_outputs
from lbyl_onnx.runtime.baseline import Baseline
from lbyl_onnx.types import Array

Quantity = Literal["equal top-1", "cosine"]
"""Share of samples for which both models choose the same class; cosine of the outputs."""
SampleKind = Literal["mosaics", "texts", "samples as of the statistics"]
"""Images and texts that no statistics were taken of; of other inputs there is one kind alone."""


@dataclass(frozen=True)
class Prediction:
    """How near a compressed model is to the original on real inputs, predicted without any.

    Parameters
    ----------
    quantity
        `equal top-1`, the share of inputs for which both choose the same class, where all outputs
        are classes; else `cosine`. Of several outputs the least counts.
    value
        The prediction; where there is no interval what was measured on the samples.
    low, high
        The interval, which held the truth in 9 of 10 cases for models that its map was not fitted
        to; None for inputs other than images, for which there is no map.
    samples, kind
        How many samples the models were compared on, and what they were.
    """

    quantity: Quantity
    value: float
    low: float | None
    high: float | None
    samples: int
    kind: SampleKind

    def __str__(self) -> str:
        """Return the prediction in one line.

        Examples
        --------
        >>> print(Prediction("cosine", 0.981, 0.96, 0.992, 64, "mosaics"))
        predicted cosine on real inputs: 0.981 (0.960 to 0.992, by 64 mosaics)
        """
        value, low, high = (
            x if x is None else f"{x:.1%}" if self.quantity == "equal top-1" else f"{x:.3f}"
            for x in (self.value, self.low, self.high)
        )
        where = f"{self.samples} {self.kind}"
        if low is None:
            return (
                f"{self.quantity} on {where}: {value}; how near that is to the same on real inputs "
                "is not known, since no map was fitted to inputs of this kind"
            )
        return f"predicted {self.quantity} on real inputs: {value} ({low} to {high}, by {where})"


def predicted(
    original: Path, compressed: Path, baseline: Baseline, source: SampleSource
) -> Prediction | None:
    """Predict how near a model that was written is to the original on real inputs.

    Parameters
    ----------
    original, compressed
        Their files.
    baseline
        The original as it runs.
    source
        Samples of another family than the fit's, as `ComparedSamples.unseen` gives.

    Returns
    -------
    Prediction or None
        None where no output is of floats, or one is not finite on the samples.

    Raises
    ------
    ModelError
        When ONNX Runtime does not load or run one of them.
    """
    kinds = {name: spec.kind for name, spec in source.inputs.items()}
    return prediction(paired_outputs(original, compressed, baseline, source.batches()), kinds)


def prediction(
    pairs: Iterable[tuple[Sequence[Array], Sequence[Array]]],
    kinds: Mapping[str, InputKind],
) -> Prediction | None:
    """Predict by the outputs of both models on the same samples.

    Parameters
    ----------
    pairs
        The outputs of both, batch by batch.
    kinds
        What each input takes, by name.

    Returns
    -------
    Prediction or None
        As of `predicted`.
    """
    separations, samples = dict[int, Separation](), 0
    for olds, news in pairs:
        samples += max((len(old) for old in olds if old.ndim), default=1)
        for number, (old, new) in enumerate(zip(olds, news, strict=True)):
            if old.dtype.kind == new.dtype.kind == "f" and old.shape == new.shape:
                separations.setdefault(number, Separation()).add(old, new)
    compared = [s for s in separations.values() if s.values or not s.finite]
    if not compared or not all(s.finite for s in compared):
        return None
    classes = all(s.classes for s in compared)
    pictured = all(kind.name in IMAGES for kind in kinds.values())
    made = [_of_output(s, classes, pictured) for s in compared]
    value, low, high = min(made, key=lambda entry: entry[0])
    quantity: Quantity = "equal top-1" if classes else "cosine"
    return Prediction(quantity, value, low, high, samples, _sample_kind(kinds))


def _of_output(
    separation: Separation, classes: bool, pictured: bool
) -> tuple[float, float | None, float | None]:
    """Predicted value and interval of one output; what was measured where no map fits it."""
    if not pictured:
        return (separation.share if classes else separation.outputs.plain), None, None
    if classes:
        return predicted_share(separation.logits.cosine, separation.classes)
    return predicted_cosine(separation.outputs.cosine)


def _sample_kind(kinds: Mapping[str, InputKind]) -> SampleKind:
    names = {kind.name for kind in kinds.values()}
    if names & set(IMAGES):
        return "mosaics"
    return "texts" if "tokens" in names else "samples as of the statistics"
