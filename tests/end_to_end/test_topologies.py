"""Each operator that channels cross: what can be pruned, and that it is pruned right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from lbyl_onnx import Config, compress
from lbyl_onnx.channels.groups import Selection
from lbyl_onnx.methods.registry import method_names
from lbyl_onnx.option_types import Scope
from tests.support.effort import LITTLE
from tests.support.operators import OPERATORS
from tests.support.oracle import Array, assert_same, interpret, make_feeds, masked, run, values
from tests.support.topologies import TOPOLOGIES

METHODS = method_names()
SCOPES: tuple[Scope, ...] = get_args(Scope)

STREAM = "they lie on a residual stream"

BUILDERS = TOPOLOGIES | OPERATORS

every_topology = pytest.mark.parametrize("name", BUILDERS)
every_scope = pytest.mark.parametrize("scope", SCOPES)


def built(name: str) -> ModelProto:
    return BUILDERS[name][0]()


def cut(name: str, method: str = "none", scope: Scope = "all", ratio: float = 0.5) -> ModelProto:
    """Compress one of `BUILDERS`."""
    config = Config(round_to=1, ratio=ratio, method=method, scope=scope, provider="cpu")
    result = compress(built(name), config=config, effort=LITTLE)
    assert result.verification.values > 0
    assert result.after.parameters < result.before.parameters
    assert result.model is not None
    return result.model


@every_topology
def test_the_channels_that_can_be_pruned(name: str) -> None:
    groups = [
        sum(group.size for group in interpret(built(name), Selection(scope=scope)).channels.groups)
        for scope in SCOPES
    ]
    assert groups == list(BUILDERS[name][1:])


@every_scope
@every_topology
def test_none_equals_the_original_with_zeroed_inputs(name: str, scope: Scope) -> None:
    original, ratio = built(name), 0.4
    analysis = interpret(original, Selection(scope=scope))
    feeds = make_feeds(original)
    expected = masked(original, analysis.plan(ratio), analysis)
    assert_same(run(cut(name, "none", scope, ratio), feeds), run(expected, feeds))


@pytest.mark.parametrize(
    ("name", "method"),
    # What is written is the same business for both: the second sees one topology in four.
    [*((name, "lbyl") for name in BUILDERS), *((name, "nm") for name in [*BUILDERS][::4])],
)
def test_restoring_verifies(name: str, method: str) -> None:
    feeds = make_feeds(built(name))
    for output in run(cut(name, method), feeds):
        assert np.all(np.isfinite(output))


GATED = [
    *("swiglu", "geglu", "gated_gelu_tanh", "excited_inside", "gated_conv", "gate_added"),
    *("gate_as_shift", "gate_as_condition", "attention_gate", "squeeze_input_flat"),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", GATED)
def test_every_method_prunes_gates_within_the_default_scope(name: str, method: str) -> None:
    model = cut(name, method, "inner")
    for output in run(model, make_feeds(model)):
        assert np.all(np.isfinite(output))


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("swiglu", "matmul_1, matmul_5"),
        ("geglu", "matmul_1, matmul_8"),
        ("gated_gelu_tanh", "matmul_1, matmul_11"),
        ("excited_inside", "conv_3, conv_12"),
        ("gated_conv", "conv_3, conv_5"),
        ("gate_added", "conv_0, conv_6"),
        ("gate_of_one_and_more", "conv_0, conv_6"),
        ("gate_as_shift", "conv_0, conv_6"),
        ("gate_as_condition", "conv_0, conv_6"),
        ("attention_gate", "conv_8, conv_9"),
        ("squeeze_input", "conv_0, conv_6"),
    ],
)
def test_layers_that_a_product_joins_form_a_group(name: str, group: str) -> None:
    assert group in {g.name for g in interpret(built(name)).channels.groups}


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("excited_inside", ("conv_0, conv_17", STREAM, ("add_18",))),
        ("excited_behind", ("conv_0, conv_9, conv_13", STREAM, ("add_18",))),
        ("excited_stream", ("conv_0, conv_9, conv_14", STREAM, ("add_10",))),
        ("highway", ("conv_0, conv_6, conv_8", STREAM, ("add_12",))),
        ("gate_times_sum", ("conv_0, conv_6", STREAM, ("add_8",))),
        ("gate_or_more", ("conv_0, conv_6", "several layers produce them", ("max_8",))),
        ("stacked", ("conv_3, conv_5", "several layers produce them", ("concat_7",))),
    ],
)
def test_the_operators_that_add_layers_are_named(
    name: str, refusal: tuple[str, str, tuple[str, ...]]
) -> None:
    refusals = interpret(built(name)).channels.refusals
    assert refusal in {(r.name, r.reason, r.nodes) for r in refusals}


def reads(model: ModelProto, op_type: str, operand: int) -> list[list[int]]:
    """The whole numbers that the nodes of a type read."""
    stored = values(model)
    nodes = [n for n in model.graph.node if n.op_type == op_type]
    return [stored[n.input[operand]].reshape(-1).tolist() for n in nodes]


def attributes(model: ModelProto, op_type: str, name: str) -> list[object]:
    """An attribute of each node of a type."""
    nodes = [n for n in model.graph.node if n.op_type == op_type]
    by_node = [{a.name: helper.get_attribute_value(a) for a in n.attribute} for n in nodes]
    return [attribute[name] for attribute in by_node if name in attribute]


class TestNumbersThatCountChannels:
    def test_group_of_a_depthwise_conv(self) -> None:
        assert attributes(cut("depthwise_twice"), "Conv", "group") == [4]

    def test_group_of_a_grouped_conv_stays(self) -> None:
        assert attributes(cut("grouped"), "Conv", "group") == [2]

    def test_group_of_a_depthwise_conv_transpose(self) -> None:
        assert attributes(cut("conv_transpose_depthwise"), "ConvTranspose", "group") == [4]

    def test_parts_of_split(self) -> None:
        assert attributes(cut("split_attribute"), "Split", "split") == [[2, 4]]
        assert reads(cut("split_input"), "Split", 1) == [[2, 4]]

    def test_sizes_of_a_sequence(self) -> None:
        assert reads(cut("sequence_even"), "SplitToSequence", 1) == [[3, 3]]
        assert reads(cut("sequence_sizes"), "SplitToSequence", 1) == [[2, 4]]
        assert reads(cut("sequence_spatial"), "SplitToSequence", 1) == [[3]]

    def test_num_outputs_of_split_gives_way_to_sizes(self) -> None:
        model = cut("split_num_outputs")
        assert attributes(model, "Split", "num_outputs") == []
        assert reads(model, "Split", 1) == [[3, 3]]

    def test_indices_of_gather_name_the_channels_that_stay(self) -> None:
        (indices,) = reads(cut("gather_permutation"), "Gather", 1)
        assert sorted(indices) == [0, 1, 2, 3]

    def test_sizes_of_resize(self) -> None:
        assert reads(cut("resize_sizes"), "Resize", 3) == [[2, 4, 12, 9]]

    def test_shape_of_expand(self) -> None:
        assert reads(cut("expand"), "Expand", 1) == [[1, 3, 6, 6]]

    def test_repeats_of_tile_stay(self) -> None:
        assert reads(cut("tile"), "Tile", 1) == [[1, 2, 3, 3]]

    def test_a_shuffle_keeps_its_groups(self) -> None:
        first, second = reads(cut("shuffle_unit"), "Reshape", 1)
        assert first[:2] == [0, 3]
        assert second[1] == 3 * first[2]


@every_scope
def test_what_a_recurrent_layer_reads_is_refused(scope: Scope) -> None:
    refusals = interpret(built("lstm"), Selection(scope=scope)).channels.refusals
    assert ("conv_3", "operator LSTM has no rule") in [(r.name, r.reason) for r in refusals]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gru", "operator GRU has no rule"),
        ("mean_variance_channels", "MeanVarianceNormalization mixes them"),
        ("lrn", "LRN mixes them"),
        ("softmax", "Softmax mixes them"),
        ("arg_max", "ArgMax sums over them"),
        ("layer_norm_decomposed", "layer normalisation averages over them"),
        ("layer_norm_by_power", "layer normalisation averages over them"),
        ("rms_norm_decomposed", "RMS normalisation averages over them"),
        ("reduce_mean_channels", "ReduceMean sums over them"),
        ("loop", "the body of Loop reads them"),
        ("loop", "operator Loop has no rule"),
    ],
)
def test_what_is_mixed_is_refused(name: str, reason: str) -> None:
    refusals = interpret(built(name), Selection(scope="all")).channels.refusals
    assert reason in {part for r in refusals for part in r.reason.split("; ")}


def test_num_heads_stay_when_values_go() -> None:
    model = cut("attention_grouped_queries")
    assert attributes(model, "Attention", "kv_num_heads") == [2]


def test_num_groups_follow_channels_that_are_normalised_each_by_itself() -> None:
    assert attributes(cut("group_norm_of_one"), "GroupNormalization", "num_groups") == [4]


@pytest.mark.parametrize("cut_by", ["split", "gather"])
def test_queries_meet_keys_and_both_keep_as_many_in_each_head(cut_by: str) -> None:
    groups = interpret(built(f"attention_{cut_by}")).channels.groups
    (met,) = [group for group in groups if group.products]
    assert (met.size, met.block_count, met.consumers) == (8, 2, ())
    (made,) = met.producers
    assert made.positions.shape == (8, 2)  # a query's channel and a key's


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("shaped_as_another_alone", "Reshape reads a size computed from their number"),
        ("input_shaped_as_a_layer", "Reshape reads a size computed from their number"),
        ("number_in_a_body", "the body of If reads a size computed from their number"),
        ("number_as_output", "their number is an output of the graph"),
    ],
)
def test_channels_whose_number_is_read_elsewhere_are_refused(name: str, reason: str) -> None:
    refusals = interpret(built(name), Selection(scope="all")).channels.refusals
    assert {r.reason for r in refusals if r.name.startswith("conv_0")} == {reason}


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Random inputs, one batch after the other."""

    def __init__(self, model: ModelProto) -> None:
        self.batches: Iterator[dict[str, Array]] = iter(
            [dict(make_feeds(model, seed)) for seed in range(4)]
        )

    def get_next(self) -> dict[str, Array] | None:
        """Return the next batch; None after the last."""
        return next(self.batches, None)


@pytest.mark.parametrize("name", ["depthwise", "shuffle_unit", "u_net", "feed_forward_erf"])
def test_the_output_can_be_quantised(tmp_path: Path, name: str) -> None:
    model = cut(name, "lbyl")
    before, after = tmp_path / "pruned.onnx", tmp_path / "quantised.onnx"
    onnx.save(model, before)
    quantize_static(before, after, Calibration(model))
    quantised = onnx.load(after)
    assert "QuantizeLinear" in {n.op_type for n in quantised.graph.node}
    assert any(numpy_helper.to_array(t).dtype == np.int8 for t in quantised.graph.initializer)
    feeds = make_feeds(model, 9)
    for small, whole in zip(run(quantised, feeds), run(model, feeds), strict=True):
        cosine = np.sum(small * whole) / np.linalg.norm(small) / np.linalg.norm(whole)
        assert cosine > 0.95  # eight bits over a handful of layers
