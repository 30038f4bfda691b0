"""The rewritten file: names, sizes, what is gone and what is not."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lbyl_onnx import Config, compress
from lbyl_onnx.io.writer import write_message
from tests.support.architectures import chain, flatten_spatial, residual
from tests.support.files import dangling, initializers_as_inputs, shared_fill, with_value_info
from tests.support.models import MODELS
from tests.support.oracle import (
    compressed,
    deviation,
    interpret,
    make_feeds,
    outcome,
    run,
    tap,
    values,
)

HALF = Config(round_to=1, ratio=0.5, method="none", provider="cpu")
# Layers that read one constant keep different numbers of channels.
UNEVEN = Config(round_to=1, ratio=0.5, method="none", provider="cpu", ratio_for=(("conv_0", 0.2),))


class TestNames:
    @pytest.mark.parametrize("name", ["chain_2d", "residual", "mlp", "identity_chains", "half"])
    def test_a_constant_that_all_readers_see_alike_keeps_its_name(self, name: str) -> None:
        before = {n.output[0]: list(n.input) for n in MODELS[name]().graph.node}
        result = outcome(name, "none", 0.5).model
        assert result is not None
        for node in result.graph.node:
            assert list(node.input) == before[node.output[0]]

    def test_new_names_avoid_those_that_are_taken(self) -> None:
        model = shared_fill()
        model.graph.initializer.append(
            numpy_helper.from_array(np.ones(1, np.float32), "b_pruned_1")
        )
        result = compressed(model, UNEVEN)
        np.testing.assert_array_equal(values(result)["b_pruned_1"], [1.0])
        feeds = make_feeds(model)
        np.testing.assert_array_equal(
            run(result, feeds)[0], run(compressed(shared_fill(), UNEVEN), feeds)[0]
        )


class TestSizes:
    @pytest.mark.parametrize("name", MODELS)
    def test_weights_and_costs_shrink(self, name: str) -> None:
        result = outcome(name, "lbyl", 0.5)
        assert result.after.parameters < result.before.parameters
        assert result.after.macs < result.before.macs
        assert result.size_after < result.size_before

    @pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.99])
    def test_each_group_keeps_its_share(self, ratio: float) -> None:
        result = compress(
            chain(), config=Config(round_to=1, ratio=ratio, method="none", provider="cpu")
        )
        expected = [max(1, int(n * (1 - ratio) + 1e-9)) for n in (8, 12)]
        assert [g.kept for g in result.groups] == expected
        assert result.model is not None
        assert [values(result.model)[n].shape[0] for n in ("w0", "w3")] == expected

    @pytest.mark.parametrize("build", [flatten_spatial, residual, MODELS["dense"], MODELS["nhwc"]])
    def test_value_info_tells_the_new_shapes(self, build: partial[onnx.ModelProto]) -> None:
        result = compressed(with_value_info(build))
        stored = {v.name: v.type.tensor_type.shape for v in result.graph.value_info}
        feeds = make_feeds(result)
        names = [n.output[0] for n in result.graph.node if n.output[0] in stored]
        assert names
        for name, value in zip(names, run(tap(result, *names), feeds)[1:], strict=True):
            sizes = [
                d.dim_value or size for d, size in zip(stored[name].dim, value.shape, strict=True)
            ]
            assert tuple(sizes) == value.shape

    def test_stale_value_info_of_a_pruned_tensor_is_mended(self) -> None:
        model = with_value_info(flatten_spatial)
        info = next(v for v in model.graph.value_info if v.name == "relu_2_out")
        info.type.tensor_type.shape.dim[1].dim_value = 99
        result = compressed(model)
        mended = next(v for v in result.graph.value_info if v.name == "relu_2_out")
        assert mended.type.tensor_type.shape.dim[1].dim_value == 4

    def test_stale_value_info_of_another_tensor_is_no_obstacle(self) -> None:
        model = with_value_info(residual)
        info = next(v for v in model.graph.value_info if v.name == "relu_2_out")
        info.type.tensor_type.shape.dim[1].dim_value = 99
        assert compress(model, config=HALF).groups


class TestPinned:
    @pytest.mark.parametrize("method", ["none", "nm", "lbyl"])
    def test_a_number_taken_from_a_shape_stays_what_it_was(self, method: str) -> None:
        """Activations are divided by the root of eight channels, with four left, too."""
        result = outcome("shape_scaled", method, 0.5).model
        assert result is not None
        divide = next(n for n in result.graph.node if n.op_type == "Div")
        np.testing.assert_array_equal(values(result)[divide.input[1]], np.sqrt(np.float32(8)))

    def test_a_target_from_shape_keeps_the_batch_dynamic(self) -> None:
        model = MODELS["reshape_from_shape"]()
        result = compressed(model)
        reshape = next(n for n in result.graph.node if n.op_type == "Reshape")
        np.testing.assert_array_equal(values(result)[reshape.input[1]], [0, 4, -1])

    def test_a_stored_target_is_counted_anew(self) -> None:
        result = compressed(MODELS["reshape_static"]())
        targets = [
            values(result)[n.input[1]].tolist() for n in result.graph.node if n.op_type == "Reshape"
        ]
        assert targets == [[2, 4, 4], [2, 16]]


class TestDeadNodes:
    @pytest.mark.parametrize(
        ("name", "gone"),
        [
            ("identity_chains", {"Identity"}),
            ("constant_nodes", set[str]()),
            ("dynamo_batch_norm", {"CastLike", "Expand", "Identity"}),
            ("constant_of_shape", {"ConstantOfShape"}),
            ("bfloat16_weights", set[str]()),
            ("reshape_from_shape", set[str]()),
        ],
    )
    def test_nothing_is_left_that_nothing_reads(self, name: str, gone: set[str]) -> None:
        result = outcome(name, "none", 0.5).model
        assert result is not None
        read = {i for n in result.graph.node for i in n.input} | {
            o.name for o in result.graph.output
        }
        outputs = [o for n in result.graph.node for o in n.output]
        assert {o for o in outputs if o not in read} == set()
        assert {t.name for t in result.graph.initializer} <= read
        pruned = {g.name for g in outcome(name, "none", 0.5).groups}
        left = [n for n in result.graph.node if n.op_type in gone]
        assert len(left) < sum(n.op_type in gone for n in MODELS[name]().graph.node) or not gone
        assert pruned

    def test_what_dangled_before_still_dangles(self) -> None:
        result = compressed(dangling())
        assert result.graph.node[-1].name == "dangling"
        assert values(result)["unread_w"].tolist() == [1.0, 1.0, 1.0]


class TestInputsThatAreInitializers:
    """Before IR version 4, where all are listed and none may be overridden."""

    def test_they_have_the_new_shapes(self) -> None:
        result = outcome("ir_version_3", "none", 0.5).model
        assert result is not None
        stored = {n: v.shape for n, v in values(result).items()}
        listed = {
            i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim)
            for i in result.graph.input
            if i.name in stored
        }
        assert listed == stored

    def test_one_that_is_gone_is_no_input_any_more(self) -> None:
        result = compressed(initializers_as_inputs(shared_fill, 3), UNEVEN)
        assert "b" not in values(result)
        assert "b" not in {i.name for i in result.graph.input}

    @pytest.mark.parametrize("listed", [True, False])
    def test_new_ones_are_listed_only_where_the_ir_version_wants_it(self, listed: bool) -> None:
        model = initializers_as_inputs(shared_fill, 3) if listed else shared_fill()
        result = compressed(model, UNEVEN)
        new = {n for n in values(result) if n.startswith("b_pruned")}
        assert len(new) == 2
        assert (new <= {i.name for i in result.graph.input}) == listed


class TestWriting:
    @pytest.mark.parametrize("name", ["annotated", "if_body", "half", "bfloat16_weights"])
    def test_the_file_is_what_protobuf_itself_would_write(self, name: str, tmp_path: Path) -> None:
        """Weights are written one by one; the bytes must be those of the whole message."""
        path, again = tmp_path / "a.onnx", tmp_path / "b.onnx"
        compress(MODELS[name](), path, config=HALF)
        write_message(onnx.load(path), again)
        assert path.read_bytes() == again.read_bytes()

    def test_the_original_is_not_changed(self) -> None:
        model = chain()
        before = model.SerializeToString(deterministic=True)
        compress(model, config=HALF)
        assert model.SerializeToString(deterministic=True) == before

    def test_facts_survive_the_rewrite(self) -> None:
        """A compressed model can be compressed again."""
        once = compressed(chain())
        twice = compressed(once)
        assert [g.size for g in interpret(twice).channels.groups] == [2, 3]


class TestCompensation:
    @pytest.mark.parametrize("method", ["nm", "lbyl"])
    @pytest.mark.parametrize("name", ["folded", "mlp", "chain_2d", "flatten_spatial"])
    def test_it_changes_the_consumers(self, name: str, method: str) -> None:
        """Guards the tests above: a method that did nothing would pass most of them."""
        dropped, restored = outcome(name, "none", 0.5).model, outcome(name, method, 0.5).model
        assert dropped is not None
        assert restored is not None
        feeds = make_feeds(MODELS[name]())
        (left,), (right,) = run(dropped, feeds), run(restored, feeds)
        assert deviation(left, right) > 1e-3
