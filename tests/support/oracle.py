"""What a compressed model must compute, worked out without lbyl_onnx.rewrite.shrink."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from lbyl_onnx import CompressResult, Config, compress
from lbyl_onnx.channels.analysis import find_channels
from lbyl_onnx.channels.groups import ChannelMap, Selection
from lbyl_onnx.compensate.selection import GroupPlan, choose_channels
from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.methods.importance import kept_count
from tests.support.effort import LITTLE
from tests.support.models import MODELS

Array = NDArray[Any]
Feeds = Mapping[str, Array]
# Largest difference relative to the largest output. The models compute the same sums in another
# order, three to six layers deep, with the rounding of float32 (6e-8) or float16 (5e-4).
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2}


@dataclass(frozen=True)
class Interpreted:
    """A model, what is known of it, and its channels."""

    model: ModelProto
    tensor_info: TensorInfo
    channels: ChannelMap

    def plan(self, ratio: float) -> tuple[GroupPlan, ...]:
        """The channels that stay."""
        graph = to_graph(self.model)
        groups = self.channels.groups
        counts = {
            group.key: group.block_count * kept_count(group.size // group.block_count, ratio)
            for group in groups
        }
        plan = choose_channels(graph, self.tensor_info, groups, counts, "l2", 0)
        return plan.groups


def input_shapes(model: ModelProto, batch: int, size: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's inputs; initializers among them do not count."""
    stored = {t.name for t in model.graph.initializer}
    return {
        info.name: tuple(
            d.dim_value or (batch if axis == 0 else size)
            for axis, d in enumerate(info.type.tensor_type.shape.dim)
        )
        for info in model.graph.input
        if info.name not in stored
    }


def interpret(model: ModelProto, selection: Selection | None = None) -> Interpreted:
    """Find a model's channels."""
    tensor_info = TensorInfo(model, input_shapes(model, 2, 8), input_shapes(model, 3, 11))
    channels = find_channels(to_graph(model), tensor_info, selection or Selection())
    return Interpreted(model, tensor_info, channels)


def make_feeds(model: ModelProto, seed: int = 0) -> dict[str, Array]:
    """Draw normal inputs: another batch and size than verification uses."""
    rng = np.random.default_rng(seed)
    types = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
    return {
        name: rng.standard_normal(shape).astype(helper.tensor_dtype_to_np_dtype(types[name]))
        for name, shape in input_shapes(model, 5, 9).items()
    }


def run(model: ModelProto, feeds: Feeds) -> list[Array]:
    """Outputs of a model in ONNX Runtime as it is written, without graph optimisations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(output) for output in session.run(None, dict(feeds))]


def tap(model: ModelProto, *names: str) -> ModelProto:
    """Return a copy of a model that gives tensors from its inside, after its own outputs."""
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copy


def masked(
    model: ModelProto, plans: tuple[GroupPlan, ...], interpreted: Interpreted | None = None
) -> ModelProto:
    """The original, its removed channels multiplied by zero where a consumer reads them.

    That is the same as zeros in the consumer's weight, and touches no weight. Of a product of two
    activations the second is multiplied by zero, as the tool's own reference does with the first.
    """
    masks: dict[int, NDArray[np.bool_]] = {}
    interpreted = interpreted or interpret(model)
    for plan in plans:
        removed = np.delete(np.arange(plan.group.size), plan.kept)
        for place in plan.group.consumers:
            length = len(place.binding.labels)
            mask = masks.setdefault(place.binding.node, np.ones(length, np.bool_))
            mask[place.positions[removed]] = False
    copy = ModelProto()
    copy.CopyFrom(model)
    inserted: list[onnx.NodeProto] = []
    norms, products = _norms_of_the_kept(plans, interpreted), _products(plans, interpreted)
    for index, node in enumerate(copy.graph.node):
        if index in norms:
            inserted += _normalised_apart(node, *norms[index], interpreted.tensor_info)
            continue
        if index in products:
            operand, alive = products[index]
            dtype = helper.tensor_dtype_to_np_dtype(
                interpreted.tensor_info.dtype(node.input[operand])
            )
            inserted += _times(node, index, operand, alive.astype(dtype))
        if index in masks:
            operand, axis = _read_at(node, index, plans, interpreted.tensor_info)
            data = node.input[operand]
            size = interpreted.tensor_info.shape(data) or ()
            shape = [1] * len(size)
            shape[axis] = -1
            dtype = helper.tensor_dtype_to_np_dtype(interpreted.tensor_info.dtype(data))
            # The weight of a grouped Conv names the channels of one group, which all share.
            mask = np.tile(masks[index], (size[axis] or 0) // len(masks[index]))
            value = mask.reshape(shape).astype(dtype)  # (C,) -> (1, .., C, .., 1)
            inserted += _times(node, index, operand, value)
        inserted.append(node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in inserted]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _times(node: onnx.NodeProto, index: int, operand: int, value: Array) -> list[onnx.NodeProto]:
    """Multiply an input of a node by a constant."""
    constant = helper.make_node(
        "Constant", [], [f"mask_{index}"], value=numpy_helper.from_array(value)
    )
    inputs = [node.input[operand], f"mask_{index}"]
    node.input[operand] = f"masked_{index}"
    return [constant, helper.make_node("Mul", inputs, [f"masked_{index}"])]


def _products(
    plans: tuple[GroupPlan, ...], interpreted: Interpreted
) -> dict[int, tuple[int, NDArray[np.bool_]]]:
    """Which channels stay of the second operand of each product of two activations."""
    roots = interpreted.channels.roots
    removed = np.concatenate([np.zeros(0, np.int64), *(plan.removed for plan in plans)])
    met = {product.node: product for plan in plans for product in plan.group.products}
    return {
        node: (1 - product.operand, ~np.isin(roots[product.others], removed))
        for node, product in met.items()
    }


def _read_at(
    node: onnx.NodeProto, index: int, plans: tuple[GroupPlan, ...], tensor_info: TensorInfo
) -> tuple[int, int]:
    """Which input of a consumer brings its channels, and along which axis."""
    rank = len(tensor_info.shape(node.input[0]) or ())
    if node.op_type != "Einsum":
        return 0, 1 if node.op_type in ("Conv", "ConvTranspose") else rank - 1
    binding = next(p.binding for x in plans for p in x.group.consumers if p.binding.node == index)
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation")
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    operand = 1 - binding.operand
    letter = terms[binding.operand][binding.axis]
    # From the end, where an ellipsis stands for the first axes.
    from_end = len(terms[operand]) - terms[operand].index(letter)
    return operand, len(tensor_info.shape(node.input[operand]) or ()) - from_end


def _norms_of_the_kept(
    plans: tuple[GroupPlan, ...], interpreted: Interpreted
) -> dict[int, tuple[int, NDArray[np.bool_]]]:
    """Nodes that take statistics over several channels: the axis, and which of its places stay."""
    channels = interpreted.channels
    removed = np.concatenate([np.zeros(0, np.int64), *(plan.removed for plan in plans)])
    positions_of = {}
    for norm in channels.norms:
        stays = ~np.isin(channels.roots[norm.labels], removed)
        axis = 1 if norm.groups else stays.ndim - 1
        lines = np.moveaxis(stays, axis, 0).reshape(stays.shape[axis], -1)  # -> (axis, others)
        assert np.all(lines == lines[:, :1])
        positions_of[norm.node] = (axis, lines[:, 0])
    return {node: place for node, place in positions_of.items() if not np.all(place[1])}


def _normalised_apart(
    node: onnx.NodeProto, axis: int, stays: NDArray[np.bool_], tensor_info: TensorInfo
) -> list[onnx.NodeProto]:
    """Pick the places that stay, normalise these alone, and put them where they were.

    What stands in the other places does not count: whoever reads them reads zeros.
    """
    kept, where = np.flatnonzero(stays), np.maximum(np.cumsum(stays) - 1, 0)
    base = node.output[0]
    made = [
        helper.make_node("Constant", [], [f"{base}_{k}"], value=numpy_helper.from_array(v))
        for k, v in (("kept", kept), ("where", where))
    ]
    picked = onnx.NodeProto()
    picked.CopyFrom(node)
    one_each = axis == 1 or node.op_type in ("LayerNormalization", "RMSNormalization")
    parameters = [] if node.op_type == "ReduceMean" else range(1, len(node.input))
    for operand, along in ((0, axis), *((i, 0) for i in parameters)):
        of_channels = operand and tensor_info.shape(node.input[operand]) == stays.shape
        if operand == 0 or (of_channels and one_each):
            name = f"{base}_of_{operand}"
            inputs = [node.input[operand], f"{base}_kept"]
            made.append(helper.make_node("Gather", inputs, [name], axis=along))
            picked.input[operand] = name
    if node.op_type == "ReduceMean":
        return [*made, picked]
    picked.output[0] = f"{base}_kept_alone"
    inputs = [picked.output[0], f"{base}_where"]
    return [*made, picked, helper.make_node("Gather", inputs, [base], axis=axis)]


def deviation(actual: Array, expected: Array) -> float:
    """Largest difference relative to the largest expected value; absolute where all are zero."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    scale = float(np.max(np.abs(expected.astype(np.float64))))
    return float(np.max(difference)) / (scale or 1.0)


def assert_same(actual: list[Array], expected: list[Array]) -> None:
    """Compare outputs to the tolerance of their type."""
    for new, want in zip(actual, expected, strict=True):
        assert want.size > 0
        assert deviation(new, want) <= TOLERANCE[str(want.dtype)]


def compressed(model: ModelProto, config: Config | None = None) -> ModelProto:
    """Compress in memory and return the model."""
    result = compress(
        model, config=config or Config(round_to=1, ratio=0.5, method="none", provider="cpu")
    )
    assert result.model is not None
    return result.model


@cache
def outcome(name: str, method: str, ratio: float) -> CompressResult:
    """Compress one of `MODELS`, once for all tests."""
    config = Config(round_to=1, ratio=ratio, method=method, provider="cpu")
    return compress(MODELS[name](), config=config, effort=LITTLE)


def values(model: ModelProto) -> dict[str, Array]:
    """Initializers by name."""
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
