"""Methods and criteria from outside of the package, through its public interface alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

import lbyl_onnx
from lbyl_onnx import (
    CompressResult,
    Config,
    Criterion,
    Delivery,
    Evidence,
    FoldedRows,
    Method,
    MethodOption,
    Moments,
    OptionError,
    Ranking,
    compress,
)
from tests.support.architectures import chain
from tests.support.net import Net
from tests.support.pages import blocks
from tests.support.registries import restored_registries

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    with restored_registries():
        yield


def merge(rows: FoldedRows, kept: Indices, *, threshold: float) -> Delivery:
    """Merge each removed channel into the kept channel most like it, as IFM does."""
    folded = np.column_stack([rows.weight * rows.scale[:, None], rows.shift])
    norm = np.linalg.norm(folded, axis=1)
    removed = np.setdiff1d(np.arange(len(norm)), kept)
    cosine = (folded[removed] @ folded[kept].T) / np.outer(norm[removed], norm[kept])
    matrix = np.zeros(cosine.shape)
    line, pick = np.arange(len(removed)), cosine.argmax(axis=1)
    matrix[line, pick] = norm[removed] / norm[kept[pick]]
    matrix[cosine.max(axis=1) < threshold] = 0.0
    return Delivery(kept, matrix, np.zeros(len(removed)))


THRESHOLD = MethodOption("threshold", 0.9, "least cosine of channels that are merged", -1, 1)
IFM = Method("ifm", "merge the most similar channels", "rows", merge, (THRESHOLD,))


def by_gamma(evidence: Evidence, keep: int, rng: np.random.Generator) -> Ranking:
    """Keep the channels of the largest BatchNormalization scales."""
    gammas = [np.abs(norm.gamma).sum(axis=1) for norm in evidence.batch_norms]
    if not gammas:
        return Ranking.of_scores(np.abs(evidence.weight).sum(axis=1), keep)
    return Ranking.of_scores(np.sum(gammas, axis=0), keep)


BN = Criterion("bn", "the largest BatchNormalization scales", "weights", by_gamma)


def alike() -> ModelProto:
    """Two Convs; the first's channels 0 to 3 are halves of its channels 4 to 7."""
    net = Net(("N", 3, 6, 6))
    x = net.relu(net.conv("x", (3, 8)))
    model = net.model(net.head(net.relu(net.conv(x, (8, 5), (1, 1))), 5))
    for tensor in model.graph.initializer[:2]:
        value = numpy_helper.to_array(tensor).copy()
        value[:4] = value[4:] / 2
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return model


def output(model: ModelProto | None) -> NDArray[np.float32]:
    assert model is not None
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 6), dtype=np.float32)
    result: NDArray[np.float32] = session.run(None, {"x": x})[0]
    return result


FIRST = Config(ratio=0.5, round_to=1, include=("conv_0",), provider="cpu", criterion="l2")


def cut(model: ModelProto, config: Config) -> CompressResult:
    result = compress(model, config=config)
    assert [group.kept for group in result.groups] == [result.groups[0].channels // 2]
    return result


class TestMethod:
    def test_merging_what_is_alike_changes_nothing(self) -> None:
        lbyl_onnx.register_method(IFM)
        model = alike()
        result = cut(model, replace(FIRST, method="ifm"))
        dropped = cut(model, replace(FIRST, method="none"))
        assert [group.restored for group in result.groups] == ["ifm"]
        # Single precision, over sums of some thirty terms.
        np.testing.assert_allclose(output(result.model), output(model), rtol=1e-4, atol=1e-5)
        assert np.abs(output(dropped.model) - output(model)).max() > 1e-2

    def test_its_option_counts(self) -> None:
        lbyl_onnx.register_method(IFM)
        model = chain()
        dropped = cut(model, replace(FIRST, method="none"))
        some, none = (
            cut(model, replace(FIRST, method="ifm", method_options=(("threshold", t),)))
            for t in (-1.0, 1.0)
        )
        np.testing.assert_array_equal(output(none.model), output(dropped.model))
        assert np.abs(output(some.model) - output(dropped.model)).max() > 1e-3

    def test_one_that_takes_moments(self, sample: Path) -> None:
        """A mean alone in place of each removed channel: no method of the package does that."""

        def mean_only(moments: Moments, kept: Indices) -> Delivery:
            per_channel = moments.per_channel()
            removed = np.setdiff1d(np.arange(len(per_channel.mean)), kept)
            rows = np.zeros((len(removed), len(kept)))
            return Delivery(kept, rows, per_channel.mean[removed], note="means alone")

        lbyl_onnx.register_method(Method("mean", "", "moments", mean_only, fallback="none"))
        result = compress(sample, config=Config(ratio=0.3, method="mean", provider="cpu"))
        notes = {group.restored for group in result.groups}
        assert notes <= {"mean, means alone", "mean by window, means alone"}
        assert result.verification.values > 0

    @pytest.mark.parametrize("wrong", ["channels", "type"])
    def test_what_it_gives_is_checked(self, wrong: str) -> None:
        def deliver(rows: FoldedRows, kept: Indices) -> Delivery:
            other = np.arange(len(kept))  # the first, not those that were asked for
            removed = len(rows.weight) - len(kept)
            zeros = np.zeros((removed, len(kept))), np.zeros(removed)
            return Delivery(other, *zeros) if wrong == "channels" else zeros  # type: ignore[return-value]

        lbyl_onnx.register_method(Method("wrong", "", "rows", deliver))
        with pytest.raises(OptionError, match="method wrong gives no Delivery from 4 kept"):
            compress(alike(), config=replace(FIRST, method="wrong"))


class TestCriterion:
    def test_the_largest_scales_stay(self) -> None:
        lbyl_onnx.register_criterion(BN)
        model = chain()
        stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        norm = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
        kept = np.sort(np.argsort(-np.abs(stored[norm.input[1]]), kind="stable")[:4])
        result = cut(model, replace(FIRST, method="none", criterion="bn"))
        assert result.model is not None
        after = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
        np.testing.assert_array_equal(after[norm.input[1]], stored[norm.input[1]][kept])
        assert result.config.chosen_by == "bn"

    def test_one_that_takes_moments(self) -> None:
        """The channels of the largest variance at what reads them, with lbyl+ and a budget."""

        def by_variance(evidence: Evidence, keep: int, rng: np.random.Generator) -> Ranking:
            assert evidence.losses
            covariances = [loss.moments.per_channel().covariance for loss in evidence.losses]
            return Ranking.of_scores(np.sum([np.diag(c) for c in covariances], axis=0), keep)

        lbyl_onnx.register_criterion(Criterion("variance", "", "moments", by_variance))
        result = compress(
            chain(), config=Config(macs="60%", criterion="variance", round_to=1, provider="cpu")
        )
        assert all(group.restored.startswith("lbyl+") for group in result.groups)
        assert result.after.macs <= 0.6 * result.before.macs

    @pytest.mark.parametrize(
        ("ranking", "says"),
        [
            (Ranking.of_scores(np.ones(3), 1), "no Ranking of 8 channels down to 4"),
            (Ranking.of_scores(np.ones(8), 6), "no Ranking of 8 channels down to 4"),
            (Ranking(8, np.arange(4), np.zeros((5, 2)), np.ones(2)), "losses of 2 layers"),
        ],
    )
    def test_what_it_gives_is_checked(self, ranking: Ranking, says: str) -> None:
        def rank(evidence: Evidence, keep: int, rng: np.random.Generator) -> Ranking:
            return ranking

        lbyl_onnx.register_criterion(Criterion("wrong", "", "weights", rank))
        with pytest.raises(OptionError, match=f"criterion wrong gives {says}"):
            compress(alike(), config=replace(FIRST, method="none", criterion="wrong"))


@pytest.mark.parametrize("page", ["docs/recipes/method.md", "docs/recipes/criterion.md"])
def test_the_recipes_run(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    names: dict[str, object] = {}
    code_blocks = blocks(page, "python")
    assert code_blocks
    for body in code_blocks:
        exec(compile(body, page, "exec"), names)
