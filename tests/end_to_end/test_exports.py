"""What PyTorch's exporters write: coverage, and that it is pruned right.

`golden/exports.json` lists what of each graph can be pruned and what is refused, and why. To write
it anew, set LBYL_ONNX_UPDATE_GOLDEN=1.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from lbyl_onnx import Config, compress
from lbyl_onnx.channels.analysis import find_channels
from lbyl_onnx.channels.groups import Selection
from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.option_types import Scope
from tests.support.effort import LITTLE
from tests.support.exported import FOLDER, filled, load, names, stripped
from tests.support.oracle import Feeds, Interpreted, deviation, input_shapes, masked, run

SCOPES: tuple[Scope, ...] = get_args(Scope)
GOLDEN = Path(__file__).parent / "golden" / "exports.json"
# The same sums in another order, up to thirty layers deep.
TOLERANCE = 1e-4
WORDS = 50  # of the embeddings


@cache
def interpreted(name: str, scope: Scope) -> Interpreted:
    """Find the channels of an export; the batch is its only dynamic dimension."""
    model = load(name)
    tensor_info = TensorInfo(model, input_shapes(model, 2, 0), input_shapes(model, 3, 0))
    return Interpreted(
        model, tensor_info, find_channels(to_graph(model), tensor_info, Selection(scope=scope))
    )


def feeds(model: ModelProto) -> Feeds:
    """Draw inputs: another batch than verification uses, where it is dynamic."""
    rng = np.random.default_rng(7)
    types = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
    return {
        name: rng.integers(0, WORDS, shape)
        if types[name] == TensorProto.INT64
        else rng.standard_normal(shape).astype(np.float32)
        for name, shape in input_shapes(model, 5, 0).items()
    }


def cut(name: str, method: str, scope: Scope) -> ModelProto:
    """Compress an export at 25 %."""
    config = Config(round_to=1, ratio=0.25, method=method, scope=scope, provider="cpu")
    result = compress(interpreted(name, scope).model, config=config, effort=LITTLE)
    assert result.verification.values > 0
    assert result.after.parameters < result.before.parameters
    assert result.after.macs < result.before.macs
    assert result.model is not None
    return result.model


def apart() -> Iterator[tuple[str, Scope]]:
    """Yield each export with the scopes that are said to prune something else of it."""
    stored = json.loads(GOLDEN.read_text("utf-8"))
    for name in names():
        entry = stored.get(name, {})
        yield name, "inner"
        if not entry or entry["all"] != entry["inner"]:
            yield name, "all"


class TestEachExport:
    @pytest.mark.parametrize(("name", "scope"), [*apart()])
    def test_none_equals_the_original_with_zeroed_inputs(self, name: str, scope: Scope) -> None:
        analysis = interpreted(name, scope)
        inputs = feeds(analysis.model)
        expected = run(masked(analysis.model, analysis.plan(0.25), analysis), inputs)
        actual = run(cut(name, "none", scope), inputs)
        for new, want in zip(actual, expected, strict=True):
            assert want.size > 0
            assert deviation(new, want) <= TOLERANCE

    @pytest.mark.parametrize(("name", "scope"), [*apart()])
    def test_restoring_verifies(self, name: str, scope: Scope) -> None:
        model = cut(name, "lbyl", scope)
        for output in run(model, feeds(model)):
            assert np.all(np.isfinite(output))

    @pytest.mark.parametrize("scope", SCOPES)
    @pytest.mark.parametrize("name", names())
    def test_coverage_is_the_golden_one(self, name: str, scope: Scope) -> None:
        channels = interpreted(name, scope).channels
        refused: Counter[str] = Counter()
        for refusal in channels.refusals:
            refused[refusal.reason] += refusal.channels
        kept = sum(group.size for group in channels.groups)
        agrees(name, scope, {"groups": len(channels.groups), "channels": kept, "refused": refused})


def agrees(name: str, scope: Scope, value: dict[str, Any]) -> None:
    """Compare with the golden file, or write it where that is asked for."""
    stored = json.loads(GOLDEN.read_text("utf-8")) if GOLDEN.exists() else {}
    if os.environ.get("LBYL_ONNX_UPDATE_GOLDEN"):
        stored.setdefault(name, {})[scope] = value
        GOLDEN.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", "utf-8")
    else:
        assert stored[name][scope] == value


def test_no_golden_entry_is_left_over() -> None:
    assert sorted(json.loads(GOLDEN.read_text("utf-8"))) == names()


def test_the_files_hold_no_weights_and_loading_draws_them_alike() -> None:
    paths = sorted(FOLDER.glob("*.onnx"))
    assert sum(path.stat().st_size for path in paths) < 1_000_000
    name = paths[0].stem
    assert load(name) == load(name)
    assert stripped(load(name)) == onnx.load(paths[0])
    assert filled(stripped(load(name))) == load(name)
    onnx.checker.check_model(load(name), full_check=True)


def test_masks_and_angles_are_kept_as_they_were() -> None:
    tables = {
        tensor.name: numpy_helper.to_array(tensor)[0, 0]
        for tensor in load("llama_dynamo_23").graph.initializer
        if list(tensor.dims) == [1, 1, 16, 16]
    }
    mask, cosine, sine = (tables[f"unsqueeze_{i}"] for i in (1, 4, 5))
    assert np.array_equal(mask < 0, np.triu(np.ones((16, 16)), 1) > 0)
    np.testing.assert_allclose(cosine**2 + sine**2, 1.0, atol=1e-6)
    assert np.array_equal(cosine[:, :8], cosine[:, 8:])
