"""Densely connected networks.

Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks", CVPR 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from joulelab.models.blocks import Classifier

GROWTH = 32
DEPTHS = (6, 12, 24, 16)


def _bn_act_conv(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
    )


class DenseLayer(nn.Module):
    """Joins :data:`GROWTH` new channels to its input, by way of a 1x1 bottleneck."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _bn_act_conv(in_channels, 4 * GROWTH, 1), _bn_act_conv(4 * GROWTH, GROWTH, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, C + GROWTH, H, W)``."""
        return torch.cat([self.body(x), x], dim=1)


def densenet121(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """DenseNet121 (bottleneck, compression by 0.5, growth 32).

    Unlike the paper's ImageNet version: a 3x3 stem of stride 1 with no normalisation and no
    pooling, so that 32x32 images reach the first dense block at full size.
    """
    channels = 2 * GROWTH
    layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)]
    for stage, depth in enumerate(DEPTHS):
        if stage > 0:
            layers += [_bn_act_conv(channels, channels // 2, 1), nn.AvgPool2d(2)]
            channels //= 2
        for _ in range(depth):
            layers.append(DenseLayer(channels))
            channels += GROWTH
    return nn.Sequential(
        *layers, nn.BatchNorm2d(channels), nn.ReLU(), Classifier(channels, num_classes)
    )
