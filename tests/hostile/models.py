"""Models as a stranger could send them: name -> a builder that writes `in.onnx` into a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.support.architectures import chain
from tests.support.net import IR_VERSION

Build = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """A model, and what the command must say of it.

    Parameters
    ----------
    build
        Writes `in.onnx` and what goes with it.
    says
        What the error says, a regular expression; "" for a model that must pass.
    code
        The exit code.
    """

    build: Build
    says: str
    code: int = 1


def stored(make: Callable[[], ModelProto]) -> Build:
    """A builder that writes a model as it is."""

    def build(folder: Path) -> None:
        (folder / "in.onnx").write_bytes(make().SerializeToString())

    return build


def raw(content: bytes) -> Build:
    """A builder that writes bytes."""

    def build(folder: Path) -> None:
        (folder / "in.onnx").write_bytes(content)

    return build


# --- bytes ------------------------------------------------------------------------------------


def truncated(share: float) -> Build:
    content = chain().SerializeToString()
    return raw(content[: int(share * len(content))])


def _varint(value: int) -> bytes:
    """A number in protobuf's wire format: 7 bits a byte."""
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])


def sparse_file(folder: Path) -> None:
    """Three GiB of nothing: more than a message may hold."""
    with (folder / "in.onnx").open("wb") as file:
        file.write(chain().SerializeToString())
        file.truncate(3 << 30)


# --- graphs -----------------------------------------------------------------------------------


def nodes(*made: NodeProto, opset: int = 17, functions: object = ()) -> ModelProto:
    """A model of these nodes from x (1, 3, 6, 6) to y."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 6, 6))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 3, 6, 6))
    graph = helper.make_graph(list(made), "net", [x], [y])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(
        graph,
        opset_imports=opsets,
        ir_version=IR_VERSION,
        functions=list(functions),  # type: ignore[call-overload]
    )


def relus(count: int) -> ModelProto:
    """A chain of nodes."""
    model = nodes()
    for number in range(count):
        node = model.graph.node.add(op_type="Relu")
        node.input.append(f"t{number}" if number else "x")
        node.output.append(f"t{number + 1}" if number + 1 < count else "y")
    return model


def cyclic() -> ModelProto:
    model = chain()
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]
    return model


def duplicate_initializer() -> ModelProto:
    model = chain()
    model.graph.initializer.append(model.graph.initializer[0])
    return model


def duplicate_output() -> ModelProto:
    model = chain()
    model.graph.node[1].output[0] = model.graph.node[0].output[0]
    return model


def duplicate_node_names() -> ModelProto:
    model = chain()
    for node in model.graph.node:
        node.name = "twin"
    return model


def nested_bodies(depth: int) -> ModelProto:
    """If in If in If."""
    value = helper.make_tensor_value_info
    inner = _leaf("y0")
    for level in range(1, depth):
        outputs = [value(f"y{level}", TensorProto.FLOAT, (1, 3, 6, 6))]
        choose = helper.make_node("If", ["c"], [f"y{level}"], name=f"if{level}")
        for branch, graph in (("then_branch", inner), ("else_branch", _leaf(f"z{level}"))):
            choose.attribute.append(helper.make_attribute(branch, graph))
        inner = helper.make_graph([choose], f"g{level}", [], outputs)
    model = nodes(
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True)))
    )
    inner.node[0].output[0] = "y"
    model.graph.node.append(inner.node[0])
    return model


def _leaf(name: str) -> GraphProto:
    y = helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3, 6, 6))
    return helper.make_graph([helper.make_node("Relu", ["x"], [name])], name, [], [y])


def too_deep(folder: Path) -> None:
    """More bodies in one another than protobuf parses; its own library still writes them."""
    body = b""
    for _ in range(60):  # GraphProto.node(1) . attribute(5) . g(6)
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            body = tag + _varint(len(body)) + body
    content = nodes(helper.make_node("Relu", ["x"], ["y"])).SerializeToString()
    (folder / "in.onnx").write_bytes(content + b"\x3a" + _varint(len(body)) + body)


def endless_loop() -> ModelProto:
    """A Loop of 2^62 turns."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["c"], ["c_out"]),
            helper.make_node("Sin", ["s"], ["s_out"]),
        ],
        "body",
        [
            value("i", TensorProto.INT64, ()),
            value("c", TensorProto.BOOL, ()),
            value("s", TensorProto.FLOAT, None),
        ],
        [value("c_out", TensorProto.BOOL, ()), value("s_out", TensorProto.FLOAT, None)],
    )
    trips = helper.make_node("Constant", [], ["n"], value_int=2**62)
    return nodes(trips, helper.make_node("Loop", ["n", "", "x"], ["y"], body=body))


def bomb(elements: int) -> ModelProto:
    """A few bytes that ask for a tensor of this many elements."""
    size = numpy_helper.from_array(np.array([elements], np.int64))
    return nodes(
        helper.make_node("Constant", [], ["n"], value=size),
        helper.make_node("ConstantOfShape", ["n"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"]),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    )


def wide_input(*dims: int) -> ModelProto:
    model = chain()
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, dims, strict=True):
        dim.Clear()
        dim.dim_value = size
    return model


def doubling_functions(depth: int) -> ModelProto:
    """Each function calls the next one twice: 2^depth nodes once they are expanded."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    functions = []
    for level in range(depth):
        if level + 1 < depth:
            made = [
                helper.make_node(f"f{level + 1}", ["a"], ["b"], domain="local"),
                helper.make_node(f"f{level + 1}", ["b"], ["c"], domain="local"),
            ]
        else:
            made = [helper.make_node("Relu", ["a"], ["c"])]
        functions.append(helper.make_function("local", f"f{level}", ["a"], ["c"], made, opsets))
    call = helper.make_node("f0", ["x"], ["y"], domain="local")
    return nodes(call, functions=functions)


def recursive_function() -> ModelProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    made = [helper.make_node("f", ["a"], ["b"], domain="local")]
    function = helper.make_function("local", "f", ["a"], ["b"], made, opsets)
    return nodes(helper.make_node("f", ["x"], ["y"], domain="local"), functions=[function])


def harmless_function() -> ModelProto:
    """A function of the model's own between two layers."""
    model = chain()
    opsets = [helper.make_opsetid("", 17)]
    made = [helper.make_node("Relu", ["a"], ["b"])]
    model.functions.append(helper.make_function("local", "act", ["a"], ["b"], made, opsets))
    model.opset_import.append(helper.make_opsetid("local", 1))
    node = next(n for n in model.graph.node if n.op_type == "Relu")
    node.op_type, node.domain = "act", "local"
    return model


def custom_operator() -> ModelProto:
    model = chain()
    model.opset_import.append(helper.make_opsetid("com.stranger", 1))
    node = next(n for n in model.graph.node if n.op_type == "Relu")
    node.op_type, node.domain = "Run", "com.stranger"
    node.attribute.append(helper.make_attribute("library", "./custom_op.so"))
    return model


def empty_variadic() -> ModelProto:
    """Max without one of its inputs: a null pointer to ONNX Runtime 1.31, found by fuzzing."""
    return nodes(helper.make_node("Max", ["x", ""], ["y"]))


def unknown_version() -> ModelProto:
    model = chain()
    model.opset_import[0].version = 10**6
    return model


def unknown_ir() -> ModelProto:
    model = chain()
    model.ir_version = 10**6
    return model


def string_input() -> ModelProto:
    model = chain()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    return model


def wrong_attribute() -> ModelProto:
    model = chain()
    for attribute in model.graph.node[0].attribute:
        if attribute.name == "pads":
            attribute.ints[:] = [2**62] * 4
    return model


# --- names ------------------------------------------------------------------------------------


def named(name: str) -> ModelProto:
    """Nodes, tensors and the graph named after a text."""
    model = chain()
    for number, node in enumerate(model.graph.node):
        node.name = f"{name}{number}"
    model.graph.name = model.producer_name = name
    old = model.graph.output[0].name
    model.graph.output[0].name = name
    for node in model.graph.node:
        node.output[:] = [name if o == old else o for o in node.output]
    return model


def bad_unicode() -> bytes:
    content: bytes = chain().SerializeToString()
    return content.replace(b"conv_0", b"con\xff\xfe_", 1)


# --- weights ----------------------------------------------------------------------------------


def first_weight(change: Callable[[TensorProto], None]) -> Build:
    def make() -> ModelProto:
        model = chain()
        change(model.graph.initializer[0])
        return model

    return stored(make)


def filled(value: float) -> Build:
    def change(tensor: TensorProto) -> None:
        array = np.full(tuple(tensor.dims), value, np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    return first_weight(change)


def dims(*sizes: int) -> Build:
    def change(tensor: TensorProto) -> None:
        tensor.dims[:] = sizes

    return first_weight(change)


def data_type(number: int) -> Build:
    def change(tensor: TensorProto) -> None:
        tensor.data_type = number

    return first_weight(change)


def shorter(tensor: TensorProto) -> None:
    tensor.raw_data = tensor.raw_data[:-4]


def zero_size() -> ModelProto:
    """A weight without any output channel."""
    model = chain()
    weight = model.graph.initializer[0]
    shape = (0, *weight.dims[1:])
    weight.CopyFrom(numpy_helper.from_array(np.empty(shape, np.float32), weight.name))
    return model


def empty_batch() -> ModelProto:
    """An input that holds nothing, by its own shape."""
    return wide_input(0, 3, 6, 6)


def sparse_weight(*, outside: bool) -> ModelProto:
    """The first weight as a sparse initializer; with its values, they say, in another file."""
    model = chain()
    weight = model.graph.initializer[0]
    value = numpy_helper.to_array(weight).reshape(-1)
    values = numpy_helper.from_array(value, weight.name)
    if outside:
        values.ClearField("raw_data")
        values.data_location = TensorProto.EXTERNAL
        values.external_data.add(key="location", value="../secret.bin")
    indices = numpy_helper.from_array(np.arange(value.size), f"{weight.name}_indices")
    model.graph.sparse_initializer.add(values=values, indices=indices, dims=weight.dims)
    del model.graph.initializer[0]
    return model


def constant_outside() -> ModelProto:
    """A Constant node and a function whose tensors, they say, lie outside."""
    tensor = TensorProto(name="k", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    constant = helper.make_node("Constant", [], ["k"], value=tensor)
    total = helper.make_node("ReduceSum", ["k"], ["s"])
    opsets = [helper.make_opsetid("", 17)]
    made = [constant, total, helper.make_node("Add", ["a", "s"], ["b"])]
    function = helper.make_function("local", "leak", ["a"], ["b"], made, opsets)
    return nodes(helper.make_node("leak", ["x"], ["y"], domain="local"), functions=[function])


def external(key: str, value: str) -> Build:
    """The chain with its weights in `weights.bin`; an entry of the first one changed."""

    def build(folder: Path) -> None:
        model = chain()
        onnx.save(
            model,
            folder / "in.onnx",
            save_as_external_data=True,
            location="weights.bin",
            size_threshold=0,
        )
        changed = onnx.load(folder / "in.onnx", load_external_data=False)
        tensor = next(t for t in changed.graph.initializer if t.external_data)
        entry = next((e for e in tensor.external_data if e.key == key), None)
        entry = entry or tensor.external_data.add(key=key)
        entry.value = value
        (folder / "in.onnx").write_bytes(changed.SerializeToString())

    return build


def linked(link: Callable[[Path, Path], None]) -> Build:
    """The weights are a link to a file outside the folder."""

    def build(folder: Path) -> None:
        external("offset", "0")(folder)
        data = folder / "weights.bin"
        outside = folder.parent / "elsewhere.bin"
        data.rename(outside)
        link(data, outside)

    return build


def overlapping(folder: Path) -> None:
    """All weights begin at the same byte."""
    external("offset", "0")(folder)
    model = onnx.load(folder / "in.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "offset":
                entry.value = "0"
    (folder / "in.onnx").write_bytes(model.SerializeToString())


def endless_device(folder: Path) -> None:
    """The weights are a link to a device that never ends."""
    external("offset", "0")(folder)
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").symlink_to("/dev/zero")


def pipe(folder: Path) -> None:
    """The weights are a pipe that nobody writes to."""
    external("offset", "0")(folder)
    (folder / "weights.bin").unlink()
    os.mkfifo(folder / "weights.bin")


NOT_ONNX = "is not an ONNX model|is not a valid ONNX model"
OUTSIDE = "leads out of its folder"
REFUSED: dict[str, Case] = {
    "empty": Case(raw(b""), NOT_ONNX),
    "one byte": Case(raw(b"\x08"), NOT_ONNX),
    "text": Case(raw(b"what is this?\n" * 100), NOT_ONNX),
    "a zip archive": Case(raw(b"PK\x03\x04" + bytes(200)), NOT_ONNX),
    "a pickle": Case(raw(b"\x80\x04\x95" + bytes(200)), NOT_ONNX),
    "zeros": Case(raw(bytes(10**6)), NOT_ONNX),
    "random": Case(raw(np.random.default_rng(0).bytes(10**6)), NOT_ONNX),
    "larger than a message": Case(sparse_file, "2 GiB"),
    "bad unicode": Case(raw(bad_unicode()), NOT_ONNX),
    **{f"truncated at {s}": Case(truncated(s), NOT_ONNX) for s in (0.1, 0.5, 0.9, 0.999)},
    "no nodes": Case(stored(nodes), "holds no nodes"),
    "cyclic": Case(stored(cyclic), "topological|not a valid"),
    "an initializer twice": Case(stored(duplicate_initializer), "(?i)duplicate|unique|valid"),
    "an output twice": Case(stored(duplicate_output), "not a valid ONNX model"),
    "nodes of one name": Case(stored(duplicate_node_names), "same node name"),
    "a million nodes": Case(stored(lambda: relus(10**6)), "1,000,000 nodes"),
    "bodies nested 30 deep": Case(stored(lambda: nested_bodies(30)), "nothing could", 4),
    "bodies nested too deep": Case(too_deep, NOT_ONNX),
    "an endless loop": Case(stored(endless_loop), "seconds"),
    "2^34 elements from nothing": Case(stored(lambda: bomb(2**34)), "AllocateRaw|memory"),
    "2^60 elements from nothing": Case(stored(lambda: bomb(2**60)), "."),
    "-1 elements from nothing": Case(stored(lambda: bomb(-1)), "."),
    "an input of 2^40": Case(stored(lambda: wide_input(2**40, 3, 6, 6)), "input x"),
    "an input that overflows": Case(stored(lambda: wide_input(2**62, 3, 2**62, 6)), "input x"),
    "functions that double": Case(stored(lambda: doubling_functions(40)), "functions"),
    "a function that calls itself": Case(stored(recursive_function), "."),
    "an operator of a stranger's": Case(stored(custom_operator), "."),
    "an opset of the future": Case(stored(unknown_version), "."),
    "an IR of the future": Case(stored(unknown_ir), "."),
    "an operand left out": Case(stored(empty_variadic), "crashed|cannot run|cannot load"),
    "strings as input": Case(stored(string_input), "."),
    "pads of 2^62": Case(stored(wrong_attribute), "."),
    "NaN": Case(filled(np.nan), "finite", 3),
    "infinity": Case(filled(np.inf), "finite", 3),
    "dims that overflow": Case(dims(2**32, 2**32), "not a valid|cannot load"),
    "dims of 2^60": Case(dims(2**60), "not a valid|cannot load"),
    "dims of -1": Case(dims(-1, 3, 3, 3), "not a valid|cannot load"),
    "a type of 99": Case(data_type(99), "not a valid|cannot load"),
    "a type of string": Case(data_type(TensorProto.STRING), "not a valid|cannot load"),
    "a type of four bits": Case(data_type(TensorProto.INT4), "not a valid|cannot load"),
    "bytes too few": Case(first_weight(shorter), "not a valid|cannot load"),
    "a weight of no channels": Case(stored(zero_size), "."),
    "sparse values outside": Case(stored(lambda: sparse_weight(outside=True)), OUTSIDE),
    "a function's tensor outside": Case(stored(constant_outside), OUTSIDE),
    "external ..": Case(external("location", "../secret.bin"), OUTSIDE),
    "external a/../..": Case(external("location", "a/../../secret.bin"), OUTSIDE),
    "external absolute": Case(external("location", "/etc/passwd"), "no relative path"),
    "external of Windows": Case(external("location", "C:\\weights.bin"), "no relative path"),
    "external with NUL": Case(external("location", "weights\0.bin"), "no relative path"),
    "external without name": Case(external("location", ""), "no relative path"),
    "external a name too long": Case(external("location", "a" * 5000), "is no file"),
    "external a folder": Case(external("location", "."), "is no file"),
    "external offset -4096": Case(external("offset", "-4096"), "no number"),
    "external offset 2^60": Case(external("offset", str(2**60)), "behind the end"),
    "external offset of 5000 digits": Case(external("offset", "9" * 5000), "no number"),
    "external length -1": Case(external("length", "-1"), "no number"),
    "external length 2^60": Case(external("length", str(2**60)), "its shape takes"),
    "external length 4": Case(external("length", "4"), "its shape takes"),
    "external a link outside": Case(linked(Path.symlink_to), OUTSIDE),
    "external a hard link outside": Case(linked(Path.hardlink_to), "hard link"),
    "external a device": Case(endless_device, OUTSIDE),
    "external overlapping": Case(overlapping, "overlaps"),
    "external a pipe": Case(pipe, "is no file"),
}  # fmt: skip
ESCAPES = "\x1b]0;title\x07\x1b[2J\x1b[31m\r\x9b8m\u202e"
HTML = "</td><script>alert(1)</script><img src=x onerror=alert(1)>&quot;"
PATHS = "../../../../tmp/x/..\\..\\C:/aux"
PASSED: dict[str, Case] = {
    "names with terminal escapes": Case(stored(lambda: named(ESCAPES)), "", 0),
    "names with HTML": Case(stored(lambda: named(HTML)), "", 0),
    "names with paths": Case(stored(lambda: named(PATHS)), "", 0),
    "names of rich's markup": Case(stored(lambda: named("[red]x[/red][/]")), "", 0),
    "names of a megabyte": Case(stored(lambda: named("n" * 10**6)), "", 0),
    "denormal weights": Case(filled(1e-42), "", 0),
    "zero weights": Case(filled(0.0), "", 0),
    "a function of its own": Case(stored(harmless_function), "", 0),
    # ONNX Runtime, too, takes any negative size for one that is not known.
    "an input of -5": Case(stored(lambda: wide_input(1, -5, 6, 6)), "", 0),
}
