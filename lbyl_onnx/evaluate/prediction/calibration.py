"""The maps from the error on samples that no fit has seen to what is the case on real inputs.

`python -m benchmarks.prediction` fits them, and writes the coefficients and how well
they hold for networks left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

# Cosines and shares nearer to 1 than this, and to 0, are taken as so near.
NEAREST, LEAST = 1e-6, 1e-3
# What an interval has on either side for the chance of which images tell the truth.
CHANCE = 0.01


Interval = tuple[float, float, float]
"""A value, and the least and the largest that the truth may be."""


@dataclass(frozen=True)
class Line:
    """A straight line through what was measured on models, and how far the truth lies from it.

    Parameters
    ----------
    intercept, slope
        Of the line; the slope is positive.
    spread
        How far the truth may lie on either side: of models that a line was not fitted to 9 in 10
        were within.
    """

    intercept: float
    slope: float
    spread: float

    def at(self, x: float) -> Interval:
        """Return the value of the line, and the ends of the interval."""
        y = self.intercept + self.slope * x
        return y, y - self.spread, y + self.spread


def log_ratio(cosine: float) -> float:
    """Return log(signal / error) of two outputs at this cosine: the logarithm of the cotangent.

    The part of the one that lies along the other is the signal, the part across it the error.
    """
    cosine = min(1.0 - NEAREST, max(LEAST, cosine))
    return math.log(cosine / math.sqrt((1.0 - cosine) * (1.0 + cosine)))


def log_lead(cosine: float, classes: int) -> float:
    """Return the logarithm of how far the largest logit leads, over the error, up to a constant.

    What a trained model gives the class that it chooses has to exceed the largest of all others:
    its lead grows with the number of classes as the expected largest of as many normal numbers
    does (Blom, "Statistical estimates and transformed beta-variables", 1958).

    Parameters
    ----------
    cosine
        Of the logits of two models.
    classes
        How many there are.
    """
    largest = NormalDist().inv_cdf((classes - 0.375) / (classes + 0.25))
    return log_ratio(cosine) + math.log(largest)


def cosine_of(ratio: float) -> float:
    """Return the cosine at a logarithm of signal over error."""
    return 1.0 / math.sqrt(1.0 + math.exp(-2.0 * ratio))


def log_odds(share: float, classes: int) -> float:
    """Return the log-odds of a share of equal classes beyond chance, bounded by LEAST."""
    beyond = (share - 1.0 / classes) / (1.0 - 1.0 / classes)
    beyond = min(1.0 - LEAST, max(LEAST, beyond))
    return math.log(beyond / (1.0 - beyond))


def share_of(odds: float, classes: int) -> float:
    """Return the share of equal classes at log-odds beyond chance."""
    beyond = 1.0 / (1.0 + math.exp(-odds))
    return 1.0 / classes + (1.0 - 1.0 / classes) * beyond


# Log-odds of equal classes by the lead of the largest logit on unseen samples; log(signal / error)
# of outputs by that on unseen samples.
SHARES = Line(-0.5973, 2.1856, 1.3214)
COSINES = Line(0.1037, 1.0949, 0.6061)


def predicted_share(cosine: float, classes: int, line: Line = SHARES) -> Interval:
    """Return the share of equal classes on real inputs, and its interval.

    Parameters
    ----------
    cosine
        Of what varies in the logits on unseen samples, as of `Separation`.
    classes
        How many there are.
    line
        From `log_lead` to log-odds beyond chance.
    """
    value, low, high = (share_of(y, classes) for y in line.at(log_lead(cosine, classes)))
    return value, max(0.0, low - CHANCE), min(1.0, high + CHANCE)


def predicted_cosine(cosine: float, line: Line = COSINES) -> Interval:
    """Return the cosine of the outputs on real inputs, and its interval.

    Parameters
    ----------
    cosine
        Of what varies in them on unseen samples, as of `Separation`.
    line
        From log(signal / error) there to the same on real inputs.
    """
    value, low, high = (cosine_of(y) for y in line.at(log_ratio(cosine)))
    return value, max(0.0, low - CHANCE), min(1.0, high + CHANCE)
