"""Networks that give an image or boxes, small and with their true structure, in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.torch_convnets import Branches, conv_bn


def double(c_in: int, c_out: int) -> nn.Module:
    """Two Convs."""
    return nn.Sequential(conv_bn(c_in, c_out), conv_bn(c_out, c_out))


class UNet(nn.Module):
    """U-Net (Ronneberger et al., 2015), up by ConvTranspose or by interpolation."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.down = nn.ModuleList([double(3, 8), double(8, 12), double(12, 16)])
        self.transposed = transposed
        if transposed:
            ups = [nn.ConvTranspose2d(16, 12, 2, 2), nn.ConvTranspose2d(12, 8, 2, 2)]
        else:
            ups = [conv_bn(16, 12, 1), conv_bn(12, 8, 1)]
        self.ups = nn.ModuleList(ups)
        self.merge = nn.ModuleList([double(24, 12), double(16, 8)])
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Segment."""
        skips = []
        for i, down in enumerate(self.down):
            x = down(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        for up, merge, skip in zip(self.ups, self.merge, skips[-2::-1], strict=True):
            x = up(x)
            if not self.transposed:
                x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = merge(torch.cat([skip, x], 1))
        return self.out(x)


class PooledContext(nn.Module):
    """The pooled image spread over the plane again."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_bn(c_in, c_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Spread."""
        return F.interpolate(self.body(x), size=x.shape[-2:], mode="bilinear", align_corners=False)


class Segmenter(nn.Module):
    """A backbone and a head, the classes resized to the image: FCN, or DeepLab v3's ASPP."""

    def __init__(self, pyramid: bool) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv_bn(3, 8, 3, 2), conv_bn(8, 16, 3, 2), conv_bn(16, 24))
        if pyramid:
            rates = [
                nn.Sequential(
                    nn.Conv2d(24, 8, 3, padding=rate, dilation=rate, bias=False),
                    nn.BatchNorm2d(8), nn.ReLU(),
                )
                for rate in (2, 4)
            ]  # fmt: skip
            parts = Branches(conv_bn(24, 8, 1), *rates, PooledContext(24, 8))
            middle = nn.Sequential(parts, conv_bn(32, 16, 1), nn.Dropout(), conv_bn(16, 16))
        else:
            middle = nn.Sequential(conv_bn(24, 16), nn.Dropout())
        self.head = nn.Sequential(middle, nn.Conv2d(16, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Segment."""
        y = self.head(self.backbone(x))
        return F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)


class CrossStage(nn.Module):
    """YOLO's C2f: halves of a Conv, each step's output kept, all joined."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.into, self.out = (conv_bn(a, c_out, 1, activation=nn.SiLU) for a in (c_in, 2 * c_out))
        half = c_out // 2
        self.steps = nn.ModuleList(
            nn.Sequential(*(conv_bn(half, half, activation=nn.SiLU) for _ in range(2)))
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Join."""
        parts = list(self.into(x).chunk(2, 1))
        for step in self.steps:
            parts.append(parts[-1] + step(parts[-1]))
        return self.out(torch.cat(parts, 1))


class Yolo(nn.Module):
    """A YOLO: cross-stage blocks, pooling pyramid, up and down again, boxes decoded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 3, 2, activation=nn.SiLU), CrossStage(8, 16))
        self.deep = nn.Sequential(conv_bn(16, 24, 3, 2, activation=nn.SiLU), CrossStage(24, 24))
        self.before, self.after = (conv_bn(a, b, 1) for a, b in ((24, 12), (48, 24)))
        self.up, self.fuse = nn.Upsample(scale_factor=2), CrossStage(40, 16)
        self.heads = nn.ModuleList(
            nn.Sequential(conv_bn(c, 16, activation=nn.SiLU), nn.Conv2d(16, 4 + 3, 1))
            for c in (16, 24)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Detect."""
        shallow = self.stem(x)
        pooled = [self.before(self.deep(shallow))]
        for _ in range(3):
            pooled.append(F.max_pool2d(pooled[-1], 5, 1, 2))
        deep = self.after(torch.cat(pooled, 1))
        levels = [self.fuse(torch.cat([self.up(deep), shallow], 1)), deep]
        flat = [h(y).flatten(2) for h, y in zip(self.heads, levels, strict=True)]
        boxes, classes = torch.cat(flat, 2).split((4, 3), 1)
        corner, size = boxes.chunk(2, 1)
        return torch.cat([corner - size, corner + size, classes.sigmoid()], 1)
