"""Type and shape of a node's outputs, from those of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError, infer_node_outputs

from lbyl_onnx.types import DEFAULT_DOMAINS, Array, OperatorKey, operator_key

Shape = tuple[int | None, ...]
# Operators whose results onnx's inference does not follow through the sequence.
SEQUENCES = ("SplitToSequence", "SequenceAt")
# Operators that onnx infers nothing of; they give what their first input is.
LIKE_INPUT = ("GroupNormalization", "MeanVarianceNormalization")


@dataclass(frozen=True)
class TensorFact:
    """Type, shape and value of one tensor in one walk.

    Parameters
    ----------
    dtype
        ONNX element type; 0 where unknown.
    shape
        Its dimensions; None where even the rank is unknown, None in it for an unknown dimension.
    value
        Its value where known and small.
    constant
        Whether no activation enters it, not even by its shape.
    parts
        For a sequence of tensors, their shapes where known.
    """

    dtype: int = TensorProto.UNDEFINED
    shape: tuple[int | None, ...] | None = None
    value: Array | None = None
    constant: bool = False
    parts: tuple[tuple[int | None, ...], ...] | None = None


Infer = Callable[[NodeProto, Sequence[TensorFact | None]], Sequence[TensorFact]]
"""Types and shapes of a node's outputs, from what is known of its inputs."""


def _attended(node: NodeProto, inputs: Sequence[TensorFact | None]) -> tuple[TensorFact, ...]:
    """Of Attention and MultiHeadAttention of ONNX Runtime's domain: (N, T, all heads' values)."""
    facts = [fact if fact is not None else TensorFact() for fact in inputs]
    sizes = next((list(a.ints) for a in node.attribute if a.name == "qkv_hidden_sizes"), None)
    first, last = facts[0].shape, facts[1 if node.op_type == "Attention" else 2].shape
    if first is None or last is None or len(first) != 3 or last[-1] is None or len(last) == 4:
        return (TensorFact(facts[0].dtype),)
    width = last[-1]
    if node.op_type == "Attention":
        width = sizes[2] if sizes else width // 3
    return (TensorFact(facts[0].dtype, (*first[:2], width)),)


# Of operators of other domains: ONNX Runtime's own, and those that users have registered.
INFERENCE: dict[OperatorKey, Infer] = {
    ("com.microsoft", "Attention"): _attended,
    ("com.microsoft", "MultiHeadAttention"): _attended,
}


def like_first_input(
    node: NodeProto, inputs: Sequence[TensorFact | None]
) -> tuple[TensorFact, ...]:
    """Return the type and shape of the first input, for each output."""
    first = inputs[0] if inputs and inputs[0] is not None else TensorFact()
    return tuple(TensorFact(first.dtype, first.shape) for _ in node.output)


def infer(
    model: onnx.ModelProto, node: NodeProto, inputs: Sequence[TensorFact | None], opset: int
) -> dict[str, onnx.TypeProto]:
    """Return the types of a node's outputs; {} where neither onnx nor a user's function has any."""
    own = INFERENCE.get(operator_key(node.domain, node.op_type))
    if own is not None:
        facts = zip(node.output, own(node, inputs), strict=False)
        return {n: helper.make_tensor_type_proto(f.dtype, f.shape) for n, f in facts if f.dtype}
    if node.domain not in DEFAULT_DOMAINS:
        return {}
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return {}
    first = inputs[0] if inputs else None
    if node.op_type in LIKE_INPUT and first is not None and first.dtype:
        return {node.output[0]: helper.make_tensor_type_proto(first.dtype, first.shape)}
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, TensorProto] = {}
    for name, fact in zip(node.input, inputs, strict=True):
        if fact is None:
            continue
        types[name] = onnx.TypeProto()
        if fact.dtype:
            types[name] = helper.make_tensor_type_proto(fact.dtype, fact.shape)
        if fact.value is not None and fact.value.dtype != object:
            data[name] = numpy_helper.from_array(fact.value, name)
    try:
        return infer_node_outputs(
            schema,
            node,
            types,
            data,
            opset_imports=list(model.opset_import),
            ir_version=model.ir_version,
        )
    except (InferenceError, ValidationError, ValueError):
        # ValidationError, ValueError: of sequences, of whose tensors no type is known here.
        # An output whose type cannot be inferred freezes the channels that reach it.
        return {}


def from_type(proto: onnx.TypeProto) -> TensorFact:
    """Return what a type says of a tensor."""
    tensor = proto.tensor_type
    if not tensor.HasField("shape"):
        return TensorFact(tensor.elem_type)
    dims = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    if any(d is not None and d < 0 for d in dims):
        return TensorFact(tensor.elem_type)
    return TensorFact(tensor.elem_type, dims)


def _int(node: NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def sequence_fact(node: NodeProto, inputs: Sequence[TensorFact | None]) -> TensorFact:
    """A sequence cut from a tensor, or a tensor taken from a sequence."""
    source, second = inputs[0] or TensorFact(), inputs[1] if len(inputs) > 1 else None
    number = None if second is None else second.value
    if node.op_type == "SequenceAt":
        return TensorFact(source.dtype, part_at(source.parts, number))
    if second is not None and number is None:
        return TensorFact(source.dtype)
    axis, keepdims = _int(node, "axis", 0), bool(_int(node, "keepdims", 1))
    parts = split_shapes(source.shape, axis, number, keepdims)
    return TensorFact(source.dtype, parts=parts)


def part_sizes(total: int, split: Array | None) -> list[int]:
    """Return the sizes of the parts that SplitToSequence cuts an axis into.

    Parameters
    ----------
    total
        Length of the axis.
    split
        The operator's second input: the size of each part, or the one size of all but the last.
        Without it, every position is a part.
    """
    if split is not None and split.ndim:
        return [int(size) for size in split]
    each = 1 if split is None else max(int(split), 1)
    return [min(each, total - start) for start in range(0, total, each)]


def split_shapes(
    shape: Shape | None, axis: int, split: Array | None, keepdims: bool
) -> tuple[Shape, ...] | None:
    """Return the shapes of the parts that SplitToSequence gives; None where they are not known.

    Parameters
    ----------
    shape
        Of the tensor that is cut.
    axis
        Along which it is cut; may be negative.
    split
        As for `part_sizes`.
    keepdims
        Whether the axis is kept where there is no `split`.
    """
    if shape is None or not shape:
        return None
    axis %= len(shape)
    total = shape[axis]
    if total is None:
        return None
    before, after = shape[:axis], shape[axis + 1 :]
    dropped = split is None and not keepdims
    return tuple(
        (*before, *(() if dropped else (size,)), *after) for size in part_sizes(total, split)
    )


def part_at(parts: Sequence[Shape] | None, position: Array | None) -> Shape | None:
    """Return the shape of the part that SequenceAt takes; None where it is not known."""
    if parts is None or position is None or not -len(parts) <= int(position) < len(parts):
        return None
    return parts[int(position)]
