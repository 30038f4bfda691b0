"""Channel groups and refusals, as a specification: what is pruned, what is not, and why."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from lbyl_onnx.channels.groups import Selection
from lbyl_onnx.errors import OptionError
from tests.support.architectures import chain
from tests.support.models import MODELS
from tests.support.net import Net
from tests.support.oracle import interpret

LAST = "they are an output of the graph"
# model -> producer: (channels, consumers, positions a channel has at the first consumer)
GROUPS: dict[str, dict[str, tuple[int, list[str], int]]] = {
    "chain_1d": {"conv_0": (8, ["conv_3"], 1), "conv_3": (12, ["gemm_8"], 1)},
    "chain_2d": {"conv_0": (8, ["conv_3"], 1), "conv_3": (12, ["gemm_8"], 1)},
    "chain_3d": {"conv_0": (8, ["conv_3"], 1), "conv_3": (12, ["gemm_8"], 1)},
    "residual": {"conv_3": (6, ["conv_6"], 1), "conv_10": (6, ["conv_13"], 1)},
    "squeeze_excite": {
        "conv_0, conv_6": (8, ["conv_4", "gemm_11"], 1),
        "conv_4": (4, ["conv_6"], 1),
    },
    "inception": {
        "conv_0": (8, ["conv_3", "conv_6"], 1),
        "conv_3": (5, ["conv_10"], 1),
        "conv_6": (7, ["conv_10"], 1),
        "conv_10": (6, ["gemm_15"], 1),
    },
    "dense": {
        "conv_0": (6, ["conv_3", "conv_7", "gemm_13"], 1),
        "conv_3": (4, ["conv_7", "gemm_13"], 1),
        "conv_7": (4, ["gemm_13"], 1),
    },
    "forked_scales": {"conv_0": (8, ["gemm_7"], 2)},
    "flatten_spatial": {"conv_0": (8, ["gemm_4"], 12), "gemm_4": (20, ["gemm_6"], 1)},
    "bn_after_flatten": {"conv_0": (8, ["gemm_4"], 4)},
    "reshape_static": {"conv_0": (8, ["gemm_5"], 4)},
    "reshape_from_shape": {"conv_0": (8, ["gemm_17"], 16)},
    "nhwc": {"conv_1": (8, ["conv_6"], 1), "conv_6": (6, ["gemm_13"], 1)},
    "matmul_chain": {"matmul_0": (12, ["matmul_3"], 1), "matmul_3": (9, ["matmul_6"], 1)},
    "token_mixing": {"matmul_0": (12, ["matmul_6"], 1)},
    "shared_weight": {
        "conv_0": (7, ["conv_3", "conv_8", "conv_13"], 1),
        "conv_3, conv_8, conv_13": (8, ["conv_5", "conv_10", "conv_15"], 1),
        "conv_5, conv_10, conv_15": (5, ["gemm_20"], 3),
    },
    "shared_bias": {"conv_0": (8, ["conv_2", "conv_4"], 1)},
    "shared_fill": {"conv_0": (6, ["conv_2"], 1), "conv_2": (6, ["gemm_6"], 1)},
    "if_body": {"conv_0": (8, ["conv_2"], 1)},
    "custom_domain": {"conv_0": (8, ["conv_3"], 1)},
}
# model -> (producers, reason, nodes) of each refusal
REFUSALS: dict[str, set[tuple[str, str, tuple[str, ...]]]] = {
    "chain_2d": {("gemm_8", LAST, ("gemm_8",))},
    "residual": {
        ("conv_0, conv_6, conv_13", "they lie on a residual stream", ("add_8", "add_15")),
        ("gemm_19", LAST, ("gemm_19",)),
    },
    "squeeze_excite": {
        ("gemm_11", LAST, ("gemm_11",)),
    },
    "shared_bias": {
        (
            "conv_2, conv_4",
            "layers that share a constant produce them",
            ("conv_2", "conv_4"),
        ),
        ("gemm_9", LAST, ("gemm_9",)),
    },
    "custom_domain": {
        ("conv_3", "operator com.microsoft::QuickGelu has no rule", ("quickgelu_4",)),
        ("conv_5", LAST, ("conv_5",)),
    },
    "if_body": {
        ("conv_2", "the constant b1 stays: the body of If reads it", ("if_7",)),
        ("conv_4", "the body of If reads them", ("if_7",)),
        ("conv_6", "the shape that Add gives is not known", ("add_8",)),
    },
    "unnamed": {
        (
            "Conv(conv_0_out), Conv(conv_6_out), Conv(conv_13_out)",
            "they lie on a residual stream",
            ("Add(add_8_out)", "Add(add_15_out)"),
        ),
        ("Gemm(y)", LAST, ("Gemm(y)",)),
    },
}


class TestGroups:
    @pytest.mark.parametrize("name", GROUPS)
    def test_groups(self, name: str) -> None:
        analysis = interpret(MODELS[name]())
        nodes = analysis.model.graph.node
        groups = {
            group.name: (
                group.size,
                [nodes[place.binding.node].name for place in group.consumers],
                group.consumers[0].positions.shape[1],
            )
            for group in analysis.channels.groups
        }
        assert groups == GROUPS[name]

    @pytest.mark.parametrize("name", REFUSALS)
    def test_refusals(self, name: str) -> None:
        refusals = interpret(MODELS[name]()).channels.refusals
        assert {(r.name, r.reason, r.nodes) for r in refusals} == REFUSALS[name]

    @pytest.mark.parametrize("name", MODELS)
    def test_every_weighted_channel_is_in_one_group_or_one_refusal(self, name: str) -> None:
        analysis = interpret(MODELS[name]())
        weighted = [n for n in analysis.model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
        names = [group.name for group in analysis.channels.groups]
        names += [refusal.name for refusal in analysis.channels.refusals]
        producers = [producer for label in names for producer in label.split(", ")]
        expected = [n.name or f"{n.op_type}({n.output[0]})" for n in weighted]
        if name == "token_mixing":  # passes channels on: it mixes tokens
            expected.remove("matmul_3")
        assert sorted(producers) == sorted(expected)

    def test_positions_of_flattened_channels_are_runs(self) -> None:
        group = interpret(MODELS["flatten_spatial"]()).channels.groups[0]
        np.testing.assert_array_equal(
            group.consumers[0].positions,
            np.arange(96).reshape(8, 12),  # (8 * 12,) -> (8, 12)
        )

    def test_positions_behind_a_concat_are_shifted(self) -> None:
        groups = {g.name: g for g in interpret(MODELS["inception"]()).channels.groups}
        assert groups["conv_6"].consumers[0].positions[:, 0].tolist() == list(range(5, 12))

    def test_batch_norm_follows_in_all_four_parameters(self) -> None:
        group = interpret(chain()).channels.groups[0]
        assert [(p.binding.node, p.binding.operand) for p in group.followers] == [
            (1, operand) for operand in (1, 2, 3, 4)
        ]


def gemm_reads_as_bias() -> ModelProto:
    net = Net(("N", 6))
    x = net.relu(net.gemm("x", 6, 8))
    first = net.gemm(x, 8, 5)
    second = net.relu(net.node("Gemm", ["x", net.weight("w", 6, 8), x]))
    return net.model(first, net.gemm(second, 8, 3))


def conditional_batch_norm() -> ModelProto:
    net = Net((1, 8, 4, 4))
    pooled = net.node("Flatten", [net.node("GlobalAveragePool", ["x"])])
    gain = net.gemm(pooled, 8, 8)
    scale = net.node("Squeeze", [gain, net.ints(0)])
    ones = net.constant("ones", np.ones(8, np.float32))
    x = net.node("BatchNormalization", ["x", scale, ones, ones, ones])
    return net.model(net.head(x, 8), net.gemm(gain, 8, 3))


def pool_indices() -> ModelProto:
    net = Net(("N", 3, 4, 4))
    x = net.conv("x", (3, 8))
    pool = helper.make_node("MaxPool", [x], ["p", "i"], name="pool", kernel_shape=[2, 2])
    net.nodes.append(pool)
    model = net.model(net.head("p", 8))
    indices = helper.make_tensor_value_info("i", TensorProto.INT64, ["N", 8, 3, 3])
    model.graph.output.append(indices)
    return model


def dropout_mask() -> ModelProto:
    net = Net(("N", 3, 4, 4))
    x = net.conv("x", (3, 8))
    net.nodes.append(helper.make_node("Dropout", [x], ["p", "m"], name="drop"))
    model = net.model(net.head("p", 8))
    mask = helper.make_tensor_value_info("m", TensorProto.BOOL, ["N", 8, 4, 4])
    model.graph.output.append(mask)
    return model


def computed_weight() -> ModelProto:
    net = Net((8, 6))
    weight = net.node("Transpose", ["x"])
    return net.model(net.node("MatMul", [net.relu(net.gemm("x", 6, 6)), weight]))


def grouped() -> ModelProto:
    net = Net(("N", 8, 4, 4))
    x = net.node("Conv", ["x", net.weight("w", 8, 1, 3, 3)], {"group": 8})
    return net.model(net.head(net.relu(x), 8))


def added_to_the_input() -> ModelProto:
    net = Net(("N", 8, 4, 4))
    x = net.node("Add", [net.conv("x", (8, 8)), "x"])
    return net.model(net.head(x, 8))


def merged_with_batch() -> ModelProto:
    net = Net(("N", 3, 4, 4))
    x = net.node("Reshape", [net.conv("x", (3, 8)), net.ints(-1, 16)])
    return net.model(net.gemm(x, 16, 3))


def shuffled() -> ModelProto:
    net = Net(("N", 4, 6))
    x = net.node("MatMul", ["x", net.weight("w", 6, 8)])
    x = net.node("Softmax", [net.node("Reshape", [x, net.ints(0, 0, 2, 4)])], {"axis": 1})
    return net.model(x)


def slope_of_more_axes() -> ModelProto:
    """A slope with more axes than PRelu's input, which ONNX Runtime loads all the same."""
    net = Net((1, 3, 4, 4))
    pooled = net.node("GlobalAveragePool", [net.conv("x", (3, 8))])
    classes = net.gemm(net.node("Flatten", [pooled]), 8, 6)
    return net.model(net.node("PRelu", [classes, pooled]))


def tied() -> ModelProto:
    """Two halves of a layer that the same weight reads."""
    net = Net(("N", 6))
    x = net.node("Reshape", [net.gemm("x", 6, 8), net.ints(-1, 2, 4)])
    return net.model(net.node("MatMul", [net.relu(x), net.weight("w", 4, 3)]))


class TestRefusals:
    @pytest.mark.parametrize(
        ("build", "name", "reason", "nodes"),
        [
            (gemm_reads_as_bias, "gemm_0", "Gemm reads them as its bias", ("gemm_3",)),
            (
                conditional_batch_norm,
                "gemm_2",
                "BatchNormalization's parameters are not constants per channel",
                ("batchnormalization_4",),
            ),
            (pool_indices, "conv_0", "the indices that MaxPool gives count them", ("pool",)),
            (dropout_mask, "conv_0", LAST, ("drop",)),
            (
                computed_weight,
                "gemm_1",
                "MatMul multiplies two activations",
                ("matmul_3",),
            ),
            (grouped, "conv_0", "a depthwise Conv reads channels that stay", ("conv_0",)),
            (added_to_the_input, "conv_0", "Add joins them to channels that stay", ("add_1",)),
            (
                merged_with_batch,
                "conv_0",
                "Reshape merges them with a dynamic dimension",
                ("reshape_1",),
            ),
            (shuffled, "matmul_0", LAST, ("softmax_2",)),
            (
                slope_of_more_axes,
                "gemm_3",
                "PRelu gives fewer axes than its operands have",
                ("prelu_4",),
            ),
        ],
    )
    def test_reason_and_nodes(
        self, build: Callable[[], ModelProto], name: str, reason: str, nodes: tuple[str, ...]
    ) -> None:
        channels = interpret(build()).channels
        refusals = {r.name: (r.reason, r.nodes) for r in channels.refusals}
        assert name not in {g.name for g in channels.groups}
        assert refusals[name] == (reason, nodes)

    def test_channels_tied_within_one_layer_are_inner(self) -> None:
        (group,) = interpret(tied(), Selection(scope="inner")).channels.groups
        (producer,) = group.producers
        assert (group.name, group.size) == ("gemm_0", 4)
        assert producer.positions.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


class TestSelection:
    @pytest.mark.parametrize(
        ("selection", "groups", "reason"),
        [
            (Selection(exclude=("conv_0",)), ["conv_3"], "left out by --exclude"),
            (Selection(include=("conv_3",)), ["conv_3"], "not named by --include"),
            (Selection(("conv_*",), ("*_3",)), ["conv_0"], "left out by --exclude"),
        ],
    )
    def test_globs_on_producers(self, selection: Selection, groups: list[str], reason: str) -> None:
        channels = interpret(chain(), selection).channels
        assert [g.name for g in channels.groups] == groups
        assert reason in {r.reason for r in channels.refusals}

    def test_globs_know_upper_from_lower_case(self) -> None:
        with pytest.raises(OptionError, match=r"--include 'CONV_\*' matches no layer"):
            interpret(chain(), Selection(include=("CONV_*",)))
