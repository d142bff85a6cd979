"""EfficientNet.

Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019.
"""

from __future__ import annotations

from torch import Tensor, nn

from joulelab.models.blocks import Classifier, ConvBnAct, SqueezeExcitation

STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
"""Expansion, channels, blocks, kernel and stride of each stage; table 1 of the paper."""

SQUEEZE_RATIO = 4


class DropBranch(nn.Module):
    """While training, zeroes whole samples and scales the others so that the mean stays.

    Source: Huang, Sun, Liu, Sedra, Weinberger, "Deep Networks with Stochastic Depth", ECCV 2016.

    Args:
        probability: Of zeroing a sample; 0 <= probability < 1.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Shape unchanged; the input itself in evaluation."""
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        return x * x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(keep).div_(keep)


class MBConv(nn.Module):
    """Expand, depthwise, squeeze and excite, project; a shortcut where the shape stays the same.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        expansion: Channels of the depthwise convolution over ``in_channels``.
        kernel: Side of the depthwise kernel.
        stride: Stride of the depthwise convolution.
        drop_branch: Probability of dropping the block for a sample while training.
    """

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
        """``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``."""
        out: Tensor = self.body(self.expand(x) if self.expands else x)
        return self.drop(out) + x if self.has_shortcut else out


def efficientnet_b0(
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    dropout: float = 0.2,
    drop_branch: float = 0.2,
) -> nn.Module:
    """EfficientNet-B0.

    Unlike the paper: the stem has stride 1 (for small images) and there is no 1x1 convolution to
    1280 channels before the classifier. The first block does not expand, yet holds an expansion
    (1,088 parameters) that is never run and gets no gradient: the model that the published figures
    are of counts it.

    Args:
        num_classes: Scores given for each image.
        in_channels: Channels of the images.
        dropout: Probability of dropping a feature before the classifier while training.
        drop_branch: Probability of dropping the last block while training; it grows linearly
            from 0 at the first block.
    """
    layers: list[nn.Module] = [ConvBnAct(in_channels, 32, 3, activation=nn.SiLU)]
    channels = 32
    blocks = sum(depth for _, _, depth, _, _ in STAGES)
    done = 0
    for expansion, out_channels, depth, kernel, first_stride in STAGES:
        for index in range(depth):
            layers.append(
                MBConv(
                    channels,
                    out_channels,
                    expansion=expansion,
                    kernel=kernel,
                    stride=first_stride if index == 0 else 1,
                    drop_branch=drop_branch * done / blocks,
                )
            )
            channels = out_channels
            done += 1
    return nn.Sequential(*layers, Classifier(channels, num_classes, dropout=dropout))
