"""Whether the two factors of a layer are faster than the layer, measured on models of it alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from lbyl_onnx.factor.layers import FactorLayer
from lbyl_onnx.factor.rewrite import NewWeights, with_weights
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.guard.effort import Effort
from lbyl_onnx.io.external_data import TensorReader
from lbyl_onnx.io.writer import write_draft
from lbyl_onnx.runtime import timing

# Both factors together take at most this share of the layer's time: a margin beyond what times of
# one layer differ by from one run to the next.
FASTER = 0.9
# Rounds that decide where the interval is on one side of that, and where the median has to.
FEWEST, MOST = 5, 21


@dataclass(frozen=True)
class TimeGate:
    """Times layers against their factors, each shape once.

    Parameters
    ----------
    tensor_info, model
        The model that the layers are of.
    folder, provider
        For files, and what runs them.
    effort
        How much is spent on other measurements.
    most
        Share of the layer's time that its factors may take.
    faster_by_key
        What has been timed, by operator, shapes and rank.
    """

    tensor_info: TensorInfo
    model: onnx.ModelProto
    folder: Path
    provider: str
    effort: Effort
    most: float = FASTER
    faster_by_key: dict[tuple[object, ...], bool] = field(default_factory=dict)

    def faster(self, layer: FactorLayer, rank: int, split: int = 0) -> bool:
        """Whether a layer is measurably faster at a rank, by one of its splits."""
        key = self._key(layer, rank, split)
        if key is None:
            return False
        if key not in self.faster_by_key:
            times = self._timed(layer, rank, split, FEWEST)
            if times.low < self.most <= times.high:
                times = self._timed(layer, rank, split, MOST)
            self.faster_by_key[key] = times.ratio < self.most
        return self.faster_by_key[key]

    def _key(self, layer: FactorLayer, rank: int, split: int) -> tuple[object, ...] | None:
        """What the time depends on; None where the shape of the input is not known."""
        shape = self.tensor_info.shape(layer.layer.data_name)
        if shape is None or None in shape:
            return None
        attributes = sorted((k, str(v)) for k, v in layer.layer.node.attributes.items())
        kind = layer.layer.node.op_type, layer.layer.shape, tuple(attributes)
        return (*kind, shape, layer.layer.has_bias, rank, split)

    def _timed(
        self, layer: FactorLayer, rank: int, split: int, rounds: int
    ) -> timing.PairedLatency:
        """Time a layer of random weights and its factors, in turns."""
        rng = np.random.default_rng(0)
        info, own = self.tensor_info, layer.layer
        inputs, taps = own.shape[own.in_axis], layer.splits[split].taps
        bias = np.zeros(own.channels) if layer.has_offset else None
        first = rng.standard_normal((inputs, rank, taps[0])) / np.sqrt(inputs * taps[0])
        second = rng.standard_normal((own.channels, rank, taps[1]))
        factored = NewWeights(layer, first, second, bias, split)
        shape = [d or 0 for d in info.shape(own.data_name) or ()]
        model = self._alone(layer, shape)
        paths = []
        for name, weights in (("one", factored.product), ("two", factored)):
            path = self.folder / f"timed-{name}.onnx"
            draft = with_weights(model, {0: weights})
            write_draft(draft, path, TensorReader(path), "never")
            paths.append(path)
        feeds = {own.data_name: rng.standard_normal(shape).astype(np.float32)}
        effort = replace(self.effort, rounds=rounds, fewest_rounds=rounds)
        times = timing.paired(paths[0], paths[1], self.provider, feeds, True, effort)
        for path in paths:
            path.unlink()
        return times

    def _alone(self, layer: FactorLayer, shape: list[int]) -> onnx.ModelProto:
        """Return a model of one layer."""
        node = self.model.graph.node[layer.index]
        kinds = [(layer.layer.data_name, shape), (node.output[0], None)]
        infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in kinds]
        graph = helper.make_graph([node], "layer", infos[:1], infos[1:])
        model = helper.make_model(graph, opset_imports=self.model.opset_import)
        model.ir_version = self.model.ir_version
        return model
