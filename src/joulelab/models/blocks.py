"""What the architectures of the zoo are built from.

All of them take images ``(N, in_channels, H, W)`` and give class scores ``(N, num_classes)``.
Weights start from PyTorch's own initialisation of each layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvBnAct(nn.Sequential):
    """Convolution that keeps the size (at stride 1), batch normalisation, activation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Side of the square kernel; odd. The padding is ``kernel // 2``.
        stride: Step of the kernel.
        groups: Groups of the convolution; ``groups=in_channels`` makes it depthwise.
        bias: Whether the convolution has a bias, which the normalisation makes redundant.
        activation: Class of the activation; ``None`` for no activation.

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
                in_channels,
                out_channels,
                kernel,
                stride=stride,
                padding=kernel // 2,
                groups=groups,
                bias=bias,
            ),
            nn.BatchNorm2d(out_channels),
        ]
        if activation is not None:
            layers.append(activation())
        super().__init__(*layers)


class Classifier(nn.Sequential):
    """Global average pooling, optional dropout, one linear layer.

    Args:
        in_channels: Channels of the input ``(N, in_channels, H, W)``.
        num_classes: Scores given for each image.
        dropout: Probability of dropping a feature while training; 0 adds no layer.
    """

    def __init__(self, in_channels: int, num_classes: int, *, dropout: float = 0.0) -> None:
        layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        super().__init__(*layers, nn.Linear(in_channels, num_classes))


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate worked out from the means of all channels.

    Source: Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018, section 3.

    Args:
        channels: Channels of input and output.
        squeezed: Channels of the layer between.
        activation: Class of the activation of the layer between.
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
        """The input times its gate; shape unchanged."""
        scaled: Tensor = x * self.gate(x)
        return scaled


class Residual(nn.Module):
    """``activation(body(x) + shortcut(x))``.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.

    Args:
        body: The residual branch.
        shortcut: The other branch; ``None`` for the input itself.
        activation: Class of the activation after the sum; ``None`` for no activation.
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
        """The activated sum of the two branches."""
        summed: Tensor = self.activation(self.body(x) + self.shortcut(x))
        return summed


class Branches(nn.ModuleList):
    """Runs every branch on the same input and joins their channels."""

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of all branches, joined along the channels."""
        return torch.cat([branch(x) for branch in self], dim=1)


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """The shortcut of a residual block: 1x1 where the shape changes, else ``None``."""
    if stride == 1 and in_channels == out_channels:
        return None
    return ConvBnAct(in_channels, out_channels, 1, stride=stride, activation=None)
