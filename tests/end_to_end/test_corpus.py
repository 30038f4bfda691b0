"""Real models of many families and exporters: coverage, and what must hold whatever the method.

Run with `pytest -m corpus`. Ratios 10, 25 and 50 %, all methods and both scopes are crossed for
some small models. The others have a cover in which each ratio, method and scope comes up at least
once; `medium` ones have `lbyl` at scope all in it, too.

`golden/refusals.json` lists what of each model can be pruned and what is refused, and why, so that
a change of coverage shows in review. To write it anew, set LBYL_ONNX_UPDATE_GOLDEN=1.
"""

from __future__ import annotations

import json
import os
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from lbyl_onnx import Config, NothingToPruneError, compress
from lbyl_onnx.channels.analysis import find_channels
from lbyl_onnx.channels.groups import Selection
from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.methods.registry import method_names
from lbyl_onnx.option_types import Scope
from lbyl_onnx.runtime import baseline
from tests.support.corpus import SOURCES, UnavailableError, materialise
from tests.support.effort import LITTLE
from tests.support.oracle import Feeds, Interpreted, deviation, masked, run, tap

pytestmark = pytest.mark.corpus

Case = tuple[float, str, Scope]
RATIOS = (0.1, 0.25, 0.5)
METHODS = method_names()
SCOPES: tuple[Scope, ...] = get_args(Scope)
GOLDEN = Path(__file__).parent / "golden" / "refusals.json"

# All their layers lie in the bodies of an If.
NOTHING: tuple[tuple[str, Scope], ...] = tuple(product(("silero_vad", "silero_vad_ifless"), SCOPES))
PRUNABLE = [pair for pair in product(SOURCES, SCOPES) if pair not in NOTHING]
COVER: tuple[Case, ...] = (
    (0.1, "nm", "inner"),
    (0.25, "none", "all"),
    (0.25, "lbyl+", "all"),
    (0.5, "lbyl", "inner"),
)
CASES: dict[str, tuple[Case, ...]] = {
    # Each method in each scope, the ratios in turns.
    "small": tuple((RATIOS[i % 3], m, s) for i, (m, s) in enumerate(product(METHODS, SCOPES))),
    "medium": COVER,
    "large": COVER,
    "huge": COVER[:2],
}
MATRIX = [
    pytest.param(name, case, id=f"{name}-{case[0]}-{case[1]}-{case[2]}")
    for name, source in SOURCES.items()
    for case in CASES[source.size]
    if (name, case[2]) in PRUNABLE
]

# Largest difference relative to the largest output, of two models that compute the same sums in
# another order, tens of layers deep.
TOLERANCE = 1e-4


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corpus")


def located(store: Path, name: str) -> Path:
    path = store / f"{name}.onnx"
    if not path.exists():
        try:
            materialise(name, path)
        except UnavailableError as error:
            pytest.skip(str(error))
    return path


@cache
def interpreted(path: Path, scope: Scope) -> Interpreted:
    """Find a model's channels at input shapes that it accepts."""
    model = onnx.load(path)
    tensor_info = TensorInfo(model, *baseline.input_shapes(path, "CPUExecutionProvider"))
    return Interpreted(
        model, tensor_info, find_channels(to_graph(model), tensor_info, Selection(scope=scope))
    )


def feeds(path: Path, model: ModelProto) -> Feeds:
    """Draw inputs that verification does not use: uniform numbers, as of an image."""
    rng = np.random.default_rng(7)
    shapes, _ = baseline.input_shapes(path, "CPUExecutionProvider")
    types = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
    return {
        name: rng.uniform(-1.0, 1.0, shape).astype(helper.tensor_dtype_to_np_dtype(types[name]))
        for name, shape in shapes.items()
    }


def scores(model: ModelProto) -> dict[str, str]:
    """Outputs that are probabilities, and the tensors that they come from, which saturate less."""
    outputs = {info.name for info in model.graph.output}
    last = [n for n in model.graph.node if n.op_type in ("Sigmoid", "Softmax")]
    return {n.output[0]: n.input[0] for n in last if n.output[0] in outputs}


@pytest.mark.parametrize(("name", "case"), MATRIX)
def test_it_verifies_and_shrinks(store: Path, name: str, case: Case) -> None:
    path = located(store, name)
    ratio, method, scope = case
    config = Config(round_to=1, ratio=ratio, method=method, scope=scope, provider="cpu")
    result = compress(path, store / "out.onnx", config=config, force=True, effort=LITTLE)
    # Verification has loaded and run it in ONNX Runtime.
    assert result.verification.values > 0
    assert result.after.parameters < result.before.parameters
    assert result.size_after < result.size_before
    near = result.verification.fidelity
    assert near.relative_error is None or np.isfinite(near.relative_error)
    if method == "none":
        check_masked(path, onnx.load(store / "out.onnx"), ratio, scope)


def check_masked(path: Path, compressed: ModelProto, ratio: float, scope: Scope) -> None:
    """Compare with the original whose consumers read zeros for the removed channels."""
    analysis = interpreted(path, scope)
    expected = masked(analysis.model, analysis.plan(ratio), analysis)
    inputs, probabilities = feeds(path, analysis.model), scores(analysis.model)
    names = [info.name for info in analysis.model.graph.output]
    inner = list(probabilities.values())
    actual, masked_outputs = (run(tap(model, *inner), inputs) for model in (compressed, expected))
    for name, new, want in zip((*names, *inner), actual, masked_outputs, strict=True):
        assert want.size > 0
        if name in probabilities:  # of 1; they may all be near 0, where Sigmoid is coarse
            np.testing.assert_allclose(new, want, rtol=0.0, atol=TOLERANCE)
        else:
            assert deviation(new, want) <= TOLERANCE


def coverage(path: Path, scope: Scope) -> dict[str, Any]:
    """What a model gives at a scope, as the golden file says it."""
    channels = interpreted(path, scope).channels
    return {
        "groups": len(channels.groups),
        "channels": sum(group.size for group in channels.groups),
        "refusals": [
            {"name": r.name, "channels": r.channels, "reason": r.reason} for r in channels.refusals
        ],
    }


def agrees(name: str, scope: str, value: object) -> None:
    """Compare with the golden file, or write it where that is asked for."""
    stored = json.loads(GOLDEN.read_text("utf-8")) if GOLDEN.exists() else {}
    if os.environ.get("LBYL_ONNX_UPDATE_GOLDEN"):
        stored.setdefault(name, {})[scope] = value
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", "utf-8")
    else:
        assert stored.get(name, {}).get(scope) == value


@pytest.mark.parametrize(("name", "scope"), PRUNABLE)
def test_coverage_is_the_golden_one(store: Path, name: str, scope: Scope) -> None:
    agrees(name, scope, coverage(located(store, name), scope))


@pytest.mark.parametrize(("name", "scope"), NOTHING)
def test_what_cannot_be_pruned_says_why(store: Path, name: str, scope: Scope) -> None:
    path = located(store, name)
    config = Config(round_to=1, ratio=0.25, scope=scope, provider="cpu")
    with pytest.raises(NothingToPruneError) as caught:
        compress(path, config=config, effort=LITTLE)
    agrees(name, scope, {**coverage(path, scope), "error": str(caught.value)})
