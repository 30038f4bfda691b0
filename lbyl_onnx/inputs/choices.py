"""What the user says of inputs, in place of what the graph seems to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lbyl_onnx.config import Config
from lbyl_onnx.data.input_kind import IMAGES, InputKind, InputRange, Vocabulary
from lbyl_onnx.data.synthetic.images import image_layout
from lbyl_onnx.data.tokenizer import first_tokenizer, read_vocabulary, tokenizer_candidates
from lbyl_onnx.errors import OptionError
from lbyl_onnx.graph.model_graph import Graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.input_options.kinds import Choices, InputChoice
from lbyl_onnx.inputs.evidence import input_kinds
from lbyl_onnx.inputs.pixel_range import SPREAD, photographs_spread
from lbyl_onnx.option_types import Layout
from lbyl_onnx.runtime.session import Signature
from lbyl_onnx.text import listed

Shape = Sequence[int | None]


def kinds_of(
    graph: Graph, tensor_info: TensorInfo, config: Config, model: Path
) -> dict[str, InputKind]:
    """Return what each input of a model takes: what the user says, else what the graph does.

    Parameters
    ----------
    graph, tensor_info
        The graph, and its shapes and constants.
    config
        The options.
    model
        Its file; the tokenizer.json beside it, or that of the options, tells the special tokens.

    Raises
    ------
    CalibrationError
        When that file is none of a tokenizer.
    OptionError
        Where the user says what cannot be of an input, or of one that there is not.
    """
    kinds = input_kinds(graph, tensor_info, config.layout)
    said = {choice.kind for choice in config.input} | {kind.name for kind in kinds.values()}
    vocabulary = _own_vocabulary(config, model) if "tokens" in said else None
    if vocabulary is not None:
        kinds = {name: _in_vocabulary(kind, vocabulary) for name, kind in kinds.items()}
    shapes = {name: tensor_info.shape(name) or () for name in kinds}
    stated = set()
    for choice in config.input:
        name = _named(choice, list(kinds))
        _check(choice, name, shapes[name], config.layout)
        stated.add(name)
        kinds[name] = _chosen(choice, kinds[name], shapes[name], config, vocabulary)
    if (config.mean or config.std) and config.calibration is None:
        rest = InputChoice("", "image")
        pictures = [n for n, kind in kinds.items() if kind.name in IMAGES and n not in stated]
        if not pictures and not any(kinds[name].name in IMAGES for name in stated):
            raise OptionError("mean and std are of images, but the model has no input of images")
        for name in pictures:
            kinds[name] = _chosen(rest, kinds[name], shapes[name], config, None)
    return kinds


def _own_vocabulary(config: Config, model: Path) -> Vocabulary | None:
    supplied = None if config.tokenizer is None else Path(config.tokenizer)
    file = first_tokenizer(tokenizer_candidates(model, supplied))
    return None if file is None else read_vocabulary(file)


def stated_sizes(
    choices: Choices, layout: Layout, signature: Signature
) -> dict[tuple[str, int], int]:
    """Return the sizes that the user gave of inputs, by input and axis.

    Raises
    ------
    OptionError
        For an input that there is not, or sizes of more axes than it has.
    """
    dims = {name: shape for name, _, shape in signature.inputs}
    sizes: dict[tuple[str, int], int] = {}
    for choice in choices:
        if not choice.size:
            continue
        name = _named(choice, list(dims))
        shape = [d if isinstance(d, int) else None for d in dims[name]]
        last = len(shape)
        if choice.kind in IMAGES and image_layout((None, *shape[1:]), layout) == "nhwc":
            last -= 1
        axes = range(last - len(choice.size), last)
        if axes.start < 1:
            raise OptionError(
                f"input {choice.name or name}: size has {len(choice.size)} sides, but the input "
                f"has {max(0, last - 1)} axes behind the batch"
            )
        sizes |= {(name, axis): size for axis, size in zip(axes, choice.size, strict=True)}
    return sizes


def _named(choice: InputChoice, names: Sequence[str]) -> str:
    if choice.name in names:
        return choice.name
    if choice.name or len(names) != 1:
        said = f"there is no input {choice.name}" if choice.name else "it names no input"
        raise OptionError(
            f"--input {choice.name or choice.kind}: {said}; the model has "
            f"{listed(list(names)) or 'none'}"
        )
    return names[0]


def _check(choice: InputChoice, name: str, shape: Shape, layout: Layout) -> None:
    """Refuse a kind that an input of this shape cannot take."""
    least = {"spectrogram": 3, "waveform": 2, "tokens": 1, "mask": 1}
    if choice.kind in IMAGES and image_layout(shape, layout) is None and len(shape) not in (3, 4):
        raise OptionError(
            f"--input {name}: it has shape {tuple(shape)}, which is that of no images"
        )
    if len(shape) < least.get(choice.kind, 0):
        raise OptionError(
            f"--input {name}: it has shape {tuple(shape)}, which is that of no {choice.kind}"
        )


def _chosen(
    choice: InputChoice,
    kind: InputKind,
    shape: Shape,
    config: Config,
    vocabulary: Vocabulary | None,
) -> InputKind:
    """Return the kind that the user gave, with what the graph says where the user does not."""
    base = InputKind(choice.kind, "the user says so", "stated")
    if choice.kind in IMAGES:
        mean, std = choice.mean or config.mean, choice.std or config.std
        if config.calibration is not None:
            mean, std = choice.mean, choice.std
        if choice.range is None and not mean and not std:
            return replace(base, pixels=kind.pixels)
        return replace(base, pixels=_pixels(choice, mean, std, shape, config.layout))
    if choice.kind == "constant":
        return replace(base, mean=choice.value or 0.0)
    if choice.kind in ("tokens", "segments", "positions"):
        vocabulary_of_table = kind.vocabulary or vocabulary
        if choice.vocab is not None:
            vocabulary_of_table = replace(vocabulary_of_table or Vocabulary(1), size=choice.vocab)
        if choice.kind == "tokens" and vocabulary_of_table is None:
            raise OptionError(
                f"--input {choice.name}: the graph does not tell how many tokens there are; give "
                "vocab=N"
            )
        return replace(base, vocabulary=vocabulary_of_table)
    if choice.kind == "mask":
        return base
    low, high = choice.range or (None, None)
    if len(choice.mean) > 1 or len(choice.std) > 1:
        raise OptionError(f"--input {choice.name}: give one mean and one std of a {choice.kind}")
    middle, spread = 0.0, 1.0
    if choice.range is not None:
        middle, width = sum(choice.range) / 2, choice.range[1] - choice.range[0]
        spread = width / 2 if choice.kind == "waveform" else SPREAD * width
    mean, std = choice.mean or (middle,), choice.std or (spread,)
    return replace(base, mean=mean[0], spread=std[0], low=low, high=high)


def _pixels(
    choice: InputChoice,
    mean: Sequence[float],
    std: Sequence[float],
    shape: Shape,
    layout: Layout,
) -> InputRange:
    """The range of images whose pixels are normalised: (pixel - mean) / std."""
    low, high = choice.range or (0.0, 1.0)
    axis = 3 if image_layout(shape, layout) == "nhwc" else 1
    channels = (shape[axis] or 1) if len(shape) == 4 else 1
    for numbers in (mean, std):
        if len(numbers) not in (0, 1, channels):
            raise OptionError(
                f"--input {choice.name}: {len(numbers)} means or deviations for {channels} "
                "channels; give one for each, or one for all"
            )
    taken = np.broadcast_to(np.asarray(mean or (0.0,), np.float64), channels)
    scale = np.broadcast_to(np.asarray(std or (1.0,), np.float64), channels)
    if np.any(scale <= 0.0):
        raise OptionError("std is not above 0; give the deviations that pixels are divided by")
    width = high - low
    inside = np.all((taken > low) & (taken < high))
    middle = taken if mean and inside else np.full(channels, (low + high) / 2)
    spread = photographs_spread(scale, width) if std else np.full(channels, SPREAD * width)
    return InputRange(
        float(np.min((low - taken) / scale)),
        float(np.max((high - taken) / scale)),
        tuple(((middle - taken) / scale).tolist()),
        tuple((spread / scale).tolist()),
        axis,
    )


def _in_vocabulary(kind: InputKind, vocabulary: Vocabulary) -> InputKind:
    """Tokens of a tokenizer, as far as the table has rows for them."""
    if kind.name != "tokens" or kind.vocabulary is None:
        return kind
    rows = kind.vocabulary.size
    if any(token >= rows for token in vocabulary.special):
        return kind  # it is the tokenizer of another model
    return replace(kind, vocabulary=replace(vocabulary, size=min(rows, vocabulary.size)))
