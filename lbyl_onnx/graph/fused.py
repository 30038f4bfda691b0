"""Standard operators in place of those into which ONNX Runtime fuses them when it saves a model.

It fuses them again when it loads the result; other runtimes know the standard ones alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from lbyl_onnx.graph.inference import TensorFact, from_type
from lbyl_onnx.graph.model_graph import names_of
from lbyl_onnx.graph.tensor_info import attribute, default_opset, input_facts, tensor_facts
from lbyl_onnx.io.lazy_array import Reader

DOMAIN = "com.microsoft"
# The attributes of each activation, in the order in which FusedConv lists them.
ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "Clip": ("min", "max"),
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "Relu": (),
    "Selu": ("alpha", "gamma"),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "Tanh": (),
    "ThresholdedRelu": ("alpha",),
}


def unfused(model: ModelProto, read: Reader) -> ModelProto:
    """Return a model without FusedConv, FusedGemm, FusedMatMul; itself where it has none.

    So is Attention, whose one weight makes queries, keys and values, but for what attends to them.
    A node with an activation that is not known stays, and so do a FusedMatMul that transposes
    what is of unknown rank and Attention that keeps what it computes.

    Parameters
    ----------
    model
        The model; the nodes of its graph are changed.
    read
        Gives the values of an initializer.
    """
    nodes = list(model.graph.node)
    if not any(is_fused(node) for node in nodes):
        return model
    shapes = {info.name: from_type(info.type).shape for info in model.graph.input}
    tensor_info = input_facts(model, shapes, read)
    names, opset = set(names_of(model.graph)), default_opset(model)
    written: list[NodeProto] = []
    for node in nodes:
        writer = _Writer(node, tensor_info, opset, names)
        whole = not is_fused(node) or not EXPANDED[node.op_type](writer)
        for new in [node] if whole else writer.nodes:
            tensor_info.update(tensor_facts(model, new, tensor_info, opset))
            written.append(new)
    del model.graph.node[:]
    model.graph.node.extend(written)
    return model


def is_fused(node: NodeProto) -> bool:
    """Whether a node is one that `unfused` may write out."""
    return node.domain == DOMAIN and node.op_type in EXPANDED


@dataclass(eq=False)
class _Writer:
    """The standard nodes of one fused node, in the making.

    Parameters
    ----------
    node
        The fused node: the first new one takes its name, the last one gives its output.
    tensor_info, opset, names
        Of the model: its tensors so far, its operator set, and the names in use.
    """

    node: NodeProto
    tensor_info: Mapping[str, TensorFact]
    opset: int
    names: set[str]
    nodes: list[NodeProto] = field(default_factory=list)

    def value(self, name: str, default: Any) -> Any:
        """Return an attribute of the fused node."""
        entry = attribute(self.node, name)
        return default if entry is None else helper.get_attribute_value(entry)

    def attributes(self, *left_out: str) -> dict[str, Any]:
        """Return its attributes but for those whose names begin with one of `left_out`."""
        return {
            item.name: helper.get_attribute_value(item)
            for item in self.node.attribute
            if not item.name.startswith(left_out)
        }

    def dtype(self) -> int:
        """Return the type of its first inputs; 0 where it is not known."""
        dtypes = (self.tensor_info.get(name, TensorFact()).dtype for name in self.node.input[:2])
        return next((dtype for dtype in dtypes if dtype), 0)

    def constant(self, value: float) -> str:
        """Write a scalar of the node's type."""
        array = np.asarray(value, helper.tensor_dtype_to_np_dtype(self.dtype()))
        return self.write("Constant", [], {"value": numpy_helper.from_array(array)})

    def write(self, op_type: str, inputs: Sequence[str], attributes: Mapping[str, Any]) -> str:
        """Write a node with an output of a new name."""
        output = self.free(f"{self.node.output[0]}_{op_type.lower()}")
        name = self.free(f"{self.node.name}_{op_type.lower()}") if self.node.name else ""
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=name, **attributes))
        return output

    def finish(self, layer: str) -> bool:
        """Let the layer have the fused node's name and notes, and the last node its output."""
        named = next(node for node in self.nodes if node.op_type == layer)
        named.name, named.doc_string = self.node.name, self.node.doc_string
        named.metadata_props.extend(self.node.metadata_props)
        self.nodes[-1].output[0] = self.node.output[0]
        return True

    def free(self, base: str) -> str:
        """Return a name that is not in use, and take it."""
        number = 0
        while (name := f"{base}_{number}" if number else base) in self.names:
            number += 1
        self.names.add(name)
        return name


def _conv(writer: _Writer) -> bool:
    """FusedConv: Y = activation(Conv(X, W, B) + Z), B and Z optional."""
    inputs = list(writer.node.input)
    kind = writer.value("activation", b"").decode()
    values = writer.value("activation_params", [])
    if kind and (kind not in ACTIVATIONS or len(values) > len(ACTIVATIONS[kind])):
        return False
    x = writer.write("Conv", inputs[:3], writer.attributes("activation"))
    if len(inputs) > 3 and inputs[3]:
        x = writer.write("Add", [x, inputs[3]], {})
    if kind:
        _activate(writer, kind, x, dict(zip(ACTIVATIONS[kind], values, strict=False)))
    return writer.finish("Conv")


def _gemm(writer: _Writer) -> bool:
    """FusedGemm: Y = activation(Gemm(A, B, C)); what the activation takes has a prefix."""
    kind, prefix = writer.value("activation", b"").decode(), "activation_"
    parameters = {
        item.name.removeprefix(prefix): helper.get_attribute_value(item)
        for item in writer.node.attribute
        if item.name.startswith(prefix)
    }
    if kind and (kind not in ACTIVATIONS or parameters.keys() - set(ACTIVATIONS[kind])):
        return False
    x = writer.write("Gemm", list(writer.node.input), writer.attributes("activation"))
    if kind:
        _activate(writer, kind, x, parameters)
    return writer.finish("Gemm")


def _activate(writer: _Writer, kind: str, x: str, values: Mapping[str, float]) -> None:
    if kind != "Clip" or writer.opset < 11:
        writer.write(kind, [x], values)
        return
    bounds = [writer.constant(values[k]) if k in values else "" for k in ("min", "max")]
    writer.write(kind, [x, *bounds], {})


def _matmul(writer: _Writer) -> bool:
    """FusedMatMul: Y = alpha A' B', the last two axes transposed where asked for."""
    alpha = float(writer.value("alpha", 1.0))
    if writer.value("transBatchA", 0) or writer.value("transBatchB", 0):
        return False
    if alpha != 1.0 and not writer.dtype():
        return False
    operands = []
    for name, flag in zip(writer.node.input, ("transA", "transB"), strict=True):
        shape = writer.tensor_info.get(name, TensorFact()).shape
        if writer.value(flag, 0):
            if shape is None or len(shape) < 2:
                return False
            order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
            operands.append(writer.write("Transpose", [name], {"perm": order}))
        else:
            operands.append(name)
    x = writer.write("MatMul", operands, {})
    if alpha != 1.0:
        writer.write("Mul", [x, writer.constant(alpha)], {})
    return writer.finish("MatMul")


# Inputs of Attention: weights of queries, keys and values side by side, their bias, masks.
_WEIGHT, _BIAS, _MASK, _PAST, _SCORES = range(1, 6)


def _attention(writer: _Writer) -> bool:
    """Attention: one product makes queries, keys and values, MultiHeadAttention attends."""
    inputs = [*writer.node.input, *[""] * 8][:8]
    weight, mask = (writer.tensor_info.get(inputs[i], TensorFact()).shape for i in (_WEIGHT, _MASK))
    kept = any(inputs[i] for i in (_PAST, *range(_SCORES + 1, 8)))
    several = len([name for name in writer.node.output if name]) > 1
    if kept or several or writer.value("do_rotary", 0) or weight is None or weight[-1] is None:
        return False
    if inputs[_MASK] and (mask is None or len(mask) != 2):
        return False
    sizes = writer.value("qkv_hidden_sizes", []) or [weight[-1] // 3] * 3
    x = writer.write("MatMul", inputs[: _WEIGHT + 1], {})
    if inputs[_BIAS]:
        x = writer.write("Add", [x, inputs[_BIAS]], {})
    array = numpy_helper.from_array(np.asarray(sizes, np.int64))
    operand = [writer.write("Constant", [], {"value": array})] if writer.opset >= 13 else []
    first = writer.write(
        "Split", [x, *operand], {"axis": 2, **({} if operand else {"split": sizes})}
    )
    parts = [first, *(writer.free(f"{first}_{i}") for i in (1, 2))]
    writer.nodes[-1].output[:] = parts
    attributes = writer.attributes("qkv_hidden_sizes", "do_rotary", "past_present")
    attended = [*parts, "", inputs[_MASK], inputs[_SCORES]]
    while not attended[-1]:
        attended.pop()
    writer.write("MultiHeadAttention", attended, attributes)
    writer.nodes[-1].domain = DOMAIN
    return writer.finish("MatMul")


EXPANDED: Mapping[str, Callable[[_Writer], bool]] = {
    "Attention": _attention,
    "FusedConv": _conv,
    "FusedGemm": _gemm,
    "FusedMatMul": _matmul,
}
