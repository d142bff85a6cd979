"""VGG.

Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
ICLR 2015, table 1, configurations D (VGG16) and E (VGG19).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from joulelab.models.blocks import Classifier, ConvBnAct

CHANNELS = (64, 128, 256, 512, 512)


def _vgg(depths: Sequence[int], num_classes: int, in_channels: int) -> nn.Module:
    layers: list[nn.Module] = []
    channels = in_channels
    for depth, out_channels in zip(depths, CHANNELS, strict=True):
        for _ in range(depth):
            layers.append(ConvBnAct(channels, out_channels, 3, bias=True))
            channels = out_channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, Classifier(channels, num_classes))


def vgg16(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """VGG16 with batch normalisation.

    Unlike the paper, for small images: one linear layer after the last pooling in place of three
    with dropout, and batch normalisation (Ioffe, Szegedy, ICML 2015) after each convolution.
    """
    return _vgg((2, 2, 3, 3, 3), num_classes, in_channels)


def vgg19(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """VGG19 with batch normalisation; see :func:`vgg16`."""
    return _vgg((2, 2, 4, 4, 4), num_classes, in_channels)
