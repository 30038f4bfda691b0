"""What is reached, on small models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lbyl_onnx import (
    CompressResult,
    Config,
    NothingSafeError,
    OptionError,
    TargetError,
    compress,
)
from lbyl_onnx.runtime import timing
from tests.support.architectures import chain, inception, mlp, residual
from tests.support.models import MODELS

Options = dict[str, Any]


def compressed(model: onnx.ModelProto, **options: Any) -> CompressResult:
    return compress(model, config=Config(provider="cpu", **options))


def kept(result: CompressResult) -> list[int]:
    return [group.kept for group in result.groups]


BUILDERS = {"chain": chain, "inception": inception, "mlp": mlp, "residual": residual}


@pytest.mark.parametrize("allocation", ["uniform", "auto"])
@pytest.mark.parametrize("name", BUILDERS)
class TestBudgets:
    def test_macs(self, name: str, allocation: str) -> None:
        result = compressed(BUILDERS[name](), macs="70%", allocation=allocation)
        assert result.after.macs <= 0.7 * result.before.macs
        assert result.target.reached == result.after.macs
        assert result.target.wanted == pytest.approx(0.7 * result.before.macs)

    def test_parameters(self, name: str, allocation: str) -> None:
        result = compressed(BUILDERS[name](), params="70%", allocation=allocation)
        assert result.after.parameters <= 0.7 * result.before.parameters
        assert result.target.reached == result.after.parameters

    def test_size(self, name: str, allocation: str, tmp_path: Path) -> None:
        output = tmp_path / "out.onnx"
        config = Config(provider="cpu", size="85%", allocation=allocation)  # type: ignore[arg-type]
        result = compress(BUILDERS[name](), output, config=config)
        assert output.stat().st_size == result.size_after == result.target.reached
        assert result.size_after <= 0.85 * result.size_before


@pytest.mark.parametrize("kind", ["macs", "params", "size"])
def test_one_channel_more_would_not_fit(kind: str) -> None:
    result = compressed(mlp(), **{kind: "60%"})
    # No group's last channel costs more than this share of the model.
    assert result.target.reached > 0.4 * (
        {"macs": result.before.macs, "params": result.before.parameters}.get(
            kind, result.size_before
        )
    )


@pytest.mark.parametrize("options", [{"macs": "1%"}, {"params": "1"}, {"size": "10B"}])
def test_an_impossible_target_says_the_least_and_writes_nothing(
    options: Options, tmp_path: Path
) -> None:
    with pytest.raises(TargetError, match="the least is"):
        compress(chain(), tmp_path / "out.onnx", config=Config(provider="cpu", **options))
    assert list(tmp_path.iterdir()) == []


def test_the_least_that_it_names_can_be_reached() -> None:
    with pytest.raises(TargetError) as caught:
        compressed(chain(), macs="1%")
    least = str(caught.value).split("the least is ")[1].split(";")[0].replace(",", "")
    assert compressed(chain(), macs=least).after.macs == int(least)


def test_a_ratio_with_auto_spends_the_multiply_accumulates_of_uniform() -> None:
    uniform = compressed(residual(), ratio=0.5)
    auto = compressed(residual(), ratio=0.5, allocation="auto")
    assert auto.after.macs <= uniform.after.macs
    assert sum(kept(auto)) < sum(g.channels for g in auto.groups)


@pytest.mark.parametrize("name", ["chain", "inception", "mlp", "residual"])
def test_auto_keeps_outputs_at_least_as_near_as_uniform(name: str) -> None:
    near = {
        allocation: compressed(
            BUILDERS[name](), macs="60%", allocation=allocation, round_to=1
        ).verification.fidelity.nearness
        for allocation in ("uniform", "auto")
    }
    assert near["uniform"] is not None
    assert near["auto"] is not None
    assert near["auto"] >= near["uniform"] - 1e-6  # the kernels' rounding


@pytest.fixture
def model() -> onnx.ModelProto:
    """A model in which half of one layer's channels are copies of the other half."""
    model = mlp()
    for tensor in model.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor).copy()
        if tensor.name in model.graph.node[0].input[1:3]:
            half = len(value) // 2
            value[half : 2 * half] = value[:half]
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    return model


@pytest.mark.usefixtures("per_channel")
class TestNoGoal:
    def test_what_is_redundant_goes(self, model: onnx.ModelProto) -> None:
        result = compressed(model, round_to=1)
        target = result.target
        assert (target.kind, target.wanted) == ("safe", 0.98)
        assert target.reached >= 0.98
        assert target.reached == result.verification.fidelity.nearness
        assert result.groups[0].ratio >= 0.4
        assert target.more is None or target.more.value < 0.98
        assert "what is safe (fidelity 0.98): reached" in result.summary()

    def test_one_step_more_or_less_is_told(self) -> None:
        result = compressed(mlp(), method="none", round_to=1)
        assert result.target.more is not None
        share = result.after.macs / result.before.macs
        assert result.target.more.macs < share
        assert result.target.less is None or result.target.less.macs > share
        assert f"one step more: {result.target.more.macs:.0%} of the MACs" in result.summary()

    def test_nothing_is_written_where_nothing_is_safe(self, tmp_path: Path) -> None:
        output = tmp_path / "out.onnx"
        config = Config(provider="cpu", method="none", ratio_for=(("*", 0.9),))
        with pytest.raises(NothingSafeError, match=r"at .*% of the .* fidelity is 0\..*--ratio"):
            compress(mlp(), output, config=config)
        assert not output.exists()
        assert NothingSafeError.exit_code == 4

    def test_int8_goes_on_alone_where_nothing_is_safe(self) -> None:
        result = compressed(mlp(), method="none", ratio_for=(("*", 0.9),), quantize="int8")
        assert result.groups == ()
        assert result.quantised is not None


@pytest.mark.parametrize("ratio", [0.98, 1.0, 1.5])
def test_what_is_safe_is_not_written_where_it_is_not_faster(
    model: onnx.ModelProto, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = timing.summary([1.0], [ratio], runs=1)
    monkeypatch.setattr(timing, "paired", lambda *_: times)
    with pytest.raises(NothingSafeError, match="of the original's time"):
        compressed(model)


class TestRedundant:
    def test_what_is_redundant_goes_first(self, model: onnx.ModelProto) -> None:
        result = compressed(model, macs="70%", round_to=1)
        removed = [group.ratio for group in result.groups]
        assert removed[0] == max(removed)
        assert removed[0] >= 0.4

    def test_a_fidelity_takes_at_least_that(self, model: onnx.ModelProto) -> None:
        result = compressed(model, fidelity=0.999, round_to=1)
        assert result.groups[0].ratio >= 0.4
        assert result.target.reached >= 0.999


def test_a_fidelity_that_no_cut_has() -> None:
    with pytest.raises(TargetError, match="no channel that can go"):
        compressed(chain(), fidelity=0.9999999)


@pytest.fixture
def per_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that takes a millisecond for each parameter."""

    def time(original: Path, other: Path, *_: object) -> timing.PairedLatency:
        times = []
        for path in (original, other):
            weights = onnx.load(path).graph.initializer
            times.append([float(sum(np.prod(t.dims) for t in weights if len(t.dims) > 1))])
        return timing.summary(times[0], times[1], runs=1)

    monkeypatch.setattr(timing, "paired", time)


class TestLatency:
    @pytest.mark.usefixtures("per_channel")
    @pytest.mark.parametrize("share", [0.9, 0.6])
    def test_it_is_hit(self, share: float) -> None:
        result = compressed(mlp(), latency=f"{share:.0%}", round_to=1)
        assert 0.9 * result.target.wanted <= result.target.reached
        assert result.target.reached <= result.target.wanted
        assert result.target.latency is result.latency

    @pytest.mark.usefixtures("per_channel")
    def test_one_that_cannot_be_had(self) -> None:
        with pytest.raises(TargetError, match="the least is"):
            compressed(mlp(), latency="0.001ms")

    def test_it_rounds_to_what_the_hardware_gains_by(self) -> None:
        result = compressed(MODELS["mlp"](), latency="1000ms", hardware="avx512")
        assert result.target.round_to == 16


class TestOverrides:
    def test_a_ratio_for_some(self) -> None:
        result = compressed(chain(), ratio=0.5, ratio_for=(("conv_0", 0.25),), round_to=1)
        sizes = [group.channels for group in result.groups]
        assert kept(result) == [sizes[0] * 3 // 4, sizes[1] // 2]

    def test_a_number_for_some_comes_first(self) -> None:
        options: Options = {"keep_for": (("conv_0", 5),), "ratio_for": (("*", 0.75),)}
        result = compressed(chain(), ratio=0.3, **options)
        assert kept(result) == [5, result.groups[1].channels // 4]

    def test_others_make_up_for_it(self) -> None:
        whole = compressed(chain(), macs="60%", keep_for=(("conv_0", 999),))
        assert kept(whole)[0] == whole.groups[0].channels
        assert whole.after.macs <= 0.6 * whole.before.macs

    @pytest.mark.parametrize("allocation", ["uniform", "auto"])
    def test_a_least(self, allocation: str) -> None:
        result = compressed(chain(), ratio=0.9, min_channels=6, allocation=allocation)
        assert min(kept(result)) >= 6

    @pytest.mark.parametrize("allocation", ["uniform", "auto"])
    def test_multiples(self, allocation: str) -> None:
        result = compressed(chain(), ratio=0.4, round_to=4, allocation=allocation)
        assert all(g.kept % 4 == 0 or g.kept == g.channels for g in result.groups)

    @pytest.mark.parametrize("option", ["ratio_for", "keep_for"])
    def test_a_glob_that_matches_nothing(self, option: str) -> None:
        with pytest.raises(OptionError, match="matches no group"):
            compressed(chain(), **{option: (("nothing*", 0.5 if option == "ratio_for" else 5),)})


def test_other_methods_allocate_too() -> None:
    for method in ("none", "nm", "lbyl"):
        result = compressed(chain(), macs="60%", method=method)
        assert result.after.macs <= 0.6 * result.before.macs
        assert all(group.restored == method for group in result.groups)
