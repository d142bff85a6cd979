"""Networks that join the channels of several branches: GoogLeNet, DenseNet and PNASNet."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from joulelab.models.blocks import Branches, Classifier, ConvBnAct

DENSENET_GROWTH = 32
DENSENET_DEPTHS = (6, 12, 24, 16)
PNASNET_CELLS_PER_STAGE = 6


def googlenet(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """GoogLeNet with batch normalisation.

    Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, table 1. Unlike the paper: one 3x3
    convolution to 192 channels as the stem, two 3x3 convolutions instead of one 5x5 (as in
    Inception v2), batch normalisation, no auxiliary classifiers, no dropout.
    """
    return nn.Sequential(
        ConvBnAct(in_channels, 192, 3, bias=True),
        inception(192, 64, (96, 128), (16, 32), 32),
        inception(256, 128, (128, 192), (32, 96), 64),
        nn.MaxPool2d(3, stride=2, padding=1),
        inception(480, 192, (96, 208), (16, 48), 64),
        inception(512, 160, (112, 224), (24, 64), 64),
        inception(512, 128, (128, 256), (24, 64), 64),
        inception(512, 112, (144, 288), (32, 64), 64),
        inception(528, 256, (160, 320), (32, 128), 128),
        nn.MaxPool2d(3, stride=2, padding=1),
        inception(832, 256, (160, 320), (32, 128), 128),
        inception(832, 384, (192, 384), (48, 128), 128),
        Classifier(1024, num_classes),
    )


def inception(
    in_channels: int, one: int, three: tuple[int, int], five: tuple[int, int], pooled: int
) -> nn.Module:
    """Build four parallel branches: 1x1, 3x3, 5x5 (as two 3x3) and pooling.

    ``three`` and ``five`` are the channels of the reduction and of the convolutions after it.
    """
    return Branches(
        [
            ConvBnAct(in_channels, one, 1, bias=True),
            nn.Sequential(
                ConvBnAct(in_channels, three[0], 1, bias=True),
                ConvBnAct(three[0], three[1], 3, bias=True),
            ),
            nn.Sequential(
                ConvBnAct(in_channels, five[0], 1, bias=True),
                ConvBnAct(five[0], five[1], 3, bias=True),
                ConvBnAct(five[1], five[1], 3, bias=True),
            ),
            nn.Sequential(
                nn.MaxPool2d(3, stride=1, padding=1),
                ConvBnAct(in_channels, pooled, 1, bias=True),
            ),
        ]
    )


def densenet121(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """DenseNet121 (bottleneck, compression by 0.5, growth 32).

    Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks", CVPR 2017.
    Unlike the paper's ImageNet version: a 3x3 stem of stride 1 without normalisation and pooling,
    so that 32x32 images reach the first dense block at full size.
    """
    channels = 2 * DENSENET_GROWTH
    layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)]
    for stage, depth in enumerate(DENSENET_DEPTHS):
        if stage > 0:
            layers += [_bn_act_conv(channels, channels // 2, 1), nn.AvgPool2d(2)]
            channels //= 2
        for _ in range(depth):
            layers.append(DenseLayer(channels))
            channels += DENSENET_GROWTH
    return nn.Sequential(
        *layers, nn.BatchNorm2d(channels), nn.ReLU(), Classifier(channels, num_classes)
    )


class DenseLayer(nn.Module):
    """Adds :data:`DENSENET_GROWTH` new channels to its input, through a 1x1 bottleneck."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        width = 4 * DENSENET_GROWTH
        self.body = nn.Sequential(
            _bn_act_conv(in_channels, width, 1), _bn_act_conv(width, DENSENET_GROWTH, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C + DENSENET_GROWTH, H, W)``."""
        return torch.cat([self.body(x), x], dim=1)


def _bn_act_conv(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
    )


def pnasnet_a(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """PNASNet of 44 channels and the one-block cell, the best of the search's first level.

    Unlike the paper: see :func:`pnasnet_b`.
    """
    return _pnasnet(CellA, 44, num_classes, in_channels)


def pnasnet_b(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """PNASNet of 32 channels and the two-block cell, the best of the search's second level.

    Liu et al., "Progressive Neural Architecture Search", ECCV 2018. Unlike the paper: a cell sees
    only the cell before it and not the one before that, a separable convolution is one depthwise
    convolution (no pointwise part, not repeated), and a 1x1 convolution mixes a cell's blocks.
    """
    return _pnasnet(CellB, 32, num_classes, in_channels)


class CellA(nn.Module):
    """Adds a 7x7 depthwise convolution and a maximum."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.seven = _separable(in_channels, channels, 7, stride)
        self.pooled = _pooled(in_channels, channels, stride)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, channels, H / stride, W / stride)``."""
        summed: Tensor = self.activation(self.seven(x) + self.pooled(x))
        return summed


class CellB(nn.Module):
    """Joins two sums (7x7 and 3x3; maximum and 5x5) and mixes them by a 1x1 convolution."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.seven = _separable(in_channels, channels, 7, stride)
        self.three = _separable(in_channels, channels, 3, stride)
        self.five = _separable(in_channels, channels, 5, stride)
        self.pooled = _pooled(in_channels, channels, stride)
        self.activation = nn.ReLU()
        self.mix = ConvBnAct(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, channels, H / stride, W / stride)``."""
        left = self.activation(self.seven(x) + self.three(x))
        right = self.activation(self.pooled(x) + self.five(x))
        mixed: Tensor = self.mix(torch.cat([left, right], dim=1))
        return mixed


def _pnasnet(
    cell: Callable[[int, int, int], nn.Module], width: int, num_classes: int, in_channels: int
) -> nn.Module:
    layers: list[nn.Module] = [ConvBnAct(in_channels, width, 3)]
    channels = width
    for stage in range(3):
        if stage > 0:
            layers.append(cell(channels, 2 * channels, 2))
            channels *= 2
        layers += [cell(channels, channels, 1) for _ in range(PNASNET_CELLS_PER_STAGE)]
    return nn.Sequential(*layers, Classifier(channels, num_classes))


def _separable(in_channels: int, channels: int, kernel: int, stride: int) -> nn.Module:
    return ConvBnAct(
        in_channels, channels, kernel, stride=stride, groups=in_channels, activation=None
    )


def _pooled(in_channels: int, channels: int, stride: int) -> nn.Module:
    pool = nn.MaxPool2d(3, stride=stride, padding=1)
    if stride == 1:
        return pool
    return nn.Sequential(pool, ConvBnAct(in_channels, channels, 1, activation=None))
