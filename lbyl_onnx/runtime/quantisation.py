"""ONNX Runtime's own quantisation tools: the parts of them that are used, with types."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lbyl_onnx.errors import InstallationError, QuantisationError, first_line
from lbyl_onnx.graph.model_graph import UNLISTED_FROM, captured
from lbyl_onnx.methods.integers.rounding import most_of
from lbyl_onnx.option_types import Hardware
from lbyl_onnx.runtime.installed import ort
from lbyl_onnx.runtime.session import CPU, RUN_ERRORS, options
from lbyl_onnx.types import Floats

# Operator set from which on weights have a step for each output.
OPSET = 13


@dataclass(frozen=True, eq=False)
class Steps:
    """Steps of a weight's whole numbers, (outputs,), and the axis along which its outputs lie."""

    axis: int
    values: Floats


@dataclass(frozen=True, eq=False)
class QuantisationPlan:
    """How a model is quantised.

    Parameters
    ----------
    ranges
        Least and largest value of each activation.
    weights
        Steps of those that are rounded already, by name; of others the library takes its own.
    left
        Names of the nodes that stay in floating point.
    whole
        Names of activations that are not quantised, though a layer that is gives them.
    symmetric
        Whether zero lies in the middle of each range, and biases stay in floating point, as
        TensorRT wants it.
    """

    ranges: Mapping[str, tuple[float, float]]
    weights: Mapping[str, Steps]
    left: Sequence[str]
    whole: Sequence[str]
    symmetric: bool


def _library() -> Any:
    """Return ONNX Runtime's quantisation package."""
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise InstallationError(
            f"onnxruntime.quantization cannot be imported: {first_line(error)}; install the "
            "package that it names, or leave --quantize out"
        ) from error
    return quantization


@contextmanager
def _quiet(what: str, source: Path) -> Iterator[None]:
    """Keep the library's warnings from the screen, and say what fails in one line."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    except (InstallationError, QuantisationError):
        raise
    except Exception as error:  # the library raises whatever its operators' rules happen to
        raise QuantisationError(
            f"ONNX Runtime cannot {what} {source.name}: {type(error).__name__}: "
            f"{first_line(error)}; leave --quantize out, or the operator with --keep-float"
        ) from error
    finally:
        root.setLevel(level)


def preprocess(source: Path, output: Path) -> None:
    """Write a model as its quantisation wants it: folded, with shapes, of a newer operator set.

    Raises
    ------
    QuantisationError
        Where ONNX Runtime cannot, or the weights are stored in another type than float32.
    """
    with _quiet("prepare", source):
        model = onnx.load(source)
        _check_stored(model, source)
        versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
        if versions and versions[0] < OPSET:
            model = onnx.version_converter.convert_version(model, OPSET)
        listed = {tensor.name for tensor in model.graph.initializer}
        if model.ir_version < UNLISTED_FROM:  # initializers are listed among the inputs
            kept = [info for info in model.graph.input if info.name not in listed]
            del model.graph.input[:]
            model.graph.input.extend(kept)
            model.ir_version = 8
        settings = options()
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        settings.optimized_model_filepath = str(output)
        ort.InferenceSession(model.SerializeToString(), settings, [CPU])
        written = onnx.shape_inference.infer_shapes(onnx.load(output))
        for number, node in enumerate(written.graph.node):
            node.name = node.name or f"{node.op_type}_{number}"  # layers are left out by name
        _fold_beta(written)
        onnx.save(written, output)


def _fold_beta(model: onnx.ModelProto) -> None:
    """Multiply each Gemm's bias by its beta: the library takes that for 1."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        beta = next((a for a in node.attribute if a.name == "beta" and a.f != 1.0), None)
        if node.op_type != "Gemm" or beta is None or len(node.input) < 3:
            continue
        if node.input[2] in stored:
            value = numpy_helper.to_array(stored[node.input[2]])
            name = f"{node.output[0]}_times_beta"
            product = np.asarray(value * np.float32(beta.f))
            model.graph.initializer.append(numpy_helper.from_array(product, name))
            node.input[2] = name
            beta.f = 1.0


def _check_stored(model: onnx.ModelProto, source: Path) -> None:
    """Refuse a model of whose weights some are stored in another floating-point type."""
    others = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    for tensor in model.graph.initializer:
        if tensor.data_type in others and len(tensor.dims) > 1:
            kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
            raise QuantisationError(
                f"{source.name} stores weights in {kind}; ONNX Runtime quantises those in float32: "
                "export the model so, or leave --quantize out"
            )


def quantise(source: Path, output: Path, plan: QuantisationPlan) -> None:
    """Write a prepared model with pairs of QuantizeLinear and DequantizeLinear.

    Raises
    ------
    QuantisationError
        Where ONNX Runtime cannot.
    """
    library = _library()
    with _quiet("quantise", source):
        from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        model = onnx.load(source)
        int8 = library.QuantType.QInt8
        ranges = {
            name: (np.asarray(low, np.float32), np.asarray(high, np.float32))
            for name, (low, high) in plan.ranges.items()
        }
        chosen = {
            "ActivationSymmetric": plan.symmetric,
            "WeightSymmetric": True,
            "QuantizeBias": not plan.symmetric,
            "TensorQuantOverrides": {
                name: _override(weight, int8) for name, weight in plan.weights.items()
            },
        }
        quantizer = QDQQuantizer(
            model,
            True,  # a step for each output
            False,  # eight bits, not seven
            int8,
            int8,
            TensorsData(CalibrationMethod.MinMax, ranges),
            [],
            list(plan.left),
            [*QDQRegistry, *(op for op in QLinearOpsRegistry if op not in QDQRegistry)],
            chosen,
        )
        quantizer.quantize_model()
        written = quantizer.model.model
        _keep_whole(written, plan.whole)
        _keep_weights(written, plan.left)
        quantizer.model.topological_sort()
        onnx.save(written, output)


def _keep_whole(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Take away the pairs that quantise some activations, of which one node alone reads the first.

    The library calls what a node gives by another name where a graph output is quantised.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    readers = Counter(name for node in model.graph.node for name in node.input)
    gone: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}
    outputs = {info.name for info in model.graph.output}
    for second in model.graph.node:
        first = makers.get(second.input[0]) if second.op_type == "DequantizeLinear" else None
        if first is None or first.op_type != "QuantizeLinear" or first.input[0] not in makers:
            continue
        if not {first.input[0], second.output[0]} & {*names} or readers[first.output[0]] > 1:
            continue
        gone += [first, second]
        if second.output[0] in outputs:  # its name has to stay
            maker = makers[first.input[0]]
            position = [*maker.output].index(first.input[0])
            renamed[first.input[0]] = maker.output[position] = second.output[0]
        else:
            renamed[second.output[0]] = first.input[0]
    kept = [node for node in model.graph.node if node not in gone]
    for node in kept:
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    drop_unread(model)


def _keep_weights(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Keep ONNX Runtime from quantising the weights of layers that stay in floating point.

    Its graph optimisation `WeightBiasQuantization` takes one step for a whole weight of a Conv or a
    Gemm between activations in whole numbers. It leaves alone those whose bias is no initializer:
    so the bias becomes the product of 32-bit whole numbers and a step, which is as exact.
    """
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    more: list[onnx.NodeProto] = []
    for node in model.graph.node:
        ours = node.name in names and node.op_type in ("Conv", "ConvTranspose", "Gemm")
        if not ours or makers.get(node.input[0]) != "DequantizeLinear":
            continue
        bias = _bias_of(node, stored)
        if bias is None:
            continue
        # As float32 a step may come out smaller: then the largest number must fit in still.
        step = np.float32(max(float(np.abs(bias).max()), 1.0) / (np.iinfo(np.int32).max - 256))
        values = {"numbers": np.rint(bias / step).astype(np.int32), "step": step}
        parts = {part: f"{node.output[0]}_bias_{part}" for part in (*values, "exact")}
        model.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(value), parts[part])
            for part, value in values.items()
        )
        more.append(
            helper.make_node(
                "DequantizeLinear", [parts["numbers"], parts["step"]], [parts["exact"]]
            )
        )
        others = [*node.input[:2], parts["exact"]]
        del node.input[:]
        node.input.extend(others)
    model.graph.node.extend(more)
    drop_unread(model)


def _bias_of(node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto]) -> Floats | None:
    """(outputs,): the bias of a layer, zeros where it has none; None where it is no vector."""
    if len(node.input) > 2 and node.input[2]:
        bias = stored.get(node.input[2])
        if bias is None or len(bias.dims) != 1:
            return None
        return np.asarray(numpy_helper.to_array(bias), np.float64)
    weight = stored.get(node.input[1])
    if weight is None:
        return None
    numbers = {a.name: a.i for a in node.attribute}
    outputs = {
        "Conv": weight.dims[0],
        "ConvTranspose": weight.dims[1] * numbers.get("group", 1),
        "Gemm": weight.dims[0 if numbers.get("transB") else 1],
    }
    return np.zeros(outputs[node.op_type])


def drop_unread(model: onnx.ModelProto) -> None:
    """Take away initializers that no node reads and no output is."""
    read = {name for node in model.graph.node for name in node.input}
    read |= {info.name for info in model.graph.output}
    read = read.union(*(captured(node) for node in model.graph.node))
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _override(weight: Steps, kind: Any) -> list[dict[str, Any]]:
    """Steps of a weight as the library takes them."""
    zero = np.array(0, np.int8)
    each = [
        {"scale": np.array(step, np.float32), "zero_point": zero, "quant_type": kind}
        for step in weight.values
    ]
    each[0]["axis"] = weight.axis
    return each


def quantise_weights(source: Path, output: Path, left: Sequence[str], bits: int) -> None:
    """Write a model whose matrix products take whole numbers, ranges of activations as they come.

    Raises
    ------
    QuantisationError
        Where ONNX Runtime cannot.
    """
    library = _library()
    with _quiet("quantise", source):
        library.quantize_dynamic(
            str(source),
            str(output),
            op_types_to_quantize=["MatMul", "Attention", "Gather"],
            per_channel=True,
            reduce_range=bits < 8,
            weight_type=library.QuantType.QInt8,
            nodes_to_exclude=list(left),
        )


# Bits of weights that a machine's kernels take without overflow: on processors with neither VNNI
# nor the like, pairs of products are added up in 16 bits.
BITS: dict[Hardware, int] = {
    "avx2": 7,
    "avx512": 7,
    "neon": 8,
    "cuda": 8,
    "tensorrt-fp16": 8,
    "tensorrt-int8": 8,
}
# What is multiplied to try it: so many largest numbers by as many.
_TRIED = 64


def weight_bits(hardware: Hardware, provider: str) -> int:
    """Return the bits of weights whose products a machine adds up as they are.

    Parameters
    ----------
    hardware
        The machine; `host` is this one, which is tried.
    provider
        The execution provider that runs models on this one.
    """
    return BITS[hardware] if hardware != "host" else _tried_bits(provider)


@cache
def _tried_bits(provider: str) -> int:
    """Return 8 where the largest whole numbers of 8 bits multiply as they should, else 7."""
    most = float(most_of(8))
    expected = most * most * _TRIED
    try:
        session = ort.InferenceSession(
            _trial(expected / most).SerializeToString(),
            options(),
            list(dict.fromkeys([provider, CPU])),
        )
        x = np.full((1, _TRIED), most, np.float32)
        (y,) = session.run(None, {"x": x})
    except RUN_ERRORS:  # whoever cannot run it, quantises what others run
        return 8
    return 8 if np.allclose(y, expected, rtol=0.01) else 7


def _trial(step: float) -> onnx.ModelProto:
    """A product of whole numbers, (1, n) by (n, 1), each the largest of eight bits."""
    numbers = np.full((_TRIED, 1), most_of(8), np.int8)
    stored = {"one": np.float32(1), "zero": np.int8(0), "step": np.float32(step), "w": numbers}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "one", "zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "one", "zero"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["product"]),
        helper.make_node("QuantizeLinear", ["product", "step", "zero"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "step", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "trial",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, _TRIED])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)
