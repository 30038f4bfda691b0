"""Write model-local functions out where they are called, so that channels can be followed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper
from onnx.checker import ValidationError
from onnx.inliner import inline_local_functions

from lbyl_onnx.errors import ModelError
from lbyl_onnx.graph.model_graph import subgraphs
from lbyl_onnx.io.writer import without_fields

Key = tuple[str, str, str]


def written_out(path: Path, model: ModelProto) -> ModelProto:
    """Return a model in whose graph no function is called; itself where it has no functions.

    A function that imports another version of an operator set than the model stays, and so do the
    calls of it.

    Parameters
    ----------
    path
        Of the model, for errors.
    model
        A model whose functions, written out, are within the bounds of `complexity`. Its functions
        are changed.

    Raises
    ------
    ModelError
        When a call does not fit its function.
    """
    if not model.functions:
        return model
    _leave_called(model)
    _complete_calls(model)
    for function in model.functions:
        _give_outputs_names(function)
    try:
        result = inline_local_functions(_hollow(model))
    except ValidationError as error:  # two of one name
        raise ModelError(
            f"{path} is not a valid ONNX model: {' '.join(str(error).split())}"
        ) from error
    except RuntimeError as error:  # an assertion of the inliner
        raise ModelError(
            f"{path} is not a valid ONNX model: it calls a function with more inputs or outputs "
            "than it has"
        ) from error
    del result.graph.initializer[:]
    result.graph.initializer.extend(model.graph.initializer)
    left = {_key(function) for function in result.functions}
    _import_as(result, [f for f in model.functions if _key(f) not in left])
    return result


def _key(of: FunctionProto) -> Key:
    return (of.domain, of.name, of.overload)


def _hollow(model: ModelProto) -> ModelProto:
    """Return a model whose initializers are names alone: the inliner copies what it is given."""
    result = without_fields(model, ("initializer",))
    result.graph.initializer.extend(
        TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0])
        for tensor in model.graph.initializer
    )
    return result


def _leave_called(model: ModelProto) -> None:
    """Remove the functions that nothing calls: they are not bounded, and not needed."""
    functions = {_key(function): function for function in model.functions}
    called: set[Key] = set()
    waiting: list[Iterable[NodeProto]] = [model.graph.node]
    while waiting:
        for node in _all_nodes([waiting.pop()], functions):
            if _called(node) not in called:
                called.add(_called(node))
                waiting.append(functions[_called(node)].node)
    left = [function for function in model.functions if _key(function) in called]
    if len(left) < len(model.functions):
        del model.functions[:]
        model.functions.extend(left)


def _complete_calls(model: ModelProto) -> None:
    """Give each call the attributes that its function has by default: the inliner forgets them."""
    defaults = {_key(f): f.attribute_proto for f in model.functions if f.attribute_proto}
    for node in _all_nodes((*(f.node for f in model.functions), model.graph.node), defaults):
        present = {attribute.name for attribute in node.attribute}
        added = [a for a in defaults[_called(node)] if a.name not in present]
        node.attribute.extend(added)


def _called(node: NodeProto) -> Key:
    return (node.domain, node.op_type, node.overload)


def _all_nodes(
    parts: Iterable[Iterable[NodeProto]], keys: Mapping[Key, object]
) -> Iterator[NodeProto]:
    """Yield the nodes that call one of some functions, those in bodies too."""
    for nodes in parts:
        for node in nodes:
            yield from _all_nodes((graph.node for graph in subgraphs(node)), keys)
            if _called(node) in keys:
                yield node


def _give_outputs_names(function: FunctionProto) -> None:
    """Let outputs that are inputs, or are given twice, come from an Identity of their own."""
    taken = {*function.input, *function.output}
    taken |= {name for node in function.node for name in (*node.input, *node.output)}
    used = set(function.input)
    for number, name in enumerate(list(function.output)):
        if name in used:
            free = next(n for i in range(len(taken) + 1) if (n := f"{name}_{i}") not in taken)
            taken.add(free)
            function.node.append(helper.make_node("Identity", [name], [free]))
            function.output[number] = free
        used.add(name)


def _import_as(model: ModelProto, functions: Iterable[FunctionProto]) -> None:
    """Import the operator sets that functions alone brought."""
    domains = {entry.domain for entry in model.opset_import}
    for entry in (entry for function in functions for entry in function.opset_import):
        if entry.domain not in domains:
            domains.add(entry.domain)
            model.opset_import.append(helper.make_opsetid(entry.domain, entry.version))
