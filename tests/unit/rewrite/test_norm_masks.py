"""Normalisation over groups of channels: the same number goes from each group."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from lbyl_onnx import Config, compress
from lbyl_onnx.errors import VerificationError
from lbyl_onnx.io.writer import ModelDraft
from lbyl_onnx.methods.registry import method_names
from lbyl_onnx.rewrite import build
from lbyl_onnx.rewrite.norm_masks import NormMask, with_kept_statistics
from tests.support.attentions import Block
from tests.support.net import Net
from tests.support.operators import OPERATORS, declared, group_norm, group_norm_block, grouped_norm
from tests.support.oracle import Array, interpret, run, values

METHODS = method_names()
NORMS = [name for name in OPERATORS if name.startswith("group_norm")]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NORMS)
def test_every_method_verifies(name: str, method: str) -> None:
    config = Config(round_to=1, ratio=0.4, method=method, scope="all", provider="cpu")
    result = compress(OPERATORS[name][0](), config=config)
    assert result.verification.values > 0
    error = result.verification.fidelity.relative_error
    assert error is not None
    assert np.isfinite(error)


def test_groups_stay_and_shrink_alike() -> None:
    config = Config(round_to=1, ratio=0.5, method="none", provider="cpu")
    result = compress(group_norm(2), config=config)
    assert result.model is not None
    (node,) = (n for n in result.model.graph.node if n.op_type == "GroupNormalization")
    assert node.attribute[0].i == 2
    stored = values(result.model)
    assert [len(stored[name]) for name in node.input[1:]] == [4, 4]


def test_the_j_th_channels_of_all_groups_go_together() -> None:
    group = interpret(group_norm(2)).channels.groups[0]
    assert group.producers[0].positions.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_a_scale_of_groups_stays() -> None:
    config = Config(round_to=1, ratio=0.5, method="none", provider="cpu")
    result = compress(group_norm(2, 18), config=config)
    assert result.model is not None
    (node,) = (n for n in result.model.graph.node if n.op_type == "GroupNormalization")
    before, after = values(group_norm(2, 18)), values(result.model)
    for name in node.input[1:]:
        np.testing.assert_array_equal(after[name], before[name])


def test_restoring_is_nearer_than_dropping() -> None:
    errors = {
        method: compress(
            group_norm_block(), config=Config(round_to=1, ratio=0.3, method=method, provider="cpu")
        ).verification.fidelity.relative_error
        or 0.0
        for method in METHODS
    }
    assert errors["lbyl+"] < errors["none"]


def by_hand(x: Array, stays: NDArray[np.bool_], groups: int) -> Array:
    """Normalise the channels that stay, group by group; the others are left zero."""
    y = np.zeros_like(x)
    for sample in range(len(x)):
        for members in np.split(np.arange(x.shape[1]), groups):
            kept = members[stays[members]]
            part = x[sample, kept]
            y[sample, kept] = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
    return y


@pytest.mark.parametrize(
    ("whole", "opset"), [(True, 18), (True, 21), (False, 17), (False, 18), (False, 21)]
)
def test_the_reference_sees_what_stays_alone(whole: bool, opset: int) -> None:
    groups, stays = 3, np.tile([True, False, True, True], 3)
    net = Net(("N", 12, 4, 5), opset=opset)
    length = 12 if opset > 20 else groups
    scale = 1.5 + np.arange(length)
    if whole:
        inputs = [net.constant(k, net.cast(v)) for k, v in (("s", scale), ("b", -scale))]
        y = net.node("GroupNormalization", ["x", *inputs], {"num_groups": groups})
        mask = NormMask(y, stays.reshape(1, 12, 1, 1), groups, 4, np.dtype(np.float32))
    else:
        x = net.node("Reshape", ["x", net.ints(0, groups, -1)])
        scale = scale[:groups]
        inputs = [net.constant(k, net.cast(v)) for k, v in (("s", scale), ("b", -scale))]
        norm = net.node("InstanceNormalization", [x, *inputs])
        along = np.repeat(stays[:4], 20).reshape(1, 1, -1)  # each channel is 20 places
        mask = NormMask(norm, along, None, 3, np.dtype(np.float32))
        y = net.node("Reshape", [norm, net.ints(0, 12, 4, 5)])
    model = ModelDraft.of(net.declared(y, "N", 12, 4, 5))
    masked = with_kept_statistics(model, (mask,), opset).skeleton
    data = np.random.default_rng(0).normal(3.0, 2.0, (2, 12, 4, 5)).astype(np.float32)
    actual = run(masked, {"x": data})[0]
    each = np.repeat(scale, 12 // len(scale)).reshape(-1, 1, 1)
    expected = by_hand(data.astype(np.float64), stays, groups) * each - each
    # float32 sums over 60 values each
    np.testing.assert_allclose(actual[:, stays], expected[:, stays], rtol=1e-4, atol=1e-4)


def test_the_proof_tells_statistics_over_what_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the reference normalised over all channels, it would not be the cut one."""
    monkeypatch.setattr(build, "norm_masks", lambda *_: ())
    with pytest.raises(VerificationError, match="the rewrite is wrong"):
        compress(group_norm(2), config=Config(round_to=1, ratio=0.5, method="none", provider="cpu"))


@pytest.mark.parametrize("norm", ["rms", "layer", "rms, written out", "layer, written out"])
def test_the_proof_tells_statistics_of_heads_over_what_is_gone(
    monkeypatch: pytest.MonkeyPatch, norm: str
) -> None:
    monkeypatch.setattr(build, "norm_masks", lambda *_: ())
    block = Block(2, 1, 4, False, True, False, False, False, norm=norm)
    with pytest.raises(VerificationError, match="the rewrite is wrong"):
        compress(block.model(), config=Config(round_to=1, ratio=0.5, method="none", provider="cpu"))


def test_a_computed_scale_is_refused() -> None:
    net = Net((1, 3, 6, 6), opset=21)
    x = net.conv("x", (3, 8))
    pooled = net.node("GlobalAveragePool", [net.conv("x", (3, 8))])
    scale = net.node("Squeeze", [pooled, net.ints(0, 2, 3)])
    bias = net.constant("bias", net.cast(np.zeros(8)))
    x = net.node("GroupNormalization", [x, scale, bias], {"num_groups": 2})
    model = declared(net.model(net.head(net.conv(x, (8, 4)), 4)), 1, 10)
    reasons = {r.name: r.reason for r in interpret(model).channels.refusals}
    assert reasons["conv_0"] == "GroupNormalization's scale and bias are not constant"


def test_spelled_out_over_a_dynamic_plane_is_refused_with_its_reason() -> None:
    net = Net(("N", 3, "H", "W"))
    x = net.node("Reshape", [net.conv("x", (3, 8)), net.ints(0, 2, -1)])
    ones = [net.constant(k, net.cast(np.ones(2))) for k in ("ones", "more")]
    x = net.node("InstanceNormalization", [x, *ones])
    x = net.node("Reshape", [x, net.ints(0, 8, 6, -1)])
    model = declared(net.model(net.head(net.conv(x, (8, 4)), 4)), "N", 10)
    reasons = {r.name: r.reason for r in interpret(model).channels.refusals}
    assert reasons["conv_0"] == "Reshape merges them with a dynamic dimension"


def test_channels_that_stay_keep_those_of_the_other_groups() -> None:
    """The second group holds channels of the input, which stay; so do those coupled to them."""
    net = Net(("N", 4, 6, 6), opset=21)
    x = net.node("Concat", [net.conv("x", (4, 12)), "x"], {"axis": 1})
    x = grouped_norm(net, x, 16, 2)
    model = declared(net.model(net.head(net.relu(net.conv(x, (16, 4))), 4)), "N", 10)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    channels = interpret(model).channels
    (group,) = (g for g in channels.groups if g.name.startswith("conv_0"))
    assert group.producers[0].positions.tolist() == [[0, 8], [1, 9], [2, 10], [3, 11]]
    config = Config(round_to=1, ratio=0.5, method="none", provider="cpu")
    assert compress(model, config=config).verification.values > 0
