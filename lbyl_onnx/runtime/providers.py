"""Which execution provider works, and in which blocks of channels its kernels compute."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lbyl_onnx.errors import OptionError, first_line
from lbyl_onnx.option_types import Hardware, Provider
from lbyl_onnx.runtime.installed import ort
from lbyl_onnx.runtime.session import CPU, RUN_ERRORS, options
from lbyl_onnx.text import short


def provider_name(provider: Provider) -> str:
    """Return the execution provider to use: CUDA only where a session really runs on it.

    Raises
    ------
    OptionError
        When CUDA is asked for and does not initialise.
    """
    cuda = "CUDAExecutionProvider"
    if provider == "cpu":
        return CPU
    works = cuda in ort.get_available_providers() and cuda in _initialised(cuda)
    if provider == "cuda" and not works:
        raise OptionError("CUDA does not initialise in ONNX Runtime here; use --provider cpu")
    return cuda if works else CPU


def _initialised(provider: str) -> list[str]:
    """Providers of a session on a model of one node."""
    model = _one_node(helper.make_node("Identity", ["x"], ["y"]), [1], [])
    try:
        with _silent():
            session = ort.InferenceSession(model.SerializeToString(), options(), [provider, CPU])
    except RUN_ERRORS:
        return []
    return list(session.get_providers())


@contextmanager
def _silent() -> Iterator[None]:
    """Keep ONNX Runtime from logging: that CUDA is not there is an answer, not an error."""
    ort.set_default_logger_severity(4)
    try:
        yield
    finally:
        ort.set_default_logger_severity(2)  # ONNX Runtime's own default


def _one_node(
    node: onnx.NodeProto, shape: Sequence[int], weights: Sequence[TensorProto]
) -> onnx.ModelProto:
    """A model of one node, from x to y, both of one shape."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    graph = helper.make_graph([node], "g", [value], [result], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@dataclass(frozen=True)
class ProviderState:
    """An execution provider that this ONNX Runtime was built with.

    Parameters
    ----------
    name
        Of the provider.
    problem
        Why it does not work here; None where it does.
    """

    name: str
    problem: str | None


def provider_states() -> tuple[ProviderState, ...]:
    """Try each provider on a model of one node; return which of them really run it."""
    return tuple(ProviderState(name, _problem(name)) for name in ort.get_available_providers())


# Where in its sources ONNX Runtime raised an error.
_PLACE = re.compile(r"^\S+:\d+ [^()]*\([^()]*\) ")


def _problem(provider: str) -> str | None:
    model = _one_node(helper.make_node("Add", ["x", "x"], ["y"]), [2], [])
    value = np.asarray([1.0, -2.0], np.float32)
    try:
        with _silent():
            chain = list(dict.fromkeys([provider, CPU]))
            session = ort.InferenceSession(
                model.SerializeToString(), options(), chain, enable_fallback=0
            )
            if provider not in session.get_providers():
                return "does not initialise: its device, its driver or its libraries are missing"
            (result,) = session.run(None, {"x": value})
    except Exception as error:  # whatever a provider raises: it is what is wrong with it
        return short(_PLACE.sub("", first_line(error)))
    return None if np.array_equal(result, value + value) else "computes a wrong sum"


# Channels that lie together in the layout of the fast kernels: those of ONNX Runtime's blocked
# convolutions (MLAS, NCHWc) by instruction set, of half precision on tensor cores, and of
# TensorRT's int8 tensors, which hold 32 channels side by side.
BLOCKS: dict[Hardware, int] = {
    "avx2": 8,
    "avx512": 16,
    "neon": 16,
    "cuda": 8,
    "tensorrt-fp16": 8,
    "tensorrt-int8": 32,
}
# Where ONNX Runtime has no blocked convolutions: two vector registers of four.
_PLAIN = 8
# The domain of the nodes that ONNX Runtime puts in place of a Conv that runs in blocks.
_BLOCKED = "com.microsoft.nchwc"


def channel_block(hardware: Hardware, provider: str) -> int:
    """Return the step in channels that a machine gains by.

    Parameters
    ----------
    hardware
        The machine; `host` is this one.
    provider
        The execution provider that runs models on this one.
    """
    if hardware != "host":
        return BLOCKS[hardware]
    return _measured_block() if provider == CPU else BLOCKS["cuda"]


@cache
def _measured_block() -> int:
    """Return the block of the convolutions that ONNX Runtime runs on this processor.

    It is read off a Conv of four output channels as ONNX Runtime has optimised it: its weight is
    then filled up to one block.
    """
    weight = numpy_helper.from_array(np.zeros((4, 4, 1, 1), np.float32), "w")
    model = _one_node(helper.make_node("Conv", ["x", "w"], ["y"]), [1, 4, 4, 4], [weight])
    with tempfile.TemporaryDirectory(prefix="lbyl-onnx-") as folder:
        settings = options()
        settings.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        try:
            ort.InferenceSession(model.SerializeToString(), settings, [CPU])
            optimised = onnx.load(settings.optimized_model_filepath)
        except (*RUN_ERRORS, OSError):  # a build that runs models, but writes none
            return _PLAIN
    filled = {tensor.name: tensor.dims[0] for tensor in optimised.graph.initializer}
    for node in optimised.graph.node:
        if node.op_type == "Conv" and node.domain == _BLOCKED:
            return int(filled.get(node.input[1], _PLAIN))
    return _PLAIN
