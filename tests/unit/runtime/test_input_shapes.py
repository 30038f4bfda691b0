"""At which shapes a model is run: by what it declares, by its weights, by what the user gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import ModelProto, TensorProto, helper

from lbyl_onnx import Config, ModelError, OptionError, compare_models, compress, inspect
from lbyl_onnx.cli import main
from lbyl_onnx.cli.config_file import read_options
from lbyl_onnx.data.input_kind import InputSpec
from lbyl_onnx.data.synthetic.feeds import synthetic_feeds
from lbyl_onnx.input_options.shapes import SuppliedShapes, read_shapes
from lbyl_onnx.runtime import baseline
from lbyl_onnx.runtime.sizes.needed import needed_sizes
from tests.support.net import Dims, Net

CPU = "CPUExecutionProvider"
ANY: Dims = ("n", "c", "h", "w")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def network(shape: Dims = ANY, channels: int = 3) -> ModelProto:
    """Two blocks and a classifier, of an input that may declare nothing."""
    net = Net(shape)
    return net.model(net.head(net.block(net.block("x", (channels, 8)), (8, 6)), 6))


def front(
    build: Callable[[Net], str], channels: int, shape: Dims = ANY, opset: int = 17
) -> ModelProto:
    """Some operators in front of a Conv that reads so many channels."""
    net = Net(shape, opset=opset)
    return net.model(net.conv(build(net), (channels, 4)))


def focus(net: Net) -> str:
    """Every second pixel in four ways, the parts side by side, as in YOLOv5's stem."""
    parts = [
        net.node("Slice", ["x", net.ints(*at), net.ints(99, 99), net.ints(2, 3), net.ints(2, 2)])
        for at in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    return net.node("Concat", parts, {"axis": 1})


def normalised(net: Net) -> str:
    mean = net.constant("mean", np.full((1, 5, 1, 1), 0.5, np.float32))
    x = net.node("Cast", ["x"], {"to": TensorProto.FLOAT})
    return net.node("Div", [net.node("Sub", [x, mean]), net.constant("std", np.float32(0.2))])


def padded(net: Net) -> str:
    return net.node("Pad", ["x", net.ints(0, 0, 1, 1, 0, 0, 1, 1)])


def from_nhwc(net: Net) -> str:
    return net.node("Transpose", ["x"], {"perm": [0, 3, 1, 2]})


def scaled(net: Net) -> str:
    """BatchNormalization itself tells how many channels there are."""
    return net.batch_norm("x", 5)


def resized(net: Net) -> str:
    scales = net.constant("scales", np.asarray([1, 1, 2, 2], np.float32))
    return net.node("Resize", ["x", "", scales])


def from_bgr(net: Net) -> str:
    return net.node("Gather", ["x", net.ints(2, 1, 0)], {"axis": 1})


@pytest.mark.parametrize(
    ("build", "read", "axis", "size"),
    [
        (lambda net: "x", 5, 1, 5),
        (normalised, 5, 1, 5),
        (padded, 5, 1, 5),
        (from_nhwc, 5, 3, 5),
        (scaled, 5, 1, 5),
        (resized, 5, 1, 5),
        (from_bgr, 3, 1, 3),
        (focus, 12, 1, 3),
        (lambda net: net.node("SpaceToDepth", ["x"], {"blocksize": 2}), 12, 1, 3),
    ],
)
def test_a_conv_tells_the_channels(
    build: Callable[[Net], str], read: int, axis: int, size: int
) -> None:
    assert needed_sizes(front(build, read)) == {("x", axis): size}


def dense(op_type: str, transposed: bool = False) -> ModelProto:
    net = Net(["n", "k"])
    shape = (6, 7) if transposed else (7, 6)
    attributes = {"transB": 1} if transposed else {}
    return net.model(net.node(op_type, ["x", net.weight("w", *shape)], attributes))


def stored_otherwise() -> ModelProto:
    """A weight that is cast and transposed before it is used."""
    net = Net(["n", "t", "k"])
    half = net.constant("half", net.rng.standard_normal((6, 7)).astype(np.float16))
    weight = net.node("Cast", [half], {"to": TensorProto.FLOAT})
    return net.model(net.node("MatMul", ["x", net.node("Transpose", [weight])]))


def recurrent() -> ModelProto:
    net = Net(["t", "n", "k"])
    inputs = ["x", net.weight("w", 1, 16, 7), net.weight("r", 1, 16, 4)]
    return net.model(net.node("LSTM", inputs, {"hidden_size": 4}))


def looked_up() -> ModelProto:
    """Rows of a table say nothing of how many there are; the layer behind it neither."""
    net = Net(["n", "t"], dtype=TensorProto.INT64)
    table = net.constant("table", net.rng.standard_normal((2, 7)).astype(np.float32))
    x = net.node("Gather", [table, "x"])
    weight = net.constant("w", net.rng.standard_normal((7, 5)).astype(np.float32))
    return net.model(net.node("MatMul", [x, weight]))


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (dense("Gemm"), {("x", 1): 7}),
        (dense("Gemm", True), {("x", 1): 7}),
        (dense("MatMul"), {("x", 1): 7}),
        (stored_otherwise(), {("x", 2): 7}),
        (recurrent(), {("x", 2): 7}),
        (looked_up(), {}),
    ],
)
def test_other_weights_tell_it_too(model: ModelProto, sizes: dict[tuple[str, int], int]) -> None:
    assert needed_sizes(model) == sizes


def test_a_namesake_of_another_domain_says_nothing() -> None:
    model = front(lambda net: "x", 5)
    model.graph.node[0].domain = "somewhere"
    assert needed_sizes(model) == {}


class TestAllDynamic:
    def test_the_channels_are_those_of_the_weight(self, tmp_path: Path) -> None:
        onnx.save(network(), tmp_path / "m.onnx")
        first, second = baseline.input_shapes(tmp_path / "m.onnx", CPU)
        assert (first, second) == ({"x": (1, 3, 224, 224)}, {"x": (2, 3, 256, 256)})

    def test_it_is_pruned(self) -> None:
        model = front(lambda net: net.block(net.block("x", (3, 8)), (8, 6)), 6)
        config = Config(round_to=1, provider="cpu", method="none", criterion="l2", ratio=0.3)
        result = compress(model, config=config)
        assert [group.kept for group in result.groups] == [5, 4]
        assert result.verification.shapes > 1

    def test_where_no_size_runs_the_option_is_named(self, tmp_path: Path) -> None:
        net = Net(["n", "k"])
        flat = net.node("Reshape", ["x", net.ints(1, 11 * 13)])
        onnx.save(net.model(net.gemm(flat, 11 * 13, 4)), tmp_path / "m.onnx")
        result = run("inspect", tmp_path / "m.onnx")
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
        assert "--input-shape x:?,?" in result.stderr

    def test_a_model_without_dynamic_sizes_is_not_told_so(self, tmp_path: Path) -> None:
        net = Net([1, 4])
        net.nodes.append(helper.make_node("Reshape", ["x", net.ints(3)], ["r"], name="r"))
        onnx.save(net.model(net.relu("r")), tmp_path / "m.onnx")
        with pytest.raises(ModelError) as caught:
            baseline.input_shapes(tmp_path / "m.onnx", CPU)
        assert "--input-shape" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "shapes"),
    [
        ("1,3,48,320", [("", (1, 3, 48, 320))]),
        ("x:1,3", [("x", (1, 3))]),
        ("x:0:1,3", [("x:0", (1, 3))]),
        ("a:1,3 b:7", [("a", (1, 3)), ("b", (7,))]),
        ("serving in:1,3", [("serving in", (1, 3))]),
        (["a:1,3", "b:7"], [("a", (1, 3)), ("b", (7,))]),
        ({"a": [1, 3], "b": (np.int64(7),)}, [("a", (1, 3)), ("b", (7,))]),
        ([("a", (1, 3))], [("a", (1, 3))]),
        ((), []),
    ],
)
def test_the_syntax(value: object, shapes: list[tuple[str, tuple[int, ...]]]) -> None:
    assert list(read_shapes(value)) == shapes
    assert Config(round_to=1, input_shape=value).input_shape == tuple(shapes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        *("", "x", "x:", "x:1,", "x:1x3", "x:-1,3", "x:²", f"x:{'9' * 5000}"),
        *(3, None, [3], {"x": 3}, {"x": "1,3"}, {"x": [1.5]}, {"x": [True]}, [("x", [1], 2)]),
    ],
)
def test_what_is_no_shape(value: object) -> None:
    with pytest.raises(OptionError, match=r"give \[NAME:\]1,3,48,320"):
        Config(round_to=1, input_shape=value)  # type: ignore[arg-type]


class TestGiven:
    @pytest.mark.parametrize(
        ("declared", "supplied", "second"),
        [
            (ANY, (1, 3, 24, 40), (2, 3, 56, 72)),
            (("n", 3, 32, 32), (4, 3, 32, 32), (5, 3, 32, 32)),
            ((1, 3, 32, 32), (1, 3, 32, 32), (1, 3, 32, 32)),
            # Dimensions of one name change together.
            ((1, 3, "s", "s"), (1, 3, 20, 20), (1, 3, 52, 52)),
        ],
    )
    def test_the_first_shapes_are_those(
        self, declared: Dims, supplied: tuple[int, ...], second: tuple[int, ...], tmp_path: Path
    ) -> None:
        onnx.save(network(declared), tmp_path / "m.onnx")
        shapes = baseline.input_shapes(tmp_path / "m.onnx", CPU, (("x", supplied),))
        assert shapes == ({"x": supplied}, {"x": second})

    def test_what_cannot_change_stays_and_the_rest_changes(self, tmp_path: Path) -> None:
        # The width is the length of what a MatMul reads, through a Reshape that hides it.
        net = Net(["n", "h", "w"])
        rows = net.node("Reshape", ["x", net.ints(0, 0, 9)])
        onnx.save(net.model(net.node("MatMul", [rows, net.weight("w", 9, 4)])), tmp_path / "m.onnx")
        shapes = baseline.input_shapes(tmp_path / "m.onnx", CPU, (("", (1, 5, 9)),))
        assert shapes == ({"x": (1, 5, 9)}, {"x": (2, 37, 9)})

    def test_the_largest_size_that_runs_is_halved(self, tmp_path: Path) -> None:
        # As of a text encoder with a table of 12 positions.
        net = Net(["n", "t", 4])
        ends = net.node("Shape", ["x"], {"start": 1, "end": 2})
        table = net.constant("table", np.zeros((12, 4), np.float32))
        rows = net.node("Slice", [table, net.ints(0), ends, net.ints(0)])
        onnx.save(net.model(net.node("Add", ["x", rows])), tmp_path / "m.onnx")
        shapes = baseline.input_shapes(tmp_path / "m.onnx", CPU, (("x", (1, 12, 4)),))
        assert shapes == ({"x": (1, 12, 4)}, {"x": (2, 6, 4)})

    def test_the_channels_stay_where_no_weight_tells_them(self, tmp_path: Path) -> None:
        net = Net(ANY)
        shape = net.node("Shape", ["x"])
        x = net.node("Reshape", ["x", shape])  # where the sizes come from is not followed
        onnx.save(net.model(net.head(net.block(x, (3, 8)), 8)), tmp_path / "m.onnx")
        shapes = baseline.input_shapes(tmp_path / "m.onnx", CPU, (("x", (1, 3, 20, 24)),))
        assert shapes == ({"x": (1, 3, 20, 24)}, {"x": (2, 3, 52, 56)})

    def test_other_inputs_take_the_sizes_of_the_same_name(self, tmp_path: Path) -> None:
        net = Net(["n", "t"])
        net.inputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n", "t"]))
        onnx.save(net.model(net.node("Mul", ["x", "mask"])), tmp_path / "m.onnx")
        first, second = baseline.input_shapes(tmp_path / "m.onnx", CPU, (("mask", (3, 11)),))
        assert first == {"x": (3, 11), "mask": (3, 11)}
        assert second == {"x": (4, 43), "mask": (4, 43)}

    @pytest.mark.parametrize(
        ("supplied", "words"),
        [
            ((("y", (1, 3, 32, 32)),), "the model has no input y, but x"),
            ((("x", (1, 4, 32, 32)),), "does not fit input x, which is declared as ?,3,?,?"),
            ((("x", (1, 3, 32)),), "does not fit input x"),
            ((("x", (1, 3, 32, 0)),), "sizes of at least 1"),
            ((("x", (1, 3, 32, 32)), ("", (1, 3, 32, 32))), "one input twice"),
        ],
    )
    def test_what_does_not_fit_is_an_option_error(
        self, supplied: SuppliedShapes, words: str, tmp_path: Path
    ) -> None:
        onnx.save(network(("n", 3, "h", "w")), tmp_path / "m.onnx")
        with pytest.raises(OptionError) as caught:
            baseline.input_shapes(tmp_path / "m.onnx", CPU, supplied)
        assert words in str(caught.value)

    def test_a_name_is_needed_among_several(self, tmp_path: Path) -> None:
        net = Net(["n", "t"])
        net.inputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n", "t"]))
        onnx.save(net.model(net.node("Mul", ["x", "mask"])), tmp_path / "m.onnx")
        with pytest.raises(OptionError, match="names no input; the model has x, mask"):
            baseline.input_shapes(tmp_path / "m.onnx", CPU, (("", (1, 3)),))

    @pytest.mark.parametrize("supplied", [(1, 5, 20, 20), (1, 3, 100_000, 100_000)])
    def test_where_the_model_does_not_run(self, supplied: tuple[int, ...], tmp_path: Path) -> None:
        onnx.save(network(), tmp_path / "m.onnx")
        with pytest.raises(ModelError) as caught:
            baseline.input_shapes(tmp_path / "m.onnx", CPU, (("x", supplied),))
        assert "give another --input-shape than x:1," in str(caught.value)
        assert "\n" not in str(caught.value)


class TestCommands:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        onnx.save(network(), tmp_path / "m.onnx")
        return tmp_path / "m.onnx"

    def macs(self, height: int, width: int) -> int:
        return height * width * 9 * (3 * 8 + 8 * 6) + 6 * 10

    def test_inspect_counts_at_it(self, path: Path) -> None:
        result = run("inspect", path, "--input-shape", "x:1,3,20,24", "--json", "-")
        assert json.loads(result.stdout)["costs"]["macs"] == self.macs(20, 24)
        assert inspect(path, input_shape=(("", (1, 3, 20, 24)),)).costs.macs == self.macs(20, 24)

    def test_compress_counts_and_measures_at_it(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recorded: list[tuple[int, ...]] = []
        note_samples(monkeypatch, recorded)
        result = run(
            "compress",
            "--ratio=0.3",
            path,
            "--dry-run",
            "--input-shape",
            "1,3,20,24",
            "--json",
            "-",
        )
        assert result.exit_code == 0
        assert json.loads(result.stdout)["before"]["macs"] == self.macs(20, 24)
        assert {shape[1:] for shape in recorded} == {(3, 20, 24)}

    def test_verify_runs_at_it(self, path: Path) -> None:
        result = run("verify", path, path, "--input-shape", "x:1,3,20,24")
        assert result.exit_code == 0
        with pytest.raises(OptionError, match="declared"):
            compare_models(path, path, input_shape=(("x", (1, 3)),), provider="cpu")

    def test_verify_has_no_use_for_it_beside_inputs(self, path: Path, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=np.zeros((2, 3, 9, 9), np.float32))
        result = run(
            "verify", path, path, "--inputs", tmp_path / "x.npz", "--input-shape", "1,3,9,9"
        )
        assert result.exit_code == 2
        assert "synthetic samples" in result.stderr

    def test_sweep_measures_at_it(self, path: Path, tmp_path: Path) -> None:
        options = ("--ratios", "0.5", "--methods", "none", "--out", tmp_path / "out")
        shape = ("--input-shape", "x:1,3,20,24")
        result = run("sweep", path, *options, *shape, "--provider", "cpu", "--json", "-")
        assert json.loads(result.stdout)["outcomes"][0]["before"]["macs"] == self.macs(20, 24)

    @pytest.mark.parametrize("command", ["inspect", "compress", "sweep"])
    def test_a_bad_one_is_one_line(self, command: str, path: Path, tmp_path: Path) -> None:
        rest: dict[str, list[object]] = {
            "compress": ["--dry-run"],
            "sweep": ["--out", tmp_path / "out"],
        }
        result = run(command, path, *rest.get(command, []), "--input-shape", "z:1,3,20,24")
        assert result.exit_code == 2
        assert "the model has no input z, but x" in result.stderr.splitlines()[-1]

    @pytest.mark.parametrize(
        "text",
        [
            "[input-shape]\nx = [1, 3, 20, 24]",
            'input-shape = "x:1,3,20,24"',
            'input_shape = ["x:1,3,20,24"]',
        ],
    )
    def test_a_config_file_holds_it(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "options.toml").write_text(text)
        options = Config(**read_options(tmp_path / "options.toml"))
        assert options == replace(Config(), input_shape=(("x", (1, 3, 20, 24)),))

    @pytest.mark.parametrize("value", ["3", '{"x": 3}', '{"x": [1.5]}', "[[1, 3]]", '"x"'])
    def test_a_config_file_with_another_one_is_refused(self, value: str, tmp_path: Path) -> None:
        (tmp_path / "options.json").write_text(f'{{"input-shape": {value}}}')
        with pytest.raises(OptionError, match=r"options\.json"):
            read_options(tmp_path / "options.json")


def note_samples(monkeypatch: pytest.MonkeyPatch, recorded: list[tuple[int, ...]]) -> None:
    """Note the shape of every synthetic batch that is made."""

    def noted(inputs: Mapping[str, InputSpec], *rest: Any) -> object:
        recorded.extend(spec.shape for spec in inputs.values())
        return synthetic_feeds(inputs, *rest)

    monkeypatch.setattr("lbyl_onnx.data.source.synthetic_feeds", noted)


def other_input(kind: str) -> ModelProto:
    """A model with an input that is no tensor of numbers."""
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [2, 3])
    types = {
        "sequence": helper.make_sequence_type_proto(tensor),
        "optional": helper.make_optional_type_proto(tensor),
        "text": helper.make_tensor_type_proto(TensorProto.STRING, [2]),
    }
    ops = {"sequence": "SequenceAt", "optional": "OptionalGetElement", "text": "Identity"}
    inputs = [helper.make_value_info("s", types[kind])]
    supplied = ["s"]
    if kind == "sequence":
        inputs.append(helper.make_tensor_value_info("i", TensorProto.INT64, []))
        supplied.append("i")
    out = TensorProto.STRING if kind == "text" else TensorProto.FLOAT
    node = helper.make_node(ops[kind], supplied, ["y"])
    value = helper.make_tensor_value_info("y", out, [2] if kind == "text" else [2, 3])
    graph = helper.make_graph([node], "g", inputs, [value])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("kind", ["sequence", "optional", "text"])
def test_an_input_that_is_no_tensor_of_numbers_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(other_input(kind), path)
    for arguments in (
        ["inspect", path],
        ["compress", "--ratio=0.3", path, "--dry-run"],
        ["verify", path, path],
    ):
        result = run(*arguments)
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
        assert "input s is " in result.stderr
        assert "only tensors of numbers can be fed" in result.stderr


def test_a_sequence_of_tensors_that_differ_is_compared(tmp_path: Path) -> None:
    net = Net((5, 3))
    node = helper.make_node("SplitToSequence", ["x", net.ints(2, 3)], ["y"], axis=0)
    value = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, ["a", 3])
    graph = helper.make_graph([node], "g", net.inputs, [value], net.initializers)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    comparison = compare_models(tmp_path / "m.onnx", tmp_path / "m.onnx", provider="cpu")
    assert comparison.fidelity.relative_error == 0.0
    assert inspect(tmp_path / "m.onnx", provider="cpu").groups == ()


class TestSampled:
    """Sizes that the user's samples have."""

    def test_they_are_those_of_the_first_shapes(self, tmp_path: Path) -> None:
        onnx.save(network(("n", 3, "h", "w")), tmp_path / "m.onnx")
        sizes = {("x", 2): 24, ("x", 3): 40}
        first = baseline.run_baseline(tmp_path / "m.onnx", CPU, 0, sampled=sizes).first
        assert first == {"x": (1, 3, 24, 40)}

    def test_a_shape_that_is_given_comes_first(self, tmp_path: Path) -> None:
        net = Net(["n", "t"])
        net.inputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n", "t"]))
        onnx.save(net.model(net.node("Mul", ["x", "mask"])), tmp_path / "m.onnx")
        given = (("mask", (3, 11)),)
        first = baseline.run_baseline(
            tmp_path / "m.onnx", CPU, 0, supplied_shapes=given, sampled={("x", 1): 7}
        ).first
        assert first == {"x": (3, 11), "mask": (3, 11)}

    def test_what_samples_a_model_takes(self, tmp_path: Path) -> None:
        onnx.save(network(("n", "c", "h", 32)), tmp_path / "m.onnx")
        (found,) = baseline.calibration_inputs(tmp_path / "m.onnx", CPU)
        assert (found.name, found.dtype, found.shape, found.stated_shape) == (
            *("x", np.dtype(np.float32), (None, 3, None, 32), ()),
        )
        sizes = baseline.sampled_sizes([found], {"x": (3, 20, 32)})
        assert sizes == {("x", 2): 20}
        given = (("", (1, 3, 20, 32)),)
        (fixed,) = baseline.calibration_inputs(tmp_path / "m.onnx", CPU, given)
        assert fixed.stated_shape == (1, 3, 20, 32)
        assert baseline.sampled_sizes([fixed], {"x": (3, 24, 32)}) == {}
