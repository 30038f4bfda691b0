"""The reference multiplies queries by zero where they are gone; kept channels may be restored."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from lbyl_onnx import Config, VerificationError, compress
from lbyl_onnx.compensate.fits import ConsumerFit
from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.io.lazy_array import load
from lbyl_onnx.io.writer import ModelDraft
from lbyl_onnx.methods.types import Delivery
from lbyl_onnx.rewrite import build
from lbyl_onnx.rewrite.product_masks import PREFIX, product_masks, with_masked_products
from lbyl_onnx.rewrite.weights import compensated
from tests.support.attentions import WIDTH, Block
from tests.support.net import Net
from tests.support.oracle import assert_same, interpret, make_feeds, run, values

BLOCKS = [Block(2, 2, 3, True, True, True, operator, False, seed=3) for operator in (False, True)]
every_block = pytest.mark.parametrize("block", BLOCKS, ids=["written out", "one node"])


def masked(model: ModelProto, gone: list[int]) -> ModelProto:
    """The reference without some channels, by their numbers in the group of queries and keys."""
    found = interpret(model)
    group = next(group for group in found.channels.groups if group.products)
    masks = product_masks(model, found.tensor_info, found.channels, group.units[gone])
    return with_masked_products(ModelDraft.of(model), masks).skeleton


@every_block
def test_the_reference_is_attention_without_these_queries_and_keys(block: Block) -> None:
    x = np.random.default_rng(0).standard_normal((2, block.tokens, WIDTH)).astype(np.float32)
    kept = {name: np.ones((2, 3), np.bool_) for name in "kv"}
    kept["k"][0, 1] = kept["k"][1, 2] = False
    actual = run(masked(block.model(), [1, 5]), {"x": x})
    assert_same(actual, [block.computed(x, kept).astype(np.float32)])


@every_block
def test_where_nothing_is_gone_nothing_is_masked(block: Block) -> None:
    model = block.model()
    assert masked(model, []) == model


@every_block
def test_the_original_is_not_changed(block: Block) -> None:
    model, again = block.model(), block.model()
    changed = masked(model, [1, 5])
    assert model == again
    assert [n for node in changed.graph.node for n in node.output if n.startswith(PREFIX)]


@every_block
def test_the_proof_tells_products_that_are_not_masked(
    monkeypatch: pytest.MonkeyPatch, block: Block
) -> None:
    monkeypatch.setattr(build, "product_masks", lambda *_: ())
    config = Config(ratio=0.34, round_to=1, min_channels=1, method="none", provider="cpu")
    with pytest.raises(VerificationError, match="the rewrite is wrong"):
        compress(block.model(), config=config)


class TestOwn:
    """A delivery that restores kept channels, too, from what stands in their places."""

    @staticmethod
    def linear() -> ModelProto:
        net = Net(("N", 5))
        return net.model(net.gemm(net.gemm("x", 5, 6), 6, 4))

    @pytest.mark.parametrize("shifted", [False, True])
    def test_folded_into_a_consumer_it_is_the_matrix(self, shifted: bool) -> None:
        model, rng = self.linear(), np.random.default_rng(5)
        found = interpret(model)
        (group,) = found.channels.groups
        kept = np.asarray([1, 2, 5], np.intp)
        own = rng.standard_normal((3, 3)), rng.standard_normal(3) * shifted
        delivery = Delivery(
            kept, rng.standard_normal((3, 3)), rng.standard_normal(3) * shifted, own=own
        )
        fit = ConsumerFit(group, group.consumers[0], delivery)
        graph = to_graph(model)
        edits = compensated(graph, found.tensor_info, [fit], [], {}, [], held=1 << 30)
        node = group.consumers[0].binding.node
        weight = np.asarray(load(edits.operands[node, 1]), np.float64)  # (out, in)
        stored = values(model)
        before, bias = (stored[graph.nodes[node].inputs[i].name] for i in (1, 2))
        np.testing.assert_allclose(weight[:, kept], before @ delivery.matrix, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(np.delete(weight, kept, axis=1), 0.0)
        after = np.asarray(load(edits.operands[node, 2]) if shifted else bias, np.float64)
        np.testing.assert_allclose(after, bias + before @ delivery.offset, rtol=1e-5, atol=1e-6)


@every_block
@pytest.mark.parametrize("method", ["none", "lbyl", "lbyl+"])
def test_all_channels_kept_change_no_bit(block: Block, method: str) -> None:
    model = block.model()
    result = compress(model, config=Config(ratio=0.0, method=method, provider="cpu"))
    assert result.model is not None
    feeds = make_feeds(model)
    for new, old in zip(run(result.model, feeds), run(model, feeds), strict=True):
        np.testing.assert_array_equal(new, old)
