"""Models with hidden layers that are an Einsum with a constant operand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from onnx import ModelProto

from tests.support.net import Dims, Net

Weight = tuple[int, ...]


def einsum(net: Net, equation: str, x: str, weight: Weight, first: bool = False) -> str:
    """Append an Einsum by a new weight, which is its first or its second operand."""
    stored = net.weight(f"e{len(net.nodes)}", *weight)
    operands = [stored, x] if first else [x, stored]
    return net.node("Einsum", operands, {"equation": equation})


def chain(shape: Dims, *layers: tuple[str, Weight], first: bool = False) -> ModelProto:
    """Einsums with a Relu between each two."""
    net = Net(shape)
    x = "x"
    for number, (equation, weight) in enumerate(layers):
        x = einsum(net, equation, net.relu(x) if number else x, weight, first)
    rank = len(layers[-1][0].replace("...", "zy").partition("->")[2]) or 2
    return net.declared(x, *(f"d{axis}" for axis in range(rank)))


def between_convs() -> ModelProto:
    """A product along axis 1, with a BatchNormalization, between two Convs."""
    net = Net(("N", 3, "H", "W"))
    x = net.block("x", (3, 8))
    x = net.relu(net.batch_norm(einsum(net, "ce,bchw->behw", x, (8, 10), first=True), 10))
    return net.model(net.head(net.relu(net.conv(x, (10, 6))), 6))


def between_gemms() -> ModelProto:
    """A product of samples by a matrix stored as (outputs, inputs), between two Gemms."""
    net = Net(("N", 6))
    x = net.relu(net.gemm("x", 6, 12))
    x = net.relu(einsum(net, "bd,ed->be", x, (9, 12)))
    return net.model(net.gemm(x, 9, 4))


def flattened() -> ModelProto:
    """Heads and their channels become one axis, which a Gemm reads."""
    net = Net(("N", 6))
    x = net.relu(einsum(net, "bd,dhk->bhk", "x", (6, 2, 8)))
    return net.model(net.gemm(net.node("Flatten", [x]), 16, 4))


# name -> (builder, how many channels can be pruned)
EINSUMS: dict[str, tuple[Callable[[], ModelProto], int]] = {
    "tokens": (
        partial(chain, ("N", 5, 6), ("bsd,dh->bsh", (6, 10)), ("bsh,he->bse", (10, 4))),
        10,
    ),
    "stored turned": (
        partial(chain, ("N", 5, 6), ("bsd,hd->bsh", (10, 6)), ("bsh,eh->bse", (4, 10))),
        10,
    ),
    "weight first": (
        partial(chain, ("N", 5, 6), ("dh,bsd->bsh", (6, 10)), ("eh,bsh->bse", (4, 10)), first=True),
        10,
    ),
    "other letters": (
        partial(chain, ("N", 5, 6), ("Qzx, xA -> QzA", (6, 10)), ("QzA,AB->QzB", (10, 4))),
        10,
    ),
    "implicit output": (
        partial(chain, ("N", 6), ("ij,jk", (6, 10)), ("ij,jk", (10, 4))),
        10,
    ),
    "samples, weight first": (
        partial(chain, ("N", 6), ("dh,bd->bh", (6, 10)), ("dh,bd->bh", (10, 4)), first=True),
        10,
    ),
    "ellipsis": (
        partial(chain, ("N", 5, 6), ("...d,dh->...h", (6, 10)), ("...h,he->...e", (10, 4))),
        10,
    ),
    "axis 1": (
        partial(chain, ("N", 6, 5), ("bds,de->bes", (6, 10)), ("bes,ef->bfs", (10, 4))),
        10,
    ),
    "a matrix for each head": (
        partial(
            chain, ("N", 2, 5, 6), ("nhsd,hde->nhse", (2, 6, 10)), ("nhse,hef->nhsf", (2, 10, 4))
        ),
        10,
    ),
    "heads first": (
        partial(
            chain,
            ("N", 2, 5, 6),
            ("dhe,nhsd->nhse", (6, 2, 10)),
            ("fhe,nhse->nfhs", (4, 2, 10)),
            first=True,
        ),
        10,
    ),
    "all heads into one": (
        partial(chain, ("N", 5, 6), ("bsd,dhk->bshk", (6, 2, 10)), ("bshk,hke->bse", (2, 10, 4))),
        10,
    ),
    "channels on the first of two letters": (
        partial(
            chain,
            ("N", 6),
            ("bd,de->be", (6, 10)),
            ("be,ets->bts", (10, 3, 7)),
            ("bts,tsf->bf", (3, 7, 4)),
        ),
        17,
    ),
    "a matrix for each channel": (
        partial(
            chain,
            ("N", 6, 5),
            ("bcs,ce->bes", (6, 10)),
            ("bes,est->bet", (10, 5, 3)),
            ("bet,etf->bf", (10, 3, 4)),
        ),
        10,
    ),
    "between convs": (between_convs, 8 + 10 + 6),
    "between gemms": (between_gemms, 12 + 9),
    "flattened": (flattened, 8),
}
