"""How far one model's output lies from another's: an angle, and the share of equal classes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from lbyl_onnx.types import Array, Floats

# Rows of probabilities add up to 1, to this; and below this they have no logarithm.
SUM_TOLERANCE, LEAST_PROBABILITY = 1e-3, 1e-30
# Values of the sums of an output that are held.
LARGEST = 1 << 23
# Share of a sum of squares that rounding may leave.
ROUNDING = 1e-12


@dataclass
class Moments:
    """Running sums of squares, of products and of samples of two models.

    What is the same for all samples is left out in the end: an error that is the same everywhere
    weighs more on synthetic samples than on real ones. It stays in where samples differ in shape,
    or have more than `LARGEST` values.

    Parameters
    ----------
    samples
        How many.
    products
        [[old old, old new], [new old, new new]], over all values.
    sums
        Over the samples, (2, values); None before the first one, and where it stays in.
    alike
        Whether all samples have the same shape, and not too many values.
    """

    samples: int = 0
    products: Floats = field(default_factory=lambda: np.zeros((2, 2)))
    sums: Floats | None = None
    alike: bool = True

    def add(self, both: Floats) -> None:
        """Take in a batch of both models, (2, samples, values)."""
        self.samples += both.shape[1]
        rows = both.reshape(2, -1)
        self.products = self.products + rows @ rows.T
        sums = both.sum(axis=1)
        size = sums.size if self.sums is None else self.sums.size
        self.alike &= sums.size == size <= LARGEST
        held = sums if self.sums is None else self.sums + sums if self.alike else None
        self.sums = held if self.alike else None

    @property
    def plain(self) -> float:
        """Cosine of the angle between both models as they are; 0 where one is 0 everywhere."""
        return _cosine(self.products)

    @property
    def cosine(self) -> float:
        """The same of what varies from sample to sample; 0 where nothing of one does."""
        products = self.products
        if self.sums is not None:
            products = products - self.sums @ self.sums.T / self.samples
        # What rounding leaves where nothing varies counts as nothing.
        varies = np.diag(products) > ROUNDING * np.diag(self.products)
        return _cosine(products) if np.all(varies) else 0.0


@dataclass
class Separation:
    """Running sums of one output of two models on the same samples.

    Parameters
    ----------
    outputs
        Of the values as they are.
    logits
        Of an output (samples, classes) without the mean of each sample, which changes no class;
        probabilities are taken back to logits.
    equal, classes
        Samples of which the class is the same, and how many classes there are; 0 where the output
        is no matrix of several columns.
    values, finite
        How many values were compared, and whether all were finite.
    """

    outputs: Moments = field(default_factory=Moments)
    logits: Moments = field(default_factory=Moments)
    equal: int = 0
    classes: int = 0
    values: int = 0
    finite: bool = True

    def add(self, old: Array, new: Array) -> None:
        """Take in one batch of floats, (samples, ...) of both models."""
        both = np.stack([old, new]).astype(np.float64)
        self.finite &= bool(np.all(np.isfinite(both)))
        if not self.finite or not old.size:
            return
        self.values += old.size
        self.outputs.add(both.reshape(2, len(old) if old.ndim else 1, -1))
        if old.ndim == 2 and old.shape[1] > 1:
            self.classes = old.shape[1]
            self.equal += int(np.sum(old.argmax(axis=1) == new.argmax(axis=1)))
            self.logits.add(np.stack([_centred_logits(part) for part in both]))

    @property
    def share(self) -> float:
        """Share of samples of which the class is the same."""
        return self.equal / max(1, self.logits.samples)


def _cosine(products: Floats) -> float:
    old, new = np.diag(products)
    if min(old, new) <= 0.0:
        return 0.0
    return float(np.clip(products[0, 1] / math.sqrt(old * new), -1.0, 1.0))


def _centred_logits(outputs: Floats) -> Floats:
    """Return logits (samples, classes) without the mean of each sample."""
    probable = outputs.min() >= 0.0
    if probable and np.max(np.abs(outputs.sum(axis=1) - 1.0)) < SUM_TOLERANCE:
        outputs = np.log(np.maximum(outputs, LEAST_PROBABILITY))
    return np.asarray(outputs - outputs.mean(axis=1, keepdims=True))
