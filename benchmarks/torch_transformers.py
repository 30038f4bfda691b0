"""Transformers, and a recurrent tagger, small and with their true structure, in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.torch_convnets import CLASSES

WORDS = 50


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of an image, between two permutes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    """Depthwise Conv, then LayerNorm and a feed-forward in NHWC, scaled per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.wide, self.narrow = nn.Linear(channels, 48), nn.Linear(48, channels)
        self.scale = nn.Parameter(0.5 + torch.rand(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Add."""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.narrow(F.gelu(self.wide(y))).permute(0, 3, 1, 2)
        return x + self.scale * y


def convnext() -> nn.Module:
    """ConvNeXt (Liu et al., 2022)."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 4), LayerNorm2d(16), ConvNextBlock(16), LayerNorm2d(16),
        nn.Conv2d(16, 24, 2, 2), ConvNextBlock(24), nn.AdaptiveAvgPool2d(1), LayerNorm2d(24),
        nn.Flatten(), nn.Linear(24, CLASSES),
    )  # fmt: skip


class Attention(nn.Module):
    """Self-attention from one projection, written out or by PyTorch's own function."""

    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        n, t, c = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = (q * (c // self.heads) ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(x.transpose(1, 2).reshape(n, t, c))


class EncoderBlock(nn.Module):
    """Attention and feed-forward, each behind a LayerNorm and added."""

    def __init__(self, width: int, attention: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = attention
        self.feed = nn.Sequential(nn.Linear(width, 40), nn.GELU(), nn.Linear(40, width))

    def forward(self, x: Tensor) -> Tensor:
        """Add twice."""
        x = x + self.attention(self.first(x))
        return x + self.feed(self.second(x))


class VisionTransformer(nn.Module):
    """ViT (Dosovitskiy et al., 2020): patches, a class token, two encoder blocks."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 24, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 24))
        self.position = nn.Parameter(torch.randn(1, 17, 24))
        blocks = [EncoderBlock(24, Attention(24, 3, fused)) for _ in range(2)]
        self.blocks, self.norm = nn.Sequential(*blocks), nn.LayerNorm(24)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Classify."""
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class WindowAttention(nn.Module):
    """Attention inside shifted windows of 4 x 4, with a bias for each pair (Liu et al., 2021)."""

    def __init__(self, width: int, shift: int) -> None:
        super().__init__()
        self.shift, self.heads = shift, 2
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.randn(1, 2, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        """Roll, cut into windows, attend, put together again."""
        n, h, w, c = x.shape
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = x.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        qkv = self.qkv(x).reshape(x.shape[0], 16, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5 + self.bias).softmax(-1)
        x = self.out((weights @ v).transpose(1, 2).reshape(-1, 16, c))
        x = x.view(n, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        return torch.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x


class PatchMerging(nn.Module):
    """Four neighbours become one token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.reduce = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, False)

    def forward(self, x: Tensor) -> Tensor:
        """Merge."""
        parts = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return self.reduce(self.norm(torch.cat(parts, -1)))


class Swin(nn.Module):
    """Swin transformer (Liu et al., 2021): plain and shifted windows, then merged patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        first = [EncoderBlock(16, WindowAttention(16, shift)) for shift in (0, 2)]
        last = EncoderBlock(32, WindowAttention(32, 0))
        self.blocks = nn.Sequential(*first, PatchMerging(16), last)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Classify."""
        x = self.norm(self.blocks(self.patch(x).permute(0, 2, 3, 1)))
        return self.head(x.permute(0, 3, 1, 2).mean((2, 3)))


class TextEncoder(nn.Module):
    """Embedding and PyTorch's own encoder layers, as BERT has them: the norm comes last."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(WORDS, 24), nn.Parameter(torch.randn(16, 24))
        layers = [nn.TransformerEncoderLayer(24, 3, 40, batch_first=True) for _ in range(2)]
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Classify the first token."""
        return self.head(self.layers(self.embed(x) + self.position)[:, 0])


class Tagger(nn.Module):
    """Embedding, a recurrent layer in both directions, a feed-forward for each token."""

    def __init__(self, layer: type[nn.Module]) -> None:
        super().__init__()
        self.embed, self.into = nn.Embedding(WORDS, 16), nn.Linear(16, 20)
        self.recurrent = layer(20, 12, batch_first=True, bidirectional=True)
        self.out = nn.Sequential(nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Tag."""
        return self.out(self.recurrent(F.relu(self.into(self.embed(x))))[0])
