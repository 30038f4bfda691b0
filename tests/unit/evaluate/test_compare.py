"""`lbyl-onnx verify`: two models on the same inputs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from lbyl_onnx import Config, compare_models, compress
from lbyl_onnx.cli import main
from samples.score import count_right
from tests.support.architectures import chain, mlp

ROOT = Path(__file__).resolve().parents[3]
DIGITS = ROOT / "samples" / "digits_test.npz"


def verify(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments), "--provider", "cpu"])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    config = Config(round_to=1, ratio=0.6, method="none", provider="cpu")
    compress(ROOT / "samples" / "digits.onnx", path, config=config)
    return path


def test_a_model_and_itself(sample: Path) -> None:
    comparison = compare_models(sample, sample, provider="cpu")
    assert comparison.agreement == 1.0
    assert comparison.fidelity.relative_error == 0.0
    assert comparison.original_top1 is None
    assert comparison.inputs is None
    assert comparison.prediction is not None
    assert comparison.prediction.value > 0.999


def test_labels_give_the_accuracy_of_both(sample: Path, small: Path) -> None:
    result = verify(sample, small, "--inputs", DIGITS, "--labels", "labels", "--json", "-")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    for path, key in ((sample, "original_top1"), (small, "compressed_top1")):
        right, images = count_right(path, DIGITS)
        assert report[key] == pytest.approx(right / images)
        assert f"{right / images:.2%}" in result.stderr
    assert report["fidelity"]["samples"] == count_right(sample, DIGITS)[1]
    assert report["agreement"] == report["fidelity"]["top1_agreement"] < 1.0
    assert report["latency"]["before"]["median"] > 0


def test_a_comparison_prints_in_five_lines(sample: Path, small: Path) -> None:
    on_digits = compare_models(sample, small, inputs=DIGITS, labels="labels", provider="cpu")
    lines = str(replace(on_digits, scores=(0.9, 0.8))).splitlines()
    assert lines[0].startswith("outputs on ")
    assert lines[1] == f"top-1 {on_digits.original_top1:.2%} -> {on_digits.compressed_top1:.2%}"
    assert lines[2] == "score 0.9 -> 0.8"
    assert lines[3].startswith("time ")
    synthetic = compare_models(sample, small, provider="cpu")
    assert str(synthetic).splitlines()[2:] == [str(synthetic.prediction)]


def test_a_bound(sample: Path, small: Path) -> None:
    agreement = compare_models(sample, small, inputs=DIGITS, provider="cpu").agreement
    for bound, code in ((agreement - 0.01, 0), (agreement + 0.01, 3)):
        result = verify(sample, small, "--inputs", DIGITS, "--min-agreement", f"{bound:.4f}")
        assert result.exit_code == code
        assert ("below" in result.stderr) == (code == 3)


def test_without_classes_the_cosine_counts(tmp_path: Path) -> None:
    model = mlp()
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.node.append(
        onnx.helper.make_node("ReduceSum", [model.graph.output[0].name], ["sum"], keepdims=0)
    )
    model.graph.output[0].name = "sum"
    path = tmp_path / "sum.onnx"
    onnx.save(model, path)
    comparison = compare_models(path, path, provider="cpu")
    assert comparison.fidelity.top1_agreement is None
    assert comparison.agreement == comparison.fidelity.cosine == 1.0


def two_outputs(path: Path, gain: float) -> Path:
    """A model and its output once more, times a factor."""
    model = mlp()
    name = model.graph.output[0].name
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.array([gain], np.float32), "gain")
    )
    model.graph.node.append(onnx.helper.make_node("Mul", [name, "gain"], ["second"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("second", 1, ["N", "classes"]))
    onnx.save(model, path)
    return path


def test_every_output_is_told_and_held_against_the_bound(tmp_path: Path) -> None:
    one, two = two_outputs(tmp_path / "a.onnx", 1.0), two_outputs(tmp_path / "b.onnx", -1000.0)
    result = verify(one, two, "--min-agreement", "0.9", "--json", "-")
    assert result.exit_code == 3
    assert "the agreement of output second is" in result.stderr
    assert "second: relative error 1001.000, cosine -1.000" in result.stderr
    report = json.loads(result.stdout)
    first, second = report["fidelity"]["outputs"]
    assert (first["name"], first["top1_agreement"]) == (onnx.load(one).graph.output[0].name, 1.0)
    assert second["cosine"] == pytest.approx(-1.0)
    assert report["agreement"] == second["top1_agreement"] < 0.9
    assert verify(one, one, "--min-agreement", "1.0").exit_code == 0


def save(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


class TestRefusals:
    def test_other_inputs_or_outputs(self, sample: Path, tmp_path: Path) -> None:
        onnx.save(chain(), tmp_path / "other.onnx")
        result = verify(sample, tmp_path / "other.onnx")
        assert result.exit_code == 3
        assert "differ" in result.stderr

    def test_labels_without_inputs(self, sample: Path) -> None:
        assert "need inputs" in verify(sample, sample, "--labels", "y").stderr

    def test_what_is_not_in_the_file(self, sample: Path, tmp_path: Path) -> None:
        path = save(tmp_path / "x.npz", a=np.zeros(3))
        result = verify(sample, sample, "--inputs", path)
        assert result.exit_code == 1
        assert "holds a, but not" in result.stderr

    def test_as_many_labels_as_samples(self, sample: Path, tmp_path: Path) -> None:
        name = onnx.load(sample).graph.input[0].name
        with np.load(DIGITS) as data:
            path = save(tmp_path / "x.npz", **{name: data[name][:5]}, y=np.zeros(4, np.int64))
            float_path = save(tmp_path / "y.npz", **{name: data[name][:5]}, y=np.zeros(5))
        assert "same number" in verify(sample, sample, "--inputs", path, "--labels", "y").stderr
        result = verify(sample, sample, "--inputs", float_path, "--labels", "y")
        assert "whole number" in result.stderr

    def test_no_npz(self, sample: Path, tmp_path: Path) -> None:
        (tmp_path / "x.npz").write_text("no")
        np.save(tmp_path / "y.npy", np.zeros(3))
        for name in ("x.npz", "y.npy", "none.npz"):
            result = verify(sample, sample, "--inputs", tmp_path / name)
            assert result.exit_code == 1
            assert "npz" in result.stderr
