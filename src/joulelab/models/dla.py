"""Deep layer aggregation, in a simple form.

Yu, Wang, Shelhamer, Darrell, "Deep Layer Aggregation", CVPR 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from joulelab.models.blocks import Classifier, ConvBnAct
from joulelab.models.resnet import basic_block


class Tree(nn.Module):
    """Two subtrees in a row, their outputs joined and mixed by a 1x1 convolution.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        level: Depth; the subtrees of level 1 are residual blocks.
        stride: Stride of the first block.
    """

    def __init__(self, in_channels: int, channels: int, *, level: int, stride: int) -> None:
        super().__init__()
        if level == 1:
            self.left = basic_block(in_channels, channels, stride)
            self.right = basic_block(channels, channels, 1)
        else:
            self.left = Tree(in_channels, channels, level=level - 1, stride=stride)
            self.right = Tree(channels, channels, level=level - 1, stride=1)
        self.root = ConvBnAct(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` to ``(N, channels, H / stride, W / stride)``."""
        left = self.left(x)
        mixed: Tensor = self.root(torch.cat([left, self.right(left)], dim=1))
        return mixed


def simple_dla(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """SimpleDLA: DLA-34's widths and levels with binary trees.

    Unlike the paper: a root joins its own two subtrees alone (no aggregation across stages, no
    residual at the root), the stem is 3x3, and the first two stages keep the resolution.
    """
    return nn.Sequential(
        ConvBnAct(in_channels, 16, 3),
        ConvBnAct(16, 16, 3),
        ConvBnAct(16, 32, 3),
        Tree(32, 64, level=1, stride=1),
        Tree(64, 128, level=2, stride=2),
        Tree(128, 256, level=2, stride=2),
        Tree(256, 512, level=1, stride=2),
        Classifier(512, num_classes),
    )
