"""PNASNet.

Liu et al., "Progressive Neural Architecture Search", ECCV 2018.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from joulelab.models.blocks import Classifier, ConvBnAct

CELLS_PER_STAGE = 6


def _separable(in_channels: int, channels: int, kernel: int, stride: int) -> nn.Module:
    return ConvBnAct(
        in_channels, channels, kernel, stride=stride, groups=in_channels, activation=None
    )


def _pooled(in_channels: int, channels: int, stride: int) -> nn.Module:
    pool = nn.MaxPool2d(3, stride=stride, padding=1)
    if stride == 1:
        return pool
    return nn.Sequential(pool, ConvBnAct(in_channels, channels, 1, activation=None))


class CellA(nn.Module):
    """The sum of a 7x7 depthwise convolution and a maximum.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output; a multiple of ``in_channels``, equal at stride 1.
        stride: Stride of both branches.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.seven = _separable(in_channels, channels, 7, stride)
        self.pooled = _pooled(in_channels, channels, stride)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` to ``(N, channels, H / stride, W / stride)``."""
        summed: Tensor = self.activation(self.seven(x) + self.pooled(x))
        return summed


class CellB(nn.Module):
    """Two sums (7x7 and 3x3; maximum and 5x5), joined and mixed by a 1x1 convolution.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output; a multiple of ``in_channels``, equal at stride 1.
        stride: Stride of all branches.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.seven = _separable(in_channels, channels, 7, stride)
        self.three = _separable(in_channels, channels, 3, stride)
        self.five = _separable(in_channels, channels, 5, stride)
        self.pooled = _pooled(in_channels, channels, stride)
        self.activation = nn.ReLU()
        self.mix = ConvBnAct(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` to ``(N, channels, H / stride, W / stride)``."""
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
        layers += [cell(channels, channels, 1) for _ in range(CELLS_PER_STAGE)]
    return nn.Sequential(*layers, Classifier(channels, num_classes))


def pnasnet_a(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """PNASNet of 44 channels and the one-block cell, the best of the search's first level.

    Unlike the paper: see :func:`pnasnet_b`.
    """
    return _pnasnet(CellA, 44, num_classes, in_channels)


def pnasnet_b(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """PNASNet of 32 channels and the two-block cell, the best of the search's second level.

    Unlike the paper: a cell sees the one before it and not the one before that, a separable
    convolution is one depthwise convolution (no pointwise part, not repeated), and a cell's blocks
    are mixed by a 1x1 convolution.
    """
    return _pnasnet(CellB, 32, num_classes, in_channels)
