"""Which channels lie on one line, through the shapes in which attention is written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto

from lbyl_onnx.channels.groups import ChannelGroup
from tests.support.net import Net
from tests.support.oracle import interpret

TOKENS, WIDTH = 5, 6


def linear(net: Net, x: str, count_in: int, count_out: int) -> str:
    return net.node("MatMul", [x, net.weight(f"w{len(net.nodes)}", count_in, count_out)])


def attended(net: Net, q: str, k: str, v: str, width: int) -> ModelProto:
    """Attend with q and v (N, heads, T, d) and k (N, heads, d, T); project, and end."""
    p = net.node("Softmax", [net.node("MatMul", [q, k])], {"axis": -1})
    y = net.node("Transpose", [net.node("MatMul", [p, v])], {"perm": [0, 2, 1, 3]})
    y = net.node("Reshape", [y, net.ints(0, 0, width)])
    return net.declared(linear(net, y, width, 4), "N", TOKENS, 4)


def heads(net: Net, x: str, count: int, size: int, keys: bool = False) -> str:
    """(N, T, heads * d) -> (N, heads, T, d), or (N, heads, d, T) for keys."""
    x = net.node("Reshape", [x, net.ints(0, 0, count, size)])
    return net.node("Transpose", [x], {"perm": [0, 2, 3, 1] if keys else [0, 2, 1, 3]})


def split(net: Net, x: str, axis: int, *sizes: int) -> list[str]:
    names = [f"part_{len(net.nodes)}_{i}" for i in range(len(sizes))]
    net.node("Split", [x, net.ints(*sizes)], {"axis": axis})
    net.nodes[-1].output[:] = names
    return names


def fused(order: str) -> ModelProto:
    """One weight whose columns are (3, heads, d), or (heads, 3, d); 2 heads of 4."""
    net = Net(("N", TOKENS, WIDTH))
    x = linear(net, "x", WIDTH, 24)
    if order == "3hd":
        x = net.node("Reshape", [x, net.ints(0, 0, 3, 2, 4)])
        x = net.node("Transpose", [x], {"perm": [2, 0, 3, 1, 4]})
    else:
        x = net.node("Reshape", [x, net.ints(0, 0, 2, 3, 4)])
        x = net.node("Transpose", [x], {"perm": [3, 0, 2, 1, 4]})
    q, k, v = (net.node("Gather", [x, scalar(net, i)], {"axis": 0}) for i in range(3))
    k = net.node("Transpose", [k], {"perm": [0, 1, 3, 2]})
    return attended(net, q, k, v, 8)


def scalar(net: Net, value: int) -> str:
    return net.constant(f"scalar_{len(net.initializers)}", np.asarray(value, np.int64))


def fused_and_split() -> ModelProto:
    """(heads, 3 * d), cut along the last axis once the heads are told apart."""
    net = Net(("N", TOKENS, WIDTH))
    x = net.node("Reshape", [linear(net, "x", WIDTH, 24), net.ints(0, 0, 2, 12)])
    x = net.node("Transpose", [x], {"perm": [0, 2, 1, 3]})
    q, k, v = split(net, x, 3, 4, 4, 4)
    return attended(net, q, net.node("Transpose", [k], {"perm": [0, 1, 3, 2]}), v, 8)


def three_weights(keys: int = 2, queries: int = 2) -> ModelProto:
    """A weight for each; with fewer heads of keys than of queries each is repeated."""
    net = Net(("N", TOKENS, WIDTH))
    q = heads(net, linear(net, "x", WIDTH, 4 * queries), queries, 4)
    k = heads(net, linear(net, "x", WIDTH, 4 * keys), keys, 4)
    v = heads(net, linear(net, "x", WIDTH, 4 * keys), keys, 4)
    if keys < queries:
        k, v = (repeated(net, x, keys, queries // keys) for x in (k, v))
    k = net.node("Transpose", [k], {"perm": [0, 1, 3, 2]})
    return attended(net, q, k, v, 4 * queries)


def repeated(net: Net, x: str, count: int, times: int) -> str:
    """(N, heads, T, d) -> (N, heads * times, T, d), as `repeat_kv` does it."""
    x = net.node("Unsqueeze", [x, net.ints(2)])
    x = net.node("Expand", [x, net.ints(1, count, times, TOKENS, 4)])
    return net.node("Reshape", [x, net.ints(0, count * times, TOKENS, 4)])


def blocks_of(model: ModelProto) -> list[tuple[int, list[int]]]:
    """Size of each group, and how many channels each of its blocks has."""
    groups = interpret(model).channels.groups
    return sorted((group.size, np.bincount(group.blocks).tolist()) for group in groups)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: fused("3hd"), [(8, [4, 4]), (8, [4, 4])]),
        (lambda: fused("h3d"), [(8, [4, 4]), (8, [4, 4])]),
        (fused_and_split, [(8, [4, 4]), (8, [4, 4])]),
        (three_weights, [(8, [4, 4]), (8, [4, 4])]),
        # heads of keys that several heads of queries read: their queries go with them
        (lambda: three_weights(2, 4), [(8, [4, 4]), (8, [4, 4])]),
        (lambda: three_weights(1, 4), [(4, [4]), (4, [4])]),
        (lambda: three_weights(1, 1), [(4, [4]), (4, [4])]),
    ],
)
def test_each_head_is_a_line_of_its_own(
    build: Callable[[], ModelProto], expected: list[tuple[int, list[int]]]
) -> None:
    assert blocks_of(build()) == expected


def test_a_head_is_the_columns_that_it_reads() -> None:
    """Of (heads, 3 * d) the first head's values are columns 8 to 11, the second's 20 to 23."""
    for model, columns in (
        (fused_and_split(), [[8, 9, 10, 11], [20, 21, 22, 23]]),
        (fused("3hd"), [[16, 17, 18, 19], [20, 21, 22, 23]]),
    ):
        values = next(group for group in interpret(model).channels.groups if group.consumers)
        at = values.producers[0].positions[:, 0]
        assert [at[values.blocks == block].tolist() for block in (0, 1)] == columns


def test_queries_that_share_keys_go_with_them() -> None:
    """The j-th channel of a head of keys is the j-th of both heads of queries that read it."""
    model = three_weights(2, 4)
    group = next(group for group in interpret(model).channels.groups if group.products)
    by_size = {p.positions.shape[1]: p.positions.tolist() for p in group.producers}
    assert by_size[1] == [[j] for j in range(8)]
    assert by_size[2] == [[j, j + 4] for j in (0, 1, 2, 3, 8, 9, 10, 11)]


def test_a_fused_weight_ties_what_lies_on_one_axis() -> None:
    """One Reshape gives queries, keys and values one axis of channels: of all go as many."""
    channels = interpret(fused("3hd")).channels
    assert channels.ties == (frozenset(group.key for group in channels.groups),)
    assert interpret(three_weights()).channels.ties == ()


def shuffled(groups: int, channels: int) -> ModelProto:
    """Channels cut into (groups, n), turned, and read as one axis again."""
    net = Net(("N", 3, 4, 4))
    x = net.node("Reshape", [net.conv("x", (3, channels)), net.ints(0, groups, -1, 4, 4)])
    x = net.node("Transpose", [x], {"perm": [0, 2, 1, 3, 4]})
    x = net.node("Reshape", [x, net.ints(0, channels, 4, 4)])
    return net.model(net.head(net.relu(net.conv(x, (channels, 4))), 4))


def first_group(model: ModelProto) -> ChannelGroup:
    return next(g for g in interpret(model).channels.groups if g.name == "conv_0")


def test_a_shuffle_leaves_whole_slices() -> None:
    """Grids that cross, (2, 4) and (4, 2), leave no channel that could go by itself."""
    model = shuffled(2, 8)
    group = first_group(model)
    assert group.block_count == 1
    assert group.size * group.producers[0].positions.shape[1] == 8
    assert group.size < 8


def test_grids_that_cut_one_axis_in_two_ways_leave_whole_slices() -> None:
    """As many go of each of 2 rows of 6, and of each of 3 rows of 4."""
    net = Net(("N", 3, 4, 4))
    x = net.conv("x", (3, 12))
    for rows in (2, 3):
        x = net.node("Reshape", [x, net.ints(0, rows, -1, 4, 4)])
        x = net.relu(x)
        x = net.node("Reshape", [x, net.ints(0, 12, 4, 4)])
    group = first_group(net.model(net.head(net.relu(net.conv(x, (12, 4))), 4)))
    firsts = np.unique(group.blocks, return_index=True)[1]  # one channel of each block goes
    keep = np.setdiff1d(np.arange(12), group.producers[0].positions[firsts])
    assert 0 < len(keep) < 12
    for rows in (2, 3):
        left = np.bincount(keep // (12 // rows), minlength=rows)
        assert len(set(left.tolist())) == 1


def test_one_node_repeats_values_for_the_heads_of_queries() -> None:
    net = Net(("N", TOKENS, WIDTH), opset=23)
    counts = {"q": 4, "k": 2, "v": 2}
    parts = [heads(net, linear(net, "x", WIDTH, 4 * n), n, 4) for n in counts.values()]
    y = net.node("Transpose", [net.node("Attention", parts)], {"perm": [0, 2, 1, 3]})
    y = net.node("Reshape", [y, net.ints(0, 0, 16)])
    channels = interpret(net.declared(linear(net, y, 16, 4), "N", TOKENS, 4)).channels
    (values,) = [group for group in channels.groups if not group.products]
    assert values.size == 8
    positions = values.consumers[0].positions
    np.testing.assert_array_equal(positions[:4], [[i, i + 4] for i in range(4)])
