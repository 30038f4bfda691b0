"""Options of a compression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import cleandoc
from typing import Any, Literal, get_args

from lbyl_onnx import option_types as types
from lbyl_onnx.errors import OptionError
from lbyl_onnx.input_options.kinds import KINDS, Choices
from lbyl_onnx.input_options.shapes import SuppliedShapes, check_shapes
from lbyl_onnx.methods import lbyl, neuron_merging, registry
from lbyl_onnx.methods.registry import Criterion, Method, MethodOption, OptionValue
from lbyl_onnx.option_types import (
    Allocation,
    Attention,
    Bounds,
    ExternalData,
    Hardware,
    Layout,
    Move,
    Option,
    Provider,
    Quantize,
    Scope,
    documented,
    option,
    options_of,
    shown,
)
from lbyl_onnx.target import GOALS, SAFE, Kind, Target, parse_target

# Sections of the options, on the command line and in README.
SECTIONS = HOW_MUCH, METHODS, TARGETS, CHANNELS, NUMBERS, SAMPLES, RUNNING = (
    "How much, and how",
    "Options of one method",
    "Targets in place of a ratio",
    "Which channels",
    "Whole numbers",
    "Samples",
    "Running and writing",
)
_RATIO = Bounds(0, 1, below=True)
_COUNT = Bounds(1, whole=True)
# Targets that are reached by factors, too, where the options do not say otherwise: a user's own
# function may take long, and without any target the result is to come soon.
_SPENT = ("macs", "params", "size", "latency", "fidelity")


@dataclass(frozen=True)
class Config:
    """Options of a compression.

    Values of another type become their own where the meaning is obvious: one glob for a tuple of
    globs, a dict for pairs, NumPy's numbers for Python's. Others raise OptionError.
    """

    ratio: float | None = option(
        None,
        types.NUMBER,
        "Share of each group's channels to remove: of n channels, floor(n (1 - ratio)) stay, "
        "at least one. Without a ratio or a target, the most goes that is predicted safe.",
        HOW_MUCH,
        metavar="R",
        bounds=_RATIO,
    )
    macs: str | float | None = option(
        None, types.AMOUNT, "Most multiply-accumulates of one run.", TARGETS, metavar="50%|200M"
    )
    params: str | float | None = option(
        None, types.AMOUNT, "Most parameters.", TARGETS, metavar="50%|1.5M"
    )
    size: str | float | None = option(
        None, types.AMOUNT, "Largest file.", TARGETS, metavar="50%|5MB"
    )
    latency: str | float | None = option(
        None,
        types.AMOUNT,
        "Longest median time of a run in ONNX Runtime on this machine; the whole confidence "
        "interval of the measurement is within it.",
        TARGETS,
        metavar="60%|20ms",
    )
    fidelity: float | None = option(
        None,
        types.NUMBER,
        "Smallest model whose outputs on the samples each have this cosine with the original's "
        "(of whole numbers: this share equal).",
        TARGETS,
        bounds=Bounds(0, 1, above=True, below=True),
    )
    min_score: float | None = option(
        None,
        types.NUMBER,
        "Smallest model with at least this score by the function of `--score`.",
        TARGETS,
    )
    metric: str | None = option(
        None,
        types.TEXT,
        "Function of your own that is given the path of a model and returns its score, larger is "
        "better: `module:function`, or `file.py:function`.",
        TARGETS,
        metavar="FILE.py:NAME",
        flag="--score",
    )
    moves: tuple[Move, ...] = option(
        (),
        types.MOVES,
        "What a target may be reached by: channels that go (`prune`), layers as two of lower rank "
        "where that is measured to be faster (`factor`), whole numbers (`int8`, as `--quantize`). "
        "Without it `prune,factor` for MACs, parameters, size, latency and fidelity where the "
        "method measures the model, else `prune`.",
        TARGETS,
        metavar="M,..",
    )
    allocation: Allocation | None = option(
        None,
        types.TEXT,
        "The same share of every group, or more where the predicted damage is less, if outputs "
        "then stay nearer; without it `auto` for a target, `uniform` for a ratio.",
        CHANNELS,
        choices=lambda: get_args(Allocation),
    )
    round_to: int | Literal["auto"] = option(
        "auto",
        types.WHOLE_OR_AUTO,
        "Groups keep all channels or a multiple of N; `auto` is the channel block of the "
        "hardware's kernels.",
        CHANNELS,
        bounds=_COUNT,
    )
    hardware: Hardware = option(
        "host",
        types.TEXT,
        "Machine that `auto` rounds for, and whose kernels multiply whole numbers; `host` is this "
        "one.",
        CHANNELS,
        choices=lambda: get_args(Hardware),
    )
    ratio_for: tuple[tuple[str, float], ...] = option(
        (),
        types.NUMBER_BY_GLOB,
        "Ratio of the producers whose names match, whatever the target.",
        CHANNELS,
        metavar="GLOB=R",
        bounds=_RATIO,
    )
    keep_for: tuple[tuple[str, int], ...] = option(
        (),
        types.WHOLE_BY_GLOB,
        "Number of channels that the producers keep whose names match, whatever the target.",
        CHANNELS,
        bounds=_COUNT,
    )
    min_channels: int = option(
        1, types.WHOLE, "Least number of channels that a group keeps.", CHANNELS, bounds=_COUNT
    )
    method: str = option(
        "lbyl+",
        types.TEXT,
        "How the removed channels are restored: not at all (`none`), by Neuron Merging (`nm`), "
        "by LBYL, or by LBYL on the channels' own statistics (`lbyl+`).",
        HOW_MUCH,
        choices=registry.method_names,
    )
    criterion: str = option(
        "auto",
        types.TEXT,
        "Which channels are kept: those whose loss changes the layers behind most (`obs`), the "
        "largest by norm (`l2`, `l1`), by distance to the other filters (`gm`), or any; `auto` "
        "is `obs` for `lbyl+`, else `l2`.",
        HOW_MUCH,
        choices=lambda: ("auto", *registry.criterion_names()),
    )
    method_options: tuple[tuple[str, OptionValue], ...] = option(
        (),
        types.NAMED_VALUES,
        "Option of a method that was registered from Python; repeat it for others.",
        METHODS,
        flag="--method-option",
    )
    seed: int = option(
        0,
        types.WHOLE,
        "Seed of the random number generator, for synthetic samples, the criterion `random` "
        "and the inputs of the verification.",
        HOW_MUCH,
        bounds=Bounds(0, whole=True),
    )
    lambda1: float = option(
        lbyl.DEFAULT_LAMBDA1,
        types.NUMBER,
        "`lbyl`: weight of the BatchNorm error.",
        METHODS,
        bounds=Bounds(0),
    )
    lambda2: float = option(
        lbyl.DEFAULT_LAMBDA2,
        types.NUMBER,
        "`lbyl`: weight of the activation error.",
        METHODS,
        bounds=Bounds(0),
    )
    cosine_threshold: float = option(
        neuron_merging.DEFAULT_COSINE_THRESHOLD,
        types.NUMBER,
        "`nm`: least cosine of a removed filter and a kept one that are merged (t of the paper).",
        METHODS,
        bounds=Bounds(-1, 1),
    )
    cosine_weight: float = option(
        neuron_merging.DEFAULT_COSINE_WEIGHT,
        types.NUMBER,
        "`nm`: weight of the cosine distance against the bias distance (lambda of the paper).",
        METHODS,
        bounds=Bounds(0, 1),
    )
    include: tuple[str, ...] = option(
        (),
        types.GLOBS,
        "Prune only the producers with these node names; one that matches none is an error.",
        CHANNELS,
    )
    exclude: tuple[str, ...] = option(
        (), types.GLOBS, "Prune all but the producers with these node names.", CHANNELS
    )
    scope: Scope = option(
        "inner",
        types.TEXT,
        "`inner` leaves residual streams and other channels that several layers produce "
        "together, but for those that are multiplied (gates); `all` prunes them, too.",
        CHANNELS,
        choices=lambda: get_args(Scope),
    )
    attention: Attention = option(
        "dims",
        types.TEXT,
        "What goes of attention: as many dims of each head (`dims`), or whole heads with their "
        "queries, keys and values (`heads`) where all that counts heads can change, and dims "
        "elsewhere; `auto` takes in each layer what is predicted to cost less.",
        CHANNELS,
        choices=lambda: get_args(Attention),
    )
    provider: Provider = option(
        "auto",
        types.TEXT,
        "Execution provider of ONNX Runtime; `auto` takes CUDA where it really works.",
        RUNNING,
        choices=lambda: get_args(Provider),
    )
    calibration: str | tuple[str, ...] | None = option(
        None,
        types.PATHS,
        "Unlabelled samples for the statistics in place of synthetic ones: an `.npz` or `.npy` "
        "of what the model is fed, whose first axis counts samples, images (they need the extra "
        "`images`), sounds in `.wav`, `.flac` or `.ogg` files for a model of a waveform (extra "
        "`audio`), texts in `.txt` files, one on each line (extra `text`), or a folder of such "
        "files; repeat it for more. They may have any size along dynamic axes.",
        SAMPLES,
    )
    tokenizer: str | None = option(
        None,
        types.PATH,
        "The `tokenizer.json` of the model, for calibration texts; without it, the one beside the "
        "model or the texts. Texts are cut at the length that the model takes.",
        SAMPLES,
    )
    sample_rate: int | None = option(
        None,
        types.WHOLE,
        "Rate in Hz at which the model takes calibration sounds, 16000 without it: channels are "
        "averaged, floats in [-1, 1], resampled, and cut into windows of the model's length.",
        SAMPLES,
        metavar="HZ",
        bounds=Bounds(1_000, 384_000, whole=True),
    )
    mean: tuple[float, ...] = option(
        (),
        types.NUMBERS,
        "Mean of each channel of the images, whose pixels are in [0, 1]: of the folder's, or of "
        "the synthetic ones.",
        SAMPLES,
        metavar="M,..",
    )
    std: tuple[float, ...] = option(
        (),
        types.NUMBERS,
        "Standard deviation of each channel of the images, likewise.",
        SAMPLES,
        metavar="S,..",
    )
    layout: Layout = option(
        "auto", types.TEXT, "Axis order of image inputs.", SAMPLES, choices=lambda: get_args(Layout)
    )
    input: Choices = option(
        (),
        types.CHOICES,
        f"What an input takes, where it is taken for something else: {', '.join(KINDS)}:V. With "
        "commas more of it: `range=0..255`, `mean=..`, `std=..` (of an image's pixels before they "
        "are normalised, of other values as they are), `size=48x320`, `vocab=30522`; repeat it for "
        "other inputs.",
        SAMPLES,
    )
    quantize: Quantize | None = option(
        None,
        types.TEXT,
        "Quantise what is left of the model, too: weights and activations become whole numbers of "
        "eight bits, by ONNX Runtime's own tools, with ranges from the samples of the statistics. "
        "With `--ratio 0` nothing is pruned.",
        NUMBERS,
        choices=lambda: get_args(Quantize),
    )
    keep_float: tuple[str, ...] = option(
        (),
        types.GLOBS,
        "Layers with these node names stay in floating point; one that matches none is an error.",
        NUMBERS,
    )
    external_data: ExternalData = option(
        "auto",
        types.TEXT,
        "Whether the weights lie in a file beside the output; `auto`: as the input's do, or "
        "where they pass 2 GiB.",
        RUNNING,
        choices=lambda: get_args(ExternalData),
    )
    input_shape: SuppliedShapes = option(
        (),
        types.SHAPES,
        "Shape of an input at which the model is measured, counted, timed and first verified; "
        "repeat it for other inputs. Without it, that of most calibration samples, or sizes are "
        "tried until the model runs; channel counts that weights prescribe are taken from them.",
        SAMPLES,
    )

    def __post_init__(self) -> None:
        """Check the values.

        Raises
        ------
        OptionError
            For one that is outside what it may be, or of another type.
        """
        for name, declared in OPTIONS.items():
            self._read(name, declared)
        _ = self.target  # raises where several are given
        check_shapes(self.input_shape)
        self._check_registered()
        if self.calibration is not None:
            self.check_samples("calibration")
        self._check_moves()
        if (self.metric is None) != (self.min_score is None):
            raise OptionError("metric and min_score go together; give both")
        if self.keep_float and self.quantize is None:
            raise OptionError("keep_float is of quantised models; give quantize too")
        for name, kind in (("tokenizer", "texts"), ("sample_rate", "sounds")):
            if getattr(self, name) is not None and self.calibration is None:
                raise OptionError(f"{name} is of calibration {kind}; give calibration too")

    def _check_moves(self) -> None:
        """Give `moves` and `quantize` one meaning; refuse moves that no target asks for."""
        if not self.moves:
            return
        if "int8" in self.moves and self.quantize is None:
            object.__setattr__(self, "quantize", "int8")
        if self.quantize is not None and "int8" not in self.moves:
            object.__setattr__(self, "moves", (*self.moves, "int8"))
        if self.target.kind == "ratio" and self.factors:
            raise OptionError("moves has factor, but a ratio is of channels; give a target")
        if self.target.kind not in ("ratio", "safe") and self.moves == ("int8",):
            raise OptionError(f"moves has int8 alone, which {self.target.kind} does not count")

    @property
    def prunes(self) -> bool:
        """Whether channels may go."""
        return not self.moves or "prune" in self.moves

    @property
    def factors(self) -> bool:
        """Whether layers may become two of lower rank."""
        if self.moves:
            return "factor" in self.moves
        return self.target.kind in _SPENT and self.method_entry.needs == "moments"

    def check_samples(self, name: str) -> None:
        """Raise OptionError where samples of the user's own, of this name, would have no use."""
        if not self.needs_moments and self.quantize is None:
            verb = "is" if name == "calibration" else "are"
            raise OptionError(
                f"{name} {verb} given, but {self.method} with {self.score} looks at no samples; "
                f"use {registry.measuring()}"
            )

    def _read(self, name: str, declared: Option) -> None:
        """Give a value its type where its meaning is obvious, and check it."""
        value = getattr(self, name)
        if value is None and DEFAULTS[name] is None:
            return
        try:
            read = declared.type.read(value)
        except TypeError as error:
            raise OptionError(f"{name} is {shown(value)}; give {error}") from error
        wrong = declared.wrong(name, read)
        if wrong is not None:
            raise OptionError(wrong)
        object.__setattr__(self, name, read)

    def _check_registered(self) -> None:
        """Check the names of method and criterion, and give the method's options their types."""
        options = {option.name: option for option in self._own_options()}
        own = {name: options[name] for name in options.keys() - OPTIONS.keys()}
        names = [name for name, _ in self.method_options]
        for name in names:
            if name in options and name not in own:
                raise OptionError(f"method_options has {name}, which is an option of its own")
            if name not in own:
                has = ", ".join(options) or "none"
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

    @property
    def target(self) -> Target:
        """The pruning target; `SAFE` where none is given.

        Raises
        ------
        OptionError
            Where more than one target is given, or it cannot be read.
        """
        targets = {kind: getattr(self, kind) for kind in GOALS}
        kinds: list[Kind] = [kind for kind, value in targets.items() if value is not None]
        if len(kinds) > 1:
            raise OptionError(f"{' and '.join(kinds)} are given; give one target")
        return parse_target(kinds[0], targets[kinds[0]]) if kinds else SAFE

    @property
    def requested_ratio(self) -> float:
        """The ratio; 0 where another target is given."""
        return self.ratio or 0.0

    @property
    def allotted(self) -> Allocation:
        """The allocation, resolved where it is None."""
        return self.allocation or ("uniform" if self.target.kind == "ratio" else "auto")

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
        """Name of the criterion, resolved where it is `auto`."""
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
        values = {name: getattr(self, name) for name in OPTIONS}
        values |= dict(self.method_options)
        return {option.name: values.get(option.name, option.default) for option in method.options}


OPTIONS: Mapping[str, Option] = options_of(Config)
"""Each option by its name, in the order of the fields."""
DEFAULTS: Mapping[str, Any] = {name: getattr(Config, name) for name in OPTIONS}
"""The value of each option that is not given."""
Config.__doc__ = f"{cleandoc(Config.__doc__ or '')}\n\n{documented(Config)}"


def combined(first: Mapping[str, Any], second: Mapping[str, Any]) -> Config:
    """Return the options of two sources; those of the second replace those of the first.

    Parameters
    ----------
    first, second
        Values by the names of options. A target of the second replaces whatever target the first
        gives, a ratio among them.

    Raises
    ------
    OptionError
        For a value that is not allowed, and where the second gives several targets.
    """
    kinds = set(GOALS)
    targets = sorted(kind for kind in second.keys() & kinds if second[kind] is not None)
    if len(targets) > 1:
        raise OptionError(f"{' and '.join(targets)} are given; give one target")
    kept = {name: first[name] for name in first if not (targets and name in kinds)}
    return Config(**{**kept, **second})


def hint(name: str) -> str:
    """Return what to write in place of an option's name that there is not."""
    near = get_close_matches(name, OPTIONS, 1)
    return f"did you mean {near[0]}?" if near else f"the options are {', '.join(OPTIONS)}"
