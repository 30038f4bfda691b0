"""Layers of the ONNX operator set: Conv, ConvTranspose, Gemm, MatMul."""

from __future__ import annotations

from lbyl_onnx.graph.layers.linear_layer import (
    Layout,
    LinearLayer,
    Operation,
    TensorShapes,
    Window,
)


def conv(node: Operation, tensors: TensorShapes) -> LinearLayer | str:
    """Conv of any rank: weight (out, in / group, ..)."""
    weight = node.shape(1, tensors)
    if weight is None or len(weight) < 3:
        return "the weight of Conv has an unknown shape"
    window = (None,) * (len(weight) - 2)
    return LinearLayer(
        node,
        weight,
        data_axes=(None, 1, *window),
        output_axes=(1, None, *window),
        rank=len(weight),
        in_axis=1,
        out_axis=0,
        bias_operand=2,
        groups=node.number("group", 1),
        window=_window(node, tensors),
    )


def conv_transpose(node: Operation, tensors: TensorShapes) -> LinearLayer | str:
    """ConvTranspose of any rank: weight (in, out / group, ..), seen as (in / group, out, ..)."""
    weight, groups = node.shape(1, tensors), node.number("group", 1)
    if weight is None or len(weight) < 3 or groups < 1:
        return "the weight of ConvTranspose has an unknown shape"
    window = (None,) * (len(weight) - 2)
    return LinearLayer(
        node,
        (weight[0] // groups, weight[1] * groups, *weight[2:]),
        data_axes=(1, None, *window),
        output_axes=(None, 1, *window),
        rank=len(weight),
        in_axis=0,
        out_axis=1,
        bias_operand=2,
        groups=groups,
        layout=Layout() if groups == 1 else Layout(groups, weight[0] == groups),
        scattered=True,
    )


def gemm(node: Operation, tensors: TensorShapes) -> LinearLayer | str:
    """Y = alpha A' B' + beta C: weight (in, out), or (out, in) where it is transposed."""
    weight = node.shape(1, tensors)
    if weight is None or len(weight) != 2:
        return "the weight of Gemm has an unknown shape"
    transposed = bool(node.number("transB", 0))
    data_axis = 0 if node.number("transA", 0) else 1
    return LinearLayer(
        node,
        weight,
        data_axes=(None, data_axis) if transposed else (data_axis, None),
        output_axes=(1, None) if transposed else (None, 1),
        rank=2,
        in_axis=1 if transposed else 0,
        out_axis=0 if transposed else 1,
        bias_operand=2,
        alpha=float(node.attributes.get("alpha", 1.0)),
        beta=float(node.attributes.get("beta", 1.0)),
    )


def matmul(node: Operation, tensors: TensorShapes) -> LinearLayer | str:
    """Y = A B with a constant B: weight (.., in, out); the other axes of A pass.

    The axes of B before its last two are aligned with those of A: along each one there is a matrix
    for each position, or, where it is 1 long, one for all.
    """
    weight, data = node.shape(1, tensors), tensors.shape(node.inputs[0])
    if weight is None or data is None or len(data) < 2 or len(weight) < 2:
        return "MatMul of unknown shapes or vectors"
    if tensors.is_constant(node.inputs[0]):
        return "MatMul by a weight from the left"
    rank = max(len(data), len(weight))
    added = rank - len(data)  # axes of the output before the first one of A
    made = [
        axis + rank - len(weight) if size > 1 else None for axis, size in enumerate(weight[:-2])
    ]
    met = [None if axis is None or axis < added else axis - added for axis in made]
    pairs = zip(weight, met, strict=False)
    if any(axis is not None and data[axis] not in (None, size) for size, axis in pairs):
        return "MatMul repeats an axis of length 1"
    last = len(data) - 1
    return LinearLayer(
        node,
        weight,
        data_axes=(*met, last, None),
        output_axes=(*made, None, rank - 1),
        rank=rank,
        in_axis=len(weight) - 2,
        out_axis=len(weight) - 1,
        passed=tuple((axis, axis + added) for axis in range(last) if axis not in met),
    )


def _window(node: Operation, tensors: TensorShapes) -> Window | None:
    """Return a Conv's window with explicit pads; None where shapes are not known."""
    weight, data = node.shape(1, tensors), node.shape(0, tensors)
    name = node.outputs[0] if node.outputs else ""
    output = tensors.shape(name)
    if weight is None or data is None or output is None or None in output:
        return None
    kernel = weight[2:]
    rank = len(kernel)
    strides = tuple(int(s) for s in node.attributes.get("strides", (1,) * rank))
    dilations = tuple(int(d) for d in node.attributes.get("dilations", (1,) * rank))
    pads = tuple(int(p) for p in node.attributes.get("pads", (0,) * 2 * rank))
    auto = str(node.attributes.get("auto_pad", "NOTSET"))
    same = auto in ("SAME_UPPER", "SAME_LOWER")
    if same:
        spans = zip(data[2:], output[2:], kernel, strides, dilations, strict=True)
        total = [max(0, ((o or 0) - 1) * s + (k - 1) * d + 1 - i) for i, o, k, s, d in spans]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = (*small, *large) if auto == "SAME_UPPER" else (*large, *small)
    return Window(kernel, strides, pads, dilations, auto if same and max(strides) > 1 else "")
