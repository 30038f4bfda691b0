"""Classifiers of the convolutional families, small and with their true structure, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10
Layer = Callable[[], nn.Module]


def conv_bn(
    c_in: int,
    c_out: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    activation: Layer | None = nn.ReLU,
) -> nn.Sequential:
    """Conv without bias, BatchNorm, activation."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(c_out)]
    return nn.Sequential(*layers, *([] if activation is None else [activation()]))


class Residual(nn.Module):
    """x + body(x), with a shortcut where the shape changes and an activation behind."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut, self.activation = body, shortcut, activation

    def forward(self, x: Tensor) -> Tensor:
        """Add."""
        return self.activation(self.body(x) + self.shortcut(x))


def head(channels: int) -> nn.Sequential:
    """Pool over space, then classes."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def alexnet() -> nn.Module:
    """AlexNet (Krizhevsky et al., 2012), as torchvision has it: a grid flattened into Linear."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(16, 24, 3, 1, 1), nn.ReLU(), nn.Conv2d(24, 16, 3, 1, 1), nn.ReLU(),
        nn.MaxPool2d(3, 2), nn.AdaptiveAvgPool2d((3, 3)), nn.Flatten(), nn.Dropout(),
        nn.Linear(16 * 9, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 24), nn.ReLU(),
        nn.Linear(24, CLASSES),
    )  # fmt: skip


def vgg(normed: bool) -> nn.Module:
    """VGG (Simonyan, Zisserman, 2014), with or without BatchNorm."""
    layers: list[nn.Module] = []
    c_in = 3
    for c_out in (12, 12, 0, 24, 24, 0):
        if c_out == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1)]
        layers += [nn.BatchNorm2d(c_out)] if normed else []
        layers += [nn.ReLU(inplace=True)]
        c_in = c_out
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(c_in * 4, 32), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(), nn.Linear(32, CLASSES))


def resnet(bottleneck: bool, groups: int = 1, wide: int = 1) -> nn.Module:
    """ResNet (He et al., 2015); ResNeXt with groups, Wide ResNet with a wide bottleneck."""
    blocks: list[nn.Module] = [conv_bn(3, 16, 7, 2), nn.MaxPool2d(3, 2, 1)]
    c_in = 16
    for width, stride in ((8, 1), (16, 2)):
        c_out = width * (4 if bottleneck else 2)
        inner = width * wide * (2 if groups > 1 else 1)
        for number in range(2):
            step = stride if number == 0 else 1
            if bottleneck:
                body = nn.Sequential(
                    conv_bn(c_in, inner, 1),
                    conv_bn(inner, inner, 3, step, groups),
                    conv_bn(inner, c_out, 1, activation=None),
                )
            else:
                body = nn.Sequential(
                    conv_bn(c_in, c_out, 3, step), conv_bn(c_out, c_out, activation=None)
                )
            same = c_in == c_out and step == 1
            short = nn.Identity() if same else conv_bn(c_in, c_out, 1, step, activation=None)
            blocks.append(Residual(body, short, nn.ReLU()))
            c_in = c_out
    return nn.Sequential(*blocks, head(c_in))


class DenseLayer(nn.Module):
    """Norm and activation before each Conv; the input is kept beside the output."""

    def __init__(self, c_in: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(c_in), nn.ReLU(), nn.Conv2d(c_in, 16, 1, bias=False),
            nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Append."""
        return torch.cat([x, self.body(x)], 1)


def densenet() -> nn.Module:
    """DenseNet (Huang et al., 2016): two blocks with a transition between them."""
    layers: list[nn.Module] = [conv_bn(3, 16, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 16
    for block in range(2):
        for _ in range(3):
            layers.append(DenseLayer(channels, 8))
            channels += 8
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        if block == 0:
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    return nn.Sequential(*layers, head(channels))


def mobilenet_v1() -> nn.Module:
    """MobileNet (Howard et al., 2017): depthwise and pointwise Convs in turn."""
    layers: list[nn.Module] = [conv_bn(3, 8, 3, 2)]
    for c_in, c_out, stride in ((8, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2)):
        layers += [conv_bn(c_in, c_in, 3, stride, c_in), conv_bn(c_in, c_out, 1)]
    return nn.Sequential(*layers, head(32))


class SqueezeExcite(nn.Module):
    """Channels scaled by a gate that is computed from their means (Hu et al., 2017)."""

    def __init__(self, channels: int, squeezed: int, gate: Layer) -> None:
        super().__init__()
        self.pool, self.gate = nn.AdaptiveAvgPool2d(1), gate()
        self.down, self.up = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale."""
        return x * self.gate(self.up(F.relu(self.down(self.pool(x)))))


def inverted(
    c_in: int,
    c_out: int,
    stride: int,
    activation: Layer,
    gate: Layer | None = None,
    kernel: int = 3,
) -> nn.Module:
    """Inverted residual: widen, depthwise, where asked for squeeze and excite, narrow."""
    wide = 3 * c_in
    layers: list[nn.Module] = [
        conv_bn(c_in, wide, 1, activation=activation),
        conv_bn(wide, wide, kernel, stride, wide, activation),
    ]
    if gate is not None:
        layers.append(SqueezeExcite(wide, 8, gate))
    layers.append(conv_bn(wide, c_out, 1, activation=None))
    body = nn.Sequential(*layers)
    same = c_in == c_out and stride == 1
    return Residual(body, nn.Identity(), nn.Identity()) if same else body


def mobile(
    activation: Layer, gate: Layer | None, kernel: int = 3, last: Layer | None = None
) -> nn.Module:
    """MobileNet v2 and v3, MnasNet, EfficientNet: they differ in activation, gate and kernel."""
    layers: list[nn.Module] = [conv_bn(3, 8, 3, 2, activation=activation)]
    for c_in, c_out, stride in ((8, 12, 1), (12, 12, 1), (12, 16, 2), (16, 16, 1)):
        layers.append(inverted(c_in, c_out, stride, activation, gate, kernel))
    layers.append(conv_bn(16, 48, 1, activation=activation))
    if last is None:
        return nn.Sequential(*layers, head(48))
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 32), last(), nn.Dropout()]
    return nn.Sequential(*layers, *pooled, nn.Linear(32, CLASSES))


class ShuffleUnit(nn.Module):
    """ShuffleNet v2 (Ma et al., 2018): half passes, half is worked on, then they are shuffled."""

    def __init__(self, channels: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.stride, half = stride, c_out // 2
        c_in = channels if stride > 1 else half
        self.left = nn.Sequential()
        if stride > 1:
            depthwise = conv_bn(c_in, c_in, 3, stride, c_in, None)
            self.left = nn.Sequential(depthwise, conv_bn(c_in, half, 1))
        self.right = nn.Sequential(
            conv_bn(c_in, half, 1),
            conv_bn(half, half, 3, stride, half, None),
            conv_bn(half, half, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Split, join, shuffle."""
        left, right = x.chunk(2, dim=1) if self.stride == 1 else (x, x)
        x = torch.cat([self.left(left), self.right(right)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def shufflenet_v2() -> nn.Module:
    """Two stages of two units."""
    units = [ShuffleUnit(c, d, s) for c, d, s in ((8, 16, 2), (16, 16, 1), (16, 32, 2))]
    units.append(ShuffleUnit(32, 32, 1))
    return nn.Sequential(conv_bn(3, 8, 3, 2), *units, conv_bn(32, 48, 1), head(48))


class Branches(nn.Module):
    """Several ways from one input, concatenated."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate."""
        return torch.cat([branch(x) for branch in self.branches], 1)


def squeezenet() -> nn.Module:
    """SqueezeNet (Iandola et al., 2016): classes by a Conv before the pool."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    for c_in, squeezed in ((16, 6), (24, 8)):
        layers += [nn.Conv2d(c_in, squeezed, 1), nn.ReLU()]
        wide = nn.Sequential(nn.Conv2d(squeezed, 12, 3, padding=1), nn.ReLU())
        layers.append(Branches(nn.Sequential(nn.Conv2d(squeezed, 12, 1), nn.ReLU()), wide))
    classes = [nn.Dropout(), nn.Conv2d(24, CLASSES, 1), nn.ReLU()]
    return nn.Sequential(*layers, *classes, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def googlenet() -> nn.Module:
    """GoogLeNet (Szegedy et al., 2014): four branches, one of them pooled."""

    def block(c_in: int) -> nn.Module:
        return Branches(
            conv_bn(c_in, 8, 1),
            nn.Sequential(conv_bn(c_in, 6, 1), conv_bn(6, 10)),
            nn.Sequential(conv_bn(c_in, 4, 1), conv_bn(4, 6)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), conv_bn(c_in, 4, 1)),
        )

    stem = [conv_bn(3, 12, 7, 2), nn.MaxPool2d(3, 2, ceil_mode=True)]
    return nn.Sequential(*stem, block(12), block(28), nn.MaxPool2d(2), block(28), head(28))


class InceptionMixed(nn.Module):
    """Inception v3: factored kernels, a branch that forks once more, an averaged branch."""

    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.one = conv_bn(c_in, 8, 1)
        self.stem = conv_bn(c_in, 8, 1)
        self.row = nn.Sequential(nn.Conv2d(8, 8, (1, 3), padding=(0, 1), bias=False),
                                 nn.BatchNorm2d(8, eps=1e-3), nn.ReLU())  # fmt: skip
        self.column = nn.Sequential(nn.Conv2d(8, 8, (3, 1), padding=(1, 0), bias=False),
                                    nn.BatchNorm2d(8, eps=1e-3), nn.ReLU())  # fmt: skip
        self.pooled = conv_bn(c_in, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate."""
        stem = self.stem(x)
        pooled = self.pooled(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1))
        return torch.cat([self.one(x), self.row(stem), self.column(stem), pooled], 1)


def inception_v3() -> nn.Module:
    """Inception v3 (Szegedy et al., 2015): two mixed blocks."""
    stem = [conv_bn(3, 12, 3, 2), nn.MaxPool2d(3, 2)]
    return nn.Sequential(*stem, InceptionMixed(12), InceptionMixed(30), nn.Dropout(), head(30))


def regnet() -> nn.Module:
    """RegNet Y (Radosavovic et al., 2020): grouped bottlenecks of ratio 1 with a gate."""
    layers: list[nn.Module] = [conv_bn(3, 8, 3, 2)]
    for c_in, c_out, stride in ((8, 16, 2), (16, 16, 1), (16, 32, 2), (32, 32, 1)):
        body = nn.Sequential(
            conv_bn(c_in, c_out, 1),
            conv_bn(c_out, c_out, 3, stride, c_out // 8),
            SqueezeExcite(c_out, max(2, c_in // 4), nn.Sigmoid),
            conv_bn(c_out, c_out, 1, activation=None),
        )
        same = c_in == c_out
        short = nn.Identity() if same else conv_bn(c_in, c_out, 1, stride, activation=None)
        layers.append(Residual(body, short, nn.ReLU()))
    return nn.Sequential(*layers, head(32))
