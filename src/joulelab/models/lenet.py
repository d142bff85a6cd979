"""LeNet.

LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition",
Proceedings of the IEEE 86(11), 1998.
"""

from __future__ import annotations

from torch import nn


def lenet(*, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """LeNet-5 for 32x32 images.

    Unlike the paper: ReLU for the scaled tanh, maximum for the trainable subsampling, all maps
    connected, and a linear layer for the radial basis functions. The first linear layer fixes the
    input to 32x32.
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
