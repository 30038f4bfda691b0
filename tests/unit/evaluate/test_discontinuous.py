"""Where a node jumps, what it reads and what follows is proven, and nothing is said across it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from lbyl_onnx import Config, VerificationError, compress
from lbyl_onnx.evaluate.verify import Verification, verify
from lbyl_onnx.runtime.baseline import run_baseline
from tests.support.net import Net

CPU = "CPUExecutionProvider"


def features(net: Net, channels: int = 8) -> str:
    return net.conv(net.relu(net.conv("x", (3, 8))), (8, channels))


def finished(net: Net, outputs: dict[str, int], rank: int = 4) -> ModelProto:
    """Return the model with outputs of these types, of whatever sizes."""
    infos = [
        helper.make_tensor_value_info(n, t, [f"{n}/{axis}" for axis in range(rank)])
        for n, t in outputs.items()
    ]
    graph = helper.make_graph(net.nodes, "net", net.inputs, infos, net.initializers)
    opsets = [helper.make_opsetid("", net.opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def detector() -> ModelProto:
    """The best 12 of all positions by score, and their boxes: half of the scores are equal."""
    net = Net(("N", 3, 8, 8))
    x = features(net)
    boxes = net.node("Reshape", [x, net.ints(0, 8, -1)])
    scores = net.node("ReduceMax", [net.relu(boxes)], {"axes": [1], "keepdims": 0})
    flat = net.node("Floor", [scores])
    top = helper.make_node("TopK", [flat, net.ints(12)], ["best", "index"], name="top", axis=1)
    net.nodes.append(top)
    index = net.node("Unsqueeze", ["index", net.ints(1)])
    index = net.node("Tile", [index, net.ints(1, 8, 1)])
    picked = net.node("GatherElements", [boxes, index], {"axis": 2})
    return finished(net, {picked: TensorProto.FLOAT}, rank=3)


def classes() -> ModelProto:
    net = Net(("N", 3, 8, 8))
    y = net.node("ArgMax", [features(net)], {"axis": 1})
    return finished(net, {y: TensorProto.INT64})


def behind(op_type: str = "Round") -> ModelProto:
    """A Conv pair, a jump, and another Conv pair behind it."""
    net = Net(("N", 3, 8, 8))
    x = net.node(op_type, [features(net, 6)])
    x = net.conv(net.relu(net.conv(x, (6, 8))), (8, 4))
    return finished(net, {x: TensorProto.FLOAT})


def counted() -> ModelProto:
    """As many values as are above a bound."""
    net = Net((1, 3, 8, 8))
    above = net.node("Greater", [features(net), net.constant("bound", np.float32(0.5))])
    y = net.node("NonZero", [above])
    return finished(net, {y: TensorProto.INT64}, rank=2)


MODELS = {f.__name__: f for f in (detector, classes, behind, counted)}


def changed(model: ModelProto, name: str, factor: float) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    tensor = next(t for t in copy.graph.initializer if t.name == name)
    value = factor * onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float32), name))
    return copy


def checked(original: ModelProto, made: ModelProto, folder: Path) -> Verification:
    for name, model in (("a", original), ("b", made)):
        onnx.save(model, folder / f"{name}.onnx")
    one, two = folder / "a.onnx", folder / "b.onnx"
    taken = run_baseline(one, CPU, 0)
    return verify(taken, one, two, one, taken.feeds)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_such_a_model_is_pruned_and_proven(build: Callable[[], ModelProto], tmp_path: Path) -> None:
    model = build()
    for seed in range(3):
        config = Config(round_to=1, ratio=0.5, method="lbyl", provider="cpu", seed=seed)
        proof = compress(model, config=config).verification
        assert proof.values > 0
        assert proof.discontinuous


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_rounding_in_front_of_a_jump_is_no_wrong_rewrite(
    build: Callable[[], ModelProto], tmp_path: Path
) -> None:
    """A change of 1e-5 flips whole outputs, where scores are equal but for rounding."""
    model = build()
    proof = checked(model, changed(model, "w2", 1 + 1e-5), tmp_path)
    assert 0 < proof.deviation < 1e-3


@pytest.mark.parametrize(
    ("build", "weight"),
    [(detector, "w2"), (classes, "w2"), (behind, "w2"), (behind, "w6"), (counted, "w2")],
)
def test_a_wrong_weight_is_found_on_either_side(
    build: Callable[[], ModelProto], weight: str, tmp_path: Path
) -> None:
    """ArgMax of scores that are 1 % larger is the same: what it reads is not."""
    model = build()
    with pytest.raises(VerificationError, match="the rewrite is wrong"):
        checked(model, changed(model, weight, 1.01), tmp_path)


def test_an_output_is_not_blamed_for_what_flips(tmp_path: Path) -> None:
    model = behind()
    proof = checked(model, model, tmp_path)
    assert proof.discontinuous == ("round_3",)


def test_a_jump_of_whole_numbers_that_are_given_is_none(tmp_path: Path) -> None:
    """Which words are padding is the same in both models."""
    net = Net(("N", 3, 8, 8))
    net.inputs.append(helper.make_tensor_value_info("words", TensorProto.INT64, ["N", 4, 8, 8]))
    mask = net.node("Equal", ["words", net.constant("zero", np.int64(0))])
    y = net.node("Where", [mask, net.constant("no", np.float32(0)), features(net, 4)])
    model = finished(net, {y: TensorProto.FLOAT})
    assert checked(model, model, tmp_path).discontinuous == ()


def test_a_size_that_is_computed_in_floats_is_none(tmp_path: Path) -> None:
    net = Net(("N", 3, "H", "W"))
    x = features(net, 4)
    sizes = net.node("Cast", [net.node("Shape", [x])], {"to": TensorProto.FLOAT})
    factors = net.constant("factors", np.array([1, 1, 0.5, 0.5], np.float32))
    half = net.node("Floor", [net.node("Mul", [sizes, factors])])
    target = net.node("Cast", [half], {"to": TensorProto.INT64})
    model = finished(net, {net.node("Resize", [x, "", "", target]): TensorProto.FLOAT})
    assert checked(model, model, tmp_path).discontinuous == ()


def test_channels_that_go_through_a_jump_are_told_where_it_flips(tmp_path: Path) -> None:
    """Round on 8 channels, then on 4 of them: what it reads has another shape."""
    models = []
    for channels, factor in ((8, 1.0), (4, 1.01)):
        net = Net(("N", 3, 8, 8))
        x = net.conv("x", (3, 8))
        x = net.node("Slice", [x, net.ints(0), net.ints(channels), net.ints(1)])
        x = net.node("Round", [net.node("Mul", [x, net.constant("f", np.float32(8 * factor))])])
        y = net.node("ReduceMax", [x], {"axes": [1], "keepdims": 1})
        models.append(finished(net, {y: TensorProto.FLOAT}))
    with pytest.raises(VerificationError, match=r"cannot be proven: round_\d+ may jump"):
        checked(models[0], models[1], tmp_path)


def test_fidelity_of_whole_numbers_is_the_share_that_is_equal() -> None:
    model = classes()
    config = Config(round_to=1, ratio=0.5, method="none", criterion="random", provider="cpu")
    near = compress(model, config=config).verification.fidelity
    assert (near.cosine, near.relative_error, near.top1_agreement) == (None, None, None)
    assert near.equal is not None
    assert near.equal == near.agreement == near.nearness
    assert near.equal < 0.9


def test_a_target_is_held_against_whole_numbers() -> None:
    config = Config(round_to=1, fidelity=0.1, method="none", criterion="random", provider="cpu")
    result = compress(classes(), config=config)
    assert 0.1 <= result.target.reached < 1.0
    assert result.verification.fidelity.equal == pytest.approx(result.target.reached)
