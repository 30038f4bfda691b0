"""What each input of a model takes, from what reads it in the graph."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from lbyl_onnx.data.input_kind import IMAGES, LONG, InputKind, Vocabulary, kind_by_shape
from lbyl_onnx.data.samples import Input
from lbyl_onnx.graph.model_graph import Graph, Node, Tensor, node_name, to_graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.inputs.pixel_range import input_ranges
from lbyl_onnx.inputs.spectra import spectrogram_by_plane
from lbyl_onnx.io.lazy_array import Reader
from lbyl_onnx.option_types import Layout

# Operators behind which the same values stand, in another shape or type.
_SAME_VALUES = frozenset(
    {"Cast", "CastLike", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Transpose"}
    | {"Expand", "Slice", "Tile", "Split"}
)
# Operators that ask of whole numbers whether a place is there; a mask ends in them.
_TESTS = frozenset(
    {"Sub", "Mul", "Where", "Equal", "Not", "And", "Or", "Greater", "Less", "Add", "Div", "Neg"}
    | {"ReduceSum", "CumSum", "Min", "Max", "GreaterOrEqual", "LessOrEqual", "Concat", "MatMul"}
)
_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "ConvTranspose"})
_NORMALISATIONS = frozenset(
    {"BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization"}
    | {"LRN", "MeanVarianceNormalization", "RMSNormalization", "LpNormalization", "GroupNorm"}
)
# A table of no more rows holds segments.
FEW_ROWS = 8
# Names that those who export models give to what the graph cannot tell.
_SEGMENTS = re.compile(r"(token.?type|segment)", re.IGNORECASE)
_POSITIONS = re.compile(r"pos(ition)?(_|\b|s|ids)", re.IGNORECASE)
_SPECTRA = re.compile(r"(mel|spec|fbank|mfcc|filter.?bank)", re.IGNORECASE)
_SOUNDS = re.compile(r"(wav|audio|speech|pcm)", re.IGNORECASE)
# Elements along a dynamic axis where any number will do.
ANY_SIZE = 8
# Nodes that are followed behind one input.
MOST_NODES = 200
# Bins of a spectrogram that a layer reads as channels: fewer are signals.
FEWEST_BINS = 12


@dataclass(frozen=True)
class _Use:
    """A node that reads an input's values, by which of its operands."""

    node: Node
    operand: int


def input_kinds(
    graph: Graph, tensor_info: TensorInfo, layout: Layout = "auto"
) -> dict[str, InputKind]:
    """Return what each input of a graph takes.

    Parameters
    ----------
    graph, tensor_info
        The graph, and its shapes and constants.
    layout
        Where images have their channels.
    """
    ranges = input_ranges(graph, tensor_info, layout)
    kinds = dict[str, InputKind]()
    for tensor in graph.inputs:
        kind = _kind(tensor, tensor_info, layout)
        pixels = ranges.get(tensor.name)
        if pixels is not None:
            nodes = ", ".join(pixels.nodes)
            name = kind.name if kind.name in IMAGES else "image"
            kind = InputKind(name, f"{nodes} tell the range", "clear", pixels)
        kinds[tensor.name] = kind
    return _renamed(kinds)


def with_evidence(
    inputs: Sequence[Input], model: onnx.ModelProto, read: Reader
) -> tuple[Input, ...]:
    """Return the inputs of a model with the kinds that its graph tells; no guesses.

    Parameters
    ----------
    inputs
        What samples it takes.
    model, read
        The model, and what reads its tensors.
    """
    # Nothing is run: any size will do for what is dynamic.
    shapes = {i.name: tuple(d or ANY_SIZE for d in i.shape) for i in inputs}
    kinds = input_kinds(to_graph(model), TensorInfo(model, shapes, shapes, read))
    certain = {name: kind.name for name, kind in kinds.items() if kind.sure != "guessed"}
    return tuple(replace(i, kind=certain.get(i.name, "")) for i in inputs)


def is_folded(graph: Graph) -> bool:
    """Whether a graph has convolutions, and nothing that normalises what they give."""
    operators = {node.op for node in graph.nodes}
    return bool(operators & _CONVOLUTIONS) and not operators & _NORMALISATIONS


def _kind(tensor: Tensor, tensor_info: TensorInfo, layout: Layout) -> InputKind:
    dtype = _numpy_type(tensor_info.dtype(tensor.name))
    shape = tensor_info.shape(tensor.name) or ()
    uses = list(_uses(tensor))
    table = _table(uses, tensor_info)
    if table is not None and dtype.kind in "iuf":
        node, rows = table
        name = "segments" if rows <= FEW_ROWS else "tokens"
        reason = f"{node_name(node)} reads a table of {rows:,} rows by it"
        return InputKind(name, reason, "clear", vocabulary=Vocabulary(rows))
    if _is_mask(uses, dtype, shape, tensor_info):
        return InputKind("mask", f"{_names(uses)} read whether a place counts", "likely")
    if dtype.kind == "f" and uses and all(_before_softmax(use) for use in uses):
        reason = f"{_names(uses)} add it to what Softmax reads"
        return InputKind("constant", reason, "likely")
    kind = _of_floats(tensor, shape, uses, kind_by_shape(shape, dtype, layout))
    if kind.name == "image" and kind.sure == "guessed" and kind.pixels is None:
        static = tensor_info.static_shape(tensor.name) or ()
        return spectrogram_by_plane(static, [use.node for use in uses], tensor_info) or kind
    return kind


def _of_floats(
    tensor: Tensor, shape: tuple[int | None, ...], uses: list[_Use], guess: InputKind
) -> InputKind:
    """The guess by shape, or what the layers that read an input of floats or bytes say."""
    if guess.name == "flags":
        return guess
    layers = [use.node for use in uses if use.node.op in ("Conv", "STFT")]
    sound = bool(shape) and (shape[-1] or 0) >= LONG
    if guess.name == "vector" and len(shape) == 2 and sound and layers:
        return InputKind("waveform", f"{node_name(layers[0])} reads it as a signal", "likely")
    bins = shape[1] if len(shape) == 3 else None
    if guess.name == "vector" and layers and bins is not None and bins >= FEWEST_BINS:
        reason = f"{node_name(layers[0])} reads its {bins} channels along time"
        return InputKind("spectrogram", reason, "guessed")
    if _SPECTRA.search(tensor.name) and len(shape) >= 3:
        return InputKind("spectrogram", "its name says so", "likely")
    if _SOUNDS.search(tensor.name) and guess.name in ("vector", "signal") and sound:
        return InputKind("waveform", "its name says so", "likely")
    return guess


def _uses(tensor: Tensor) -> Iterator[_Use]:
    """Yield the nodes that read an input's values, whatever shape and type these have by then."""
    waiting, visited = [tensor], 0
    while waiting and visited < MOST_NODES:
        current = waiting.pop()
        for node in current.outputs:
            visited += 1
            operands = [i for i, operand in enumerate(node.inputs) if operand is current]
            if node.op in _SAME_VALUES and operands[:1] == [0]:
                waiting += node.outputs
            elif node.op != "Shape":
                yield from (_Use(node, i) for i in operands)
                wraps = node.op in ("Where", "Clip", "Mod") or (
                    node.op == "Add" and _is_small(node, current)
                )
                if wraps and current.dtype is not None and np.dtype(current.dtype).kind in "iu":
                    waiting += node.outputs  # negative numbers brought into a table


def _is_small(node: Node, tensor: Tensor) -> bool:
    """Whether what is added to a tensor is one number."""
    other = next((operand for operand in node.inputs if operand is not tensor), None)
    return other is not None and other.shape is not None and len(other.shape) == 0


def _table(uses: list[_Use], tensor_info: TensorInfo) -> tuple[Node, int] | None:
    """The node that reads a constant table by an input, and how many rows that has."""
    for use in uses:
        node = use.node
        if (
            node.op == "Gather"
            and use.operand == 1
            and tensor_info.is_constant(node.inputs[0].name)
        ):
            shape = tensor_info.shape(node.inputs[0].name)
            axis = node.attrs.get("axis", 0)
            if shape is not None and len(shape) == 2 and shape[axis] is not None:
                return node, int(shape[axis] or 0)
        if node.op == "OneHot" and use.operand == 0:
            depth = node.inputs[1].name
            if tensor_info.is_constant(depth):
                return node, int(tensor_info.value(depth).reshape(-1)[0])
        if node.op == "EmbedLayerNormalization" and use.operand in (0, 1):
            table = node.inputs[2 if use.operand == 0 else 4]
            shape = tensor_info.shape(table.name) if table.name else None
            if shape is not None and shape[0] is not None:
                return node, int(shape[0])
    return None


def _is_mask(
    uses: list[_Use],
    dtype: np.dtype[np.generic],
    shape: tuple[int | None, ...],
    tensor_info: TensorInfo,
) -> bool:
    """Whether an input says which places count: it is tested, or taken from 1."""
    if len(shape) < 2 or not uses:
        return False
    if dtype.kind in "iub" and dtype != np.uint8:
        return all(use.node.op in _TESTS for use in uses)
    return dtype.kind == "f" and all(_from_one(use, tensor_info) for use in uses)


def _before_softmax(use: _Use) -> bool:
    """Whether an input is added to scores: 0 where a place counts, far below where it does not."""
    if use.node.op != "Add" or not use.node.outputs:
        return False
    return any(reader.op == "Softmax" for reader in use.node.outputs[0].outputs)


def _from_one(use: _Use, tensor_info: TensorInfo) -> bool:
    if use.node.op != "Sub" or use.operand != 1:
        return False
    other = use.node.inputs[0].name
    if not tensor_info.is_constant(other):
        return False
    value = tensor_info.value(other)
    return value.size == 1 and float(value.reshape(())) == 1.0


def _renamed(by_use: Mapping[str, InputKind]) -> dict[str, InputKind]:
    """Of several inputs that read tables, those that names tell from the tokens."""
    readers = {name: kind for name, kind in by_use.items() if kind.vocabulary is not None}
    rows = {name: kind.vocabulary.size for name, kind in readers.items() if kind.vocabulary}
    largest = max(rows.values(), default=0)
    kinds = dict(by_use)
    for name, kind in readers.items():
        if _SEGMENTS.search(name):
            kinds[name] = replace(kind, name="segments")
        elif rows[name] < largest and _POSITIONS.search(name):
            kinds[name] = replace(kind, name="positions")
    return kinds


def _names(uses: list[_Use]) -> str:
    return ", ".join(dict.fromkeys(node_name(use.node) for use in uses[:3]))


def _numpy_type(dtype: int) -> np.dtype[np.generic]:
    if dtype == TensorProto.UNDEFINED:
        return np.dtype(np.float32)
    return np.dtype(helper.tensor_dtype_to_np_dtype(dtype))
