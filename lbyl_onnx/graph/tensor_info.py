"""What is known of each tensor without running the model: dtype, shape, constant value.

The graph is walked once for each of several concrete sets of input shapes. What differs depends
on a dynamic dimension; what agrees holds for every input unless it is computed from such a
dimension (`dynamic`). So no symbolic algebra is needed, and a Reshape target computed from Shape
is as good as one that is stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from lbyl_onnx.errors import ModelError
from lbyl_onnx.graph.dynamic import UNKNOWN, Marks, other_shapes, trace
from lbyl_onnx.graph.inference import SEQUENCES, Shape, TensorFact, from_type, infer, sequence_fact
from lbyl_onnx.guard.bounds import bounded, seconds_for
from lbyl_onnx.io.lazy_array import Reader
from lbyl_onnx.methods.gaussian import erf
from lbyl_onnx.types import DEFAULT_DOMAINS, Array

InputShapes = Mapping[str, tuple[int, ...]]
# Values up to this many elements are computed on the walk: shapes, axes, scalars. Weights are
# larger and are read only where they are changed.
SMALL = 4096
# Seconds to compute shapes and small constants: for each node, beside those for a small model.
NODE_SECONDS = 0.01
# From this IR version on an initializer that is an input, too, is a default that a caller may
# override; before, every initializer had to be listed among the inputs.
OVERRIDABLE = 4
# Operators that draw random numbers, whatever they are fed.
DRAWING = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"}
    | {"RandomUniformLike"}
)


class TensorInfo:
    """The facts of every tensor of a model's main graph, from several walks.

    Parameters
    ----------
    model
        The model; it is read, never changed, and must outlive this object.
    first, second
        Concrete shapes of the graph inputs; they differ exactly in the dynamic dimensions.
    read
        Gives the values of an initializer.
    others
        More input shapes at which the model runs.

    Raises
    ------
    ModelError
        When the model imports no version of the ONNX operator set.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        first: InputShapes,
        second: InputShapes,
        read: Reader = numpy_helper.to_array,
        others: Sequence[InputShapes] = (),
    ) -> None:
        self._read = read
        self._opset = default_opset(model)
        self._initializers = {t.name: t for t in model.graph.initializer}
        inputs = {i.name for i in model.graph.input} if model.ir_version >= OVERRIDABLE else set()
        self._overridable = self._initializers.keys() & inputs
        self._producers = {name: n for n in model.graph.node for name in n.output if name}
        seconds = seconds_for(0) + NODE_SECONDS * len(model.graph.node)
        more = () if first == second else (second, *other_shapes(model, first, second))
        with bounded("computing shapes and constants", seconds):
            self._first = _walk(model, first, self._opset, read)
            # Equal input shapes tell nothing new; the second walk is always there.
            self._walks = [self._first]
            for shapes in (*more, *(x for x in others if x != first and x != second)):
                self._walks.append(_walk(model, shapes, self._opset, read, self._first))
            self._dynamic = trace(model, self._walks, self._opset, evaluate)

    def dtype(self, name: str) -> int:
        """ONNX element type of a tensor, 0 where unknown."""
        return self._first.get(name, TensorFact()).dtype

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Return the shape at the first input shapes; None where the rank is unknown."""
        return self._first.get(name, TensorFact()).shape

    def static_shape(self, name: str) -> tuple[int | None, ...] | None:
        """Return the shape with None for each dimension that depends on the input's dimensions."""
        shape, axes = self.shape(name), self._dynamic.get(name, UNKNOWN).axes
        if shape is None or axes is None:
            return None
        return tuple(None if dynamic else d for d, dynamic in zip(shape, axes, strict=True))

    def shapes(self, *names: str) -> list[tuple[tuple[int, ...], ...]]:
        """Return the shapes of some tensors at each set of input shapes at which all are known."""
        rows = [[walk.get(name, TensorFact()).shape for name in names] for walk in self._walks]
        whole = [[s for s in row if s is not None and None not in s] for row in rows]
        return [
            tuple(tuple(d for d in shape if d is not None) for shape in row)
            for row in whole
            if len(row) == len(names)
        ]

    def is_accidental(self, name: str) -> bool:
        """Whether a size depends on a dynamic dimension, and is the same in all walks."""
        return bool(self._dynamic.get(name, UNKNOWN).accidental)

    def parts(self, name: str) -> tuple[tuple[int | None, ...], ...] | None:
        """Return the shapes of a sequence's tensors at the first input shapes."""
        return self._first.get(name, TensorFact()).parts

    def is_constant(self, name: str) -> bool:
        """Whether a tensor's value is the same in every run, whatever computes it."""
        if self._first.get(name, TensorFact()).constant:
            return True
        traced = self.traced_value(name)
        return traced is not None and not traced[1].any()

    def is_known(self, name: str) -> bool:
        """Whether a tensor's value follows from the constants and the shapes of the inputs."""
        return self.is_constant(name) or self.traced_value(name) is not None

    def is_stored(self, name: str) -> bool:
        """Whether a tensor is an initializer."""
        return name in self._initializers

    def overridable(self, name: str) -> str | None:
        """Return the input with a default from which a constant is computed, if there is one."""
        visited, waiting = set[str](), [name]
        while self._overridable and waiting:
            candidate = waiting.pop()
            if candidate in self._overridable:
                return candidate
            node = self._producers.get(candidate)
            if node is not None and candidate not in visited and self.is_constant(candidate):
                waiting += node.input
            visited.add(candidate)
        return None

    def traced_value(self, name: str) -> tuple[Array, Marks] | None:
        """Return a small tensor's value at the first input shapes; None where it is unknown.

        Beside it, of the same shape: which elements depend on a dynamic dimension.
        """
        values = [walk.get(name, TensorFact()).value for walk in self._walks[:2]]
        marks = self._dynamic.get(name, UNKNOWN)
        if values[0] is None or values[-1] is None or marks.elements is None:
            return None
        if marks.axes is None:  # as many elements as a dynamic dimension says
            return values[0], np.ones(values[0].shape, np.bool_)
        return values[0], marks.elements

    def contradicts(self, info: onnx.ValueInfoProto) -> bool:
        """Whether a declared shape is not the one that the tensor has."""
        shape, declared = self.static_shape(info.name), info.type.tensor_type
        if shape is None or not declared.HasField("shape"):
            return False
        if len(shape) != len(declared.shape.dim):
            return True
        pairs = zip(shape, declared.shape.dim, strict=True)
        return any(k is not None and d.HasField("dim_value") and d.dim_value != k for k, d in pairs)

    def value(self, name: str) -> Array:
        """Return the value of a constant tensor of any size, computing what is not stored.

        Raises
        ------
        KeyError
            When the tensor is not constant.
        """
        if name in self._initializers:
            return self._read(self._initializers[name])
        fact = self._first.get(name, TensorFact())
        if fact.value is not None:
            return fact.value
        if not fact.constant:
            raise KeyError(name)
        with bounded(f"computing the constant {name}", seconds_for(0)):
            return self._computed(name, fact.dtype)

    def _computed(self, name: str, dtype: int) -> Array:
        node = self._producers[name]
        if node.op_type == "CastLike":  # what it is like may be an activation
            return evaluate(_as_cast(node, dtype), [self.value(node.input[0])], self._opset)[0]
        inputs = [self.value(i) if i else None for i in node.input]
        return evaluate(node, inputs, self._opset)[list(node.output).index(name)]

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return self._opset


def default_opset(model: onnx.ModelProto) -> int:
    """Return the version of the default operator set that a model imports."""
    for entry in model.opset_import:
        if entry.domain in DEFAULT_DOMAINS:
            return int(entry.version)
    raise ModelError("the model imports no version of the ONNX operator set; export it again")


class Erf(OpRun):
    """The error function of a whole array; onnx's own calls Python for each value."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (erf(x.astype(np.float64)).astype(x.dtype),)


def evaluate(node: NodeProto, inputs: Sequence[Array | None], opset: int) -> list[Array]:
    """Compute one node with onnx's reference implementation; outputs without a name are empty."""
    if node.op_type == "Constant":
        return [_constant_value(node)]
    feeds = {n: v for n, v in zip(node.input, inputs, strict=True) if n and v is not None}
    # A whole model, with types: operators like Gelu are functions that need to know them.
    input_infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in feeds.items()
    ]
    names = [name for name in node.output if name]
    graph = helper.make_graph(
        [node], "node", input_infos, [onnx.ValueInfoProto(name=n) for n in names]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    with np.errstate(all="ignore"):  # the root of -1 is the model's own affair
        values = ReferenceEvaluator(model, new_ops=[Erf]).run(names, feeds)
    outputs = dict(zip(names, values, strict=True))
    return [np.asarray(outputs.get(name, ())) for name in node.output]


def attribute(node: NodeProto, name: str) -> AttributeProto | None:
    """Return a node's attribute by name."""
    return next((a for a in node.attribute if a.name == name), None)


def _constant_value(node: NodeProto) -> Array:
    item = node.attribute[0]
    if item.type == AttributeProto.TENSOR:
        return numpy_helper.to_array(item.t)
    value = helper.get_attribute_value(item)
    if item.type in (AttributeProto.FLOAT, AttributeProto.FLOATS):
        return np.asarray(value, np.float32)
    if item.type in (AttributeProto.INT, AttributeProto.INTS):
        return np.asarray(value, np.int64)
    return np.asarray(value, object)


def _walk(
    model: onnx.ModelProto,
    shapes: InputShapes,
    opset: int,
    read: Reader,
    before: Mapping[str, TensorFact] | None = None,
) -> dict[str, TensorFact]:
    """Facts of all tensors; those of a walk before are taken where a node reads the same."""
    before = before or {}
    tensor_info = input_facts(model, shapes, read, before)
    for node in model.graph.node:
        if before and all(
            n in tensor_info and tensor_info[n] is before.get(n) for n in node.input if n
        ):
            tensor_info.update((n, before[n]) for n in node.output if n in before)
        else:
            tensor_info.update(tensor_facts(model, node, tensor_info, opset))
    return tensor_info


def input_facts(
    model: onnx.ModelProto,
    shapes: Mapping[str, Shape | None],
    read: Reader,
    before: Mapping[str, TensorFact] | None = None,
) -> dict[str, TensorFact]:
    """Return the facts of a graph's inputs, of these shapes, and of its initializers.

    Those of the initializers are taken from facts that are there before, where there are some.
    """
    graph, before = model.graph, before or {}
    tensor_info: dict[str, TensorFact] = {}
    for graph_input in graph.input:
        tensor = graph_input.type.tensor_type
        tensor_info[graph_input.name] = TensorFact(tensor.elem_type, shapes.get(graph_input.name))
    for initializer in graph.initializer:
        if before:
            tensor_info[initializer.name] = before[initializer.name]
            continue
        dims = tuple(initializer.dims)
        small = math.prod(dims) <= SMALL
        value = read(initializer) if small else None
        tensor_info[initializer.name] = TensorFact(initializer.data_type, dims, value, True)
    return tensor_info


def tensor_facts(
    model: onnx.ModelProto, node: NodeProto, tensor_info: Mapping[str, TensorFact], opset: int
) -> dict[str, TensorFact]:
    """Facts of one node's outputs; outputs of what is not understood are unknown, not an error."""
    outputs = [name for name in node.output if name]
    if node.domain not in DEFAULT_DOMAINS:
        # No value is computed of it: ONNX's reference knows the operators of ONNX alone.
        types = infer(model, node, [tensor_info.get(name) for name in node.input], opset)
        return {name: from_type(proto) for name, proto in types.items()}
    if node.op_type == "Constant":
        item = node.attribute[0]
        if item.type == AttributeProto.SPARSE_TENSOR:
            return {}
        dtype, dims = item.t.data_type, tuple(item.t.dims)
        if item.type == AttributeProto.TENSOR and math.prod(dims) > SMALL:
            return {outputs[0]: TensorFact(dtype, dims, None, True)}
        value = _constant_value(node)
        dtype = dtype or helper.np_dtype_to_tensor_dtype(value.dtype)
        return {outputs[0]: TensorFact(dtype, value.shape, value, True)}
    inputs = [tensor_info.get(name, TensorFact()) if name else None for name in node.input]
    if node.op_type in SEQUENCES:
        return {outputs[0]: sequence_fact(node, inputs)}
    types = infer(model, node, inputs, opset)
    facts = {n: from_type(types[n]) if n in types else TensorFact() for n in outputs}
    return _with_values(node, inputs, facts, opset)


def _with_values(
    node: NodeProto, inputs: Sequence[TensorFact | None], facts: dict[str, TensorFact], opset: int
) -> dict[str, TensorFact]:
    """Add the values of outputs that can be computed, and whether they are constant."""
    present = [fact for fact in inputs if fact is not None]
    if node.op_type in ("Shape", "Size"):
        # The value depends on the input's shape alone: a stand-in of that shape will do.
        shape = present[0].shape
        if shape is None or None in shape:
            return facts
        sizes = tuple(d for d in shape if d is not None)
        stand_in: list[Array | None] = [np.broadcast_to(np.float32(0), sizes)]
        values = evaluate(node, stand_in, opset)
        constant = present[0].constant
        name = node.output[0]
        return {name: TensorFact(TensorProto.INT64, values[0].shape, values[0], constant)}
    if node.op_type == "CastLike":
        return _cast_like(node, present, opset)
    has_body = any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute)
    if not present or has_body or node.op_type in {*DRAWING, "Dropout"}:
        return facts
    constant = all(fact.constant for fact in present)
    values_in = [None if fact is None else fact.value for fact in inputs]
    missing = any(f is not None and v is None for f, v in zip(inputs, values_in, strict=True))
    small = all(_is_small(fact.shape) for fact in facts.values())
    if missing or not small:
        return {n: TensorFact(f.dtype, f.shape, None, constant) for n, f in facts.items()}
    computed = dict(zip(node.output, evaluate(node, values_in, opset), strict=False))
    return {
        n: TensorFact(f.dtype, computed[n].shape, computed[n], constant) for n, f in facts.items()
    }


def _cast_like(node: NodeProto, present: Sequence[TensorFact], opset: int) -> dict[str, TensorFact]:
    source, like = present
    if source.value is None or not like.dtype:
        return {node.output[0]: TensorFact(like.dtype, source.shape, None, source.constant)}
    value = evaluate(_as_cast(node, like.dtype), [source.value], opset)[0]
    return {node.output[0]: TensorFact(like.dtype, value.shape, value, source.constant)}


def _as_cast(node: NodeProto, dtype: int) -> NodeProto:
    return helper.make_node("Cast", [node.input[0]], [node.output[0]], to=dtype)


def _is_small(shape: tuple[int | None, ...] | None) -> bool:
    return shape is not None and math.prod(SMALL + 1 if d is None else d for d in shape) <= SMALL
