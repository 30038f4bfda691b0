"""Verification rejects what differs, and says in what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from lbyl_onnx import VerificationError
from lbyl_onnx.evaluate.metrics import fidelity
from lbyl_onnx.evaluate.verify import compare, verify
from lbyl_onnx.runtime.baseline import run_baseline
from lbyl_onnx.runtime.execute import Record
from lbyl_onnx.runtime.session import Signature
from tests.support.architectures import chain
from tests.support.net import Net

CPU = "CPUExecutionProvider"
Edit = Callable[[ModelProto], None]


def weight(model: ModelProto, name: str, value: NDArray[np.generic]) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value, name))


def stored(model: ModelProto, name: str) -> NDArray[np.float32]:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    return np.array(numpy_helper.to_array(tensor))


def insert_at_output(op_type: str, *operands: float) -> Edit:
    """Return an edit that puts a node between the last one and the output."""

    def edit(model: ModelProto) -> None:
        model.graph.node[-1].output[0] = "before"
        names = []
        for number, value in enumerate(operands):
            names.append(f"operand_{number}")
            array = np.asarray(value, np.float32)
            model.graph.initializer.append(numpy_helper.from_array(array, names[-1]))
        model.graph.node.append(helper.make_node(op_type, ["before", *names], ["y"]))

    return edit


def swap_channels(model: ModelProto) -> None:
    order = np.arange(12)
    order[[0, 1]] = [1, 0]
    weight(model, "w3", stored(model, "w3")[order])


def swap_classes(model: ModelProto) -> None:
    weight(model, "w8", stored(model, "w8")[::-1].copy())


def not_a_number(model: ModelProto) -> None:
    value = stored(model, "b8")
    value[0] = np.nan
    weight(model, "b8", value)


def slightly_off(model: ModelProto) -> None:
    weight(model, "w8", stored(model, "w8") * np.float32(1.01))


def rename_output(model: ModelProto) -> None:
    model.graph.node[-1].output[0] = model.graph.output[0].name = "z"


def rename_input(model: ModelProto) -> None:
    model.graph.node[0].input[0] = model.graph.input[0].name = "image"


def add_output(model: ModelProto) -> None:
    model.graph.output.append(
        helper.make_tensor_value_info("conv_0_out", TensorProto.FLOAT, ["N", 8, 6, 6])
    )


def change_dtype(model: ModelProto) -> None:
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(helper.make_node("Cast", ["before"], ["y"], to=TensorProto.DOUBLE))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def fix_batch(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def stale_shape(model: ModelProto) -> None:
    info = helper.make_tensor_value_info("relu_2_out", TensorProto.FLOAT, ["N", 7, 6, 6])
    model.graph.value_info.append(info)


def missing_weight(model: ModelProto) -> None:
    model.graph.node[0].input[1] = "nowhere"


class TestVerify:
    def check(self, folder: Path, edit: Edit) -> None:
        original, changed = chain(), chain()
        edit(changed)
        paths = folder / "original.onnx", folder / "changed.onnx"
        for model, path in zip((original, changed), paths, strict=True):
            onnx.save(model, path)
        taken = run_baseline(paths[0], CPU, 0)
        verify(taken, paths[0], paths[1], paths[0], taken.feeds)

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (insert_at_output("Mul", 2.0), r"output y differs from what the plan gives by 0\.99"),
            (insert_at_output("Mul", 1000.0), "output y differs"),
            (insert_at_output("Add", 0.1), "output y differs"),
            (insert_at_output("Neg"), "output y differs"),
            (slightly_off, "output y differs"),
            (swap_channels, "output y differs"),
            (swap_classes, "output y differs"),
            (not_a_number, "output y is not finite"),
            (rename_output, "inputs or outputs changed"),
            (rename_input, "Required inputs|Invalid input name|inputs or outputs changed"),
            (add_output, "inputs or outputs changed"),
            (change_dtype, "inputs or outputs changed"),
            (fix_batch, "inputs or outputs changed|cannot run"),
            (stale_shape, "the checker rejects the output"),
            (missing_weight, "the checker rejects the output"),
        ],
    )
    def test_rejects(self, tmp_path: Path, edit: Edit, message: str) -> None:
        with pytest.raises(VerificationError, match=message):
            self.check(tmp_path, edit)

    def test_accepts_the_same_sums_in_another_order(self, tmp_path: Path) -> None:
        def reorder(model: ModelProto) -> None:
            order = np.arange(12)[::-1]
            for name in ("w3", "gamma4", "beta4", "mean4", "var4"):
                weight(model, name, stored(model, name)[order].copy())
            weight(model, "w8", stored(model, "w8")[:, order].copy())

        self.check(tmp_path, reorder)

    def test_tells_what_was_compared(self, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        onnx.save(chain(), path)
        taken = run_baseline(path, CPU, 0)
        proof = verify(taken, path, path, path, taken.feeds)
        # Eight single inputs and batches of 2, 4, 3 and 17, ten classes each.
        assert (proof.values, proof.shapes, proof.provider) == (340, 5, CPU)
        assert proof.fidelity.samples == 34
        assert proof.fidelity.top1_agreement == 1.0
        assert proof.fidelity.cosine == pytest.approx(1.0, abs=1e-12)

    def test_a_whole_number_output_is_compared(self, tmp_path: Path) -> None:
        net = Net(("N", 6))
        model = net.model(net.gemm(net.relu(net.gemm("x", 6, 8)), 8, 5))
        model.graph.node[-1].output[0] = "scores"
        model.graph.node.append(helper.make_node("ArgMax", ["scores"], ["y"], axis=1, keepdims=0))
        del model.graph.output[:]
        model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.INT64, ["N"]))
        onnx.save(model, tmp_path / "a.onnx")
        weight(model, "w2", -stored(model, "w2"))
        onnx.save(model, tmp_path / "b.onnx")
        taken = run_baseline(tmp_path / "a.onnx", CPU, 0)
        paths = {name: tmp_path / f"{name}.onnx" for name in "ab"}
        proof = verify(taken, paths["a"], paths["a"], paths["a"], taken.feeds)
        # What ArgMax reads, at five input shapes: batches of 1, 2, 4, 3 and 17, five scores each.
        assert (proof.values, proof.discontinuous) == (135, ("ArgMax(y)",))
        with pytest.raises(VerificationError, match="output scores differs"):
            verify(taken, paths["a"], paths["b"], paths["a"], taken.feeds)


ONE = Signature((("x", "tensor(float)", (1,)),), (("y", "tensor(float)", (1, 2)),))


def record(*values: NDArray[np.generic]) -> Record:
    return Record(ONE, tuple((value,) for value in values))


class TestCompare:
    good = np.array([[1.0, -2.0]], np.float32)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            (2.0 * good, "differs"),
            (good[:, ::-1], "differs"),
            (good * np.float32(np.nan), "not finite"),
            (good * np.float32(np.inf), "not finite"),
            (good.astype(np.float64), "type float64"),
            (good[:, :1], "shape"),
            (good[0], "shape"),
        ],
    )
    def test_rejects(self, changed: NDArray[np.generic], message: str) -> None:
        expected = record(self.good)
        with pytest.raises(VerificationError, match=message):
            compare(expected, record(changed), expected)

    def test_a_bad_value_in_a_later_batch_is_found(self) -> None:
        expected = record(self.good, self.good)
        with pytest.raises(VerificationError, match="differs"):
            compare(expected, record(self.good, 2.0 * self.good), expected)

    @pytest.mark.parametrize("batches", [(), (np.zeros((0, 2), np.float32),)])
    def test_nothing_compared_is_a_failure(self, batches: tuple[NDArray[np.generic], ...]) -> None:
        with pytest.raises(VerificationError, match="no output value could be compared"):
            compare(record(*batches), record(*batches), record(*batches))

    def test_a_different_number_of_batches_is_no_agreement(self) -> None:
        with pytest.raises(ValueError, match="shorter"):
            compare(record(self.good, self.good), record(self.good), record(self.good))

    def test_zeros_are_compared_absolutely(self) -> None:
        zero = np.zeros((1, 2), np.float32)
        assert compare(record(zero), record(zero), record(zero)) == (0.0, 2)
        with pytest.raises(VerificationError, match="differs"):
            compare(record(zero), record(zero + np.float32(0.1)), record(zero))

    @pytest.mark.parametrize(("wrong", "passes"), [(1e-7, True), (1e-6, False), (1e-4, False)])
    def test_a_zeroed_output_is_measured_by_the_original(self, wrong: float, passes: bool) -> None:
        """Outputs of 1e-6 where the original's are 0.5: an error of 1e-7 is a kernel's rounding."""
        old, want = np.full((1, 2), 0.5, np.float32), np.full((1, 2), 1e-6, np.float32)
        new = want + np.float32(wrong)
        if passes:
            assert compare(record(old), record(new), record(want))[0] <= 1e-3
        else:
            with pytest.raises(VerificationError, match="differs"):
                compare(record(old), record(new), record(want))

    def test_an_input_that_gives_almost_nothing_is_measured_by_the_others(self) -> None:
        """A probability of 1e-5 may differ by the rounding of larger ones, and by no more."""
        small = np.array([[1e-5, 0.0]], np.float32)
        expected = record(small, self.good)
        value, _ = compare(expected, record(small + np.float32(1e-7), self.good), expected)
        assert value == pytest.approx(0.5e-7, rel=1e-3)
        with pytest.raises(VerificationError, match="differs"):
            compare(expected, record(small + np.float32(1e-2), self.good), expected)

    def test_an_original_that_is_not_finite_is_named_as_the_cause(self) -> None:
        broken = record(self.good * np.float32(np.nan))
        with pytest.raises(VerificationError, match="as the original's on random input"):
            compare(broken, broken, broken)


class TestFidelity:
    def test_by_hand(self) -> None:
        old = [[np.array([[3.0, 4.0], [0.0, 0.0]])]]
        new = [[np.array([[4.0, 3.0], [0.0, 0.0]])]]
        result = fidelity(["y"], old, new)
        assert result.relative_error == pytest.approx(np.sqrt(2.0) / 5.0)
        assert result.cosine == pytest.approx(24.0 / 25.0)
        assert (result.top1_agreement, result.samples) == (0.5, 2)

    def test_outputs_without_classes_have_no_top1(self) -> None:
        one = [[np.array([[1.0]])]]
        assert fidelity(["y"], one, one).top1_agreement is None

    def test_zero_outputs(self) -> None:
        zero, one = [[np.zeros((1, 2))]], [[np.ones((1, 2))]]
        assert replace(fidelity(["y"], zero, zero), samples=0).cosine == 1.0
        assert fidelity(["y"], zero, one).relative_error == 1.0
        assert fidelity(["y"], one, zero).cosine == 0.0

    def test_the_worst_output_counts(self) -> None:
        one, two = np.array([[1.0, 2.0]]), np.array([[2.0, 1.0]])
        result = fidelity(["good", "bad"], [[one, one]], [[one, two]])
        good, bad = result.outputs
        assert (good.cosine, good.top1_agreement, good.agreement) == (1.0, 1.0, 1.0)
        assert (bad.top1_agreement, bad.agreement) == (0.0, 0.0)
        assert bad.cosine == pytest.approx(4.0 / 5.0)
        assert (result.cosine, result.agreement) == (bad.cosine, 0.0)
        assert result.relative_error == bad.relative_error == pytest.approx(np.sqrt(2.0 / 5.0))

    @pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.str_, np.object_])
    def test_what_is_no_float_counts_by_the_share_that_is_equal(self, dtype: type) -> None:
        old: NDArray[Any] = np.array([[0, 1, 1, 0]]).astype(dtype)
        new: NDArray[Any] = np.array([[0, 1, 0, 0]]).astype(dtype)
        result = fidelity(["y"], [[old]], [[new]])
        assert (result.cosine, result.relative_error, result.top1_agreement) == (None, None, None)
        assert result.equal == result.agreement == result.nearness == 0.75

    def test_what_could_not_be_compared_is_named(self) -> None:
        one, none = np.ones((1, 2)), np.zeros((0, 2))
        olds, news = [one, none, one], [one, none, np.ones((1, 3))]
        result = fidelity(["full", "empty", "other"], [olds, olds], [news, [one, none, one]])
        assert result.not_compared == {
            "empty": "it is empty",
            "other": "in 1 of 2 batches its shape is another ((1, 3), not (1, 2))",
        }
        assert [output.values for output in result.outputs] == [4, 0, 2]
        assert result.agreement == 1.0
        assert fidelity(["y"], [[none]], [[none]]).agreement is None

    def test_batches_are_taken_together(self) -> None:
        rng = np.random.default_rng(0)
        old, new = rng.standard_normal((2, 12, 5))
        whole = fidelity(["y"], [[old]], [[new]])
        olds, news = ([[x[i : i + 3]] for i in range(0, 12, 3)] for x in (old, new))
        parts = fidelity(["y"], olds, news)
        assert parts.samples == whole.samples == 12
        assert parts.cosine == pytest.approx(whole.cosine, rel=1e-12)
        assert parts.relative_error == pytest.approx(whole.relative_error, rel=1e-12)
        assert parts.top1_agreement == whole.top1_agreement
