"""Which layers can be written as the product of two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
from onnx import TensorProto

from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.config import Config
from lbyl_onnx.factor.splits import Split, splits_of
from lbyl_onnx.graph.layers import is_layer, linear_layer
from lbyl_onnx.graph.layers.linear_layer import LinearLayer
from lbyl_onnx.graph.model_graph import UNLISTED_FROM, captured, node_name
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.observe.spec import MomentSpec
from lbyl_onnx.types import Floats

FACTORED = ("Conv", "Gemm", "MatMul")
Counted = Literal["macs", "params"]
# Outputs of a layer up to which their covariance is measured and decomposed.
MOST_OUTPUTS = 2048


@dataclass(frozen=True, eq=False)
class FactorLayer:
    """A layer that can be factored.

    Parameters
    ----------
    index, name
        Of its node.
    layer
        The layer.
    splits
        The ways to cut it in two: first the one whose first factor sees the whole window.
    """

    index: int
    name: str
    layer: LinearLayer
    splits: tuple[Split, ...]

    @property
    def inputs(self) -> int:
        """How many inputs each output has: channels times the window."""
        size = 1
        for length in self.layer.shape:
            size *= length
        return size // self.layer.channels

    @property
    def alone(self) -> MomentSpec:
        """The view of each output alone, at all places: those at borders are not counted twice."""
        return replace(self.splits[0].moments, cross=False, strides=())

    def weight(self, tensor_info: TensorInfo) -> Floats:
        """Return its weight (in, outputs, window), scaled as its operator scales it."""
        stored = tensor_info.value(self.layer.weight_name)
        return np.asarray(self.layer.alpha * self.layer.logical(stored).astype(np.float64))

    def bias(self, tensor_info: TensorInfo) -> Floats:
        """Return its bias (outputs,) likewise; zeros where the operator takes none."""
        value = self.layer.bias(tensor_info)
        each = np.zeros(1) if value is None else value.astype(np.float64).reshape(-1)
        return np.broadcast_to(self.layer.beta * each, (self.layer.channels,)).copy()

    def share(self, split: Split, rank: int, counted: Counted) -> float:
        """Cost of both factors of a rank, as a share of the layer's."""
        channels = self.layer.shape[self.layer.in_axis], self.layer.channels
        first, second = (n * taps for n, taps in zip(channels, split.taps, strict=True))
        positions = split.positions if counted == "macs" else 1.0
        return rank * (first * positions + second) / (self.inputs * self.layer.channels)

    @property
    def has_offset(self) -> bool:
        """Whether the operator takes a bias."""
        return self.layer.bias_operand is not None


@dataclass(frozen=True)
class NotFactored:
    """A layer that cannot be factored, and why."""

    name: str
    reason: str


def factor_layers(
    analyzed: AnalyzedModel, config: Config, samples: int, most: int = MOST_OUTPUTS
) -> tuple[tuple[FactorLayer, ...], tuple[NotFactored, ...]]:
    """Find the layers that can be factored.

    Parameters
    ----------
    analyzed
        The model.
    config
        The options: what is left out, and what the user has fixed.
    samples
        How many there are to measure on.
    most
        Outputs of a layer, at most.

    Returns
    -------
    tuple of FactorLayer
        In the order of the nodes.
    tuple of NotFactored
        The others that have weights.
    """
    graph, tensor_info = analyzed.graph, analyzed.tensor_info
    reads = Counter(name for node in analyzed.model.graph.node for name in node.input)
    inner = {name for node in analyzed.model.graph.node for name in captured(node)}
    inner |= {value.name for value in analyzed.model.graph.output}
    old = 0 < analyzed.model.ir_version < UNLISTED_FROM
    able: list[FactorLayer] = []
    unable: list[NotFactored] = []
    for index, node in enumerate(graph.nodes):
        if not is_layer(node):
            continue
        name, layer = node_name(node), linear_layer(tensor_info, node)
        shared = inner | {read for read, count in reads.items() if count > 1}
        why = "the model lists its weights among its inputs" if old else None
        why = why or _by_options(name, config) or _refused(layer, tensor_info, shared, most)
        splits = tuple[Split, ...]()
        if why is None and layer is not None:
            splits = splits_of(graph, tensor_info, index, layer, samples, most)
        if layer is None or not splits:
            unable.append(NotFactored(name, why or "its outputs cannot be measured"))
        else:
            able.append(FactorLayer(index, name, layer, splits))
    return tuple(able), tuple(unable)


def factor_views(analyzed: AnalyzedModel, config: Config, samples: int) -> tuple[MomentSpec, ...]:
    """Return what is measured of the layers that can be factored."""
    layers, _ = factor_layers(analyzed, config, samples)
    return tuple(split.moments for layer in layers for split in layer.splits)


def _by_options(name: str, config: Config) -> str | None:
    """Why the user's options leave a layer out."""

    def matches(globs: Collection[str]) -> bool:
        return any(fnmatchcase(name, glob) for glob in globs)

    if matches(config.exclude) or (config.include and not matches(config.include)):
        return "the options leave it out"
    if matches([glob for glob, _ in (*config.ratio_for, *config.keep_for)]):
        return "the options say how many channels it keeps"
    return None


def _refused(
    layer: LinearLayer | None, tensor_info: TensorInfo, shared: Collection[str], most: int
) -> str | None:
    """Why a layer cannot be factored; None where it can."""
    if layer is None:
        return "its weight is not constant"
    if layer.node.op_type not in FACTORED or layer.node.domain not in ("", "ai.onnx"):
        return f"{layer.node.op_type} is not factored"
    if layer.groups != 1:
        return "its channels are in groups"
    name = layer.weight_name
    if not layer.plain or layer.operand != 1 or (layer.sides == 0 and not layer.is_matrix):
        return "its weight is several matrices"
    if layer.node.op_type == "Gemm" and layer.data_axis != 1:
        return "its input is transposed"
    if not tensor_info.is_stored(name) or tensor_info.dtype(name) != TensorProto.FLOAT:
        return "its weight is not stored in float32"
    if name in shared:
        return "another node reads its weight"
    if tensor_info.overridable(name) is not None:
        return "its weight is an input with a default"
    if layer.channels > most:
        return f"it has more than {most} outputs"
    if layer.has_bias and layer.bias(tensor_info) is None:
        return "its bias is not one constant for each output"
    return None
