"""What the user can choose."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

import numpy as np

from lbyl_onnx.errors import OptionError
from lbyl_onnx.methods import lbyl, neuron_merging, registry
from lbyl_onnx.methods.registry import Criterion, Method, MethodOption, OptionValue
from lbyl_onnx.option_types import READERS, shown
from lbyl_onnx.shapes import Given, shapes_given
from lbyl_onnx.target import DEFAULT_RATIO, Kind, Target, parse_target

Scope = Literal["inner", "all"]
ExternalData = Literal["auto", "always", "never"]
Hardware = Literal["host", "avx2", "avx512", "neon", "cuda", "tensorrt-fp16", "tensorrt-int8"]
Layout = Literal["auto", "nchw", "nhwc"]
Provider = Literal["auto", "cpu", "cuda"]
Allocation = Literal["uniform", "auto"]


@dataclass(frozen=True)
class Config:
    """What the user can choose.

    Values of another type become their own where the meaning is obvious: one glob for a tuple of
    globs, a dict for pairs, NumPy's numbers for Python's. Others raise OptionError.

    Parameters
    ----------
    ratio
        Share of each group's channels to remove, in [0, 1); it does not count where one of the
        targets that follow is given.
    macs, params, size, latency
        The most that the result may have, in place of a ratio: as "50%" of the original, or as
        "200M", "1.5M", "5MB", "20ms".
    fidelity
        Likewise the least cosine of the result's outputs with the original's on the samples, in
        (0, 1); the smallest model that has it is looked for.
    allocation
        `uniform` removes the same share of each group, `auto` more where the predicted damage is
        less; None is `auto` for a target and `uniform` for a ratio. A ratio with `auto` gets the
        multiply-accumulates that it would have with `uniform`.
    round_to
        Groups keep all or a multiple of it; `auto` is the channel block of the hardware's kernels,
        or its largest half, quarter .. in which the goal can be had.
    hardware
        The machine whose channel block `auto` is: this one (`host`), or another.
    ratio_for, keep_for
        Ratios and numbers of channels of the groups whose producers' names match a glob, whatever
        the target; of several globs the first counts.
    min_channels
        Least number that a group keeps, or all where it has fewer.
    method
        How the removed channels are restored: not at all (`none`), Neuron Merging (`nm`), LBYL, by
        their own statistics (`lbyl+`), or by a method that was registered.
    criterion
        Which channels are kept: those whose loss changes what reads them most (`obs`), the largest
        by l2 norm, l1 norm, distance to the others (gm), or at random, or by a criterion that was
        registered; `auto` is the method's own: `obs` for `lbyl+`, l2 for the others.
    method_options
        Options of a registered method that are no fields here, by name.
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
    input_shape
        Shapes of inputs, by name, at which the model is measured, counted, timed and first
        verified; the name may be empty where there is one input. Also as "x:1,3,48,320".
    """

    ratio: float = DEFAULT_RATIO
    macs: str | float | None = None
    params: str | float | None = None
    size: str | float | None = None
    latency: str | float | None = None
    fidelity: float | None = None
    allocation: Allocation | None = None
    round_to: int | Literal["auto"] = "auto"
    hardware: Hardware = "host"
    ratio_for: tuple[tuple[str, float], ...] = ()
    keep_for: tuple[tuple[str, int], ...] = ()
    min_channels: int = 1
    method: str = "lbyl+"
    criterion: str = "auto"
    method_options: tuple[tuple[str, OptionValue], ...] = ()
    seed: int = 0
    lambda1: float = lbyl.DEFAULT_LAMBDA1
    lambda2: float = lbyl.DEFAULT_LAMBDA2
    cosine_threshold: float = neuron_merging.DEFAULT_COSINE_THRESHOLD
    cosine_weight: float = neuron_merging.DEFAULT_COSINE_WEIGHT
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    scope: Scope = "inner"
    provider: Provider = "auto"
    calibration: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Layout = "auto"
    external_data: ExternalData = "auto"
    input_shape: Given = ()

    def __post_init__(self) -> None:
        """Check the values.

        Raises
        ------
        OptionError
            For one that is outside what it may be, or of another type.
        """
        self._read_types()
        self._check_counts()
        object.__setattr__(self, "input_shape", shapes_given(self.input_shape))
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
            ("layout", self.layout, get_args(Layout)),
            ("scope", self.scope, get_args(Scope)),
            ("external_data", self.external_data, get_args(ExternalData)),
            ("allocation", self.allocation, (None, *get_args(Allocation))),
            ("provider", self.provider, get_args(Provider)),
            ("hardware", self.hardware, get_args(Hardware)),
        ):
            if value not in allowed:
                raise OptionError(
                    f"{name} is {value!r}; give one of {', '.join(map(str, allowed))}"
                )
        self._check_registered()
        if self.calibration is not None and not self.needs_moments:
            raise OptionError(
                f"calibration is given, but {self.method} with {self.score} looks at no samples; "
                f"use {registry.measuring()}"
            )
        if (self.mean or self.std) and self.calibration is None:
            raise OptionError("mean and std are of calibration images; give calibration too")

    def _read_types(self) -> None:
        """Give each value its type where its meaning is obvious: a single glob becomes a tuple."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is None:
                continue
            try:
                object.__setattr__(self, field.name, READERS[field.name](value))
            except TypeError as error:
                raise OptionError(f"{field.name} is {shown(value)}; give {error}") from error

    def _check_registered(self) -> None:
        """Check the names of method and criterion, and give the method's options their types."""
        known = {option.name: option for option in self._own_options()}
        fields_here = {field.name for field in fields(self)}
        own = {name: known[name] for name in known.keys() - fields_here}
        names = [name for name, _ in self.method_options]
        for name in names:
            if name in known and name not in own:
                raise OptionError(f"method_options has {name}, which is an option of its own")
            if name not in own:
                has = ", ".join(known) or "none"
                raise OptionError(
                    f"method_options has {shown(name)}, which is no option of method "
                    f"{self.method}; its options: {has}"
                )
            if names.count(name) > 1:
                raise OptionError(f"method_options has {name} twice; give it once")
        try:
            read = tuple((name, own[name].read(value)) for name, value in self.method_options)
        except OptionError as error:
            raise OptionError(f"method_options: {error}") from error
        object.__setattr__(self, "method_options", read)
        if registry.find_criterion(self.score).needs == "moments":
            raise OptionError(
                f"criterion {self.chosen_by} falls back on {self.score}, which needs moments, too"
            )

    def _own_options(self) -> tuple[MethodOption, ...]:
        """Options of the method, and of the one that it falls back on."""
        entry = self.method_entry
        more = () if entry.fallback is None else registry.find_method(entry.fallback).options
        return (*entry.options, *more)

    def _check_counts(self) -> None:
        """Check what says how many channels go."""
        goal = self.goal
        ratios = [("ratio", goal.value if goal.kind == "ratio" else 0.0)]
        ratios += [(f"ratio_for {shown(glob)}", ratio) for glob, ratio in self.ratio_for]
        for name, ratio in ratios:
            if not 0.0 <= ratio < 1.0:
                raise OptionError(f"{name} is {ratio}; give a number from 0 to below 1")
        if goal.kind == "fidelity" and not 0.0 < goal.value < 1.0:
            raise OptionError(f"fidelity is {goal.value}; give a number above 0 and below 1")
        for name, count in (("min_channels", self.min_channels), *self.keep_for):
            if count < 1:
                raise OptionError(f"{name} is {count}; give a whole number of at least 1")
        if isinstance(self.round_to, str) and self.round_to != "auto":
            raise OptionError(f"round_to is {self.round_to!r}; give a whole number or auto")
        if isinstance(self.round_to, int) and self.round_to < 1:
            raise OptionError(f"round_to is {self.round_to}; give a whole number of at least 1")

    @property
    def goal(self) -> Target:
        """What the result is to be.

        Raises
        ------
        OptionError
            Where more than one target is given, or it cannot be read.
        """
        targets = {kind: getattr(self, kind) for kind in get_args(Kind) if kind != "ratio"}
        found: list[Kind] = [kind for kind, value in targets.items() if value is not None]
        if len(found) > 1 or (found and self.ratio != DEFAULT_RATIO):
            both = ["ratio", *found] if len(found) == 1 else found
            raise OptionError(f"{' and '.join(both)} are given; give one target")
        return (
            parse_target(found[0], targets[found[0]])
            if found
            else Target("ratio", self.ratio, True)
        )

    @property
    def allotted(self) -> Allocation:
        """The allocation that None stands for."""
        return self.allocation or ("uniform" if self.goal.kind == "ratio" else "auto")

    @property
    def method_entry(self) -> Method:
        """The method as it was registered.

        Raises
        ------
        OptionError
            Where there is none of this name.
        """
        return registry.find_method(self.method)

    @property
    def criterion_entry(self) -> Criterion:
        """The criterion as it was registered; `auto` is that of the method."""
        auto = self.criterion == "auto"
        return registry.find_criterion(self.method_entry.criterion if auto else self.criterion)

    @property
    def needs_moments(self) -> bool:
        """Whether the model has to be measured on samples for its method or its criterion."""
        return self.by_loss or self.method_entry.needs == "moments"

    @property
    def by_loss(self) -> bool:
        """Whether channels are chosen by moments: by what their loss changes, as `obs` does."""
        return self.criterion_entry.needs == "moments"

    @property
    def chosen_by(self) -> str:
        """Name of the criterion that `auto` stands for."""
        return self.criterion_entry.name

    @property
    def score(self) -> str:
        """Name of the criterion for channels that are chosen by their weights alone."""
        return self.criterion_entry.fallback if self.by_loss else self.chosen_by

    @property
    def mixes(self) -> bool:
        """Whether channels are mixed where they can be: not where the user has chosen them."""
        return self.method_entry.mixes and self.chosen_by == self.method_entry.criterion

    def options_of(self, method: Method) -> dict[str, OptionValue]:
        """Return the keyword arguments of a method's `deliver`, for this one or its fallback."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        given |= dict(self.method_options)
        return {option.name: given.get(option.name, option.default) for option in method.options}
