"""The ten things that must hold whatever the method (DESIGN: "What must hold")."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from lbyl_onnx import (
    CompensationError,
    Config,
    LbylOnnxError,
    OutputError,
    VerificationError,
    compress,
    pipeline,
)
from lbyl_onnx.channels.affine import respond
from lbyl_onnx.evaluate import verify as evaluate_verify
from lbyl_onnx.evaluate.verify import compare
from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.methods import lbyl
from lbyl_onnx.methods.registry import method_names
from lbyl_onnx.methods.types import FoldedRows
from lbyl_onnx.runtime.baseline import run_baseline
from lbyl_onnx.runtime.execute import run_model
from tests.support.architectures import chain, residual
from tests.support.effort import LITTLE
from tests.support.exact import LINEAR, SILENT
from tests.support.files import annotated, if_body
from tests.support.models import MODELS
from tests.support.oracle import (
    assert_same,
    compressed,
    interpret,
    make_feeds,
    masked,
    outcome,
    run,
    values,
)

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
METHODS = method_names()

SOME = ("residual", "bn_after_activation", "mlp_row_bias", "if_body", "half")
LBYL_AND_SOME = [(n, "lbyl") for n in MODELS] + [(n, m) for n in SOME for m in ("none", "nm")]

every_model = pytest.mark.parametrize("name", MODELS)
every_method = pytest.mark.parametrize("method", METHODS)


class TestInvariant1KeepEverything:
    @pytest.mark.parametrize(("name", "method"), LBYL_AND_SOME)
    def test_ratio_zero_changes_no_bit(self, name: str, method: str) -> None:
        original = MODELS[name]()
        result = outcome(name, method, 0.0).model
        assert result is not None
        feeds = make_feeds(original)
        for new, old in zip(run(result, feeds), run(original, feeds), strict=True):
            np.testing.assert_array_equal(new, old)
        stored = values(original)
        for tensor, value in values(result).items():
            if tensor in stored:
                assert value.tobytes() == stored[tensor].tobytes()


class TestInvariant2DropOnly:
    @pytest.mark.parametrize("ratio", [0.25, 0.5])
    @every_model
    def test_none_equals_the_original_with_zeroed_inputs(self, name: str, ratio: float) -> None:
        original = MODELS[name]()
        result = outcome(name, "none", ratio)
        assert result.model is not None
        plans = interpret(original).plan(ratio)
        assert [(len(p.kept), p.group.size) for p in plans] == [
            (g.kept, g.channels) for g in result.groups
        ]
        feeds = make_feeds(original)
        assert_same(run(result.model, feeds), run(masked(original, plans), feeds))


def first_layer(model: ModelProto, method: str, lambda2: float = lbyl.DEFAULT_LAMBDA2) -> Config:
    """Halve the first layer, and no other."""
    firsts = ("conv_0", "gemm_0", "matmul_0")
    include = tuple(node.name for node in model.graph.node if node.name in firsts)
    return Config(
        round_to=1, ratio=0.5, method=method, lambda2=lambda2, include=include, provider="cpu"
    )


class TestInvariant3LinearCombinations:
    @pytest.mark.parametrize("name", LINEAR)
    def test_combinations_of_kept_channels_cost_nothing(self, name: str) -> None:
        original = LINEAR[name]()
        config = first_layer(original, "lbyl", lambda2=0.0)
        feeds = make_feeds(original)
        assert_same(run(compressed(original, config), feeds), run(original, feeds))

    @pytest.mark.parametrize("method", ["nm", "lbyl"])
    @pytest.mark.parametrize("name", SILENT)
    def test_constant_channels_move_into_the_bias(self, name: str, method: str) -> None:
        original = SILENT[name]()
        feeds = make_feeds(original)
        config = first_layer(original, method)
        assert_same(run(compressed(original, config), feeds), run(original, feeds))


def objective(
    rows: FoldedRows, kept: Indices, j: int, s: Floats, lambda1: float, lambda2: float
) -> float:
    """L(s) of METHODS section 3 for one removed channel."""
    if rows.normalized:
        factor = rows.scale[kept] / rows.scale[j]
        residual = rows.weight[j] - (s * factor) @ rows.weight[kept]
        bias = float(rows.shift[j] - s @ rows.shift[kept])
    else:
        stacked = np.column_stack([rows.weight, rows.shift])
        residual, bias = stacked[j] - s @ stacked[kept], 0.0
    return float(residual @ residual + lambda1 * bias**2 + lambda2 * s @ s)


class TestInvariant4Objective:
    @every_model
    def test_the_solve_is_never_worse_than_dropping(self, name: str) -> None:
        weights = (0.3, 0.2)
        for rows, kept in fitted_rows(name):
            solved = lbyl.deliver(rows, kept, lambda1=weights[0], lambda2=weights[1]).matrix
            for j in np.setdiff1d(np.flatnonzero(~rows.constant), kept).tolist():
                dropped = objective(rows, kept, j, np.zeros(len(kept)), *weights)
                # The same sum in another order may end a rounding higher.
                assert objective(rows, kept, j, solved[j], *weights) <= dropped * (1 + 1e-12)

    @pytest.mark.parametrize("name", ["folded", "mlp", "matmul_chain", "mlp_alpha_beta"])
    def test_at_zero_penalty_it_is_least_squares(self, name: str) -> None:
        for rows, kept in fitted_rows(name):
            stacked = np.column_stack([rows.weight, rows.shift])
            removed = np.delete(np.arange(len(stacked)), kept)
            solved = lbyl.deliver(rows, kept, lambda2=0.0).matrix[removed]
            expected = np.linalg.lstsq(stacked[kept].T, stacked[removed].T, rcond=None)[0].T
            # Well-conditioned systems of at most twelve unknowns, solved through the Gram matrix.
            np.testing.assert_allclose(solved, expected, rtol=1e-8, atol=1e-10)


def fitted_rows(name: str) -> list[tuple[FoldedRows, Indices]]:
    """Folded rows and kept channels of every consumer of every group of a model."""
    analysis = interpret(MODELS[name]())
    graph = to_graph(analysis.model)
    fitted = []
    for plan in analysis.plan(0.5):
        for place in plan.group.consumers:
            response = respond(
                analysis.model, graph, analysis.tensor_info, analysis.channels, plan.group, place
            )
            assert response is not None
            fitted.append((response.rows, plan.kept))
    assert fitted
    return fitted


class TestInvariant5Types:
    @every_method
    @every_model
    def test_weights_keep_their_type(self, name: str, method: str) -> None:
        original, result = MODELS[name](), outcome(name, method, 0.5).model
        assert result is not None
        before = {t.name: t.data_type for t in original.graph.initializer}
        after = {t.name: t.data_type for t in result.graph.initializer}
        common = before.keys() & after.keys()
        assert {n: after[n] for n in common} == {n: before[n] for n in common}

    def test_overflow_of_the_stored_type_is_an_error_that_names_the_layer(self) -> None:
        model = chain(dtype=TensorProto.FLOAT16)
        for tensor in model.graph.initializer:
            if tensor.name == "w0":
                value = numpy_helper.to_array(tensor).copy()
                value[:] = value[:1]  # all filters are one ..
                tensor.CopyFrom(numpy_helper.from_array(value, "w0"))
            if tensor.name.startswith(("gamma1", "mean1", "beta1")):
                value = numpy_helper.to_array(tensor).copy()
                value[:4] = 1e-3 if tensor.name == "gamma1" else 0.0  # .. but half of them weak,
                value[4:] = 4.0 if tensor.name == "gamma1" else 0.0
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
            if tensor.name == "w3":
                value = numpy_helper.to_array(tensor) * np.float16(1000)
                tensor.CopyFrom(numpy_helper.from_array(value, "w3"))
        config = Config(round_to=1, ratio=0.5, method="nm", provider="cpu")
        with pytest.raises(CompensationError, match=r"conv_3 overflows float16"):
            compress(model, config=config)


SCRIPT = """
import sys
from lbyl_onnx import Config, compress
config = Config(round_to=1, ratio=0.5, method="lbyl+", provider="cpu")
compress(sys.argv[1], sys.argv[2], config=config)
"""


class TestInvariant6SameBytes:
    @pytest.mark.parametrize("name", list(MODELS)[::3])
    def test_twice_in_one_process(self, name: str) -> None:
        first = outcome(name, "lbyl+", 0.5).model
        config = Config(round_to=1, ratio=0.5, method="lbyl+", provider="cpu")
        again = compress(MODELS[name](), config=config, effort=LITTLE).model
        assert first is not None
        assert again is not None
        assert first.SerializeToString(deterministic=True) == again.SerializeToString(
            deterministic=True
        )

    def test_in_two_processes_with_other_hash_seeds(self, tmp_path: Path) -> None:
        onnx.save(residual(), tmp_path / "in.onnx")
        digests = set()
        for seed in ("1", "2"):
            target = tmp_path / f"out_{seed}.onnx"
            subprocess.run(
                [sys.executable, "-c", SCRIPT, str(tmp_path / "in.onnx"), str(target)],
                check=True,
                env={**os.environ, "PYTHONHASHSEED": seed},
            )
            digests.add(hashlib.sha256(target.read_bytes()).hexdigest())
        assert len(digests) == 1


class TestInvariant7Survival:
    @every_method
    def test_everything_that_is_no_weight_is_kept(self, method: str) -> None:
        original = annotated()
        result = outcome("annotated", method, 0.5).model
        assert result is not None
        assert without_new_biases(bare(result), original) == bare(original)

    @every_model
    def test_signature_opset_and_nodes_are_kept(self, name: str) -> None:
        original, result = MODELS[name](), outcome(name, "none", 0.5).model
        assert result is not None
        stored = {t.name for t in original.graph.initializer}
        inputs = [i for i in original.graph.input if i.name not in stored]
        assert [i for i in result.graph.input if i.name in {j.name for j in inputs}] == inputs
        assert list(result.graph.output) == list(original.graph.output)
        assert list(result.opset_import) == list(original.opset_import)
        assert result.ir_version == original.ir_version
        kept = {tuple(n.output): n for n in original.graph.node}
        for node in result.graph.node:
            before = kept[tuple(node.output)]
            assert (node.name, node.op_type, node.domain) == (
                before.name,
                before.op_type,
                before.domain,
            )
            assert list(node.attribute) == list(before.attribute)


def bare(model: ModelProto) -> ModelProto:
    """Return a copy without the numbers and sizes of its initializers."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.ClearField("dims")
    return copy


def without_new_biases(model: ModelProto, original: ModelProto) -> ModelProto:
    """Take away the biases of layers that had none: a restoration may need one."""
    stored = {tensor.name for tensor in original.graph.initializer}
    for node, old in zip(model.graph.node, original.graph.node, strict=True):
        added = node.input[len(old.input) :]
        assert not added or node.op_type in ("Conv", "ConvTranspose", "Gemm")
        del node.input[len(old.input) :]
        for name in added:
            assert name not in stored
            model.graph.initializer.remove(
                next(t for t in model.graph.initializer if t.name == name)
            )
    return model


class TestInvariant8SharedInitializers:
    @every_method
    @pytest.mark.parametrize("name", ["shared_weight", "shared_weight_ir_version_3"])
    def test_what_is_shared_stays_one(self, name: str, method: str) -> None:
        """The reference that verification compares with is checked by invariant 2."""
        original = MODELS[name]()
        result = outcome(name, method, 0.5).model
        assert result is not None
        before, after = values(original), values(result)
        assert [n.input[1] for n in result.graph.node if n.op_type == "Conv"] == [
            n.input[1] for n in original.graph.node if n.op_type == "Conv"
        ]
        assert after["w"].shape == (4, 3, 3, 3)
        assert after["v"].shape == (2, 4, 1, 1)
        assert after["b"].shape == (4,)
        # One more at most: the bias that compensation gives the layer without one, and all its
        # uses together.
        assert len(after) - len(before) <= 1

    @every_method
    def test_what_a_body_reads_stays_as_it_is(self, method: str) -> None:
        result = outcome("if_body", method, 0.5).model
        assert result is not None
        before, after = values(if_body()), values(result)
        np.testing.assert_array_equal(after["b1"], before["b1"])
        assert after["w1"].shape == (7, 4, 1, 1)

    def test_a_vector_of_one_number_is_cut_for_each_reader(self) -> None:
        """It tells no channels apart, so it couples none."""
        config = Config(
            round_to=1, ratio=0.5, method="none", provider="cpu", ratio_for=(("conv_0", 0.2),)
        )
        after = values(compressed(MODELS["shared_fill"](), config))
        assert after["w0"].shape[0] == 4
        assert after["w1"].shape[0] == 3
        assert "b" not in after


class TestInvariant9NothingUnverified:
    def failing(self, error: LbylOnnxError) -> Callable[..., None]:
        def verify(*arguments: object) -> None:
            raise error

        return verify

    def test_a_failed_verification_writes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pipeline, "verify", self.failing(VerificationError("differs")))
        with pytest.raises(VerificationError, match="differs"):
            compress(
                chain(), tmp_path / "out.onnx", config=Config(round_to=1, provider="cpu", ratio=0.3)
            )
        assert list(tmp_path.iterdir()) == []

    def test_a_failed_verification_leaves_an_existing_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target = tmp_path / "out.onnx"
        target.write_bytes(b"before")
        monkeypatch.setattr(pipeline, "verify", self.failing(VerificationError("differs")))
        with pytest.raises(VerificationError, match="differs"):
            compress(
                chain(), target, config=Config(round_to=1, provider="cpu", ratio=0.3), force=True
            )
        assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("out.onnx", b"before")]

    def test_the_output_appears_by_a_rename_after_verification(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        listings: list[list[str]] = []
        original = evaluate_verify.verify

        def verify(*arguments: object) -> object:
            listings.append([p.name for p in tmp_path.iterdir() if not p.name.startswith(".")])
            return original(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(pipeline, "verify", verify)
        compress(
            chain(), tmp_path / "out.onnx", config=Config(round_to=1, provider="cpu", ratio=0.3)
        )
        assert listings == [[]]
        assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]

    def test_a_failed_rename_leaves_no_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*arguments: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "replace", refuse)
        with pytest.raises(OutputError, match="cannot be written: Permission denied"):
            compress(
                chain(), tmp_path / "out.onnx", config=Config(round_to=1, provider="cpu", ratio=0.3)
            )
        assert list(tmp_path.iterdir()) == []

    def test_a_dry_run_writes_nothing(self, tmp_path: Path) -> None:
        result = compress(
            chain(),
            tmp_path / "out.onnx",
            config=Config(round_to=1, provider="cpu", ratio=0.3),
            dry_run=True,
        )
        assert (result.output, result.model) == (None, None)
        assert result.verification.values > 0
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.skipif(os.name != "posix", reason="file modes are a POSIX matter")
    def test_the_file_has_the_mode_of_any_new_file(self, tmp_path: Path) -> None:
        (tmp_path / "plain").write_bytes(b"")
        compress(
            chain(), tmp_path / "out.onnx", config=Config(round_to=1, provider="cpu", ratio=0.3)
        )
        modes = {p.name: p.stat().st_mode for p in tmp_path.iterdir()}
        assert modes["out.onnx"] == modes["plain"]


class TestInvariant10NothingCompared:
    def test_a_comparison_of_no_values_fails(self, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        onnx.save(chain(), path)
        record = run_model(
            path, "CPUExecutionProvider", run_baseline(path, "CPUExecutionProvider", 0).feeds
        )
        nothing = type(record)(record.signature, ())
        with pytest.raises(VerificationError, match="no output value"):
            compare(nothing, nothing, nothing)

    @every_method
    @every_model
    def test_every_success_compared_all_outputs_on_several_shapes(
        self, name: str, method: str
    ) -> None:
        proof = outcome(name, method, 0.5).verification
        dynamic = any(
            dim.dim_param
            for i in MODELS[name]().graph.input
            for dim in i.type.tensor_type.shape.dim
        )
        assert proof.values > 0
        assert proof.shapes >= 4 if dynamic else proof.shapes == 1
