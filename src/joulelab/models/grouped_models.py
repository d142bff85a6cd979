"""Networks with grouped 3x3 convolutions: ResNeXt, RegNetX and dual path networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from joulelab.models.blocks import Classifier, ConvBnAct, Residual, projection

DPN_GROUPS = 32
DPN_STAGES = ((96, 256, 16, 1), (192, 512, 32, 2), (384, 1024, 24, 2), (768, 2048, 128, 2))
"""Bottleneck width, residual channels, dense channels per block and stride, as in DPN-92."""

DPN_BLOCKS_PER_STAGE = 2


def resnext29_2x64d(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """ResNeXt29 with 2 groups of 64 channels.

    Xie, Girshick, Dollar, Tu, He, "Aggregated Residual Transformations for Deep Neural Networks",
    CVPR 2017, section 5.3 (the CIFAR version). Unlike the paper: the stem is 1x1, and the output
    of a stage is twice its grouped width, not 256 channels at first.
    """
    groups, group_width = 2, 64
    layers: list[nn.Module] = [ConvBnAct(in_channels, 64, 1)]
    channels = 64
    for stage, first_stride in enumerate((1, 2, 2)):
        width = groups * group_width * 2**stage
        for stride in (first_stride, 1, 1):
            block = grouped_bottleneck(channels, width, 2 * width, stride=stride, groups=groups)
            layers.append(block)
            channels = 2 * width
    return nn.Sequential(*layers, Classifier(channels, num_classes))


def regnet_x_200mf(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """RegNetX with 200 MFLOP (at the size of ImageNet).

    Radosavovic, Kosaraju, Girshick, He, Dollar, "Designing Network Design Spaces", CVPR 2020,
    table 2: depths 1, 1, 4, 7, widths 24, 56, 152, 368, groups of 8 channels. Unlike the paper,
    for small images: a stem of 64 channels and stride 1, and the first stage keeps the resolution.
    """
    layers: list[nn.Module] = [ConvBnAct(in_channels, 64, 3)]
    channels = 64
    for depth, width, first_stride in ((1, 24, 1), (1, 56, 1), (4, 152, 2), (7, 368, 2)):
        for stride in (first_stride, *[1] * (depth - 1)):
            block = grouped_bottleneck(channels, width, width, stride=stride, groups=width // 8)
            layers.append(block)
            channels = width
    return nn.Sequential(*layers, Classifier(channels, num_classes))


def dpn26(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """DPN26: two blocks in each of four stages, with the widths of DPN-92.

    Chen, Li, Xiao, Jin, Yan, Feng, "Dual Path Networks", NeurIPS 2017. Unlike the paper:
    normalisation and activation follow the convolutions, the projection of a stage's first block
    gives as many dense channels as any block, and the 3x3 stem of 64 channels keeps the resolution.
    """
    layers: list[nn.Module] = [ConvBnAct(in_channels, 64, 3)]
    channels = 64
    for width, residual, dense, first_stride in DPN_STAGES:
        for index in range(DPN_BLOCKS_PER_STAGE):
            layers.append(
                DualPathBlock(
                    channels,
                    width,
                    residual=residual,
                    dense=dense,
                    stride=first_stride if index == 0 else 1,
                    project=index == 0,
                )
            )
            channels = residual + (index + 2) * dense
    return nn.Sequential(*layers, Classifier(channels, num_classes))


def grouped_bottleneck(
    in_channels: int, width: int, out_channels: int, *, stride: int, groups: int
) -> nn.Module:
    """Build 1x1 to ``width``, grouped 3x3 and 1x1 to ``out_channels``, with a shortcut."""
    return Residual(
        nn.Sequential(
            ConvBnAct(in_channels, width, 1),
            ConvBnAct(width, width, 3, stride=stride, groups=groups),
            ConvBnAct(width, out_channels, 1, activation=None),
        ),
        projection(in_channels, out_channels, stride),
    )


class DualPathBlock(nn.Module):
    """Adds to the first ``residual`` channels (ResNet), appends ``dense`` new ones (DenseNet)."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        residual: int,
        dense: int,
        stride: int,
        project: bool,
    ) -> None:
        super().__init__()
        out_channels = residual + dense
        self.split = [residual, dense]
        self.dense_in = dense if project else in_channels - residual
        self.body = nn.Sequential(
            ConvBnAct(in_channels, width, 1),
            ConvBnAct(width, width, 3, stride=stride, groups=DPN_GROUPS),
            ConvBnAct(width, out_channels, 1, activation=None),
        )
        self.shortcut = (
            ConvBnAct(in_channels, out_channels, 1, stride=stride, activation=None)
            if project
            else nn.Identity()
        )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``residual`` plus all dense channels so far."""
        residual, dense = self.split
        old_residual, old_dense = self.shortcut(x).split([residual, self.dense_in], dim=1)
        new_residual, new_dense = self.body(x).split([residual, dense], dim=1)
        joined: Tensor = self.activation(
            torch.cat([old_residual + new_residual, old_dense, new_dense], dim=1)
        )
        return joined
