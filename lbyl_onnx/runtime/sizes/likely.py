"""Which sizes are likely for the dynamic dimensions of a model's inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import NodeProto, TensorProto

from lbyl_onnx.graph.layers import linear_layer

# Length of texts: of sequences of tokens most are no longer.
TOKENS = 64
# Samples of a waveform: a second at 16,000 of them. Frames of a spectrogram: about a second.
WAVEFORM, FRAMES = 16000, 100
# Height of an image of one line of text, and the largest ratio of its sides.
LINE, WIDEST = 48, 4
# Operators that keep the values of an input, in another shape or type.
_SAME_VALUES = frozenset({"Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape"})
_WHOLE = frozenset(
    {TensorProto.INT64, TensorProto.INT32, TensorProto.INT16, TensorProto.BOOL, TensorProto.UINT32}
)
# Nodes that are followed behind an input until one says what it is.
_MOST_NODES = 50
Strides = tuple[int, int]


@dataclass(frozen=True)
class _Stored:
    """The shapes of initializers, for a layer's description; those of activations are not known."""

    dims: Mapping[str, tuple[int, ...]]

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self.dims.get(name)

    def is_constant(self, name: str) -> bool:
        return name in self.dims


def likely_sizes(model: onnx.ModelProto) -> dict[tuple[str, int], int]:
    """Return likely sizes of dynamic dimensions, by input and axis; the batch has none.

    Parameters
    ----------
    model
        The model; its weights are not read.

    Returns
    -------
    dict
        Whole numbers are taken for texts, what one-dimensional convolutions read for signals.
        Images of layers that shrink one side more than the other are as many times as long along
        the other, as lines of text are: 48 x 192, say. Where nothing tells, nothing.
    """
    sizes: dict[tuple[str, int], int] = {}
    stored = _Stored({t.name: tuple(t.dims) for t in model.graph.initializer})
    inputs = [value for value in model.graph.input if not stored.is_constant(value.name)]
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for value in inputs:
        kind = value.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
        dynamic = [axis for axis, d in enumerate(dims) if axis and d is None]
        if not dynamic:
            continue
        if kind.elem_type in _WHOLE:
            sizes |= {(value.name, axis): TOKENS for axis in dynamic}
        elif len(dims) in (2, 3) and dims[-1] is None:
            size = _signal(value.name, dims, readers, stored)
            sizes |= {} if size is None else {(value.name, len(dims) - 1): size}
        elif len(dims) == 4:
            strides = _strides(model, value.name)
            sizes |= {(value.name, axis): d for axis, d in _line(dims, strides) if axis in dynamic}
    return sizes


def _signal(
    name: str,
    dims: Sequence[int | None],
    readers: Mapping[str, Sequence[NodeProto]],
    stored: _Stored,
) -> int | None:
    """Length of an input that a one-dimensional convolution or a Fourier transform reads."""
    waiting, followed = [name], 0
    while waiting and followed < _MOST_NODES:
        for node in readers.get(waiting.pop(), ()):
            followed += 1
            if node.op_type == "STFT":
                return WAVEFORM
            layer = linear_layer(stored, node)
            if layer is not None and layer.sides == 1:
                return WAVEFORM if layer.shape[layer.in_axis] == 1 else FRAMES
            if node.op_type in _SAME_VALUES:
                waiting += node.output
    return None


def _line(dims: Sequence[int | None], strides: Strides) -> Iterator[tuple[int, int]]:
    """Yield height and width of a line of text, by axis, where the strides are those of such."""
    down, right = strides
    if down == right or max(down, right) < 4:
        return
    axes = (2, 3) if dims[1] is not None and dims[1] <= 4 else (1, 2)
    short, long = axes if down > right else axes[::-1]
    side = dims[short] or LINE
    yield short, side
    yield long, side * min(WIDEST, max(down, right) // min(down, right))


def _strides(model: onnx.ModelProto, name: str) -> Strides:
    """Return by how much the layers behind an input shrink its two sides in all, at most."""
    shrunk: dict[str, Strides] = {name: (1, 1)}
    most = (1, 1)
    for node in model.graph.node:
        before = [shrunk[operand] for operand in node.input if operand in shrunk]
        if not before:
            continue
        down, right = max(before)
        own = next((list(a.ints) for a in node.attribute if a.name == "strides"), [])
        if node.op_type in ("Conv", "MaxPool", "AveragePool") and len(own) == 2:
            down, right = down * own[0], right * own[1]
        shrunk |= dict.fromkeys(node.output, (down, right))
        most = max(most, (down, right), key=lambda pair: pair[0] * pair[1])
    return most
