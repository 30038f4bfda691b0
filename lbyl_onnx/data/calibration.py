"""Unlabelled samples of the user's own, from arrays or a folder of images, as mini-batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lbyl_onnx.config import Config
from lbyl_onnx.data.array_samples import SamplesLike, open_array_files, open_in_memory
from lbyl_onnx.data.files.audio_files import RATE, open_sounds
from lbyl_onnx.data.files.find import SampleFiles, find_samples
from lbyl_onnx.data.files.text_files import open_texts
from lbyl_onnx.data.image_files import form_of, open_images
from lbyl_onnx.data.padding import without_padding
from lbyl_onnx.data.samples import Input, Samples, SampleShapes, choose
from lbyl_onnx.data.tokenizer import tokenizer_candidates
from lbyl_onnx.errors import CalibrationError, OptionError
from lbyl_onnx.guard.bounds import bounded, seconds_for
from lbyl_onnx.input_options.shapes import Shapes
from lbyl_onnx.option_types import Layout

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
# More samples than this are left out: moments gain little beyond a few hundred images.
LIMIT = 512


@dataclass(frozen=True)
class FrontEnd:
    """How texts and sounds become samples.

    Parameters
    ----------
    tokenizer
        A tokenizer.json, or the folder that holds it; None to look beside model and texts.
    model
        The model's own file, where there is one.
    accepts
        Tells whether the model runs on inputs of these shapes; None where that is not known.
    rate
        Values for a second of a waveform; None for that of speech.
    """

    tokenizer: Path | None = None
    model: Path | None = None
    accepts: Callable[[Shapes], bool] | None = None
    rate: int | None = None

    def folders(self, texts: Path) -> list[Path]:
        """Where a tokenizer may lie, for texts in this folder."""
        candidates = tokenizer_candidates(self.model, self.tokenizer)
        return candidates if self.tokenizer is not None else [*candidates, texts]


PLAIN = FrontEnd()


def open_own_samples(
    inputs: Sequence[Input],
    config: Config,
    in_memory: SamplesLike | None,
    model: Path | None,
    accepts: Callable[[Shapes], bool],
) -> Samples | None:
    """Open the user's own samples for a model, without padding; None where they gave none.

    Parameters
    ----------
    inputs
        What the model takes.
    config
        The options, which name the samples' files.
    in_memory
        The samples themselves; None without.
    model
        Its file, beside which a tokenizer may lie; None for a model in memory.
    accepts
        Tells whether it runs on inputs of these shapes.

    Raises
    ------
    CalibrationError, OptionError
        As `read_calibration` does.
    """
    if in_memory is not None:
        samples = open_in_memory(in_memory, inputs, LIMIT, config.seed)
    elif config.calibration is not None:
        samples = read_calibration(
            config.calibration,
            inputs,
            config.mean or None,
            config.std or None,
            config.layout,
            seed=config.seed,
            front=FrontEnd(
                None if config.tokenizer is None else Path(config.tokenizer),
                model,
                accepts,
                config.sample_rate,
            ),
        )
    else:
        return None
    return without_padding(samples, inputs)


def read_calibration(
    path: Paths,
    inputs: Sequence[Input],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    layout: Layout = "auto",
    *,
    limit: int = LIMIT,
    seed: int = 0,
    front: FrontEnd = PLAIN,
) -> Samples:
    """Open samples for a model, and check all of them that is cheap to check.

    Parameters
    ----------
    path
        A .npz file with an array for each input, by its name; other arrays in it, as labels, are
        left aside; for a model with one input a single array may have any name. Or a .npy file for
        a model with one input. Or images, for a model with one input that takes images. Or several
        such files of one kind, or folders of them, searched to any depth; the files may hold
        samples of different sizes. Or texts, one on each line, for a model of tokens. Or sounds,
        for a model of one waveform.

        The first axis of an array counts samples, in each file; its values are what the model is
        fed with, normalised already. Any float type is cast to the input's, whole numbers only to
        other whole numbers that hold them.

        Images are turned upright, made grey for one channel and RGB for three, scaled so that they
        cover the model's height and width and cropped to them about the centre. Floats are in
        [0, 1] before `mean` and `std`; for uint8 they are the bytes.
    inputs
        What the model takes: along a dynamic axis samples of any size, along a fixed one that.
        Images are scaled to the shape that the user gave; where an open side has none, they must be
        of one size.
    mean, std
        Of a folder's images, in [0, 1], one for each channel or one for all: (x - mean) / std.
    layout
        Where a folder's images have their channels; "auto" tells by the input's shape.
    limit
        Where there are more samples than this, a random choice of them is used.
    seed
        Of that choice.
    front
        How texts and sounds become samples.

    Returns
    -------
    Samples
        They are read again at each iteration: from the mapped file for .npy, from the image files;
        the chosen ones of an .npz stay in memory.

    Raises
    ------
    CalibrationError
        When there is nothing to read, it cannot be read, is empty, not finite, or does not fit the
        inputs.
    OptionError
        For a `mean`, `std`, `layout`, `limit` or part of `front` that is wrong or has no use here.
    """
    if limit < 1:
        raise OptionError(f"the limit of samples is {limit}; give at least 1")
    paths = [Path(path)] if isinstance(path, str | os.PathLike) else list(map(Path, path))
    sample_files = find_samples(paths)
    if front.tokenizer is not None and sample_files.kind != "texts":
        raise OptionError(
            f"tokenizer is for texts, but {sample_files.name} holds {sample_files.kind}"
        )
    if front.rate is not None and sample_files.kind != "sounds":
        raise OptionError(
            f"sample_rate is for sounds, but {sample_files.name} holds {sample_files.kind}"
        )
    if sample_files.kind == "images":
        return _open_images(sample_files, inputs, layout, mean, std, limit, seed)
    if mean is not None or std is not None:
        raise OptionError(
            f"mean and std are for a folder of images, but {sample_files.name} is none; normalise "
            "its values before saving them"
        )
    size = sum(file.stat().st_size for file in sample_files.files)
    with bounded(f"reading {paths[0].name}", seconds_for(size)):
        if sample_files.kind == "arrays":
            return open_array_files(sample_files.files, sample_files.name, inputs, limit, seed)
        if sample_files.kind == "sounds":
            rate = front.rate or RATE
            return open_sounds(sample_files.files, sample_files.name, inputs, rate, limit, seed)
        folders = front.folders(paths[0] if paths[0].is_dir() else paths[0].parent)
        return open_texts(
            sample_files.files, sample_files.name, inputs, folders, front.accepts, limit, seed
        )


def _open_images(
    sample_files: SampleFiles,
    inputs: Sequence[Input],
    layout: Layout,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    limit: int,
    seed: int,
) -> Samples:
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        listed = ", ".join(f"{i.name} of rank {len(i.shape)}" for i in inputs)
        raise CalibrationError(
            f"{sample_files.name} is a folder of images, for models with one input of rank 4, but "
            f"this one has {listed}; give an .npz"
        )
    taken = inputs[0].stated_shape or inputs[0].shape
    form = form_of(inputs[0].name, inputs[0].dtype, taken, layout, mean, std)
    rows = choose(sample_files.name, len(sample_files.files), inputs, limit, seed)
    images = open_images([sample_files.files[row] for row in rows], form)
    shape = {form.name: images.form.shape}
    return Samples(np.arange(len(rows)), images, SampleShapes.alike(shape, len(rows)))
