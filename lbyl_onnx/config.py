"""What a person can choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lbyl_onnx import runtime
from lbyl_onnx.channels import Scope
from lbyl_onnx.compensate import lbyl, neuron_merging
from lbyl_onnx.draft import ExternalData
from lbyl_onnx.errors import OptionError
from lbyl_onnx.images import Layout
from lbyl_onnx.importance import Criterion

Method = Literal["none", "nm", "lbyl", "lbyl+"]
Choice = Literal["auto", "obs", "l2", "l1", "gm", "random"]


@dataclass(frozen=True)
class Config:
    """What a person can choose.

    Parameters
    ----------
    ratio
        Share of each group's channels to remove, in [0, 1).
    method
        How the removed channels are restored: not at all (`none`), Neuron Merging (`nm`), LBYL, or
        by their own statistics (`lbyl+`).
    criterion
        Which channels are kept: those whose loss changes what reads them most (`obs`), the largest
        by l2 norm, l1 norm, distance to the others (gm), or at random; `auto` is `obs` for `lbyl+`
        and l2 for the others.
    seed
        Of the random criterion and of the inputs that verify.
    lambda1, lambda2
        LBYL's weights of the BatchNorm error and of the activation error, at least 0.
    cosine_threshold, cosine_weight
        Neuron Merging's t and lambda, in [0, 1].
    include, exclude
        Globs on node names: prune only groups of these producers, and none of those.
    scope
        `inner` leaves residual streams and other channels that several layers produce; `all` prunes
        them too.
    provider
        ONNX Runtime's execution provider.
    calibration
        Unlabelled samples in place of synthetic ones: .npz, .npy or a folder of images.
    mean, std
        Per channel, of the images in such a folder, whose pixels are in [0, 1].
    layout
        Where an image has its channels.
    external_data
        Whether the output's weights lie in a file beside it; `auto`: as the input's do.
    """

    ratio: float = 0.3
    method: Method = "lbyl+"
    criterion: Choice = "auto"
    seed: int = 0
    lambda1: float = lbyl.DEFAULT_LAMBDA1
    lambda2: float = lbyl.DEFAULT_LAMBDA2
    cosine_threshold: float = neuron_merging.DEFAULT_COSINE_THRESHOLD
    cosine_weight: float = neuron_merging.DEFAULT_COSINE_WEIGHT
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    scope: Scope = "inner"
    provider: runtime.Provider = "auto"
    calibration: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Layout = "auto"
    external_data: ExternalData = "auto"

    def __post_init__(self) -> None:
        """Check the values.

        Raises
        ------
        OptionError
            For one that is outside what it may be.
        """
        if not 0.0 <= self.ratio < 1.0:
            raise OptionError(f"ratio is {self.ratio}; give a number from 0 to below 1")
        for name in ("lambda1", "lambda2"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0.0):
                raise OptionError(f"{name} is {value}; give a finite number of at least 0")
        for name in ("cosine_threshold", "cosine_weight"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise OptionError(f"{name} is {value}; give a number from 0 to 1")
        if self.seed < 0:
            raise OptionError(f"seed is {self.seed}; give a whole number of at least 0")
        for name, value, allowed in (
            ("method", self.method, get_args(Method)),
            ("criterion", self.criterion, get_args(Choice)),
            ("layout", self.layout, get_args(Layout)),
            ("scope", self.scope, get_args(Scope)),
            ("external_data", self.external_data, get_args(ExternalData)),
            ("provider", self.provider, get_args(runtime.Provider)),
        ):
            if value not in allowed:
                raise OptionError(f"{name} is {value!r}; give one of {', '.join(allowed)}")
        if self.calibration is not None and self.method != "lbyl+" and not self.by_loss:
            raise OptionError(
                f"calibration is given, but {self.method} with {self.score} looks at no samples; "
                "use method lbyl+ or criterion obs"
            )
        if (self.mean or self.std) and self.calibration is None:
            raise OptionError("mean and std are of calibration images; give calibration too")

    @property
    def by_loss(self) -> bool:
        """Whether channels are chosen by what their loss changes."""
        return self.criterion == "obs" or (self.criterion == "auto" and self.method == "lbyl+")

    @property
    def chosen_by(self) -> Choice:
        """The criterion that `auto` stands for."""
        return "obs" if self.by_loss else self.score

    @property
    def score(self) -> Criterion:
        """The criterion for channels that are chosen by their weights alone."""
        if self.criterion == "auto" or self.criterion == "obs":
            return "l2"
        return self.criterion
