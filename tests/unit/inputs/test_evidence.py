"""What each input takes, from what reads it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from lbyl_onnx.data.input_kind import InputKind
from lbyl_onnx.data.samples import Input
from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.inputs.evidence import input_kinds, with_evidence
from tests.support.net import Dims, Net
from tests.support.oracle import input_shapes

LENGTH = 12


def kinds(model: ModelProto) -> dict[str, InputKind]:
    tensor_info = TensorInfo(
        model, input_shapes(model, 1, LENGTH), input_shapes(model, 2, LENGTH + 1)
    )
    return input_kinds(to_graph(model), tensor_info)


class Encoder:
    """A text encoder's front in the making: each method adds an input and what reads it."""

    def __init__(self) -> None:
        self.net = Net(("N", LENGTH))
        self.net.inputs = []

    def add_input(self, name: str, dtype: int = TensorProto.INT64) -> str:
        self.net.inputs.append(helper.make_tensor_value_info(name, dtype, ("N", LENGTH)))
        return name

    def rows(self, name: str, rows: int, *steps: str) -> str:
        """Read a table by an input, behind operators that keep its values."""
        x = self.add_input(name)
        for step in steps:
            if step == "Cast":
                x = self.net.node("Cast", [x], {"to": TensorProto.INT32})
            elif step == "Unsqueeze":
                x = self.net.node("Unsqueeze", [x, self.net.ints(2)])
            elif step == "Squeeze":
                x = self.net.node("Squeeze", [x, self.net.ints(2)])
        table = self.net.weight(f"table_{name}", rows, 8)
        return self.net.node("Gather", [table, x])

    def masked(self, name: str, dtype: int, from_one: bool = True) -> str:
        """Make (1 - mask) * -10000 of an input, as it is added to scores."""
        x = self.add_input(name, dtype)
        if dtype != TensorProto.FLOAT:
            x = self.net.node("Cast", [x], {"to": TensorProto.FLOAT})
        one = self.net.constant(f"one_{name}", np.float32(1.0 if from_one else 2.0))
        x = self.net.node("Sub", [one, x])
        x = self.net.node("Mul", [x, self.net.constant(f"far_{name}", np.float32(-10000.0))])
        return self.net.node("Unsqueeze", [x, self.net.ints(2)])

    def model(self, *parts: str) -> ModelProto:
        total = parts[0]
        for part in parts[1:]:
            total = self.net.node("Add", [total, part])
        return self.net.model(total)


@pytest.mark.parametrize("steps", [(), ("Cast",), ("Unsqueeze", "Cast", "Squeeze")])
def test_what_reads_a_table_is_tokens(steps: tuple[str, ...]) -> None:
    encoder = Encoder()
    kind = kinds(encoder.model(encoder.rows("a", 50, *steps)))["a"]
    assert (kind.name, kind.sure) == ("tokens", "clear")
    assert kind.vocabulary is not None
    assert kind.vocabulary.size == 50
    assert "50 rows" in kind.reason


def test_a_table_of_few_rows_is_of_segments() -> None:
    encoder = Encoder()
    assert kinds(encoder.model(encoder.rows("a", 2)))["a"].name == "segments"


def test_a_whole_encoder() -> None:
    encoder = Encoder()
    found = kinds(
        encoder.model(
            encoder.rows("input_ids", 300),
            encoder.rows("token_type_ids", 2),
            encoder.rows("position_ids", 64),
            encoder.masked("attention_mask", TensorProto.INT64),
        )
    )
    assert {name: kind.name for name, kind in found.items()} == {
        "input_ids": "tokens",
        "token_type_ids": "segments",
        "position_ids": "positions",
        "attention_mask": "mask",
    }


def test_the_largest_table_is_never_of_positions() -> None:
    encoder = Encoder()
    assert kinds(encoder.model(encoder.rows("position_ids", 64)))["position_ids"].name == "tokens"


@pytest.mark.parametrize(
    ("dtype", "from_one", "name"),
    [
        (TensorProto.INT64, True, "mask"),
        (TensorProto.INT32, False, "mask"),
        (TensorProto.FLOAT, True, "mask"),
        # Other floats may be taken from a number for other reasons.
        (TensorProto.FLOAT, False, "vector"),
    ],
)
def test_masks(dtype: int, from_one: bool, name: str) -> None:
    encoder = Encoder()
    assert kinds(encoder.model(encoder.masked("m", dtype, from_one)))["m"].name == name


def test_what_is_added_to_scores_leaves_them_alone() -> None:
    net = Net(("N", 4, 6))
    net.inputs.append(helper.make_tensor_value_info("bias", TensorProto.FLOAT, ("N", 1, 6)))
    scores = net.node("Add", [net.node("MatMul", ["x", net.weight("w", 6, 6)]), "bias"])
    kind = kinds(net.model(net.node("Softmax", [scores], {"axis": -1})))["bias"]
    assert (kind.name, kind.mean) == ("constant", 0.0)


def test_negative_tokens_are_brought_into_the_table() -> None:
    """TensorFlow's exporter adds the number of rows to what is below zero."""
    encoder = Encoder()
    x, net = encoder.add_input("a"), encoder.net
    below = net.node("Less", [x, net.constant("zero", np.int64(0))])
    wrapped = net.node("Add", [x, net.constant("rows", np.int64(30))])
    index = net.node("Where", [below, wrapped, x])
    found = kinds(encoder.model(net.node("Gather", [net.weight("t", 30, 8), index])))
    assert found["a"].name == "tokens"


def test_what_is_made_one_hot_is_tokens() -> None:
    encoder = Encoder()
    x, net = encoder.add_input("a"), encoder.net
    values = net.constant("values", np.array([0.0, 1.0], np.float32))
    hot = net.node("OneHot", [x, net.constant("depth", np.int64(17)), values])
    kind = kinds(encoder.model(hot))["a"]
    assert kind.name == "tokens"
    assert kind.vocabulary is not None
    assert kind.vocabulary.size == 17


def test_whole_numbers_that_nothing_tells() -> None:
    encoder = Encoder()
    x, net = encoder.add_input("a"), encoder.net
    floats = net.node("Sin", [net.node("Cast", [x], {"to": TensorProto.FLOAT})])
    kind = kinds(encoder.model(floats))["a"]
    assert (kind.name, kind.sure) == ("flags", "guessed")


def convolved(shape: Dims, channels: int, unsqueeze: bool = False) -> ModelProto:
    net = Net(shape)
    x = net.node("Unsqueeze", ["x", net.ints(1)]) if unsqueeze else "x"
    return net.model(net.conv(x, (channels, 4), (5,)))


def reading(shape: Dims) -> ModelProto:
    net = Net(shape)
    return net.model(net.relu("x"))


@pytest.mark.parametrize(
    ("make", "name", "sure"),
    [
        (lambda: convolved(("N", 2000), 1, unsqueeze=True), "waveform", "likely"),
        (lambda: convolved(("N", 1, 2000), 1), "waveform", "likely"),
        (lambda: convolved(("N", 1, 64), 1), "signal", "likely"),
        (lambda: convolved(("N", 40, 100), 40), "spectrogram", "guessed"),
        (lambda: convolved(("N", 6, 100), 6), "vector", "likely"),
        (lambda: reading(("N", 3, 32, 32)), "image", "likely"),
        (lambda: reading(("N", 3, 96, 96)), "photo", "likely"),
        (lambda: reading(("N", 70, 64, 3)), "photo", "likely"),
        (lambda: reading(("N", 1, 32, 32)), "image", "guessed"),
        (lambda: reading(("N", 4, 32, 32)), "image", "guessed"),
        (lambda: reading(("N", 3, 32, 320)), "image", "guessed"),
        (lambda: reading(("N", 20)), "vector", "likely"),
    ],
)
def test_inputs_of_floats(make: Callable[[], ModelProto], name: str, sure: str) -> None:
    kind = kinds(make())["x"]
    assert (kind.name, kind.sure) == (name, sure)


@pytest.mark.parametrize(
    ("shape", "name", "sure"),
    [
        (("N", 1, "t", 64), "spectrogram", "guessed"),
        (("N", 1, 96, 64), "spectrogram", "guessed"),
        (("N", 100, 40, 1), "spectrogram", "guessed"),
        (("N", 76, 32, 1), "spectrogram", "guessed"),  # of a wake word's embedding
        (("N", 1, 32, 320), "image", "guessed"),
        (("N", 1, 80, "t"), "spectrogram", "guessed"),
        (("N", 1, 201, "t"), "spectrogram", "likely"),
        (("N", 1, 300, 257), "spectrogram", "likely"),
        (("N", 1, 64, "w"), "image", "guessed"),  # lines of text are as high
        (("N", 1, 80, 90), "image", "guessed"),
        (("N", 1, 128, 128), "image", "guessed"),
        (("N", 1, 28, 28), "image", "guessed"),
    ],
)
def test_planes_of_one_channel(shape: Dims, name: str, sure: str) -> None:
    kind = kinds(reading(shape))["x"]
    assert (kind.name, kind.sure) == (name, sure)


@pytest.mark.parametrize(("places", "name"), [(48, "spectrogram"), (1, "image")])
def test_what_each_row_is_normalised_by_is_a_spectrogram(places: int, name: str) -> None:
    """As PANNs do: the bins stand on the axis of the channels, and go back."""
    net = Net(("N", 1, 60, 48))
    there = [0, 3, 2, 1] if places > 1 else [0, 1, 2, 3]
    turned = net.node("Transpose", ["x"], {"perm": there})
    normal = net.batch_norm(turned, places)
    kind = kinds(net.model(net.node("Transpose", [normal], {"perm": there})))["x"]
    assert kind.name == name
    assert ("normalises each of 48 rows" in kind.reason) == (places > 1)


@pytest.mark.parametrize(
    ("name", "kind"), [("log_mel", "spectrogram"), ("fbank", "spectrogram"), ("x1", "image")]
)
def test_names_tell_what_shapes_do_not(name: str, kind: str) -> None:
    net = Net(("N", 1, 64, 64))
    net.inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", 1, 64, 64))]
    assert kinds(net.model(net.relu(name)))[name].name == kind


def test_the_range_in_the_graph_is_kept() -> None:
    net = Net(("N", 3, 32, 32))
    x = net.node("Div", ["x", net.constant("most", np.float32(255.0))])
    kind = kinds(net.model(net.conv(x, (3, 4))))["x"]
    assert (kind.name, kind.sure) == ("image", "clear")
    assert kind.pixels is not None
    assert (kind.pixels.low, kind.pixels.high) == (0.0, 255.0)
    assert "div_" in kind.reason


class TestCalibrated:
    """What the graph tells of inputs that the user's samples are for."""

    @staticmethod
    def inputs(model: ModelProto) -> dict[str, str]:
        taken = [Input(i.name, np.dtype(np.int64), (None, None)) for i in model.graph.input]
        return {i.name: i.kind for i in with_evidence(taken, model, numpy_helper.to_array)}

    def test_it_tells_what_names_do_not(self) -> None:
        encoder = Encoder()
        model = encoder.model(
            encoder.masked("b", TensorProto.INT64), encoder.rows("c", 2), encoder.rows("mask", 90)
        )
        assert self.inputs(model) == {"b": "mask", "c": "segments", "mask": "tokens"}

    def test_a_guess_is_not_told(self) -> None:
        encoder = Encoder()
        x = encoder.net.node("Cast", [encoder.add_input("a")], {"to": TensorProto.FLOAT})
        assert self.inputs(encoder.model(encoder.net.node("Sin", [x]))) == {"a": ""}
