"""Edit a graph with graphsurgeon and give back a model from which nothing has been lost.

graphsurgeon keeps the graph connected while it is edited. Its own export drops doc strings,
metadata, quantization annotations, inputs with defaults and attributes it does not know, so the
model is put together from the original's own messages wherever nothing was edited.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from lbyl_onnx.graph.model_graph import UNLISTED_FROM, bodies, names_of, names_read, to_graph
from lbyl_onnx.io.lazy_array import Value, identity
from lbyl_onnx.io.writer import ModelDraft, NamedArray, without_fields
from lbyl_onnx.rewrite.weights import Edits

Shapes = Mapping[str, tuple[int | None, ...]]
Protos = Mapping[int, onnx.NodeProto]  # id of a graphsurgeon node -> the message it came from
_NUMBERS = (onnx.AttributeProto.INT, onnx.AttributeProto.INTS, onnx.AttributeProto.FLOAT)


def apply_edits(model: onnx.ModelProto, edits: Edits, shapes: Shapes) -> ModelDraft:
    """Return the model with the edits made; the original is not changed.

    A constant that all its readers see changed alike keeps its name. Where some readers need the
    old value, or another one, the changed value gets a name of its own.

    Parameters
    ----------
    model
        The original.
    edits
        New constants, by node and input.
    shapes
        New shapes of tensors whose declared shape is stale; None leaves a dimension as it is.

    Returns
    -------
    Draft
        The edited model; nodes and initializers that are no longer read are gone.
    """
    graph = to_graph(model)
    nodes = list(graph.nodes)
    protos = {id(node): proto for node, proto in zip(nodes, model.graph.node, strict=True)}
    taken = set(names_of(model.graph))
    constants = _connect(nodes, edits, taken)
    for (index, name), numbers in edits.attributes.items():
        if numbers is None:
            del nodes[index].attrs[name]
        else:
            nodes[index].attrs[name] = numbers
    shifts: dict[tuple[str, str], _Edited] = {}
    for index, value in edits.added.items():
        key = (nodes[index].inputs[1].name, identity(value))
        if key not in shifts:
            name = _free_name(f"{nodes[index].outputs[0].name}_shift", taken)
            shifts[key] = _Edited(_placeholder(name), value, gs.Variable.empty())
        _insert_add(graph, nodes[index], shifts[key].constant, taken)
    constants += shifts.values()
    constants += _select(graph, nodes, edits, taken)
    _drop_unread(graph, [edited.replaced for edited in constants])
    left = {t.name for t in graph.tensors().values()} | _captured(graph)
    count = Counter(edited.replaced.name for edited in constants)
    for edited in constants:
        name = edited.replaced.name
        if name and count[name] == 1 and name not in left:
            edited.constant.name = name
    values = {edited.constant.name: edited.value for edited in constants}
    return _put_together(model, graph, protos, values, shapes)


@dataclass(frozen=True, eq=False)
class _Edited:
    """A new constant in the graph, its value, and what was read before."""

    constant: gs.Constant
    value: Value
    replaced: gs.Tensor


def _connect(nodes: Sequence[gs.Node], edits: Edits, taken: set[str]) -> list[_Edited]:
    """Let nodes read their new constants; equal ones in place of one tensor are one."""
    constants: dict[tuple[str, str], _Edited] = {}
    for index, operand in sorted(edits.operands):
        node, value = nodes[index], edits.operands[index, operand]
        while len(node.inputs) <= operand:
            node.inputs.append(gs.Variable.empty())
        old = node.inputs[operand]
        # What a node did not read before, it shares with those alone that read its weight.
        key = (old.name or f"{node.inputs[1].name}:{operand}", identity(value))
        if key not in constants:
            name = _free_name(old.name or f"{node.inputs[1].name}_bias", taken)
            constants[key] = _Edited(_placeholder(name), value, old)
        node.inputs[operand] = constants[key].constant
    return list(constants.values())


def _placeholder(name: str) -> gs.Constant:
    """A constant for the graph; its value is kept beside it and may not be computed yet."""
    return gs.Constant(name, np.empty(0, np.float32))


def _free_name(base: str, taken: set[str]) -> str:
    number = 1
    while (name := f"{base}_pruned_{number}") in taken:
        number += 1
    taken.add(name)
    return name


def _insert_add(graph: gs.Graph, node: gs.Node, shift: gs.Constant, taken: set[str]) -> None:
    """Add a constant to a node's output; the sum takes the output's name."""
    output = node.outputs[0]
    before = gs.Variable(_free_name(output.name, taken), output.dtype)
    node.outputs[0] = before
    name = _free_name(f"{node.name or output.name}_add", taken)
    add = gs.Node("Add", name, inputs=[before, shift], outputs=[output])
    graph.nodes.insert(1 + next(i for i, n in enumerate(graph.nodes) if n is node), add)


def _select(
    graph: gs.Graph, nodes: Sequence[gs.Node], edits: Edits, taken: set[str]
) -> list[_Edited]:
    """Let nodes read some positions along an axis of a computed input; return the indices."""
    made: dict[tuple[str, int, bytes], gs.Variable] = {}
    indices: list[_Edited] = []
    for (index, operand), (axis, positions) in sorted(edits.selected.items()):
        node = nodes[index]
        whole = node.inputs[operand]
        key = whole.name, axis, positions.tobytes()
        if key not in made:
            name = _free_name(whole.name, taken)
            made[key] = gs.Variable(name, whole.dtype)
            chosen = _placeholder(_free_name(f"{whole.name}_channels", taken))
            indices.append(_Edited(chosen, positions.astype(np.int64), gs.Variable.empty()))
            gather = gs.Node(
                "Gather", f"{name}_gather", {"axis": axis}, [whole, chosen], [made[key]]
            )
            place = next(i for i, n in enumerate(graph.nodes) if n is node)
            graph.nodes.insert(place, gather)
        node.inputs[operand] = made[key]
    return indices


def _drop_unread(graph: gs.Graph, tensors: Sequence[gs.Tensor]) -> None:
    """Remove the nodes that only computed tensors which nothing reads any more."""
    kept = {t.name for t in graph.outputs} | _captured(graph)
    dead: set[int] = set()
    waiting = list(tensors)
    while waiting:
        for node in list(waiting.pop().inputs):
            if any(t.outputs or t.name in kept for t in node.outputs):
                continue
            dead.add(id(node))
            waiting += list(node.inputs)
            node.inputs.clear()
            node.outputs.clear()
    graph.nodes[:] = [node for node in graph.nodes if id(node) not in dead]


def _captured(graph: gs.Graph) -> set[str]:
    """Names that the bodies of If and Loop may read from outside."""
    return {name for node in graph.nodes for body in bodies(node) for name in names_read(body)}


def _put_together(
    model: onnx.ModelProto,
    graph: gs.Graph,
    protos: Protos,
    values: Mapping[str, Value],
    shapes: Shapes,
) -> ModelDraft:
    result = without_fields(model, ("node", "initializer", "input", "value_info"))
    result.graph.node.extend(_node(node, protos.get(id(node))) for node in graph.nodes)
    tensors = graph.tensors()
    read = set(tensors) | _captured(graph)
    edited = {name: values[name] for name in tensors if name in values}
    before = {name for node in model.graph.node for name in node.input}
    initializers: list[onnx.TensorProto | NamedArray] = []
    for initializer in model.graph.initializer:
        name = initializer.name
        if name in edited:
            initializers.append(NamedArray(name, edited.pop(name), initializer))
        elif name in read or name not in before:
            initializers.append(initializer)
    initializers += [NamedArray(name, value) for name, value in edited.items()]
    stale: dict[str, tuple[int | None, ...]] = dict(shapes)
    stale |= {t.name: t.value.shape for t in initializers if isinstance(t, NamedArray)}
    written = {name for node in result.graph.node for name in node.output}
    written |= {t.name for t in initializers}
    result.graph.input.extend(_inputs(model, initializers, stale))
    result.graph.value_info.extend(
        _reshaped(info, stale) for info in model.graph.value_info if info.name in written
    )
    return ModelDraft(result, tuple(initializers))


def _node(node: gs.Node, original: onnx.NodeProto | None) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(OnnxExporter.export_node(node) if original is None else original)
    copy.input[:] = [tensor.name for tensor in node.inputs]
    copy.output[:] = [tensor.name for tensor in node.outputs]
    kept = [a for a in copy.attribute if a.name in node.attrs]
    numbers = {a.name: helper.get_attribute_value(a) for a in kept if a.type in _NUMBERS}
    edited = [
        helper.make_attribute(name, value)
        for name, value in node.attrs.items()
        if _is_number(value) and numbers.get(name) != value
    ]
    names = {a.name for a in edited}
    attributes = [a for a in kept if a.name not in names] + edited
    if len(kept) < len(copy.attribute) or edited:
        del copy.attribute[:]
        copy.attribute.extend(attributes)
    return copy


def _is_number(value: object) -> bool:
    """Whether an attribute is of a kind that edits set."""
    return isinstance(value, int | float) or (
        isinstance(value, list) and value != [] and all(isinstance(v, int) for v in value)
    )


def _inputs(
    model: onnx.ModelProto, initializers: Sequence[onnx.TensorProto | NamedArray], shapes: Shapes
) -> Iterator[onnx.ValueInfoProto]:
    """Inputs as they were, less the initializers among them that are gone, plus new ones."""
    stored = {tensor.name for tensor in initializers}
    gone = {tensor.name for tensor in model.graph.initializer} - stored
    yield from (_reshaped(info, shapes) for info in model.graph.input if info.name not in gone)
    if not 0 < model.ir_version < UNLISTED_FROM:
        return
    listed = {info.name for info in model.graph.input}
    for new in initializers:
        if isinstance(new, NamedArray) and new.name not in listed:
            dtype = helper.np_dtype_to_tensor_dtype(new.value.dtype)
            yield helper.make_tensor_value_info(new.name, dtype, new.value.shape)


def _reshaped(info: onnx.ValueInfoProto, shapes: Shapes) -> onnx.ValueInfoProto:
    """Return a value info with the dimensions that have changed."""
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(info)
    tensor = copy.type.tensor_type
    new = shapes.get(info.name)
    if new is not None and tensor.HasField("shape"):
        if len(tensor.shape.dim) != len(new):
            tensor.ClearField("shape")  # it declared another number of axes
        for dim, size in zip(tensor.shape.dim, new, strict=False):
            if size is not None and dim.HasField("dim_value"):
                dim.dim_value = size
            elif size is not None:
                dim.ClearField("dim_param")  # what it names has another length now
    return copy
