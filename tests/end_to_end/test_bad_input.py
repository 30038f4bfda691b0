"""Models that are wrong, or that the tool cannot do: one clear error, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, helper, numpy_helper

from lbyl_onnx import Config, LbylOnnxError, ModelError, NothingToPruneError, compress
from lbyl_onnx.cli import main
from tests.support.models import MODELS

CPU = Config(round_to=1, ratio=0.5, provider="cpu")


def chain() -> ModelProto:
    return MODELS["chain_2d"]()


def cyclic() -> ModelProto:
    model = chain()
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]
    return model


def unsorted() -> ModelProto:
    model = chain()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    return model


def missing_initializer() -> ModelProto:
    model = chain()
    del model.graph.initializer[0]
    return model


def duplicate_output() -> ModelProto:
    model = chain()
    model.graph.node[1].output[0] = model.graph.node[0].output[0]
    return model


def zero_channels() -> ModelProto:
    model = chain()
    weight = model.graph.initializer[0]
    shape = (0, *weight.dims[1:])
    weight.CopyFrom(numpy_helper.from_array(np.empty(shape, np.float32), weight.name))
    return model


def unknown_operator() -> ModelProto:
    model = chain()
    model.graph.node[2].op_type = "Unheard"
    return model


def without_opset() -> ModelProto:
    model = chain()
    del model.opset_import[:]
    return model


def without_nodes() -> ModelProto:
    model = chain()
    del model.graph.node[:]
    return model


def truncated_weight() -> ModelProto:
    model = chain()
    weight = model.graph.initializer[0]
    weight.raw_data = weight.raw_data[:-4]
    return model


@pytest.mark.parametrize(
    "build",
    [
        cyclic,
        unsorted,
        missing_initializer,
        duplicate_output,
        zero_channels,
        unknown_operator,
        without_opset,
        without_nodes,
        truncated_weight,
    ],
)
def test_a_broken_model_is_one_clear_error(build: Callable[[], ModelProto], tmp_path: Path) -> None:
    (tmp_path / "in.onnx").write_bytes(build().SerializeToString())
    with pytest.raises(ModelError, match=r"in\.onnx") as caught:
        compress(tmp_path / "in.onnx", tmp_path / "out.onnx", config=CPU)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["in.onnx"]


@pytest.mark.parametrize("length", [1, 100, 5000])
def test_a_truncated_file_is_one_clear_error(sample: Path, tmp_path: Path, length: int) -> None:
    (tmp_path / "in.onnx").write_bytes(sample.read_bytes()[:length])
    with pytest.raises(ModelError, match=r"in\.onnx"):
        compress(tmp_path / "in.onnx", config=CPU)


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_are_an_error_of_ours(seed: int, tmp_path: Path) -> None:
    (tmp_path / "in.onnx").write_bytes(np.random.default_rng(seed).bytes(2000))
    with pytest.raises(LbylOnnxError):
        compress(tmp_path / "in.onnx", config=CPU)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("method", ["nm", "lbyl"])
def test_weights_that_are_not_finite_are_refused(bad: float, method: str) -> None:
    model = chain()
    weight = model.graph.initializer[0]
    value = numpy_helper.to_array(weight).copy()
    value.reshape(-1)[0] = bad
    weight.CopyFrom(numpy_helper.from_array(value, weight.name))
    with pytest.raises(LbylOnnxError, match="finite"):
        compress(model, config=Config(round_to=1, ratio=0.5, provider="cpu", method=method))


def quantised() -> ModelProto:
    model = chain()
    first = model.graph.node[0]
    scale = numpy_helper.from_array(np.array(0.1, np.float32), "scale")
    zero = numpy_helper.from_array(np.array(0, np.int8), "zero")
    model.graph.initializer.extend([scale, zero])
    pair = [
        helper.make_node("QuantizeLinear", [first.input[0], "scale", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], name="dq"),
    ]
    first.input[0] = "dq"
    nodes = [*pair, *(onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def test_a_quantised_model_is_told_to_be_pruned_first() -> None:
    with pytest.raises(NothingToPruneError, match="give the float model, and --quantize int8"):
        compress(quantised(), config=CPU)


def test_inspect_says_of_a_quantised_model_what_compress_says(tmp_path: Path) -> None:
    path = tmp_path / "in.onnx"
    onnx.save(quantised(), path)
    messages = []
    for arguments in (["inspect", str(path)], ["compress", "--ratio=0.3", str(path), "--dry-run"]):
        result = CliRunner().invoke(main, arguments)
        assert (result.exit_code, result.stdout) == (4, "")
        messages.append(result.stderr)
    assert messages[0] == messages[1]
