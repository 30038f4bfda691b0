"""Third-party models, where the folder that holds them is there."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from lbyl_onnx import CompressResult, Config, compress
from tests.conftest import ROOT

MODELS = ROOT.parent / "shared" / "models"
NAMES = (
    "lenet_300_100_fashion",
    "resnet20_cifar10",
    "resnet20_cifar10_dynamo",
    "resnet20_cifar10_folded",
    "vgg16_cifar10",
)
GROUPS = {"lenet": 2, "resnet20": 9, "vgg16": 14}

pytestmark = pytest.mark.skipif(
    not MODELS.is_dir(), reason=f"the third-party models are not at {MODELS}"
)


@cache
def outcome(name: str, method: str) -> CompressResult:
    config = Config(round_to=1, ratio=0.3, method=method, provider="cpu")
    return compress(MODELS / f"{name}.onnx", config=config)


def outputs(model: Path | bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
    source = str(model) if isinstance(model, Path) else model
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    feed = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    return np.asarray(session.run(None, {session.get_inputs()[0].name: feed})[0])


@pytest.mark.parametrize("method", ["none", "nm", "lbyl"])
@pytest.mark.parametrize("name", NAMES)
def test_it_compresses(name: str, method: str) -> None:
    result = outcome(name, method)
    expected = next(count for prefix, count in GROUPS.items() if name.startswith(prefix))
    assert len(result.groups) == expected
    assert result.after.parameters < 0.9 * result.before.parameters
    assert all(g.kept == int(g.channels * 0.7 + 1e-9) for g in result.groups)


@pytest.mark.parametrize("method", ["none", "nm", "lbyl"])
def test_two_exports_of_one_model_give_one_result(method: str) -> None:
    """BatchNormalization behind Shape, Expand and CastLike is the same BatchNormalization."""
    one, two = (outcome(n, method).model for n in ("resnet20_cifar10", "resnet20_cifar10_dynamo"))
    assert one is not None
    assert two is not None
    first, second = (outputs(m.SerializeToString(), (4, 3, 32, 32)) for m in (one, two))
    # Twenty layers of float32, fused by ONNX Runtime in different ways.
    np.testing.assert_allclose(second, first, rtol=0, atol=1e-4 * float(np.abs(first).max()))


def test_residual_streams_are_refused() -> None:
    """The shortcuts pad the channels: each wider stream has its own and those of the one before."""
    refusals = outcome("resnet20_cifar10", "none").refusals
    streams = [r for r in refusals if ", " in r.name]
    assert [r.channels for r in streams] == [16, 8, 8, 16, 16]
    assert all(r.reason and r.nodes for r in streams)
