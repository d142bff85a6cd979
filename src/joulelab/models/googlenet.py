"""GoogLeNet.

Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, table 1.
"""

from __future__ import annotations

from torch import nn

from joulelab.models.blocks import Branches, Classifier, ConvBnAct


def inception(
    in_channels: int, one: int, three: tuple[int, int], five: tuple[int, int], pooled: int
) -> nn.Module:
    """Four branches side by side: 1x1, 3x3, 5x5 (as two 3x3), and pooling.

    Args:
        in_channels: Channels of the input.
        one: Channels of the 1x1 branch.
        three: Channels of the reduction and of the convolution of the 3x3 branch.
        five: Channels of the reduction and of the convolutions of the 5x5 branch.
        pooled: Channels of the projection after the pooling.
    """
    return Branches(
        [
            ConvBnAct(in_channels, one, 1, bias=True),
            nn.Sequential(
                ConvBnAct(in_channels, three[0], 1, bias=True),
                ConvBnAct(three[0], three[1], 3, bias=True),
            ),
            nn.Sequential(
                ConvBnAct(in_channels, five[0], 1, bias=True),
                ConvBnAct(five[0], five[1], 3, bias=True),
                ConvBnAct(five[1], five[1], 3, bias=True),
            ),
            nn.Sequential(
                nn.MaxPool2d(3, stride=1, padding=1),
                ConvBnAct(in_channels, pooled, 1, bias=True),
            ),
        ]
    )


def googlenet(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """GoogLeNet with batch normalisation.

    Unlike the paper: one 3x3 convolution to 192 channels as the stem, 5x5 convolutions made of
    two 3x3 (as in Inception v2), batch normalisation, no auxiliary classifiers, no dropout.
    """
    return nn.Sequential(
        ConvBnAct(in_channels, 192, 3, bias=True),
        inception(192, 64, (96, 128), (16, 32), 32),
        inception(256, 128, (128, 192), (32, 96), 64),
        nn.MaxPool2d(3, stride=2, padding=1),
        inception(480, 192, (96, 208), (16, 48), 64),
        inception(512, 160, (112, 224), (24, 64), 64),
        inception(512, 128, (128, 256), (24, 64), 64),
        inception(512, 112, (144, 288), (32, 64), 64),
        inception(528, 256, (160, 320), (32, 128), 128),
        nn.MaxPool2d(3, stride=2, padding=1),
        inception(832, 256, (160, 320), (32, 128), 128),
        inception(832, 384, (192, 384), (48, 128), 128),
        Classifier(1024, num_classes),
    )
