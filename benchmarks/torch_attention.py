"""Forms of attention and of gated feed-forwards, small, written as their projects write them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.torch_convnets import CLASSES

WIDTH, HEADS, DIM, HIDDEN = 64, 4, 16, 256
LABELS = 96  # of the vocabulary
QUERIES, FEATURES, OBJECT_HIDDEN = 8, 128, 128
PATCH = 12


class FusedAttention(nn.Module):
    """One projection, unbound into queries, keys and values, as timm has it.

    Parameters
    ----------
    builtin
        Whether PyTorch's own function attends, or the products are written out.
    normalised
        RMSNorm of each head's queries and keys (ViT-22B, Dehghani et al., 2023).
    """

    def __init__(self, builtin: bool, normalised: bool = False) -> None:
        super().__init__()
        self.builtin = builtin
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        norms = [nn.RMSNorm(DIM, eps=1e-6) if normalised else nn.Identity() for _ in range(2)]
        self.q_norm, self.k_norm = norms

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, HEADS, DIM).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.builtin:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = (q * DIM**-0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(x.transpose(1, 2).reshape(n, t, c))


class EinsumAttention(nn.Module):
    """Attention in Einsums, as ports from JAX have it: heads never lie on one axis with dims."""

    def __init__(self) -> None:
        super().__init__()
        shape = (WIDTH, HEADS, DIM)
        self.q, self.k, self.v = (nn.Parameter(torch.randn(shape) * 0.1) for _ in range(3))
        self.q_bias = nn.Parameter(torch.randn(HEADS, DIM) * 0.1)
        self.out = nn.Parameter(torch.randn(HEADS, DIM, WIDTH) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        q = torch.einsum("btc,chd->bthd", x, self.q) + self.q_bias
        k, v = (torch.einsum("bsc,chd->bshd", x, weight) for weight in (self.k, self.v))
        weights = torch.einsum("bthd,bshd->bhts", q * DIM**-0.5, k).softmax(-1)
        return torch.einsum("bthd,hdc->btc", torch.einsum("bhts,bshd->bthd", weights, v), self.out)


class Multihead(nn.Module):
    """PyTorch's own attention, tokens first."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        x = x.transpose(0, 1)
        return self.attention(x, x, x, need_weights=False)[0].transpose(0, 1)


class Gated(nn.Module):
    """SwiGLU and GeGLU (Shazeer, 2020): one half gates the other; one or two projections."""

    def __init__(self, gelu: bool, hidden: int) -> None:
        super().__init__()
        self.gelu = gelu
        self.up = nn.Linear(WIDTH, 2 * hidden) if gelu else nn.Linear(WIDTH, hidden, bias=False)
        self.gate = nn.Identity() if gelu else nn.Linear(WIDTH, hidden, bias=False)
        self.down = nn.Linear(hidden, WIDTH, bias=gelu)

    def forward(self, x: Tensor) -> Tensor:
        """Gate."""
        if self.gelu:
            value, gate = self.up(x).chunk(2, dim=-1)
            return self.down(value * F.gelu(gate))
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Residual(nn.Module):
    """A body behind a LayerNorm, added."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.norm, self.body = nn.LayerNorm(WIDTH), body

    def forward(self, x: Tensor) -> Tensor:
        """Add."""
        return x + self.body(self.norm(x))


class LastToken(nn.Module):
    """A small classifier of the last token."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Classify."""
        return self.body(x[:, -1])


class Patches(nn.Module):
    """An image's patches and a class token, with positions (Dosovitskiy et al., 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.position = nn.Parameter(torch.randn(1, 10, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """Cut and embed."""
        x = self.patch(x).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position


class FirstToken(nn.Module):
    """One layer that reads the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Classify."""
        return self.head(self.norm(x)[:, 0])


def feed_forward(hidden: int = HIDDEN) -> nn.Module:
    """Two layers with GELU between them."""
    return nn.Sequential(nn.Linear(WIDTH, hidden), nn.GELU(), nn.Linear(hidden, WIDTH))


def vit_unbind(builtin: bool) -> nn.Module:
    """ViT as timm writes it."""
    bodies = [body for _ in range(2) for body in (FusedAttention(builtin), feed_forward())]
    blocks = [Residual(body) for body in bodies]
    return nn.Sequential(Patches(), *blocks, FirstToken())


def attention_only(kind: str) -> nn.Module:
    """Two attention layers of a kind on embedded tokens, without feed-forwards."""
    kinds: dict[str, Callable[[], nn.Module]] = {
        "multihead": Multihead,
        "einsum": EinsumAttention,
        "normalised": partial(FusedAttention, True, normalised=True),
    }
    blocks = [Residual(kinds[kind]()) for _ in range(2)]
    return nn.Sequential(nn.Embedding(LABELS, WIDTH), *blocks, LastToken())


def gated() -> nn.Module:
    """A gated feed-forward of each kind."""
    blocks = [Residual(Gated(gelu, hidden=128)) for gelu in (False, True)]
    return nn.Sequential(nn.Linear(24, WIDTH), *blocks, nn.Linear(WIDTH, CLASSES))


def encoder_layers() -> nn.Module:
    """PyTorch's own encoder layers: the norm comes first."""
    return nn.Sequential(
        *(
            nn.TransformerEncoderLayer(
                WIDTH, HEADS, HIDDEN, batch_first=True, norm_first=True, activation="gelu"
            )
            for _ in range(2)
        )
    )


class DecoderLayer(nn.Module):
    """DETR's layer (Carion et al., 2020): positions go into queries and keys, not into values.

    Like there, attention returns its weights, and so is written out, heads beside the batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.itself, self.cross = (nn.MultiheadAttention(WIDTH, HEADS) for _ in range(2))
        self.wide, self.narrow = nn.Linear(WIDTH, OBJECT_HIDDEN), nn.Linear(OBJECT_HIDDEN, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))

    def forward(self, x: Tensor, query: Tensor, memory: Tensor, position: Tensor) -> Tensor:
        """Attend to the objects, then to the image; tokens come first."""
        placed = x + query
        x = self.norms[0](x + self.itself(placed, placed, x)[0])
        key = memory + position
        x = self.norms[1](x + self.cross(x + query, key, memory)[0])
        return self.norms[2](x + self.narrow(F.relu(self.wide(x))))


class ObjectDecoder(nn.Module):
    """DETR's decoder on the features of a backbone: classes and boxes of eight objects."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(FEATURES, WIDTH, 1)
        self.query = nn.Parameter(torch.randn(QUERIES, 1, WIDTH))
        self.position = nn.Parameter(torch.randn(16, 1, WIDTH))
        self.layers = nn.ModuleList(DecoderLayer() for _ in range(2))
        self.classes, self.boxes = nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Find."""
        memory = self.project(x).flatten(2).permute(2, 0, 1)
        query = self.query.expand(-1, x.shape[0], -1)
        y = torch.zeros_like(query)
        for layer in self.layers:
            y = layer(y, query, memory, self.position)
        y = y.transpose(0, 1)
        return torch.cat([self.classes(y), self.boxes(y).sigmoid()], -1)
