"""Bottleneck networks with grouped 3x3 convolutions: ResNeXt and RegNetX."""

from __future__ import annotations

from torch import nn

from joulelab.models.blocks import Classifier, ConvBnAct, Residual, projection


def grouped_bottleneck(
    in_channels: int, width: int, out_channels: int, *, stride: int, groups: int
) -> nn.Module:
    """1x1 to ``width``, grouped 3x3, 1x1 to ``out_channels``, beside a shortcut."""
    return Residual(
        nn.Sequential(
            ConvBnAct(in_channels, width, 1),
            ConvBnAct(width, width, 3, stride=stride, groups=groups),
            ConvBnAct(width, out_channels, 1, activation=None),
        ),
        projection(in_channels, out_channels, stride),
    )


def resnext29_2x64d(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """ResNeXt29 with 2 groups of 64 channels.

    Xie, Girshick, Dollar, Tu, He, "Aggregated Residual Transformations for Deep Neural Networks",
    CVPR 2017, section 5.3 (the CIFAR version). Unlike the paper: the stem is 1x1, and a stage's
    output is twice its grouped width, not 256 channels at first.
    """
    groups, group_width = 2, 64
    layers: list[nn.Module] = [ConvBnAct(in_channels, 64, 1)]
    channels = 64
    for stage, first_stride in enumerate((1, 2, 2)):
        width = groups * group_width * 2**stage
        for stride in (first_stride, 1, 1):
            layers.append(
                grouped_bottleneck(channels, width, 2 * width, stride=stride, groups=groups)
            )
            channels = 2 * width
    return nn.Sequential(*layers, Classifier(channels, num_classes))


def regnet_x_200mf(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """RegNetX of 200 MFLOP (at ImageNet's size).

    Radosavovic, Kosaraju, Girshick, He, Dollar, "Designing Network Design Spaces", CVPR 2020,
    table 2: depths 1, 1, 4, 7, widths 24, 56, 152, 368, groups of 8 channels. Unlike the paper,
    for small images: a stem of 64 channels and stride 1, and the first stage keeps the resolution.
    """
    group_width = 8
    layers: list[nn.Module] = [ConvBnAct(in_channels, 64, 3)]
    channels = 64
    for depth, width, first_stride in ((1, 24, 1), (1, 56, 1), (4, 152, 2), (7, 368, 2)):
        for index in range(depth):
            layers.append(
                grouped_bottleneck(
                    channels,
                    width,
                    width,
                    stride=first_stride if index == 0 else 1,
                    groups=width // group_width,
                )
            )
            channels = width
    return nn.Sequential(*layers, Classifier(channels, num_classes))
