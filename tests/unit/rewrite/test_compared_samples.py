"""The samples on which a model is compared with the original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from lbyl_onnx import Config, compress
from lbyl_onnx.guard.effort import Effort
from tests.support.net import Dims, Net

SHAPES: tuple[Dims, ...] = (("N", 3, 8, 8), (1, 3, 8, 8), (2, 3, 8, 8))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("method", "calibrated"), [("none", False), ("lbyl+", False), ("lbyl+", True)]
)
def test_a_model_is_run_in_the_batches_that_it_takes(
    shape: Dims, method: str, calibrated: bool, tmp_path: Path
) -> None:
    """Statistics are taken in larger ones, of a copy without the declared batch."""
    net = Net(shape)
    model = net.model(net.conv(net.relu(net.conv("x", (3, 8))), (8, 4)))
    config = Config(round_to=1, ratio=0.5, method=method, provider="cpu")
    if calibrated:
        np.savez(tmp_path / "own.npz", x=net.rng.standard_normal((40, 3, 8, 8), np.float32))
        config = Config(
            round_to=1,
            ratio=0.5,
            method=method,
            provider="cpu",
            calibration=str(tmp_path / "own.npz"),
        )
    near = compress(model, config=config).verification.fidelity
    assert near.samples == (40 if calibrated else 64 if method == "none" else 128)
    assert ("--calibration" in near.inputs) == calibrated
    assert ("drawn anew" in near.inputs) == (method == "lbyl+" and not calibrated)


def test_a_state_with_its_batch_on_another_axis_is_run_as_it_is() -> None:
    """As of a recurrent layer: samples in larger batches would not fit it."""
    net = Net(("N", 3, 8, 8))
    net.inputs.append(helper.make_tensor_value_info("state", TensorProto.FLOAT, (2, "N", 4)))
    x = net.relu(net.conv("x", (3, 8)))
    x = net.node("Flatten", [net.node("GlobalAveragePool", [net.conv(x, (8, 6))])])
    last = net.node("ReduceSum", ["state", net.ints(0)], {"keepdims": 0})
    model = net.model(net.node("Concat", [x, last], {"axis": 1}))
    config = Config(round_to=1, ratio=0.25, method="none", provider="cpu")
    assert compress(model, config=config).verification.fidelity.samples > 0


def test_a_model_that_takes_long_is_compared_on_fewer() -> None:
    net = Net(("N", 3, 8, 8))
    model = net.model(net.conv(net.relu(net.conv("x", (3, 8))), (8, 4)))
    config = Config(round_to=1, ratio=0.5, provider="cpu")
    effort = Effort(compared_macs=1, fewest_compared=12)
    result = compress(model, config=config, effort=effort)
    assert result.verification.fidelity.samples == 12
    assert result.prediction is not None
    assert result.prediction.samples == 12
