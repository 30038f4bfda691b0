"""Ranges of a model's activations, on samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.methods.integers.ranges import Histogram, least_error_range
from lbyl_onnx.runtime.execute import run_batches
from lbyl_onnx.runtime.session import Feeds

PREFIX = "lbyl_onnx/range/"
# Values of an activation that a mini-batch shows, about; of all of them least and largest.
SHOWN = 1 << 15


def activation_ranges(
    path: Path,
    tensor_info: TensorInfo,
    provider: str,
    samples: Iterable[Feeds],
    scratch: Path,
    symmetric: bool,
) -> dict[str, tuple[float, float]]:
    """Return the range of each floating-point activation that loses least of it, by name.

    Activations that are not finite on the samples are left out.

    Parameters
    ----------
    path, tensor_info
        The model's file, and its shapes.
    provider
        What runs it.
    samples
        Feeds of mini-batches.
    scratch
        A file that may be written.
    symmetric
        Whether zero must lie in the middle.
    """
    model = onnx.load(path)
    names = list(_activations(model, tensor_info))
    onnx.save(_showing(model, tensor_info, names), scratch)
    histograms = {name: Histogram.empty() for name in names}
    for outputs in run_batches(scratch, provider, samples):
        for name in [*histograms]:
            low, high = (float(outputs[_output(name, end)].min()) for end in ("low", "high"))
            if not math.isfinite(low) or not math.isfinite(high):
                del histograms[name]
                continue
            some = outputs[_output(name, "some")].astype(np.float64)
            histograms[name] = histograms[name].having(some, low, high)
    return {name: least_error_range(h, symmetric) for name, h in histograms.items()}


def _activations(model: ModelProto, tensor_info: TensorInfo) -> Iterator[str]:
    """Names of what is computed in floating point, the inputs among them."""
    stored = {tensor.name for tensor in model.graph.initializer}
    names = [info.name for info in model.graph.input if info.name not in stored]
    names += [name for node in model.graph.node for name in node.output if name]
    yield from (name for name in names if tensor_info.dtype(name) == TensorProto.FLOAT)


def _output(name: str, what: str) -> str:
    return f"{PREFIX}{what}/{name}"


def _showing(model: ModelProto, tensor_info: TensorInfo, names: Sequence[str]) -> ModelProto:
    """A model whose outputs are least, largest and some values of each activation."""
    shown = ModelProto()
    shown.CopyFrom(model)
    graph = shown.graph
    del graph.output[:]
    flat = numpy_helper.from_array(np.asarray([-1], np.int64), f"{PREFIX}flat")
    ends = {
        what: numpy_helper.from_array(np.asarray([value], np.int64), f"{PREFIX}{what}")
        for what, value in (("first", 0), ("last", np.iinfo(np.int64).max))
    }
    graph.initializer.extend([flat, *ends.values()])
    for name in names:
        step = _step(tensor_info, name)
        graph.initializer.append(
            numpy_helper.from_array(np.asarray([step], np.int64), _output(name, "step"))
        )
        ordered = [_output(name, "flat"), ends["first"].name, ends["last"].name]
        graph.node.extend(
            [
                helper.make_node("ReduceMin", [name], [_output(name, "low")]),
                helper.make_node("ReduceMax", [name], [_output(name, "high")]),
                helper.make_node("Reshape", [name, flat.name], [_output(name, "flat")]),
                helper.make_node(
                    "Slice",
                    [*ordered, ends["first"].name, _output(name, "step")],
                    [_output(name, "some")],
                ),
            ]
        )
        for what in ("low", "high", "some"):
            graph.output.append(
                helper.make_tensor_value_info(_output(name, what), TensorProto.FLOAT, None)
            )
    return shown


def _step(tensor_info: TensorInfo, name: str) -> int:
    """Every how many-th value is shown: an odd number, so that all channels are."""
    size = math.prod(d or 1 for d in tensor_info.shape(name) or ())
    return max(1, size // SHOWN) | 1
