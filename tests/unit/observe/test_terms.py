"""Operands of products and what is normalised, as the instrumented model sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lbyl_onnx.channels.heads.terms import terms_of
from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.graph.norms.parts import parts_of
from lbyl_onnx.observe.planning import norm_spec, terms_spec
from lbyl_onnx.types import Array, Floats
from tests.support.attentions import WIDTH, Block
from tests.support.oracle import interpret, run, tap
from tests.unit.observe.test_run import measured

# float32 sums, as in tests.support.moments.
TOLERANCE = 2e-5
SIZE, SAMPLES = 4, 8


def block(operator: bool, shared: int = 2, norm: str = "rms") -> Block:
    return Block(2, shared, SIZE, False, True, False, operator, True, norm=norm)


def by_columns(x: Array, axes: tuple[int, ...]) -> Floats:
    """(rows, columns), the columns along some axes in their order."""
    moved: Floats = np.moveaxis(x.astype(np.float64), axes, range(-len(axes), 0))
    return moved.reshape(-1, int(np.prod([x.shape[a] for a in axes])))


@pytest.mark.parametrize("operator", [False, True])
def test_operands_are_seen_by_head(operator: bool, tmp_path: Path) -> None:
    model = block(operator).model()
    found, graph = interpret(model), to_graph(model)
    (group,) = [g for g in found.channels.groups if g.products]
    (terms,) = terms_of(graph, found.tensor_info, found.channels, group)
    assert terms.units.tolist() == [[0, 1, 2, 3]] * 4
    operands = {"q": terms.first, "k": terms.second}
    x = np.random.default_rng(0).standard_normal((SAMPLES, 4, WIDTH)).astype(np.float32)
    specs = {name: terms_spec(found.tensor_info, o, SAMPLES) for name, o in operands.items()}
    views = {name: spec.view for name, spec in specs.items() if spec is not None}
    moments = measured(model, views, {"x": x}, tmp_path)
    outputs = run(tap(model, *(o.tensor for o in operands.values())), {"x": x})[-2:]
    rows: list[Floats] = []
    for (name, operand), output in zip(operands.items(), outputs, strict=True):
        rows.append(by_columns(output, operand.axes)[:, operand.positions])
        covariance = np.cov(rows[-1].T, bias=True)
        largest = float(np.abs(covariance).max())
        np.testing.assert_allclose(moments[name].second, covariance, atol=TOLERANCE * largest)
        assert moments[name].rows == len(rows[-1])
    # Two heads of queries read the first head of keys, two the second.
    queries, keys = (x[:, at] for x, at in zip(rows, terms.at, strict=True))
    assert queries.shape[1:] == keys.shape[1:] == (4, SIZE)
    np.testing.assert_array_equal(keys[:, 0], keys[:, 1])
    assert not np.array_equal(keys[:, 1], keys[:, 2])
    assert terms.made is None  # a scale would not pass the normalisation
    assert terms.norms[0] != terms.norms[1]
    assert None not in terms.norms


@pytest.mark.parametrize("norm", ["rms", "layer", "rms, written out", "layer, written out"])
def test_what_is_normalised_is_seen_whole(norm: str, tmp_path: Path) -> None:
    model = block(False, 1, norm).model()
    found, graph = interpret(model), to_graph(model)
    nodes = [graph.nodes[n.node] for n in found.channels.norms]
    parts = [p for node in nodes if (p := parts_of(node, SIZE, found.tensor_info)) is not None]
    assert len(parts) == 2
    assert all(p.centred is ("layer" in norm) for p in parts)
    assert all(p.epsilon == pytest.approx(0.01) for p in parts)
    x = np.random.default_rng(0).standard_normal((SAMPLES, 4, WIDTH)).astype(np.float32)
    spec = norm_spec(found.tensor_info, parts[0], SAMPLES)
    assert spec is not None
    moments = measured(model, {"n": spec.view}, {"x": x}, tmp_path)["n"]
    rows = by_columns(run(tap(model, parts[0].tensor.name), {"x": x})[-1], (-1,))
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(moments.second, np.cov(rows.T, bias=True), atol=1e-4)
