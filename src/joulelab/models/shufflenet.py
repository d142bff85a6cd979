"""ShuffleNetV2.

Ma, Zhang, Zheng, Sun, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
ECCV 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from joulelab.models.blocks import Classifier, ConvBnAct

DEPTHS = (3, 7, 3)
"""Blocks of each stage after the one that halves the size."""


def _shuffle(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    halves = x.reshape(batch, 2, channels // 2, height, width)
    return halves.transpose(1, 2).reshape(batch, channels, height, width)


def _branch(in_channels: int, channels: int, stride: int) -> nn.Module:
    return nn.Sequential(
        ConvBnAct(in_channels, channels, 1),
        ConvBnAct(channels, channels, 3, stride=stride, groups=channels, activation=None),
        ConvBnAct(channels, channels, 1),
    )


class KeepBlock(nn.Module):
    """Works on one half of the channels, passes the other, and shuffles; shape unchanged."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = _branch(channels // 2, channels // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, H, W)`` to the same."""
        passed, worked = x.chunk(2, dim=1)
        return _shuffle(torch.cat([passed, self.branch(worked)], dim=1))


class DownBlock(nn.Module):
    """Halves the size: two branches, each giving half of the channels, shuffled."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.left = nn.Sequential(
            ConvBnAct(in_channels, in_channels, 3, stride=2, groups=in_channels, activation=None),
            ConvBnAct(in_channels, half, 1),
        )
        self.right = _branch(in_channels, half, 2)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` to ``(N, channels, H / 2, W / 2)``."""
        return _shuffle(torch.cat([self.left(x), self.right(x)], dim=1))


def _shufflenet(stages: Sequence[int], num_classes: int, in_channels: int) -> nn.Module:
    layers: list[nn.Module] = [ConvBnAct(in_channels, 24, 3)]
    channels = 24
    for out_channels, depth in zip(stages, DEPTHS, strict=True):
        layers.append(DownBlock(channels, out_channels))
        layers += [KeepBlock(out_channels) for _ in range(depth)]
        channels = out_channels
    layers.append(ConvBnAct(channels, 1024, 1))
    return nn.Sequential(*layers, Classifier(1024, num_classes))


def shufflenet_v2(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """ShuffleNetV2, width 1x.

    Unlike the paper, for small images: the stem has stride 1, and no pooling follows it.
    """
    return _shufflenet((116, 232, 464), num_classes, in_channels)


def shufflenet_v2_half(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """ShuffleNetV2, width 0.5x; see :func:`shufflenet_v2`."""
    return _shufflenet((48, 96, 192), num_classes, in_channels)
