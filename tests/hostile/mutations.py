"""Mutants of models: of their structure, of their bytes; the same one for the same number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

Rng = np.random.Generator
T = TypeVar("T")
Mutation = Callable[[ModelProto, Rng], None]

# Numbers at which code goes wrong.
ODD = (0, 1, -1, 2, 3, 7, 255, 4096, 2**31 - 1, -(2**31), 2**32, 2**62, -(2**63), 2**63 - 1)
UNARY = (
    "Relu Identity Neg Abs Exp Sigmoid Tanh Softmax LogSoftmax Transpose Erf Floor Sign HardSwish "
    "GlobalAveragePool Flatten LeakyRelu Elu Softplus Dropout Shape Size Clip Reciprocal Sqrt Log"
).split()
OPERATORS = (
    "Conv ConvTranspose Gemm MatMul BatchNormalization InstanceNormalization Add Mul Div Relu "
    "PRelu Clip Reshape Transpose Flatten Squeeze Unsqueeze Concat Split Slice Gather Pad "
    "Resize Expand Tile DepthToSpace SpaceToDepth MaxPool AveragePool GlobalAveragePool "
    "ReduceMean Softmax Shape Size Cast Identity Constant ConstantOfShape Range Where LSTM GRU "
    "Loop If Scan NonZero TopK Einsum Dropout QuantizeLinear SplitToSequence SequenceAt Unheard"
).split()


def mutant(base: ModelProto, number: int) -> bytes:
    """Return the bytes of the mutant of that number: one in four has its bytes changed instead.

    Parameters
    ----------
    base
        A sound model; it is not changed.
    number
        Seeds all that is random.
    """
    rng = np.random.default_rng(number)
    if number % 4 == 3:
        return _bytes(base.SerializeToString(), rng)
    model = ModelProto()
    model.CopyFrom(base)
    for _ in range(_one((1, 1, 1, 2, 3), rng)):
        _one(MUTATIONS, rng)(model, rng)
    content: bytes = model.SerializeToString()
    return content


def _one(choices: Sequence[T], rng: Rng) -> T:
    return choices[int(rng.integers(len(choices)))]


def _bytes(content: bytes, rng: Rng) -> bytes:
    """Flip, cut out, double, insert."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 8))):
        at, kind = int(rng.integers(len(data))), int(rng.integers(5))
        length = int(rng.integers(1, 16))
        if kind <= 1:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            data[at : at + length] = rng.bytes(length)
        elif kind == 3 and len(data) > 2 * length:
            del data[at : at + length]
        else:
            data[at:at] = data[at : at + length]
    return bytes(data)


# --- of the structure -------------------------------------------------------------------------


def _names(model: ModelProto) -> list[str]:
    names = [name for node in model.graph.node for name in (*node.input, *node.output)]
    return names + [t.name for t in model.graph.initializer] + ["", "absent"]


def _node(model: ModelProto, rng: Rng) -> NodeProto:
    if not model.graph.node:
        model.graph.node.add(op_type="Relu", input=["x"], output=["r"])
    nodes: Sequence[NodeProto] = model.graph.node
    return _one(nodes, rng)


def _tensor(model: ModelProto, rng: Rng) -> TensorProto:
    if not model.graph.initializer:
        model.graph.initializer.add(name="t", data_type=1, dims=[1], raw_data=b"\0" * 4)
    tensors: Sequence[TensorProto] = model.graph.initializer
    return _one(tensors, rng)


def rewire(model: ModelProto, rng: Rng) -> None:
    node = _node(model, rng)
    if node.input:
        node.input[int(rng.integers(len(node.input)))] = _one(_names(model), rng)


def rename_output(model: ModelProto, rng: Rng) -> None:
    node = _node(model, rng)
    if node.output:
        node.output[int(rng.integers(len(node.output)))] = _one(_names(model), rng)


def other_operator(model: ModelProto, rng: Rng) -> None:
    _node(model, rng).op_type = _one(OPERATORS, rng)


def remove_node(model: ModelProto, rng: Rng) -> None:
    model.graph.node.remove(_node(model, rng))


def double_node(model: ModelProto, rng: Rng) -> None:
    model.graph.node.append(_node(model, rng))


def swap_nodes(model: ModelProto, rng: Rng) -> None:
    one, two = _node(model, rng), _node(model, rng)
    kept = NodeProto()
    kept.CopyFrom(one)
    one.CopyFrom(two)
    two.CopyFrom(kept)


def insert_node(model: ModelProto, rng: Rng) -> None:
    """Put a node between another and its reader."""
    count = int(rng.integers(0, 3))
    _insert(model, rng, _one(OPERATORS, rng), [_one(_names(model), rng) for _ in range(count)])


def insert_unary(model: ModelProto, rng: Rng) -> None:
    """Likewise one that fits there as it is: what comes of it is a model that runs."""
    _insert(model, rng, _one(UNARY, rng), [])


def insert_sum(model: ModelProto, rng: Rng) -> None:
    """Add to a tensor another, or itself."""
    _insert(model, rng, _one(["Add", "Mul", "Max", "Sub"], rng), [_one(_names(model), rng)])


def _insert(model: ModelProto, rng: Rng, op_type: str, others: Sequence[str]) -> None:
    node = _node(model, rng)
    if not node.output:
        return
    old, new = node.output[0], f"inserted_{int(rng.integers(10**9))}"
    node.output[0] = new
    made = helper.make_node(op_type, [new, *others], [old], name=new)
    rest = list(model.graph.node)
    at = next((i for i, n in enumerate(rest) if n == node), 0) + 1
    copies = [NodeProto.FromString(n.SerializeToString()) for n in (*rest[:at], made, *rest[at:])]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def fewer_inputs(model: ModelProto, rng: Rng) -> None:
    node = _node(model, rng)
    if node.input:
        del node.input[int(rng.integers(len(node.input))) :]


def more_inputs(model: ModelProto, rng: Rng) -> None:
    _node(model, rng).input.append(_one(_names(model), rng))


def drop_attribute(model: ModelProto, rng: Rng) -> None:
    node = _node(model, rng)
    if node.attribute:
        node.attribute.remove(_one(node.attribute, rng))


def odd_attribute(model: ModelProto, rng: Rng) -> None:
    """Another number in an attribute that there is, or a list of another length."""
    node = _node(model, rng)
    if not node.attribute:
        return
    attribute: AttributeProto = _one(node.attribute, rng)
    if attribute.ints and rng.random() < 0.7:
        attribute.ints[int(rng.integers(len(attribute.ints)))] = _one(ODD, rng)
    elif attribute.ints:
        attribute.ints.append(_one(ODD, rng))
    else:
        attribute.i = _one(ODD, rng)


def new_attribute(model: ModelProto, rng: Rng) -> None:
    names = "axis axes group pads strides dilations kernel_shape transA transB perm epsilon to"
    value = _one([_one(ODD, rng), [_one(ODD, rng)] * int(rng.integers(1, 6)), 0.5, "text"], rng)
    node = _node(model, rng)
    node.attribute.append(helper.make_attribute(_one(names.split(), rng), value))


def odd_dims(model: ModelProto, rng: Rng) -> None:
    tensor = _tensor(model, rng)
    if tensor.dims and rng.random() < 0.7:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = _one(ODD, rng)
    else:
        tensor.dims.append(_one(ODD, rng))


def reshaped(model: ModelProto, rng: Rng) -> None:
    """The same number of elements in another shape: valid by itself, wrong where it is read."""
    tensor = _tensor(model, rng)
    dims = list(tensor.dims)
    rng.shuffle(dims)
    tensor.dims[:] = dims


def odd_values(model: ModelProto, rng: Rng) -> None:
    tensor = _tensor(model, rng)
    data = bytearray(tensor.raw_data)
    for _ in range(int(rng.integers(1, 10))):
        if len(data) >= 4:
            at = 4 * int(rng.integers(len(data) // 4))
            data[at : at + 4] = _one(
                [b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\1\0\0\0", b"\xff\xff\x7f\x7f", rng.bytes(4)],
                rng,
            )
    tensor.raw_data = bytes(data)


def other_type(model: ModelProto, rng: Rng) -> None:
    _tensor(model, rng).data_type = int(rng.integers(0, 28))


def cut_values(model: ModelProto, rng: Rng) -> None:
    tensor = _tensor(model, rng)
    tensor.raw_data = tensor.raw_data[: int(rng.integers(len(tensor.raw_data) + 1))]


def outside(model: ModelProto, rng: Rng) -> None:
    tensor = _tensor(model, rng)
    tensor.data_location = TensorProto.EXTERNAL
    for key in ("location", "offset", "length"):
        value = _one(["..", "/etc/passwd", "absent", "0", "-1", str(2**62), ""], rng)
        tensor.external_data.add(key=key, value=value)


def remove_tensor(model: ModelProto, rng: Rng) -> None:
    model.graph.initializer.remove(_tensor(model, rng))


def rename_tensor(model: ModelProto, rng: Rng) -> None:
    _tensor(model, rng).name = _one(_names(model), rng)


def other_input(model: ModelProto, rng: Rng) -> None:
    """Another type or shape of an input or an output."""
    value = _one([*model.graph.input, *model.graph.output], rng)
    tensor = value.type.tensor_type
    kind = int(rng.integers(5))
    if kind == 0:
        tensor.elem_type = int(rng.integers(0, 28))
    elif kind == 1:
        tensor.ClearField("shape")
    elif kind == 2 and tensor.shape.dim:
        _one(tensor.shape.dim, rng).dim_value = _one(ODD, rng)
    elif kind == 3 and tensor.shape.dim:
        _one(tensor.shape.dim, rng).dim_param = "N"
    else:
        tensor.shape.dim.add().dim_value = _one(ODD, rng)


def other_opset(model: ModelProto, rng: Rng) -> None:
    if model.opset_import:
        model.opset_import[0].version = int(rng.integers(-1, 30))


def body(model: ModelProto, rng: Rng) -> None:
    """Give a node a body: the graph itself."""
    graph = GraphProto()
    graph.CopyFrom(model.graph)
    name = _one(["then_branch", "else_branch", "body"], rng)
    _node(model, rng).attribute.append(helper.make_attribute(name, graph))


def function(model: ModelProto, rng: Rng) -> None:
    """Make an operator a function of the model's, of whatever nodes."""
    node = _node(model, rng)
    node.domain = "local"
    model.opset_import.add(domain="local", version=1)
    made = model.functions.add(domain="local", name=node.op_type)
    made.input.extend(node.input)
    made.output.extend(node.output)
    made.opset_import.extend(model.opset_import)
    made.node.add().CopyFrom(_node(model, rng))


MUTATIONS: tuple[Mutation, ...] = (
    rewire, rewire, rename_output, other_operator, other_operator, remove_node, double_node,
    swap_nodes, insert_node, insert_unary, insert_unary, insert_unary, insert_unary, insert_sum,
    insert_sum, odd_values, odd_values, fewer_inputs, more_inputs, drop_attribute,
    odd_attribute, odd_attribute, new_attribute, odd_dims, reshaped, odd_values, other_type,
    cut_values, outside, remove_tensor, rename_tensor, other_input, other_opset, body, function,
)  # fmt: skip
