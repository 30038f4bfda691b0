"""Small models for each way in which files store weights, names and notes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.support.architectures import chain, flatten_spatial, residual
from tests.support.net import IR_VERSION, Net

# --- where weights come from ------------------------------------------------------------------


def constant_nodes() -> ModelProto:
    """Every weight in a Constant node, as PaddlePaddle exports."""
    model = chain()
    constants = [
        helper.make_node("Constant", [], [t.name], name=f"const_{t.name}", value=t)
        for t in model.graph.initializer
    ]
    nodes = [*constants, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def identity_chains() -> ModelProto:
    """Every weight behind two Identity nodes."""
    model = chain()
    aliases: list[NodeProto] = []
    for tensor in model.graph.initializer:
        for stage in (1, 2):
            source = tensor.name if stage == 1 else f"{tensor.name}_1"
            aliases.append(helper.make_node("Identity", [source], [f"{tensor.name}_{stage}"]))
    stored = {t.name for t in model.graph.initializer}
    nodes = [*aliases, *model.graph.node]
    for node in model.graph.node:
        node.input[:] = [f"{n}_2" if n in stored else n for n in node.input]
    nodes = [*aliases, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def dynamo_batch_norm(opset: int = 18) -> ModelProto:
    """BatchNormalization as the dynamo exporter leaves it: Expand(CastLike(1, w), Shape(w))."""
    net = Net(("N", 3, 6, 6), opset=opset)
    x = "x"
    for number, channels in enumerate(((3, 8), (8, 6))):
        x = net.conv(x, channels, bias=False)
        mean = net.constant(f"mean_{number}", net.cast(net.rng.normal(size=channels[1])))
        var = net.constant(f"var_{number}", net.cast(net.rng.uniform(0.5, 1.5, channels[1])))
        shape = net.node("Shape", [mean])
        filled = []
        for value in (1.0, 0.0):
            scalar = net.constant(f"{value}_{number}", np.float32(value))
            like = net.node("CastLike", [scalar, mean])
            filled.append(net.node("Expand", [like, shape]))
        parameters = [*filled, net.node("Identity", [mean]), var]
        x = net.relu(net.node("BatchNormalization", [x, *parameters]))
    return net.model(net.head(x, 6))


def constant_of_shape() -> ModelProto:
    """Bias and scale filled by ConstantOfShape."""
    net = Net(("N", 3, 6, 6))
    one = numpy_helper.from_array(np.ones(1, np.float32))
    ones = net.node("ConstantOfShape", [net.ints(8)], {"value": one})
    zeros = net.node("ConstantOfShape", [net.ints(8)])
    x = net.node("Conv", ["x", net.weight("w", 8, 3, 3, 3), zeros], {"pads": [1, 1, 1, 1]})
    spread = net.constant("var", net.cast(net.rng.uniform(0.5, 1.5, 8)))
    x = net.relu(net.node("BatchNormalization", [x, ones, zeros, zeros, spread]))
    return net.model(net.head(net.block(x, (8, 6)), 6))


def shared_weight() -> ModelProto:
    """A head of two layers, applied to three levels of a pyramid; the first has one bias."""
    net = Net(("N", 3, 9, 9))
    level = net.block("x", (3, 7))
    net.weight("w", 8, 7, 3, 3)
    net.constant("b", net.cast(net.rng.normal(size=8)))
    net.weight("v", 5, 8, 1, 1)
    pooled = []
    for _ in range(3):
        hidden = net.relu(net.node("Conv", [level, "w", "b"], {"pads": [1, 1, 1, 1]}))
        pooled.append(net.node("GlobalAveragePool", [net.node("Conv", [hidden, "v"])]))
        level = net.node("MaxPool", [level], {"kernel_shape": [2, 2], "strides": [2, 2]})
    x = net.node("Flatten", [net.node("Concat", pooled, {"axis": 1})])
    return net.model(net.gemm(x, 15, 4))


def shared_bias() -> ModelProto:
    """Two layers with weights of their own and one bias, behind a third."""
    net = Net(("N", 3, 6, 6))
    x = net.relu(net.conv("x", (3, 8)))
    net.constant("b", net.cast(net.rng.normal(size=6)))
    both = [net.relu(net.node("Conv", [x, net.weight(f"v{i}", 6, 8, 1, 1), "b"])) for i in range(2)]
    return net.model(net.head(net.node("Concat", both, {"axis": 1}), 12))


def shared_fill() -> ModelProto:
    """Two layers that follow each other read one vector of a single number as their bias."""
    net = Net(("N", 3, 6, 6))
    fill = net.constant("b", np.full(6, 0.25, np.float32))
    x = net.relu(net.node("Conv", ["x", net.weight("w0", 6, 3, 3, 3), fill]))
    x = net.relu(net.node("Conv", [x, net.weight("w1", 6, 6, 3, 3), fill]))
    return net.model(net.head(x, 6))


def if_body() -> ModelProto:
    """An If whose bodies read an activation and an initializer that a layer reads, too."""
    net = Net(("N", 3, 6, 6))
    x = net.relu(net.node("Conv", ["x", net.weight("w0", 8, 3, 1, 1)]))
    inner = net.relu(net.node("Conv", [x, net.weight("w1", 7, 8, 1, 1), net.weight("b1", 7)]))
    deep = net.relu(net.node("Conv", [inner, net.weight("w2", 6, 7, 1, 1)]))
    last = net.node("Conv", [deep, net.weight("w3", 5, 6, 1, 1)])
    bodies = {
        f"{branch}_branch": _body(branch, [("ReduceMax", [deep]), ("ReduceSum", ["b1"])])
        for branch in ("then", "else")
    }
    condition = net.constant("condition", np.asarray(True))
    extra = net.node("If", [condition], bodies)
    return net.model(net.node("Add", [last, extra]))


def _body(branch: str, reductions: Sequence[tuple[str, list[str]]]) -> GraphProto:
    nodes = [
        helper.make_node(op_type, inputs, [f"{branch}_{i}"], keepdims=0)
        for i, (op_type, inputs) in enumerate(reductions)
    ]
    result = f"{branch}_{len(nodes)}"
    nodes.append(helper.make_node("Add", [f"{branch}_0", f"{branch}_1"], [result]))
    info = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
    return helper.make_graph(nodes, branch, [], [info])


def bfloat16_weights() -> ModelProto:
    """Weights stored in bfloat16 and cast where they are read."""
    model = chain()
    casts: list[NodeProto] = []
    for tensor in model.graph.initializer:
        name = f"{tensor.name}_stored"
        casts.append(helper.make_node("Cast", [name], [tensor.name], to=TensorProto.FLOAT))
        value = numpy_helper.to_array(tensor)
        half = value.astype(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
        tensor.CopyFrom(numpy_helper.from_array(half, name))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


# --- files as they are found --------------------------------------------------------------------


def initializers_as_inputs(build: Callable[[], ModelProto] = chain, ir: int = 8) -> ModelProto:
    """Initializers listed as graph inputs, too, as IR version 3 demanded."""
    model = build()
    model.ir_version = ir
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    )
    return model


def annotated() -> ModelProto:
    """Doc strings and metadata wherever the format has a place for them, and a custom domain."""
    model = residual()
    model.doc_string, model.producer_name, model.producer_version = "model", "maker", "1.2"
    model.domain, model.model_version = "org.example", 7
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    helper.set_model_props(model, {"classes": "ten", "author": "someone"})
    model.graph.doc_string = "graph"
    for item in (*model.graph.node, *model.graph.initializer, *model.graph.input):
        item.doc_string = f"about {item.name}"
        item.metadata_props.add(key="namespace", value=f"layer/{item.name}")
    model.graph.output[0].doc_string = "scores"
    model.graph.metadata_props.add(key="source", value="tests")
    return model


def custom_domain() -> ModelProto:
    """An operator of ONNX Runtime's own domain between two layers."""
    net = Net(("N", 3, 6, 6))
    x = net.block("x", (3, 8))
    x = net.conv(x, (8, 6))
    x = net.node("QuickGelu", [x], {"domain": "com.microsoft", "alpha": 1.7})
    net.inputs.append(helper.make_tensor_value_info("unused", TensorProto.FLOAT, ["N", 2]))
    head = net.conv(x, (6, 4), (1, 1))
    graph = helper.make_graph(
        net.nodes,
        "net",
        net.inputs[:1],
        [helper.make_tensor_value_info(head, TensorProto.FLOAT, ["N", 4, 6, 6])],
        net.initializers,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def unnamed() -> ModelProto:
    """Nodes without names."""
    model = residual()
    for node in model.graph.node:
        node.ClearField("name")
    return model


def with_value_info(build: Callable[[], ModelProto] = flatten_spatial) -> ModelProto:
    """Shapes of all tensors stored in the file."""
    return onnx.shape_inference.infer_shapes(build())


def dangling() -> ModelProto:
    """A node whose output nothing reads, and an initializer that no node reads."""
    model = chain()
    relu = next(n for n in model.graph.node if n.op_type == "Relu")
    model.graph.node.append(helper.make_node("Neg", ["x"], ["unread"], name="dangling"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "unread_w"))
    assert relu.output[0] != "unread"
    return model
