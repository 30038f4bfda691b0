"""Einsum with a constant operand: pruned right by every method, and counted right."""

from __future__ import annotations

import re

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from lbyl_onnx import Config, compress, inspect
from lbyl_onnx.graph.costs import count_costs
from lbyl_onnx.methods.registry import method_names
from tests.support.effort import LITTLE
from tests.support.einsums import EINSUMS, Weight, einsum
from tests.support.net import Net
from tests.support.oracle import (
    Array,
    assert_same,
    compressed,
    interpret,
    make_feeds,
    masked,
    run,
    values,
)

METHODS: tuple[str, ...] = method_names()

every_model = pytest.mark.parametrize("name", EINSUMS)


def built(name: str) -> ModelProto:
    return EINSUMS[name][0]()


@every_model
def test_the_channels_that_can_be_pruned(name: str) -> None:
    assert sum(group.size for group in interpret(built(name)).channels.groups) == EINSUMS[name][1]


@every_model
def test_none_equals_the_original_with_zeroed_inputs(name: str) -> None:
    original = built(name)
    analysis, feeds = interpret(original), make_feeds(original)
    config = Config(round_to=1, ratio=0.4, method="none", provider="cpu")
    expected = masked(original, analysis.plan(0.4), analysis)
    assert_same(run(compressed(original, config), feeds), run(expected, feeds))


@pytest.mark.parametrize("method", METHODS)
@every_model
def test_each_method_is_verified(name: str, method: str) -> None:
    config = Config(round_to=1, ratio=0.4, method=method, provider="cpu")
    result = compress(built(name), config=config, effort=LITTLE)
    assert result.verification.values > 0
    assert result.after.macs < result.before.macs
    assert all(group.kept < group.channels for group in result.groups)


def numpy_macs(model: ModelProto) -> int:
    """Half of the operations that NumPy counts for all Einsums: each has a product and a sum."""
    tensor_info = interpret(model).tensor_info
    total = 0.0
    for node in model.graph.node:
        equation = next(a.s.decode() for a in node.attribute if a.name == "equation")
        arrays = [np.zeros([d or 0 for d in tensor_info.shape(name) or ()]) for name in node.input]
        description = np.einsum_path(equation, *arrays)[1]
        count = re.search(r"Naive FLOP count:\s+(\S+)", str(description))
        assert count is not None
        total += float(count[1]) / 2
    return round(total)


@pytest.mark.parametrize("name", ["tokens", "weight first", "a matrix for each head"])
def test_macs_are_those_of_numpy(name: str) -> None:
    for model in (built(name), compressed(built(name))):
        without_relus = ModelProto()
        without_relus.CopyFrom(model)
        macs = count_costs(model, interpret(model).tensor_info).macs
        del without_relus.graph.node[:]
        without_relus.graph.node.extend(n for n in model.graph.node if n.op_type == "Einsum")
        relus = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Relu"}
        for node in without_relus.graph.node:
            node.input[:] = [relus.get(name, name) for name in node.input]
        assert macs == pytest.approx(numpy_macs(without_relus), rel=1e-3)


@every_model
def test_a_budget_of_macs_is_reached(name: str) -> None:
    config = Config(macs="70%", moves=("prune",), round_to=1, provider="cpu")
    result = compress(built(name), config=config, effort=LITTLE)
    assert 0.4 * result.before.macs < result.after.macs <= 0.7 * result.before.macs


def test_inspect_counts_them() -> None:
    inspection = inspect(built("tokens"))
    assert [group.channels for group in inspection.groups] == [10]
    assert inspection.reach.macs == pytest.approx(0.9)


def replaced(model: ModelProto, name: str, value: Array) -> ModelProto:
    """Give an initializer a new value."""
    stored = next(t for t in model.graph.initializer if t.name == name)
    stored.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return model


@pytest.mark.parametrize("method", ["nm", "lbyl"])
@pytest.mark.parametrize(
    ("name", "axis"),
    [("tokens", 1), ("weight first", 1), ("a matrix for each head", 2), ("heads first", 2)],
)
def test_multiples_of_kept_channels_cost_nothing(name: str, axis: int, method: str) -> None:
    """A row that is half of another stays so behind a Relu."""
    model = built(name)
    rows = np.moveaxis(values(model)["e0"].copy(), axis, 0)
    rows /= np.sqrt(np.sum(rows**2, axis=tuple(range(1, rows.ndim)), keepdims=True))
    rows[5:] = 0.5 * rows[:5]
    model = replaced(model, "e0", np.moveaxis(rows, 0, axis))
    config = Config(
        round_to=1, ratio=0.5, method=method, lambda2=0.0, criterion="l2", provider="cpu"
    )
    feeds = make_feeds(model)
    assert_same(run(compressed(model, config), feeds), run(model, feeds))


@pytest.mark.parametrize("turned", [False, True])
def test_constants_add_to_the_outputs_of_each_head(turned: bool) -> None:
    """What a channel is in every run adds another number to the outputs of each head."""
    net = Net(("N", 2, 5, 6))
    x = einsum(net, "nhsd,hde->nhse", "x", (2, 6, 10))
    x = net.node("Add", [x, net.constant("b", net.cast(net.rng.uniform(0.5, 1.0, 10)))])
    equation = "nhse,hef->nfsh" if turned else "nhse,hef->nhsf"
    x = einsum(net, equation, net.relu(x), (2, 10, 4))
    model = net.declared(x, "N", *((4, 5, 2) if turned else (2, 5, 4)))
    rows = values(model)["e0"].copy()
    rows[..., 5:] = 0.0
    model = replaced(model, "e0", rows)
    config = Config(round_to=1, ratio=0.5, method="lbyl", criterion="l2", provider="cpu")
    made, feeds = compressed(model, config), make_feeds(model)
    assert [node.op_type for node in made.graph.node][-1] == "Add"
    assert_same(run(made, feeds), run(model, feeds))


@pytest.mark.parametrize("name", ["tokens", "axis 1", "all heads into one"])
def test_moments_tell_more_than_weights(name: str) -> None:
    errors = []
    methods: tuple[str, ...] = ("none", "lbyl+")
    for method in methods:
        config = Config(round_to=1, ratio=0.3, method=method, provider="cpu")
        result = compress(built(name), config=config)
        assert method != "lbyl+" or all(g.restored.startswith("lbyl+") for g in result.groups)
        errors.append(result.verification.fidelity.relative_error or 0.0)
    assert errors[1] < errors[0]


@pytest.mark.parametrize(
    ("equation", "weight", "reason"),
    [
        ("bsd,...d->bs", (6,), "the weight of Einsum has an ellipsis"),
        ("bsd,dd->bsd", (6, 6), "Einsum takes a diagonal"),
        ("bsd,de->be", (6, 10), "sums the activations along an axis that its weight does not have"),
        ("bsd,ae->bsd", (6, 10), "sums its weight along an axis that the activations do not have"),
        ("bsd,d->bsd", (6,), "Einsum sums over no axis of its weight"),
        ("bsd,d->bs", (6,), "Einsum takes no axis of its output from its weight alone"),
        ("bsd,de->bse", (1, 10), "Einsum repeats an axis of length 1"),
    ],
)
def test_what_is_no_layer_is_refused(equation: str, weight: Weight, reason: str) -> None:
    net = Net(("N", 5, 6))
    x = net.relu(einsum(net, "bsd,de->bse", "x", (6, 6)))
    output = einsum(net, equation, x, weight)
    model = net.declared(output, *("abc"[: len(equation.partition("->")[2])]))
    channels = interpret(model).channels
    assert channels.groups == ()
    assert any(reason in refusal.reason for refusal in channels.refusals)


def test_channels_of_two_activations_meet_in_their_product() -> None:
    net = Net(("N", 5, 6))
    x = einsum(net, "bsd,de->bse", "x", (6, 8))
    y = einsum(net, "bsd,de->bse", "x", (6, 8))
    model = net.declared(net.node("Einsum", [x, y], {"equation": "bsd,btd->bst"}), "N", 5, 5)
    (group,) = interpret(model).channels.groups
    assert (group.size, len(group.producers), group.consumers) == (8, 2, ())


def test_a_report_lists_them() -> None:
    config = Config(round_to=1, ratio=0.5, method="none", provider="cpu")
    result = compress(built("weight first"), config=config, detailed=True)
    assert result.details is not None
    layers = [(x.channels_before, x.channels_after, x.macs_after) for x in result.details.layers]
    assert layers == [(10, 5, 5 * 6 * 5), (4, 4, 5 * 5 * 4)]
