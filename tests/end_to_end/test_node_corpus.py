"""All of onnx's own backend models: whatever they hold, no error is raised that is not the tool's.

Run with `pytest -m corpus`. Each model is inspected. Each operator whose tensors have channels is
put between two layers, too, and the model that this gives is compressed; a pruned model is verified
against the reference there, so that what crosses an operator is right for each of its attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from onnx import ModelProto

from lbyl_onnx import Config, LbylOnnxError, NothingToPruneError, compress, inspect
from lbyl_onnx.errors import ModelError, VerificationError
from tests.support.node_cases import NodeCase, between_layers, node_cases

pytestmark = pytest.mark.corpus

PARTS = 16
every_part = pytest.mark.parametrize("part", range(PARTS))
# Every so many models are compressed with statistics, the others by dropping alone: that is quick.
MEASURED = 4
# What is not finite on the random inputs of a verification: the domain of these is bounded.
BOUNDED = ("Acos", "Acosh", "Asin", "Atanh", "Log", "Pow", "Sqrt")


def of(part: int) -> tuple[NodeCase, ...]:
    return node_cases()[part::PARTS]


def raised(call: Callable[[], object]) -> LbylOnnxError | None:
    """Return the error of the tool's own that a call ends with; any other is not caught."""
    try:
        call()
    except LbylOnnxError as error:
        return error
    return None


def check_pruned(case: NodeCase, model: ModelProto, method: str) -> bool:
    """Compress as far as it goes; tell whether it was, or why it may not have been."""
    config = Config(round_to=1, ratio=0.5, method=method, scope="all", provider="cpu")
    error = raised(lambda: compress(model, config=config, dry_run=True))
    assert "\n" not in str(error), case.name
    if isinstance(error, VerificationError):
        assert "not finite" in str(error), (case.name, error)
        assert any(node.op_type in BOUNDED for node in model.graph.node), (case.name, error)
    else:
        assert error is None or isinstance(error, ModelError | NothingToPruneError), case.name
    return error is None


@every_part
def test_inspect_raises_nothing_that_is_not_its_own(part: int) -> None:
    inspected = 0
    for case in of(part):
        error = raised(partial(inspect, case.model, provider="cpu"))
        assert "\n" not in str(error), case.name
        inspected += error is None
    assert inspected > 50  # of some 126: others take strings, sequences, new types


@every_part
def test_each_operator_between_two_layers_is_pruned_right_or_refused(part: int) -> None:
    done = 0
    for number, case in enumerate(of(part)):
        model = between_layers(case)
        if model is not None:
            done += check_pruned(case, model, "lbyl+" if number % MEASURED == 0 else "none")
    assert done > 2  # of some 11
