"""Residual networks: ResNet, SENet, deep layer aggregation, ResNeXt, RegNetX, dual path networks.

The networks with 18 layers keep the full resolution in the stem (3x3, stride 1, no pooling), where
the papers' ImageNet versions start with 7x7, stride 2 and a pooling.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from joulelab.models.blocks import Classifier, ConvBnAct, Residual, SqueezeExcitation, projection

STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
"""Channels and stride of each stage; two blocks per stage."""

SQUEEZE_RATIO = 16
"""Channels over squeezed channels; Hu et al., section 6.1."""

DPN_GROUPS = 32
DPN_STAGES = ((96, 256, 16, 1), (192, 512, 32, 2), (384, 1024, 24, 2), (768, 2048, 128, 2))
"""Bottleneck width, residual channels, dense channels per block and stride, as in DPN-92."""

DPN_BLOCKS_PER_STAGE = 2


def resnet18(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """ResNet18. He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016."""
    return _eighteen_layers(ConvBnAct(in_channels, 64, 3), basic_block, num_classes)


def preact_resnet18(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """PreActResNet18. He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016.

    Unlike the paper: no normalisation and activation after the last block.
    """
    stem = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    return _eighteen_layers(stem, PreActBlock, num_classes)


def senet18(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """SENet18. Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018.

    Unlike the paper: the gates are in pre-activation blocks, and no normalisation follows the
    last block.
    """

    def block(in_channels: int, channels: int, stride: int) -> nn.Module:
        return PreActBlock(in_channels, channels, stride, squeezed=channels // SQUEEZE_RATIO)

    return _eighteen_layers(ConvBnAct(in_channels, 64, 3), block, num_classes)


def simple_dla(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """SimpleDLA. Yu, Wang, Shelhamer, Darrell, "Deep Layer Aggregation", CVPR 2018.

    DLA-34's widths and levels with binary trees. Unlike the paper: a root joins only its own two
    subtrees (no aggregation across stages, no residual at the root), the stem is 3x3, and the
    first two stages keep the resolution.
    """
    return nn.Sequential(
        ConvBnAct(in_channels, 16, 3),
        ConvBnAct(16, 16, 3),
        ConvBnAct(16, 32, 3),
        AggregationTree(32, 64, level=1, stride=1),
        AggregationTree(64, 128, level=2, stride=2),
        AggregationTree(128, 256, level=2, stride=2),
        AggregationTree(256, 512, level=1, stride=2),
        Classifier(512, num_classes),
    )


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


def basic_block(in_channels: int, channels: int, stride: int) -> nn.Module:
    """Build two 3x3 convolutions with a shortcut: ``(N, in_channels, H, W)`` to ``channels``."""
    return Residual(
        nn.Sequential(
            ConvBnAct(in_channels, channels, 3, stride=stride),
            ConvBnAct(channels, channels, 3, activation=None),
        ),
        projection(in_channels, channels, stride),
    )


class PreActBlock(nn.Module):
    """Normalises and activates before each convolution and before the projection.

    ``squeezed`` is the hidden size of the gate on the residual branch; ``None`` for no gate.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, *, squeezed: int | None = None
    ) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )
        if squeezed is not None:
            self.body.append(SqueezeExcitation(channels, squeezed))
        self.projection = (
            None
            if stride == 1 and in_channels == channels
            else nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, channels, H / stride, W / stride)``."""
        active = self.before(x)
        shortcut = x if self.projection is None else self.projection(active)
        summed: Tensor = self.body(active) + shortcut
        return summed


class AggregationTree(nn.Module):
    """Runs two subtrees in sequence, joins their outputs and mixes them by a 1x1 convolution.

    The subtrees of level 1 are residual blocks.
    """

    def __init__(self, in_channels: int, channels: int, *, level: int, stride: int) -> None:
        super().__init__()
        if level == 1:
            self.left = basic_block(in_channels, channels, stride)
            self.right = basic_block(channels, channels, 1)
        else:
            self.left = AggregationTree(in_channels, channels, level=level - 1, stride=stride)
            self.right = AggregationTree(channels, channels, level=level - 1, stride=1)
        self.root = ConvBnAct(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, channels, H / stride, W / stride)``."""
        left = self.left(x)
        mixed: Tensor = self.root(torch.cat([left, self.right(left)], dim=1))
        return mixed


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


def _eighteen_layers(
    stem: nn.Module, block: Callable[[int, int, int], nn.Module], num_classes: int
) -> nn.Module:
    blocks: list[nn.Module] = []
    in_channels = 64
    for channels, stride in STAGES:
        blocks += [block(in_channels, channels, stride), block(channels, channels, 1)]
        in_channels = channels
    return nn.Sequential(stem, *blocks, Classifier(in_channels, num_classes))
