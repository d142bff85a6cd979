"""Building blocks of the architectures in the zoo.

All architectures map images ``(N, in_channels, H, W)`` to class scores ``(N, num_classes)``.
Weights start from PyTorch's own initialisation of each layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvBnAct(nn.Sequential):
    """Convolves with an odd kernel (keeping the size at stride 1), normalises and activates.

    ``groups=in_channels`` makes the convolution depthwise. Its bias is redundant, because of the
    normalisation, but some papers have it.

    Example:
        >>> ConvBnAct(3, 8, 3, stride=2)(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 8, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        activation: type[nn.Module] | None = nn.ReLU,
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(
                in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=bias
            ),
            nn.BatchNorm2d(out_channels),
        ]
        if activation is not None:
            layers.append(activation())
        super().__init__(*layers)


class Classifier(nn.Sequential):
    """Averages over pixels, drops features if ``dropout`` > 0, and applies one linear layer."""

    def __init__(self, in_channels: int, num_classes: int, *, dropout: float = 0.0) -> None:
        layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        super().__init__(*layers, nn.Linear(in_channels, num_classes))


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate computed from the means of all channels.

    Source: Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018, section 3.
    ``squeezed`` and ``activation`` belong to the hidden layer.
    """

    def __init__(
        self, channels: int, squeezed: int, *, activation: type[nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            activation(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the input by its gate; shape unchanged."""
        scaled: Tensor = x * self.gate(x)
        return scaled


class Residual(nn.Module):
    """Computes ``activation(body(x) + shortcut(x))``.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016. Without a
    shortcut, the input itself is added.
    """

    def __init__(
        self,
        body: nn.Module,
        shortcut: nn.Module | None = None,
        *,
        activation: type[nn.Module] | None = nn.ReLU,
    ) -> None:
        super().__init__()
        self.body = body
        self.shortcut = nn.Identity() if shortcut is None else shortcut
        self.activation = nn.Identity() if activation is None else activation()

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum of the two branches."""
        summed: Tensor = self.activation(self.body(x) + self.shortcut(x))
        return summed


class Branches(nn.ModuleList):
    """Runs all branches on the same input and joins their channels."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of all branches, joined along the channels."""
        return torch.cat([branch(x) for branch in self], dim=1)


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """Build the shortcut of a residual block: 1x1 if the shape changes, else ``None``."""
    if stride == 1 and in_channels == out_channels:
        return None
    return ConvBnAct(in_channels, out_channels, 1, stride=stride, activation=None)
