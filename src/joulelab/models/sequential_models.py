"""Networks without branches: LeNet and VGG."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from joulelab.models.blocks import Classifier, ConvBnAct

VGG_CHANNELS = (64, 128, 256, 512, 512)


def lenet(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """LeNet-5 for 32x32 images.

    LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition",
    Proceedings of the IEEE 86(11), 1998. Unlike the paper: ReLU instead of the scaled tanh, maximum
    instead of the trainable subsampling, all maps connected, and a linear layer instead of the
    radial basis functions. The first linear layer fixes the input to 32x32.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, num_classes),
    )


def vgg16(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """VGG16 with batch normalisation.

    Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
    ICLR 2015, table 1, configuration D. Unlike the paper, for small images: one linear layer after
    the last pooling instead of three with dropout, and batch normalisation (Ioffe, Szegedy, ICML
    2015) after each convolution.
    """
    return _vgg((2, 2, 3, 3, 3), num_classes, in_channels)


def vgg19(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """VGG19 with batch normalisation, configuration E; see :func:`vgg16`."""
    return _vgg((2, 2, 4, 4, 4), num_classes, in_channels)


def _vgg(depths: Sequence[int], num_classes: int, in_channels: int) -> nn.Module:
    layers: list[nn.Module] = []
    channels = in_channels
    for depth, out_channels in zip(depths, VGG_CHANNELS, strict=True):
        for _ in range(depth):
            layers.append(ConvBnAct(channels, out_channels, 3, bias=True))
            channels = out_channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, Classifier(channels, num_classes))
