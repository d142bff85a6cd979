"""Dual path networks.

Chen, Li, Xiao, Jin, Yan, Feng, "Dual Path Networks", NeurIPS 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from joulelab.models.blocks import Classifier, ConvBnAct

GROUPS = 32
STAGES = (
    (96, 256, 16, 1),
    (192, 512, 32, 2),
    (384, 1024, 24, 2),
    (768, 2048, 128, 2),
)
"""Width of the bottleneck, residual channels, dense channels a block, stride; as in DPN-92."""
BLOCKS_PER_STAGE = 2


class DualPathBlock(nn.Module):
    """Adds to the first channels of its input, as a ResNet, and appends to the rest, as a DenseNet.

    Args:
        in_channels: Channels of the input.
        width: Channels of the grouped 3x3 convolution.
        residual: Channels that are added to.
        dense: Channels that are appended (twice where the input is projected).
        stride: Stride of the 3x3 convolution and of the projection.
        project: Whether the input goes through a 1x1 projection; for the first block of a stage.
    """

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
            ConvBnAct(width, width, 3, stride=stride, groups=GROUPS),
            ConvBnAct(width, out_channels, 1, activation=None),
        )
        self.shortcut = (
            ConvBnAct(in_channels, out_channels, 1, stride=stride, activation=None)
            if project
            else nn.Identity()
        )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` to ``residual`` plus the dense channels so far."""
        residual, dense = self.split
        kept_residual, kept_dense = self.shortcut(x).split([residual, self.dense_in], dim=1)
        new_residual, new_dense = self.body(x).split([residual, dense], dim=1)
        joined: Tensor = self.activation(
            torch.cat([kept_residual + new_residual, kept_dense, new_dense], dim=1)
        )
        return joined


def dpn26(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """DPN26: two blocks in each of four stages, with the widths of DPN-92.

    Unlike the paper: normalisation and activation follow the convolutions, the projection of a
    stage's first block gives as many dense channels as any block, and the 3x3 stem of 64 channels
    keeps the resolution.
    """
    layers: list[nn.Module] = [ConvBnAct(in_channels, 64, 3)]
    channels = 64
    for width, residual, dense, first_stride in STAGES:
        for index in range(BLOCKS_PER_STAGE):
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
