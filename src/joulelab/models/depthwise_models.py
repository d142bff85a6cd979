"""Networks of depthwise convolutions: MobileNet, MobileNetV2, EfficientNet and ShuffleNetV2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from joulelab.models.blocks import Classifier, ConvBnAct, Residual, SqueezeExcitation, projection

MOBILENET_STAGES = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5,
    (1024, 2), (1024, 1),
)  # fmt: skip
"""Channels and stride of each block."""

MOBILENET_V2_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip
"""Expansion, channels, blocks and stride of each stage."""

EFFICIENTNET_STAGES = (
    (1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2), (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2), (6, 320, 1, 3, 1),
)  # fmt: skip
"""Expansion, channels, blocks, kernel and stride of each stage; table 1 of the paper."""

SQUEEZE_RATIO = 4
SHUFFLENET_DEPTHS = (3, 7, 3)
"""Blocks of each stage after the one that halves the size."""


def mobilenet(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """MobileNet: alternating depthwise 3x3 and pointwise 1x1 convolutions.

    Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
    Applications", 2017 (arXiv:1704.04861). Unlike the paper, for small images: a stem of stride 1.
    """
    layers: list[nn.Module] = [ConvBnAct(in_channels, 32, 3)]
    channels = 32
    for out_channels, stride in MOBILENET_STAGES:
        layers += [
            ConvBnAct(channels, channels, 3, stride=stride, groups=channels),
            ConvBnAct(channels, out_channels, 1),
        ]
        channels = out_channels
    return nn.Sequential(*layers, Classifier(channels, num_classes))


def mobilenet_v2(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """MobileNetV2.

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018. Unlike the
    paper: stem and second stage have stride 1 (for small images), ReLU instead of ReLU6, the first
    stage also expands by a 1x1 convolution, a block that keeps the size but not the channels has a
    projected shortcut, no dropout.
    """
    layers: list[nn.Module] = [ConvBnAct(in_channels, 32, 3)]
    channels = 32
    for expansion, out_channels, depth, first_stride in MOBILENET_V2_STAGES:
        for stride in (first_stride, *[1] * (depth - 1)):
            block = inverted_residual(channels, out_channels, expansion=expansion, stride=stride)
            layers.append(block)
            channels = out_channels
    layers.append(ConvBnAct(channels, 1280, 1))
    return nn.Sequential(*layers, Classifier(1280, num_classes))


def inverted_residual(
    in_channels: int, out_channels: int, *, expansion: int, stride: int
) -> nn.Module:
    """Build expansion, depthwise 3x3 and linear projection; with a shortcut at stride 1."""
    width = expansion * in_channels
    body = nn.Sequential(
        ConvBnAct(in_channels, width, 1),
        ConvBnAct(width, width, 3, stride=stride, groups=width),
        ConvBnAct(width, out_channels, 1, activation=None),
    )
    if stride != 1:
        return body
    return Residual(body, projection(in_channels, out_channels, stride), activation=None)


def efficientnet_b0(
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    dropout: float = 0.2,
    drop_branch: float = 0.2,
) -> nn.Module:
    """EfficientNet-B0.

    Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019.
    Unlike the paper: the stem has stride 1 (for small images) and there is no 1x1 convolution to
    1280 channels before the classifier. The first block does not expand, yet has an expansion
    (1,088 parameters) that never runs and gets no gradient, because the published parameter count
    includes it. In training, ``dropout`` is the probability of dropping a feature before the
    classifier, and ``drop_branch`` that of dropping the last block; it grows linearly from 0 at the
    first block.
    """
    layers: list[nn.Module] = [ConvBnAct(in_channels, 32, 3, activation=nn.SiLU)]
    channels = 32
    blocks = sum(depth for _, _, depth, _, _ in EFFICIENTNET_STAGES)
    for expansion, out_channels, depth, kernel, first_stride in EFFICIENTNET_STAGES:
        for stride in (first_stride, *[1] * (depth - 1)):
            block = MBConv(
                channels,
                out_channels,
                expansion=expansion,
                kernel=kernel,
                stride=stride,
                drop_branch=drop_branch * (len(layers) - 1) / blocks,
            )
            layers.append(block)
            channels = out_channels
    return nn.Sequential(*layers, Classifier(channels, num_classes, dropout=dropout))


class DropBranch(nn.Module):
    """During training, zeroes whole samples and scales the others to preserve the mean.

    Source: Huang, Sun, Liu, Sedra, Weinberger, "Deep Networks with Stochastic Depth", ECCV 2016.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape; in evaluation return the input itself."""
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        return x * x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(keep).div_(keep)


class MBConv(nn.Module):
    """Expands, convolves depthwise, squeezes and excites, and projects."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        expansion: int,
        kernel: int,
        stride: int,
        drop_branch: float,
    ) -> None:
        super().__init__()
        width = expansion * in_channels
        self.expands = expansion != 1
        self.expand = ConvBnAct(in_channels, width, 1, activation=nn.SiLU)
        self.body = nn.Sequential(
            ConvBnAct(width, width, kernel, stride=stride, groups=width, activation=nn.SiLU),
            SqueezeExcitation(width, in_channels // SQUEEZE_RATIO, activation=nn.SiLU),
            ConvBnAct(width, out_channels, 1, activation=None),
        )
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.drop = DropBranch(drop_branch)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``."""
        out: Tensor = self.body(self.expand(x) if self.expands else x)
        return self.drop(out) + x if self.has_shortcut else out


def shufflenet_v2(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """ShuffleNetV2, width 1x.

    Ma, Zhang, Zheng, Sun, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture
    Design", ECCV 2018. Unlike the paper, for small images: the stem has stride 1, and no pooling
    follows it.
    """
    return _shufflenet((116, 232, 464), num_classes, in_channels)


def shufflenet_v2_half(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """ShuffleNetV2, width 0.5x; see :func:`shufflenet_v2`."""
    return _shufflenet((48, 96, 192), num_classes, in_channels)


class KeepBlock(nn.Module):
    """Transforms one half of the channels, passes the other, and shuffles; shape unchanged."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = _shufflenet_branch(channels // 2, channels // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, channels, H, W)`` to the same shape."""
        passed, transformed = x.chunk(2, dim=1)
        return _shuffle(torch.cat([passed, self.branch(transformed)], dim=1))


class DownBlock(nn.Module):
    """Halves the size: two branches, each giving half of the channels, shuffled."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.left = nn.Sequential(
            ConvBnAct(in_channels, in_channels, 3, stride=2, groups=in_channels, activation=None),
            ConvBnAct(in_channels, half, 1),
        )
        self.right = _shufflenet_branch(in_channels, half, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, channels, H / 2, W / 2)``."""
        return _shuffle(torch.cat([self.left(x), self.right(x)], dim=1))


def _shufflenet(stages: Sequence[int], num_classes: int, in_channels: int) -> nn.Module:
    layers: list[nn.Module] = [ConvBnAct(in_channels, 24, 3)]
    channels = 24
    for out_channels, depth in zip(stages, SHUFFLENET_DEPTHS, strict=True):
        layers.append(DownBlock(channels, out_channels))
        layers += [KeepBlock(out_channels) for _ in range(depth)]
        channels = out_channels
    layers.append(ConvBnAct(channels, 1024, 1))
    return nn.Sequential(*layers, Classifier(1024, num_classes))


def _shufflenet_branch(in_channels: int, channels: int, stride: int) -> nn.Module:
    return nn.Sequential(
        ConvBnAct(in_channels, channels, 1),
        ConvBnAct(channels, channels, 3, stride=stride, groups=channels, activation=None),
        ConvBnAct(channels, channels, 1),
    )


def _shuffle(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    halves = x.reshape(batch, 2, channels // 2, height, width)
    return halves.transpose(1, 2).reshape(batch, channels, height, width)
