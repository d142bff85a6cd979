"""Small networks that each keep one kind of operator busy. They need no data set.

They are named as any model is, like ``joulelab.predict.microworkloads:convolutions``, so that a
measured step of theirs is traced and fitted as that of any other model.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

DEPTH = 6
"""Repeated layers of each network."""


class Workload(NamedTuple):
    """A network and what it takes.

    Attributes:
        factory: Name in this module.
        input_shape: Of one sample.
    """

    factory: str
    input_shape: tuple[int, ...]

    @property
    def model(self) -> str:
        """As the registry takes it."""
        return f"{__name__}:{self.factory}"


WORKLOADS = (
    Workload("convolutions", (64, 32, 32)),
    Workload("wide_convolutions", (256, 8, 8)),
    Workload("pointwise_convolutions", (128, 16, 16)),
    Workload("grouped_convolutions", (96, 16, 16)),
    Workload("unaligned_convolutions", (96, 16, 16)),
    Workload("depthwise_convolutions", (96, 16, 16)),
    Workload("linear_layers", (1024,)),
    Workload("attention_layers", (64, 192)),
    Workload("activations", (32, 32, 32)),
    Workload("tiny_layers", (8,)),
)


class Added(nn.Module):
    """A block whose input is added to its output; shape unchanged."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        summed: Tensor = x + self.block(x)
        return summed


class Pooled(nn.Module):
    """The mean over pixels, (N, C, H, W) to (N, C), or over tokens, (N, T, C) to (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """The mean."""
        return x.mean((2, 3)) if x.ndim == 4 else x.mean(1)


def convolutions(num_classes: int = 10, channels: int = 64) -> nn.Module:
    """3x3 convolutions."""
    return _convolutional(channels, 3, 1, num_classes)


def wide_convolutions(num_classes: int = 10) -> nn.Module:
    """3x3 convolutions of many channels and few pixels."""
    return _convolutional(256, 3, 1, num_classes)


def pointwise_convolutions(num_classes: int = 10) -> nn.Module:
    """1x1 convolutions."""
    return _convolutional(128, 1, 1, num_classes)


def grouped_convolutions(num_classes: int = 10) -> nn.Module:
    """3x3 convolutions of groups of 8 channels, which matrix units take."""
    return _convolutional(96, 3, 12, num_classes)


def unaligned_convolutions(num_classes: int = 10) -> nn.Module:
    """3x3 convolutions of groups of 3 channels, which they do not."""
    return _convolutional(96, 3, 32, num_classes)


def depthwise_convolutions(num_classes: int = 10) -> nn.Module:
    """5x5 depthwise convolutions."""
    return _convolutional(96, 5, 96, num_classes)


def linear_layers(num_classes: int = 10) -> nn.Module:
    """Matrix products."""
    layers = [layer for _ in range(DEPTH) for layer in (nn.Linear(1024, 1024), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(1024, num_classes))


def attention_layers(num_classes: int = 10) -> nn.Module:
    """Transformer layers on 64 tokens of 192 numbers."""
    layers = [
        nn.TransformerEncoderLayer(192, 3, 768, dropout=0.0, batch_first=True) for _ in range(DEPTH)
    ]
    return nn.Sequential(*layers, Pooled(), nn.Linear(192, num_classes))


def activations(num_classes: int = 10) -> nn.Module:
    """Normalisation, activation and addition: memory traffic."""
    blocks = [Added(nn.Sequential(nn.BatchNorm2d(32), nn.ReLU())) for _ in range(DEPTH)]
    return nn.Sequential(*blocks, Pooled(), nn.Linear(32, num_classes))


def tiny_layers(num_classes: int = 10) -> nn.Module:
    """Operators so small that only handing them out takes time."""
    layers = [layer for _ in range(5 * DEPTH) for layer in (nn.Linear(8, 8), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(8, num_classes))


def _convolutional(channels: int, kernel: int, groups: int, num_classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        layers += [
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, Pooled(), nn.Linear(channels, num_classes))


def random_batch(
    batch_size: int, workload: Workload, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Samples and labels."""
    return (
        torch.randn((batch_size, *workload.input_shape), device=device),
        torch.zeros(batch_size, dtype=torch.long, device=device),
    )
