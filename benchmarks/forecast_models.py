"""Small models of different kinds, in addition to those of the zoo."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

SIZE = 32


def perceptron(num_classes: int, in_channels: int) -> nn.Module:
    """Build a model of matrix products."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(in_channels * SIZE * SIZE, 512),
        nn.ReLU(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, num_classes),
    )


def convolutions(num_classes: int, in_channels: int) -> nn.Module:
    """Build three convolutions with normalisation."""
    widths = (in_channels, 16, 32, 64)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after)]
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4 * 4, num_classes))


class Attention(nn.Module):
    """Applies two transformer layers to the rows of an image."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.embed = nn.Linear(in_channels * SIZE, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(64, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (batch, channels, 32, 32) to (batch, classes)."""
        rows = images.permute(0, 2, 1, 3).flatten(2)
        logits: torch.Tensor = self.head(self.encoder(self.embed(rows)).mean(dim=1))
        return logits


def attention(num_classes: int, in_channels: int) -> nn.Module:
    """Build an :class:`Attention` model."""
    return Attention(num_classes, in_channels)
