"""What `benchmarks.int8` compares with: ONNX Runtime's own, and ours without one choice."""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.calibrate import CalibrationDataReader
from onnxruntime.quantization.shape_inference import quant_pre_process

from lbyl_onnx import Config
from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import Selection
from lbyl_onnx.graph.source import check_source
from lbyl_onnx.methods.integers.ranges import Histogram
from lbyl_onnx.methods.integers.rounding import Integers, nearest
from lbyl_onnx.observe.session import prepare
from lbyl_onnx.quantise import activations, int8, weights
from lbyl_onnx.quantise.int8 import RANGED
from lbyl_onnx.runtime.baseline import run_baseline
from lbyl_onnx.runtime.session import Feeds
from lbyl_onnx.types import Floats

CPU = "CPUExecutionProvider"


def synthetic(path: Path) -> list[Feeds]:
    """Return the samples on which `--quantize int8` cuts ranges, in mini-batches."""
    baseline = run_baseline(path, CPU, 0)
    analyzed = AnalyzedModel.open(check_source(path), baseline.shape_sets, Selection())
    with tempfile.TemporaryDirectory() as name:
        run = prepare(analyzed, baseline, Config(provider="cpu", ratio=0.3), Path(name)).run
        assert run is not None
        some = max(1, RANGED // run.source.size)
        return list(itertools.islice(run.source.batches(), some))


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self._rest = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._rest, None)


def static_rival(path: Path, output: Path, feeds: Sequence[Feeds], bits: int) -> None:
    """Quantise by `quantize_static`, min-max, a step for each channel, int8 throughout."""
    with _prepared(path) as ready:
        quantize_static(
            str(ready),
            str(output),
            _Reader(feeds),
            per_channel=True,
            reduce_range=bits < 8,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )


def dynamic_rival(path: Path, output: Path, bits: int) -> None:
    """Quantise by `quantize_dynamic`, a step for each channel, its default operators."""
    with _prepared(path) as ready:
        quantize_dynamic(
            str(ready),
            str(output),
            per_channel=True,
            reduce_range=bits < 8,
            weight_type=QuantType.QInt8,
        )


@contextmanager
def _prepared(path: Path) -> Iterator[Path]:
    """The model as `quant_pre_process` writes it, which ONNX Runtime's guide asks for."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as name:
            ready = Path(name) / "prepared.onnx"
            quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
            yield ready
    finally:
        root.setLevel(level)


def _nearest(weight: Floats, step: Floats, most: int, moments: Floats) -> Integers:
    return nearest(weight, step, most)


def _without_means(*arguments: Any) -> Iterator[weights.WeightView]:
    return (replace(view, means=None) for view in weights.weight_views(*arguments))


def _whole_range(histogram: Histogram, symmetric: bool = False) -> tuple[float, float]:
    low, high = min(0.0, histogram.lowest), max(0.0, histogram.highest)
    return (-max(-low, high), max(-low, high)) if symmetric else (low, high)


Switch = Callable[[], AbstractContextManager[object]]


def _rounding() -> AbstractContextManager[object]:
    return patch.object(weights, "round_in_metric", _nearest)


def _biases() -> AbstractContextManager[object]:
    return patch.object(int8, "weight_views", _without_means)


def _ranges() -> AbstractContextManager[object]:
    return patch.object(activations, "least_error_range", _whole_range)


# What of the package is replaced while a model is quantised, by the name in the table.
ABLATIONS: Mapping[str, Sequence[Switch]] = {
    "as it is": (),
    "nearest rounding": (_rounding,),
    "no bias correction": (_biases,),
    "min-max ranges": (_ranges,),
    "none of the three": (_rounding, _biases, _ranges),
}


@contextmanager
def switched(switches: Sequence[Switch]) -> Iterator[None]:
    """Replace functions of the package while the context lasts."""
    with ExitStack() as stack:
        for switch in switches:
            stack.enter_context(switch())
        yield
