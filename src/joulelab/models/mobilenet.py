"""MobileNet and MobileNetV2.

Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
Applications", 2017 (arXiv:1704.04861). Sandler et al., "MobileNetV2: Inverted Residuals and Linear
Bottlenecks", CVPR 2018.
"""

from __future__ import annotations

from torch import nn

from joulelab.models.blocks import Classifier, ConvBnAct, Residual, projection

V1_STAGES = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)
"""Channels and stride of each block."""

V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and stride of each stage."""


def mobilenet(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """MobileNet: depthwise 3x3 and pointwise 1x1 convolutions in turn.

    Unlike the paper, for small images: the stem has stride 1.
    """
    layers: list[nn.Module] = [ConvBnAct(in_channels, 32, 3)]
    channels = 32
    for out_channels, stride in V1_STAGES:
        layers += [
            ConvBnAct(channels, channels, 3, stride=stride, groups=channels),
            ConvBnAct(channels, out_channels, 1),
        ]
        channels = out_channels
    return nn.Sequential(*layers, Classifier(channels, num_classes))


def inverted_residual(
    in_channels: int, out_channels: int, *, expansion: int, stride: int
) -> nn.Module:
    """Expand, depthwise 3x3, project linearly; a shortcut where the size stays the same."""
    width = expansion * in_channels
    body = nn.Sequential(
        ConvBnAct(in_channels, width, 1),
        ConvBnAct(width, width, 3, stride=stride, groups=width),
        ConvBnAct(width, out_channels, 1, activation=None),
    )
    if stride != 1:
        return body
    return Residual(body, projection(in_channels, out_channels, stride), activation=None)


def mobilenet_v2(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """MobileNetV2.

    Unlike the paper: stem and second stage have stride 1 (for small images), ReLU for ReLU6, the
    first stage expands by a 1x1 convolution too, a block that keeps the size but not the channels
    has a projected shortcut, no dropout.
    """
    layers: list[nn.Module] = [ConvBnAct(in_channels, 32, 3)]
    channels = 32
    for expansion, out_channels, depth, first_stride in V2_STAGES:
        for index in range(depth):
            stride = first_stride if index == 0 else 1
            layers.append(
                inverted_residual(channels, out_channels, expansion=expansion, stride=stride)
            )
            channels = out_channels
    layers.append(ConvBnAct(channels, 1280, 1))
    return nn.Sequential(*layers, Classifier(1280, num_classes))
