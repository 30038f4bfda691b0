"""lbyl+ from end to end: the default command, its samples, what it says and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import ModelProto, numpy_helper
from PIL import Image

from lbyl_onnx import CompressResult, Config, OptionError, compress
from lbyl_onnx.channels.groups import ChannelGroup
from lbyl_onnx.cli import main
from lbyl_onnx.methods.types import Moments
from lbyl_onnx.observe.session import ObservationRound
from lbyl_onnx.types import Array
from tests.conftest import ROOT
from tests.support.models import MODELS
from tests.support.net import Net
from tests.support.oracle import deviation, make_feeds, run

SAMPLE, TEST_SET = ROOT / "samples" / "digits.onnx", ROOT / "samples" / "digits_test.npz"
CPU = Config(round_to=1, ratio=0.5, provider="cpu")
NAMES = (
    "folded",
    "residual",
    "squeeze_excite",
    "dense",
    "flatten_spatial",
    "mlp_row_bias",
    "matmul_chain",
    "half",
    "double",
    "ir_version_3",
    "if_body",
)


def cli(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["compress", "--ratio=0.3", *(str(a) for a in arguments)])


def written(model: ModelProto | Path, folder: Path, config: Config) -> bytes:
    path = folder / "out.onnx"
    compress(model, path, config=config, force=True)
    return path.read_bytes()


class TestDefault:
    def test_the_method_is_lbyl_plus_and_the_criterion_obs(self) -> None:
        assert Config().method == "lbyl+"
        assert Config().by_loss

    @pytest.mark.parametrize("method", ["none", "nm", "lbyl"])
    def test_other_methods_choose_by_norm(self, method: str) -> None:
        config = Config(round_to=1, method=method, ratio=0.3)
        assert not config.by_loss
        assert config.score == "l2"

    @pytest.mark.parametrize("method", ["none", "nm", "lbyl", "lbyl+"])
    @pytest.mark.parametrize("criterion", ["l2", "l1", "gm", "random"])
    def test_a_criterion_that_is_given_holds(self, method: str, criterion: str) -> None:
        config = Config(round_to=1, method=method, criterion=criterion, ratio=0.3)
        assert not config.by_loss
        assert config.score == criterion

    def test_the_command_takes_it(self, sample: Path, tmp_path: Path) -> None:
        by_default, named = tmp_path / "a.onnx", tmp_path / "b.onnx"
        options = ("--ratio", "0.5", "--provider", "cpu")
        assert cli(sample, by_default, *options).exit_code == 0
        assert (
            cli(sample, named, *options, "--method", "lbyl+", "--criterion", "obs").exit_code == 0
        )
        assert by_default.read_bytes() == named.read_bytes()

    def test_it_predicts_the_error_of_each_group(self, sample: Path) -> None:
        small, large, unknown = (
            [g.predicted_error for g in compress(sample, config=config).groups]
            for config in (
                Config(round_to=1, ratio=0.1),
                Config(round_to=1, ratio=0.6),
                Config(round_to=1, ratio=0.1, method="none"),
            )
        )
        assert all(0.0 < a < b < 1.0 for a, b in zip(small, large, strict=True) if a and b)
        assert None not in (*small, *large)
        assert set(unknown) == {None}


class TestModels:
    @pytest.mark.parametrize("name", NAMES)
    def test_it_verifies_and_says_what_it_did(self, name: str) -> None:
        result = compress(MODELS[name](), config=CPU)
        assert result.verification.values > 0
        assert result.after.parameters < result.before.parameters
        assert result.groups
        for group in result.groups:
            assert group.restored.startswith("lbyl+")
            assert group.kept == max(1, int(group.channels * 0.5))

    @pytest.mark.parametrize("name", ["residual", "mlp_row_bias", "half"])
    def test_the_same_bytes_for_the_same_seed(self, tmp_path: Path, name: str) -> None:
        model = MODELS[name]()
        before = model.SerializeToString(deterministic=True)
        first = written(model, tmp_path, CPU)
        assert written(model, tmp_path, CPU) == first
        assert (
            written(model, tmp_path, Config(round_to=1, ratio=0.5, provider="cpu", seed=1)) != first
        )
        assert model.SerializeToString(deterministic=True) == before

    @pytest.mark.parametrize(
        ("name", "by_window"), [("chain_2d", [True, False]), ("mlp", [False] * 2)]
    )
    def test_what_a_window_tells_apart_is_said(self, name: str, by_window: list[bool]) -> None:
        result = compress(MODELS[name](), config=CPU)
        assert [group.restored == "lbyl+ by window" for group in result.groups] == by_window

    @pytest.mark.parametrize("method", ["none", "nm", "lbyl"])
    def test_obs_selects_for_other_methods_too(self, method: str) -> None:
        model = MODELS["chain_2d"]()
        by_loss, by_norm = (
            compress(
                model,
                config=Config(round_to=1, ratio=0.5, method=method, criterion=c, provider="cpu"),
            )
            for c in ("obs", "l2")
        )
        assert [group.restored for group in by_loss.groups] == [method] * 2
        assert by_loss.model is not None
        assert by_norm.model is not None
        feeds = make_feeds(model)
        assert deviation(run(by_loss.model, feeds)[0], run(by_norm.model, feeds)[0]) > 1e-3

    @pytest.mark.parametrize("ratio", [0.0, 0.3, 0.99])
    def test_each_group_keeps_its_share(self, ratio: float) -> None:
        result = compress(
            MODELS["chain_2d"](), config=Config(round_to=1, ratio=ratio, provider="cpu")
        )
        expected = [max(1, int(n * (1 - ratio) + 1e-9)) for n in (8, 12)]
        assert [group.kept for group in result.groups] == expected


def huge(scale: float) -> ModelProto:
    """Two hidden layers; what leaves the first is about `scale`, and brought back in the second.

    All values are finite, but not the squares of those beyond 1e19.
    """
    net = Net(("N", 6))
    x = net.relu(net.gemm("x", 6, 12))
    x = net.relu(net.gemm(x, 12, 8))
    model = net.model(net.gemm(x, 8, 5))
    factors = {"w0": scale, "b0": scale, "w2": 1.0 / scale}
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor) * np.float32(factors.get(tensor.name, 1.0))
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return model


class TestNotFinite:
    def test_a_group_whose_statistics_overflow_falls_back_and_says_so(self) -> None:
        result = compress(huge(1e25), config=CPU)
        restored = [group.restored for group in result.groups]
        assert restored == ["lbyl (their statistics are not finite)", "lbyl+"]
        assert [group.kept for group in result.groups] == [6, 4]

    def test_it_then_keeps_what_lbyl_keeps(self) -> None:
        """The first layer keeps the channels that --method lbyl keeps."""
        config = Config(round_to=1, ratio=0.5, method="lbyl", provider="cpu", include=("gemm_0",))
        plus = Config(round_to=1, ratio=0.5, provider="cpu", include=("gemm_0",))
        model = huge(1e25)
        one, two = (compress(model, config=c).model for c in (config, plus))
        assert one is not None
        assert two is not None
        feeds = make_feeds(model)
        # The second layer's weight and bias are repaired besides, so only the choice is compared.
        first = {t.name: numpy_helper.to_array(t) for t in one.graph.initializer}
        second = {t.name: numpy_helper.to_array(t) for t in two.graph.initializer}
        np.testing.assert_array_equal(second["w0"], first["w0"])
        assert np.all(np.isfinite(run(two, feeds)[0]))

    def test_what_does_not_overflow_does_not_fall_back(self) -> None:
        result = compress(huge(1e10), config=CPU)
        assert [group.restored for group in result.groups] == ["lbyl+"] * 2

    def test_the_scale_does_not_matter(self) -> None:
        one, other = (compress(huge(scale), config=CPU).model for scale in (1.0, 1e10))
        assert one is not None
        assert other is not None
        feeds = make_feeds(one)
        assert deviation(run(other, feeds)[0], run(one, feeds)[0]) < 1e-3

    def test_silent_layers_are_no_failure(self) -> None:
        """Nothing varies: only the means are left to deliver."""
        model = huge(1.0)
        for tensor in model.graph.initializer:
            if tensor.name == "w0":
                zero = np.zeros_like(numpy_helper.to_array(tensor))
                tensor.CopyFrom(numpy_helper.from_array(zero, "w0"))
        result = compress(model, config=CPU)
        assert result.model is not None
        feeds = make_feeds(model)
        assert deviation(run(result.model, feeds)[0], run(model, feeds)[0]) < 1e-5


def linear_mlp(layers: int) -> ModelProto:
    """Gemms without activations; 16 channels of 4 dimensions, and an offset."""
    net = Net(("N", 4))
    x, count = "x", 4
    for _ in range(layers - 1):
        x, count = net.gemm(x, count, 16), 16
    return net.model(net.gemm(x, count, 5))


def linear_conv(layers: int) -> ModelProto:
    """Pointwise Convs likewise."""
    net = Net(("N", 3, 6, 6))
    x, count = "x", 3
    for _ in range(layers - 1):
        x, count = net.conv(x, (count, 16), (1, 1)), 16
    return net.model(net.head(x, 16))


LINEAR: dict[str, Callable[[int], ModelProto]] = {"mlp": linear_mlp, "conv": linear_conv}


class TestLinearRedundancy:
    @pytest.mark.parametrize(("name", "layers"), [("mlp", 2), ("conv", 2), ("conv", 4)])
    def test_channels_that_follow_from_the_others_are_given_back(
        self, monkeypatch: pytest.MonkeyPatch, name: str, layers: int
    ) -> None:
        """With a ridge just above the rounding of the covariances, which are float32 sums.

        Four layers amplify that, by the condition of the 4 dimensions, to 4e-4. Between Gemms there
        is noise as well, which lies in more dimensions than what the first of them gives.
        """
        measured = ObservationRound.moments

        def lightly_ridged(round_: ObservationRound, group: ChannelGroup) -> list[Moments] | str:
            found = measured(round_, group)
            if isinstance(found, str):
                return found
            return [replace(one, ridge_share=1e-6, ridge_per_row=0.0) for one in found]

        monkeypatch.setattr(ObservationRound, "moments", lightly_ridged)
        model = LINEAR[name](layers)
        result = compress(model, config=CPU)
        assert result.model is not None
        feeds = make_feeds(model)
        assert deviation(run(result.model, feeds)[0], run(model, feeds)[0]) < 2e-3

    @pytest.mark.parametrize("name", LINEAR)
    def test_the_ridge_costs_little(self, name: str) -> None:
        model = LINEAR[name](2)
        configs = CPU, Config(round_to=1, ratio=0.5, method="none", provider="cpu")
        near, dropped = (compress(model, config=c).verification.fidelity for c in configs)
        assert near.relative_error is not None
        assert dropped.relative_error is not None
        assert near.relative_error < 0.05
        assert dropped.relative_error > 0.2


@cache
def digits(method: str) -> CompressResult:
    return compress(SAMPLE, config=Config(round_to=1, ratio=0.5, method=method, provider="cpu"))


class TestDigits:
    @pytest.mark.parametrize("other", ["none", "nm", "lbyl"])
    def test_it_is_nearer_to_the_original_on_synthetic_samples(self, other: str) -> None:
        ours, theirs = (digits(m).verification.fidelity for m in ("lbyl+", other))
        for name in ("cosine", "relative_error"):
            assert isinstance(getattr(ours, name), float)
        assert (ours.cosine or 0.0) > (theirs.cosine or 0.0)
        assert (ours.relative_error or 0.0) < (theirs.relative_error or 0.0)

    @pytest.mark.parametrize("other", ["none", "nm", "lbyl"])
    def test_it_is_nearer_to_the_original_on_digits(self, other: str) -> None:
        """Images that it was not told of."""
        images = np.load(TEST_SET)["input"]
        reference = run(onnx.load(SAMPLE), {"input": images})[0].reshape(-1)
        cosines = []
        for method in ("lbyl+", other):
            model = digits(method).model
            assert model is not None
            outputs = run(model, {"input": images})[0].reshape(-1)
            cosines.append(
                outputs @ reference / np.linalg.norm(outputs) / np.linalg.norm(reference)
            )
        assert cosines[0] > cosines[1]

    def test_the_users_own_samples_bring_it_nearer_on_their_like(self, tmp_path: Path) -> None:
        images = np.load(TEST_SET)["input"]
        np.save(tmp_path / "some.npy", images[::2])
        config = Config(
            round_to=1, ratio=0.5, provider="cpu", calibration=str(tmp_path / "some.npy")
        )
        reference = run(onnx.load(SAMPLE), {"input": images[1::2]})[0]
        errors = []
        for result in (compress(SAMPLE, config=config), digits("lbyl+")):
            assert result.model is not None
            outputs = run(result.model, {"input": images[1::2]})[0]
            errors.append(float(np.linalg.norm(outputs - reference)))
        assert errors[0] < errors[1]


def images_of(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        pixels = rng.integers(0, 256, (12, 12), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


class TestCalibration:
    def test_arrays_in_either_file_give_the_same_model(self, sample: Path, tmp_path: Path) -> None:
        images = np.load(TEST_SET)["input"][:50]
        np.save(tmp_path / "a.npy", images)
        np.savez(tmp_path / "a.npz", input=images, labels=np.arange(50))
        outputs = []
        for name in ("a.npy", "a.npz"):
            output = tmp_path / f"{name}.onnx"
            options = ("--provider", "cpu", "--calibration", tmp_path / name, "--quiet")
            result = cli(sample, output, *options)
            assert (result.exit_code, result.stderr) == (0, "")
            outputs.append(output.read_bytes())
        assert outputs[0] == outputs[1]
        assert outputs[0] != written(
            sample, tmp_path, Config(round_to=1, provider="cpu", ratio=0.3)
        )

    @pytest.mark.parametrize("options", [(), ("--mean", "0.5", "--std", "0.25")])
    def test_a_folder_of_images(
        self, sample: Path, tmp_path: Path, options: tuple[str, ...]
    ) -> None:
        folder, output = images_of(tmp_path / "images", 12), tmp_path / "out.onnx"
        result = cli(sample, output, "--calibration", folder, *options)
        assert result.exit_code == 0, result.stderr
        assert output.stat().st_size < sample.stat().st_size

    def test_one_sample_is_enough_to_run(self, sample: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "one.npy", np.load(TEST_SET)["input"][:1])
        result = cli(sample, tmp_path / "out.onnx", "--calibration", tmp_path / "one.npy")
        assert result.exit_code == 0, result.stderr

    @pytest.mark.parametrize(
        ("samples", "says"),
        [
            (np.zeros((5, 1, 9, 8), np.float32), "shape"),
            (np.zeros((5, 64), np.float32), "shape"),
            (np.zeros((0, 1, 8, 8), np.float32), "no samples"),
            (np.full((5, 1, 8, 8), np.nan, np.float32), "finite"),
            (np.full((5, 1, 8, 8), np.inf, np.float32), "finite"),
            (np.zeros((5, 1, 8, 8), np.int64), "int64"),
            (np.full((5, 1, 8, 8), "a"), "U1"),
            (np.full((5, 1, 8, 8), None), "object"),
        ],
        ids=["shape", "rank", "empty", "nan", "inf", "integers", "text", "pickled"],
    )
    @pytest.mark.parametrize("suffix", ["npy", "npz"])
    def test_what_does_not_fit_is_one_clear_line(
        self, sample: Path, tmp_path: Path, samples: Array, says: str, suffix: str
    ) -> None:
        path = tmp_path / f"samples.{suffix}"
        if suffix == "npy":
            np.save(path, samples)
        else:
            np.savez(path, input=samples)
        check_refused(sample, tmp_path, path, says)

    @pytest.mark.parametrize(
        ("name", "says"),
        [("absent.npz", "does not exist"), ("empty", "no image"), ("text.txt", "is no .npz")],
    )
    def test_what_is_not_there_is_one_clear_line(
        self, sample: Path, tmp_path: Path, name: str, says: str
    ) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "text.txt").write_text("text")
        check_refused(sample, tmp_path, tmp_path / name, says)

    def test_an_array_under_another_name_is_one_clear_line(
        self, sample: Path, tmp_path: Path
    ) -> None:
        arrays = {name: np.zeros((5, 1, 8, 8), np.float32) for name in ("one", "two")}
        np.savez(tmp_path / "samples.npz", **arrays)  # type: ignore[arg-type]  # arrays by name
        check_refused(sample, tmp_path, tmp_path / "samples.npz", "input")


def check_refused(sample: Path, folder: Path, path: Path, says: str) -> None:
    output = folder / "out.onnx"
    result = cli(sample, output, "--calibration", path)
    assert result.exit_code == 1
    assert says in result.stderr
    assert path.name in result.stderr
    assert result.stderr.count("\n") == 1
    assert "internal error" not in result.stderr
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "lbyl", "calibration": "x.npz"}, "looks at no samples"),
        ({"sample_rate": 8000}, "give calibration too"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Config(**options)
