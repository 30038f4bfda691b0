"""Synthetic samples on which two models are compared, of the kind that statistics are taken of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from lbyl_onnx.config import Config
from lbyl_onnx.data.input_kind import InputKind, InputSpec
from lbyl_onnx.data.synthetic.feeds import Family, synthetic_feeds
from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.input_options.kinds import Choices
from lbyl_onnx.input_options.shapes import Shapes
from lbyl_onnx.inputs.first_layers import sampled_kinds
from lbyl_onnx.io.external_data import TensorReader
from lbyl_onnx.runtime.session import Feeds

# What their seed begins with: they are not those that the statistics see.
_STREAM = 20_011


def synthetic_samples(
    model: onnx.ModelProto,
    kinds: Mapping[str, InputKind],
    shapes: Sequence[Shapes],
    counts: Sequence[int],
    seed: int,
    family: Family = "usual",
) -> Iterator[Feeds]:
    """Yield batches of synthetic samples for a model.

    Parameters
    ----------
    model
        The model.
    kinds
        What its inputs take, as `input_kinds` tells.
    shapes
        Two sets of input shapes, which differ in the dynamic dimensions.
    counts
        Samples to draw at least, at each of these.
    seed
        Of the samples.
    family
        Samples as of the statistics, or others.
    """
    types = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
    number = 0
    for taken, count in zip(shapes, counts, strict=True):
        specs = {
            name: InputSpec(onnx.helper.tensor_dtype_to_np_dtype(types[name]), shape, kinds[name])
            for name, shape in taken.items()
        }
        batch = max((shape[0] for shape in taken.values() if shape), default=1)
        for _ in range(-(-count // max(1, batch))):
            rng = np.random.default_rng([_STREAM, seed, number])
            yield synthetic_feeds(specs, rng, family=family)
            number += 1


def input_kinds(
    original: Path, model: onnx.ModelProto, shapes: Sequence[Shapes], choices: Choices = ()
) -> dict[str, InputKind]:
    """Return what the inputs of a model take, by name.

    Parameters
    ----------
    original, model
        Its file, and what that holds.
    shapes
        Two sets of input shapes, which differ in the dynamic dimensions.
    choices
        What the user says that inputs take.
    """
    first, second = shapes
    tensor_info = TensorInfo(model, first, second, TensorReader(original))
    return sampled_kinds(to_graph(model), tensor_info, Config(input=choices), original)
