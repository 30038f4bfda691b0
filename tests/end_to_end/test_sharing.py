"""One layer applied several times is one layer: coupled, compensated once, stored once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from lbyl_onnx import CompressResult, Config, Effort, NothingToPruneError, compress
from lbyl_onnx.channels.analyzed_model import AnalyzedModel, Layer
from lbyl_onnx.channels.groups import Selection
from lbyl_onnx.graph.source import check_source
from lbyl_onnx.io import reader
from lbyl_onnx.methods import lbyl_plus
from lbyl_onnx.methods.registry import find_method, method_names
from lbyl_onnx.methods.types import Delivery, Moments
from lbyl_onnx.observe.accumulate import SampleMoments
from lbyl_onnx.observe.pooling import averaged, deliveries, pooled, pooled_outputs
from lbyl_onnx.observe.session import prepare, rounds
from lbyl_onnx.option_types import Scope
from lbyl_onnx.runtime.baseline import run_baseline
from tests.support.models import MODELS
from tests.support.oracle import assert_same, deviation, interpret, make_feeds, run, tap, values
from tests.support.shared_layers import (
    SHARED,
    combined_pyramid,
    pyramid,
    read_whole,
    repeated_conv,
    stored_as,
    tied_autoencoder,
    tied_embedding,
    twins,
)

Floats = NDArray[np.float64]
METHODS = method_names()
LEAST: tuple[str, Scope] = ("lbyl+", "inner")


@cache
def outcome(name: str, method: str, scope: Scope = "inner") -> CompressResult | None:
    """Compress one of the models; None where nothing of it can go."""
    config = Config(ratio=0.3, method=method, scope=scope, round_to=1, provider="cpu")
    try:
        return compress(SHARED[name](), config=config)
    except NothingToPruneError:
        return None


def delivered(kept: NDArray[np.intp]) -> Callable[[Moments], Delivery]:
    """lbyl+ as it is registered, for these channels."""
    return lambda moments: find_method("lbyl+").deliver(moments, kept)


def groups_of(model: ModelProto, scope: Scope = "inner") -> dict[str, int]:
    channels = interpret(model, Selection(scope=scope)).channels
    return {group.name: group.size for group in channels.groups}


def refusals_of(model: ModelProto) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {r.name: (r.reason, r.nodes) for r in interpret(model).channels.refusals}


class TestCoupling:
    @pytest.mark.parametrize(
        ("name", "scope", "groups"),
        [
            ("pyramid", "inner", {"conv_0": 6, "conv_2, conv_7, conv_12": 10}),
            ("repeated_block", "inner", {"matmul_0, matmul_6, matmul_12, matmul_18": 40}),
            ("siamese", "inner", {"conv_1, conv_6": 8, "conv_4, conv_9": 9}),
            ("recurrence", "inner", {}),
            ("repeated_conv", "inner", {}),
            ("repeated_conv", "all", {"conv_0, conv_2, conv_4, conv_6": 6}),
            ("twins_transpose", "inner", {"matmul_1, gemm_6": 16}),
            ("twins_reshape", "inner", {"matmul_2, matmul_8": 16}),
        ],
    )
    def test_uses_of_one_weight_are_one_layer(
        self, name: str, scope: Scope, groups: dict[str, int]
    ) -> None:
        sizes = groups_of(SHARED[name](), scope)
        assert {n: size for n, size in sizes.items() if n in groups} == groups
        assert groups or not sizes

    def test_a_recurrence_loses_rows_and_columns_of_its_weight(self) -> None:
        result = outcome("recurrence", "lbyl+", "all")
        assert result is not None
        assert result.model is not None
        assert values(result.model)["state"].shape == (8, 8)
        assert values(result.model)["input"].shape == (8, 5)

    def test_layers_that_only_share_parameters_are_several(self) -> None:
        """Of one shared layer, with one bias for all uses, one use is given a weight of its own."""
        model = MODELS["shared_weight"]()
        use = [n for n in model.graph.node if n.input[1:] == ["w", "b"]][1]
        copy = model.graph.initializer.add()
        copy.CopyFrom(next(t for t in model.graph.initializer if t.name == "w"))
        copy.name = use.input[1] = "w_own"
        name = "conv_3, conv_8, conv_13"
        reason, _ = refusals_of(model)[name]
        assert reason == "layers that share a constant produce them"
        assert groups_of(model, "all")[name] == 8


class TestRefusals:
    @pytest.mark.parametrize(
        ("model", "name", "reason", "nodes"),
        [
            (
                partial(read_whole, "output"),
                "gemm_0",
                "the constant w2 stays: it is an output of the graph",
                ("gemm_2",),
            ),
            (
                partial(read_whole, "output"),
                "gemm_2",
                "the constant w2 stays: it is an output of the graph",
                ("gemm_2",),
            ),
            (
                partial(read_whole, "computed"),
                "gemm_2",
                "the constant w2 stays: another node reads what is computed from it",
                ("mul_8",),
            ),
            (
                tied_embedding,
                "gather_0, gemm_4",
                "the constant table both makes and reads them",
                ("gather_0", "matmul_7"),
            ),
            (
                tied_autoencoder,
                "gemm_4",
                "the constant w both makes and reads them",
                ("gemm_4", "gemm_6"),
            ),
            (
                partial(repeated_conv, False),
                "conv_0, conv_2, conv_4",
                "Conv reads the constant w along channels that stay",
                ("conv_0",),
            ),
        ],
    )
    def test_what_cannot_be_coupled_is_refused_with_the_reason(
        self, model: partial[ModelProto], name: str, reason: str, nodes: tuple[str, ...]
    ) -> None:
        message, where = refusals_of(model())[name]
        assert reason in message
        assert set(nodes) <= set(where)

    @pytest.mark.parametrize("name", ["read_as_output", "read_by_a_node", "tied_embedding"])
    def test_what_others_read_stays_bit_for_bit(self, name: str) -> None:
        result = outcome(name, "lbyl+")
        assert result is not None
        assert result.model is not None
        stays = "table" if name == "tied_embedding" else "w2"
        before, after = values(SHARED[name]())[stays], values(result.model)[stays]
        assert after.tobytes() == before.tobytes()
        assert [n for n in values(result.model) if n.startswith(f"{stays}_pruned")] == []


class TestNeverBigger:
    @pytest.mark.parametrize(("method", "scope"), [*((m, "all") for m in METHODS), LEAST])
    @pytest.mark.parametrize("name", SHARED)
    def test_no_model_grows(self, name: str, method: str, scope: Scope) -> None:
        result = outcome(name, method, scope)
        if result is None:
            assert name in ("recurrence", "repeated_conv")
            return
        assert result.after.parameters < result.before.parameters
        assert result.size_after < result.size_before
        # How long so small a model takes, and what its inputs are, are other matters.
        others = ("of the original's time", "--calibration")
        assert [w for w in result.warnings if not any(other in w for other in others)] == []

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("name", SHARED)
    def test_each_constant_is_stored_once(self, name: str, method: str) -> None:
        """Compensation gives biases and what is added behind a MatMul, no weight."""
        result = outcome(name, method, "all")
        assert result is not None
        assert result.model is not None
        before, after = values(SHARED[name]()), values(result.model)
        matrices = [{n for n, v in x.items() if v.ndim > 1} for x in (before, after)]
        new = matrices[1] - matrices[0]
        assert not new, new


class TestStoredTypes:
    @pytest.mark.parametrize("one_cast", [True, False])
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(
        "dtype", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE]
    )
    def test_types_and_casts_stay(self, dtype: int, method: str, one_cast: bool) -> None:
        model = stored_as(dtype, pyramid, one_cast)
        result = compress(
            model, config=Config(round_to=1, ratio=0.3, method=method, provider="cpu")
        ).model
        assert result is not None
        kept = {t.name: t for t in result.graph.initializer}
        for tensor in model.graph.initializer:
            assert kept[tensor.name].data_type == tensor.data_type
        casts = [[n.name for n in m.graph.node if n.op_type == "Cast"] for m in (model, result)]
        assert casts[0] == casts[1]
        assert values(result)["w_stored"].shape[:2] == (7, 4)

    def test_a_value_beyond_the_stored_type_is_an_error(self) -> None:
        model = stored_as(TensorProto.FLOAT16, partial(twins, "MatMul"))
        tensor = next(t for t in model.graph.initializer if t.name == "w1_stored")
        tensor.raw_data = np.full((16, 7), 65000, np.float16).tobytes()
        with pytest.raises(Exception, match="overflows float16"):
            compress(model, config=Config(round_to=1, ratio=0.5, method="lbyl+", provider="cpu"))


def samples_of(count: int, columns: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, columns)) @ rng.normal(size=(columns, columns)) + seed


def moments_of(rows: Floats) -> Moments:
    return Moments(rows.mean(axis=0), np.cov(rows.T, bias=True), len(rows))


class TestPooledMoments:
    COUNTS = (40, 7, 200, 3)

    def test_with_one_bias_they_are_those_of_all_rows(self) -> None:
        rows = [samples_of(n, 5, i) for i, n in enumerate(self.COUNTS)]
        pooled_moments = pooled([moments_of(r) for r in rows], [""] * 4)
        whole = moments_of(np.concatenate(rows))
        for one in pooled_moments:
            np.testing.assert_allclose(one.mean, whole.mean, rtol=1e-12)
            np.testing.assert_allclose(one.covariance, whole.covariance, rtol=1e-11, atol=1e-12)
            assert one.rows == sum(self.COUNTS)

    def test_with_several_biases_each_has_its_mean(self) -> None:
        rows = [samples_of(n, 5, i) for i, n in enumerate(self.COUNTS)]
        pooled_moments = pooled([moments_of(r) for r in rows], ["a", "b", "a", "b"])
        parts = [np.concatenate([rows[i] for i in at]) for at in ((0, 2), (1, 3))]
        centred = np.concatenate([part - part.mean(axis=0) for part in parts])
        covariance = centred.T @ centred / len(centred)
        for number, one in enumerate(pooled_moments):
            np.testing.assert_allclose(one.mean, parts[number % 2].mean(axis=0), rtol=1e-12)
            np.testing.assert_allclose(one.covariance, covariance, rtol=1e-11, atol=1e-12)

    def test_one_fit_is_least_squares_over_all_uses(self) -> None:
        """One matrix, a shift for each bias, against a regression with indicator columns."""
        rows = [samples_of(n, 5, i) for i, n in enumerate(self.COUNTS)]
        biases = ("a", "b", "a", "b")
        moments = pooled([moments_of(r) for r in rows], biases)
        kept, removed = np.asarray([0, 2, 3]), [1, 4]
        actual = deliveries(delivered(kept), moments, [Layer((0, 1, 2, 3), biases)])
        design = np.concatenate([r[:, kept] for r in rows])
        indicator = np.concatenate(
            [np.tile(np.eye(2)[i % 2], (len(r), 1)) for i, r in enumerate(rows)]
        )
        # The ridge of the fit, as rows of the regression.
        weight = np.sqrt(moments[0].ridge * len(design))
        left = np.block([[design, indicator], [weight * np.eye(3), np.zeros((3, 2))]])
        right = np.concatenate([*(r[:, removed] for r in rows), np.zeros((3, 2))])
        solved = np.linalg.lstsq(left, right, rcond=None)[0]
        assert {d.note for d in actual} == {""}
        for number, delivery in enumerate(actual):
            np.testing.assert_allclose(delivery.rows, solved[:3].T, rtol=1e-8)
            np.testing.assert_allclose(delivery.shift, solved[3 + number % 2], rtol=1e-7)

    def test_the_model_measures_all_uses(self, tmp_path: Path) -> None:
        """Against every value that the three uses of the head see, from ONNX Runtime itself."""
        model = pyramid()
        with reader.on_disk(model) as path:
            baseline = run_baseline(path, "CPUExecutionProvider", 0)
            analyzed = AnalyzedModel.open(check_source(path), baseline.shape_sets)
            config = Config(round_to=1, ratio=0.3, provider="cpu")
            prepared = prepare(analyzed, baseline, config, tmp_path)
            (round_,) = list(rounds(prepared))
            (spent,) = list(rounds(prepared, once=True))
            assert prepared.run is not None
            batches = list(prepared.run.source.batches(tmp_path))
        group = next(g for g in prepared.groups if len(g.producers) == 3)
        moments, same = round_.moments(group), spent.moments(group)
        assert not isinstance(moments, str)
        assert not isinstance(same, str)
        np.testing.assert_array_equal(same[0].covariance, moments[0].covariance)
        assert len(round_.measured) - len(spent.measured) == len(group.consumers)
        places = [analyzed.graph.nodes[p.binding.node].inputs[0].name for p in group.consumers]
        assert all(
            round_.observations[key].view.strides in ((1, 1), ()) for key in round_.observations
        )
        rows: list[Floats] = []
        for feeds in batches:
            outputs = run(tap(model, *places), feeds)[1:]
            rows += [np.moveaxis(x, 1, -1).reshape(-1, 10).astype(np.float64) for x in outputs]
        whole = moments_of(np.concatenate(rows))
        for one in moments:
            # ONNX Runtime's sums are in float32.
            np.testing.assert_allclose(one.mean, whole.mean, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(one.covariance, whole.covariance, rtol=1e-3, atol=1e-4)

    def test_outputs_are_pooled_alike(self) -> None:
        rows = [samples_of(n, 3, i) for i, n in enumerate(self.COUNTS)]
        measured = {
            i: SampleMoments(len(r), r.mean(axis=0), r.var(axis=0)) for i, r in enumerate(rows)
        }
        pooled_moments = pooled_outputs(measured, [((0, 2), ("", ""))])
        both = np.concatenate([rows[0], rows[2]])
        for node in (0, 2):
            np.testing.assert_allclose(pooled_moments[node].mean, both.mean(axis=0), rtol=1e-12)
            np.testing.assert_allclose(pooled_moments[node].second, both.var(axis=0), rtol=1e-11)
        assert pooled_moments[1] is measured[1]


class TestOneCompensation:
    def test_weights_alone_give_the_mean_of_what_each_use_would_be_given(self) -> None:
        rng = np.random.default_rng(0)
        kept = np.asarray([0, 1])
        separate = [Delivery(kept, rng.normal(size=(3, 2)), rng.normal(size=3)) for _ in range(4)]
        layers = [Layer((0, 2, 3), ("a", "b", "a")), Layer((1,), ("",))]
        average = averaged(separate, layers)
        mean = (separate[0].rows + separate[2].rows + separate[3].rows) / 3
        for place in (0, 2, 3):
            np.testing.assert_allclose(average[place].rows, mean, rtol=1e-12)
        np.testing.assert_allclose(average[0].shift, (separate[0].shift + separate[3].shift) / 2)
        np.testing.assert_array_equal(average[2].shift, separate[2].shift)
        assert average[1] is separate[1]

    def test_exact_combinations_cost_nothing(self) -> None:
        """Invariant 3 on a layer that is applied three times."""
        model = combined_pyramid()
        config = Config(ratio=0.5, method="lbyl", lambda2=0.0, provider="cpu", round_to=1)
        result = compress(model, config=config).model
        assert result is not None
        assert values(result)["w"].shape[0] == 4
        feeds = make_feeds(model)
        assert_same(run(result, feeds), run(model, feeds))

    def test_nearly_nothing_by_statistics(self) -> None:
        """What is left is the ridge, a thousandth of the variance."""
        model = combined_pyramid()
        result = compress(model, config=Config(ratio=0.5, provider="cpu", round_to=1)).model
        assert result is not None
        feeds = make_feeds(model)
        assert deviation(run(result, feeds)[0], run(model, feeds)[0]) < 0.05

    @pytest.mark.parametrize("name", ["pyramid", "pyramid_own_biases", "siamese", "repeated_block"])
    def test_it_is_worth_it(self, name: str) -> None:
        """The error of dropping alone is what compensation has to beat."""
        model = SHARED[name]()
        feeds = make_feeds(model)
        original = run(model, feeds)[0].astype(np.float64)
        errors = {}
        for method in ("none", "lbyl+"):
            result = outcome(name, method)
            assert result is not None
            assert result.model is not None
            errors[method] = float(np.linalg.norm(run(result.model, feeds)[0] - original))
        assert errors["lbyl+"] < 0.7 * errors["none"]

    def test_each_bias_has_a_shift_of_its_own_and_the_weight_is_one(self) -> None:
        model = SHARED["pyramid_own_biases"]()
        config = Config(ratio=0.3, exclude=("conv_4",), provider="cpu", round_to=1)
        result = compress(model, config=config).model
        assert result is not None
        before, after = values(model), values(result)
        assert len(set(after) - set(before)) == 1  # the bias that the layer before is given
        steps: list[NDArray[Any]] = [after[f"c{i}"] - before[f"c{i}"] for i in range(3)]
        assert all(np.any(step != 0) for step in steps)
        assert not np.allclose(steps[0], steps[1])

    def test_a_bias_that_several_layers_need_otherwise_is_told(self) -> None:
        """Of one bias and two weights each layer needs a shift of its own."""
        model = MODELS["shared_bias"]()
        cases: list[tuple[str, bool]] = [("none", False), ("lbyl+", True)]
        for method, is_noted in cases:
            result = compress(
                model, config=Config(round_to=1, ratio=0.3, method=method, provider="cpu")
            )
            assert (
                "a bias of several layers stored for each" in result.groups[0].restored
            ) is is_noted
            assert result.model is not None
            assert (
                len([n for n in values(result.model) if n.startswith("b_pruned")]) == 2 * is_noted
            )

    def test_a_layer_without_a_bias_is_given_one(self) -> None:
        result = outcome("pyramid", "lbyl+")
        assert result is not None
        assert result.model is not None
        convs = [n for n in result.model.graph.node if n.op_type == "Conv"]
        biases = {n.input[2] for n in convs if n.input[1] == "v"}
        assert len(biases) == 1

    def test_a_singular_fit_is_told_for_the_layer(self) -> None:
        moments = [Moments(np.zeros(3), np.full((3, 3), -1.0), 10) for _ in range(2)]
        actual = deliveries(delivered(np.asarray([0, 1])), moments, [Layer((0, 1), ("", ""))])
        assert [d.note for d in actual] == ["singular: least squares"] * 2
        assert actual[0].rows is actual[1].rows
        assert lbyl_plus.deliver(moments[0], [0, 1])[1] is False


@pytest.mark.parametrize("name", ["twins_transpose", "twins_reshape", "bfloat16_pyramid"])
def test_large_weights_are_computed_when_they_are_written(
    name: str,
) -> None:
    """Every weight taken for a large one, the same bytes are written."""
    usual = outcome(name, "lbyl+")
    config = Config(ratio=0.3, method="lbyl+", round_to=1, provider="cpu")
    late = compress(SHARED[name](), config=config, effort=Effort(held_weight=0))
    assert usual is not None
    assert usual.model is not None
    assert late.model is not None
    assert late.model.SerializeToString() == usual.model.SerializeToString()
