"""Small networks that each exercise one kind of operator. They need no data set.

They have names like any model, for example ``joulelab.predict.microworkloads:convolutions``, so
their steps are traced and fitted like those of other models.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from joulelab.models.blocks import ConvBnAct, Residual

DEPTH = 6
"""Number of repeated layers in each network."""


INPUT_SHAPES: Mapping[str, tuple[int, ...]] = {
    "convolutions": (64, 32, 32),
    "wide_convolutions": (256, 8, 8),
    "pointwise_convolutions": (128, 16, 16),
    "grouped_convolutions": (96, 16, 16),
    "unaligned_convolutions": (96, 16, 16),
    "depthwise_convolutions": (96, 16, 16),
    "linear_layers": (1024,),
    "attention_layers": (64, 192),
    "activations": (32, 32, 32),
    "pooling_layers": (32, 16, 16),
    "tiny_layers": (8,),
    "tiny_functions": (8,),
    "one_layer": (8,),
}
"""Shape of one sample for each network of this module."""


class MeanPool(nn.Module):
    """Averages over pixels, (N, C, H, W) to (N, C), or over tokens, (N, T, C) to (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean."""
        return x.mean((2, 3)) if x.ndim == 4 else x.mean(1)


def _convolve(channels: int, kernel: int, groups: int, num_classes: int = 10) -> nn.Module:
    layers = [ConvBnAct(channels, channels, kernel, groups=groups) for _ in range(DEPTH)]
    return nn.Sequential(*layers, MeanPool(), nn.Linear(channels, num_classes))


convolutions = partial(_convolve, 64, 3, 1)
wide_convolutions = partial(_convolve, 256, 3, 1)
"""Many channels and few pixels."""

pointwise_convolutions = partial(_convolve, 128, 1, 1)
grouped_convolutions = partial(_convolve, 96, 3, 12)
"""Groups of 8 channels, which matrix units can process."""

unaligned_convolutions = partial(_convolve, 96, 3, 32)
"""Groups of 3 channels, which matrix units cannot process."""

depthwise_convolutions = partial(_convolve, 96, 5, 96)


def linear_layers(num_classes: int = 10) -> nn.Module:
    """Build matrix products."""
    layers = [layer for _ in range(DEPTH) for layer in (nn.Linear(1024, 1024), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(1024, num_classes))


def attention_layers(num_classes: int = 10) -> nn.Module:
    """Build transformer layers for 64 tokens of 192 numbers."""
    layers = [
        nn.TransformerEncoderLayer(192, 3, 768, dropout=0.0, batch_first=True) for _ in range(DEPTH)
    ]
    return nn.Sequential(*layers, MeanPool(), nn.Linear(192, num_classes))


def activations(num_classes: int = 10) -> nn.Module:
    """Build normalisation, activation and addition: memory traffic."""
    bodies = [nn.Sequential(nn.BatchNorm2d(32), nn.ReLU()) for _ in range(DEPTH)]
    blocks = [Residual(body, activation=None) for body in bodies]
    return nn.Sequential(*blocks, MeanPool(), nn.Linear(32, num_classes))


def pooling_layers(num_classes: int = 10) -> nn.Module:
    """Build pooling of overlapping windows, and a function of each number."""
    layers = [layer for _ in range(DEPTH) for layer in (nn.MaxPool2d(3, 1, 1), nn.SiLU())]
    return nn.Sequential(*layers, MeanPool(), nn.Linear(32, num_classes))


def tiny_layers(num_classes: int = 10) -> nn.Module:
    """Build operators so small that only launching them takes time."""
    layers = [layer for _ in range(5 * DEPTH) for layer in (nn.Linear(8, 8), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(8, num_classes))


def tiny_functions(num_classes: int = 10) -> nn.Module:
    """Build operators that also cost the host least."""
    return nn.Sequential(*(nn.Tanh() for _ in range(10 * DEPTH)), nn.Linear(8, num_classes))


def one_layer(num_classes: int = 10) -> nn.Module:
    """Build a step that is little more than its loop."""
    return nn.Linear(8, num_classes)
