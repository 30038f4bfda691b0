"""Costs as a function of the kept counts, against those of the model that is written."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from lbyl_onnx import Config, NothingToPruneError, compress
from lbyl_onnx.budget.cost_model import CountedCost, Counts, counted_macs, counted_parameters
from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import Selection
from lbyl_onnx.graph import source
from lbyl_onnx.graph.costs import constants
from lbyl_onnx.io import reader
from lbyl_onnx.option_types import Scope
from lbyl_onnx.runtime import baseline
from tests.support import einsum_attention
from tests.support.attentions import Block
from tests.support.models import MODELS
from tests.support.operators import OPERATORS
from tests.support.rotary import rotary
from tests.support.shared_layers import SHARED
from tests.support.topologies import TOPOLOGIES

GROUPED = ("grouped", "conv_transpose_in_four", "conv_transpose_depthwise_twice")
NORMS = ("group_norm", "group_norm_block", "group_norm_decomposed")
BUILDERS: dict[str, Callable[[], ModelProto]] = {
    **MODELS,
    **SHARED,
    **{name: TOPOLOGIES[name][0] for name in GROUPED},
    **{name: OPERATORS[name][0] for name in NORMS},
    **{
        f"einsum_{order}": partial(einsum_attention.attention, order)
        for order in einsum_attention.EQUATIONS
    },
    "rotary_shared_table": partial(rotary, "stored", 9),
}

# Attention in single nodes and as one, with as many heads of queries or twice as many.
BLOCKS = [
    Block(4, 1, 3, True, True, True, False, True),
    Block(4, 2, 2, False, False, True, False, False),
    Block(4, 2, 3, False, True, False, True, True),
]
# A constant that several nodes read is written twice, or a bias is expanded to a pinned one.
NEAR = {"shape_scaled", "shared_fill"}


@pytest.mark.parametrize("scope", ["inner", "all"])
@pytest.mark.parametrize("name", BUILDERS)
def test_predicted_costs_are_those_of_the_written_model(name: str, scope: Scope) -> None:
    check(BUILDERS[name](), Selection(scope=scope), counts_all=name not in NEAR)


@pytest.mark.parametrize("attention", ["dims", "heads"])
@pytest.mark.parametrize("block", BLOCKS)
def test_predicted_costs_of_attention_are_those_of_the_written_model(
    block: Block, attention: Literal["dims", "heads"]
) -> None:
    check(block.model(), Selection(attention=attention), counts_all=True)


def check(model: ModelProto, selection: Selection, counts_all: bool) -> None:
    """Compress, and compare; `counts_all` with the parameters, too."""
    config = Config(
        round_to=1,
        ratio=0.5,
        scope=selection.scope,
        attention=selection.attention,
        method="none",
        provider="cpu",
    )
    try:
        result = compress(model, config=config)
    except NothingToPruneError:
        pytest.skip("nothing can go")
    with reader.on_disk(model) as path:
        shapes = baseline.input_shapes(path, "CPUExecutionProvider")
        files = source.check_source(path)
        analyzed = AnalyzedModel.open(files, shapes, selection)
        groups = analyzed.channels.groups
        macs = counted_macs(analyzed, groups)
        parameters, stored = (
            counted_parameters(analyzed, groups, with_biases=False, in_bytes=in_bytes)
            for in_bytes in (False, True)
        )
        whole = np.asarray([group.size for group in groups])
        counts = np.asarray([group.kept for group in result.groups])
        assert len(counts) == len(whole)
        assert macs.at(whole) == pytest.approx(analyzed.costs.macs, rel=1e-12)
    assert macs.at(counts) == pytest.approx(result.after.macs, rel=1e-12)
    if counts_all:
        assert parameters.at(counts) == pytest.approx(result.after.parameters, rel=1e-12)
        assert result.model is not None
        kept = sum(numpy_helper.to_array(t).nbytes for _, t in constants(result.model))
        assert stored.at(counts) == pytest.approx(kept, rel=1e-12)


@pytest.mark.parametrize("name", ["pyramid", "pyramid_own_biases", "siamese"])
def test_what_compensation_adds_is_counted_once_for_a_shared_layer(name: str) -> None:
    model = SHARED[name]()
    result = compress(model, config=Config(params="60%", provider="cpu", round_to=1))
    assert result.after.parameters <= 0.6 * result.before.parameters
    # One channel more of any group would be beyond: what was predicted is what there is.
    assert result.after.parameters >= 0.5 * result.before.parameters


def products(seed: int = 0) -> tuple[CountedCost, Counts]:
    rng = np.random.default_rng(seed)
    axes, groups = 6, 3
    factors = rng.integers(0, axes, (8, 3))
    taps = rng.integers(0, 3, (axes, groups)).astype(float)
    taps[0] = 0
    lengths = np.concatenate([[1.0], rng.integers(0, 4, axes - 1)])
    return CountedCost(7.0, rng.random(8), factors, lengths, taps), rng.integers(1, 9, groups)


@pytest.mark.parametrize("seed", range(4))
def test_slopes_are_the_derivative(seed: int) -> None:
    cost, counts = products(seed)
    step = 1e-5
    for group, slope in enumerate(cost.slopes(counts)):
        by = step * (np.arange(3) == group)
        difference = (cost.at(counts + by) - cost.at(counts - by)) / (2 * step)
        assert slope == pytest.approx(difference, rel=1e-6, abs=1e-6)
