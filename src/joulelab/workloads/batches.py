"""Where batches come from: bounds, and the path that holds the data set on the device."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple, Protocol

import torch

from joulelab.workloads.images import ImageData
from joulelab.workloads.seeding import stream_seed

PADDING = 4
"""Pixels of black around an image before the random crop, as in the usual CIFAR-10 recipe
(K. He et al., Deep Residual Learning for Image Recognition, 2015, section 4.2)."""

Bounds = Sequence[tuple[int, int]]
"""First image and one past the last, for each batch."""


class Batch(NamedTuple):
    """Normalised images, float32 (B, C, H, W), and labels, int64 (B,), on the device."""

    images: torch.Tensor
    labels: torch.Tensor


Batches = Generator[Batch, None, None]


class BatchSource(Protocol):
    """An input path."""

    @property
    def waited_s(self) -> float | None:
        """Time that the caller waited for batches so far; ``None`` where nothing is waited for."""
        ...

    def train_batches(self, stream: int, bounds: Bounds) -> Batches:
        """Training batches, shuffled and augmented as the seed and ``stream`` say."""
        ...

    def test_batches(self, bounds: Bounds) -> Batches:
        """Test batches in the order of the set."""
        ...


def batch_bounds(
    count: int, batch_size: int, *, fold_single: bool = False
) -> list[tuple[int, int]]:
    """How ``count`` images are cut into batches; the last may be smaller.

    Args:
        count: At least 1.
        batch_size: At least 1.
        fold_single: Adds a last batch of one image to the one before it: batch normalisation
            cannot train on one value a channel.

    Example:
        >>> batch_bounds(9, 4)
        [(0, 4), (4, 8), (8, 9)]
        >>> batch_bounds(9, 4, fold_single=True)
        [(0, 4), (4, 9)]
    """
    bounds = [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    if fold_single and batch_size > 1 and len(bounds) > 1 and bounds[-1][0] == count - 1:
        bounds[-2:] = [(bounds[-2][0], count)]
    return bounds


class DeviceBatches:
    """Holds the data set on the device as uint8, and augments and normalises it there.

    Args:
        data: The data set.
        device: Where it is held.
        batch_format: Of the batches; ``torch.contiguous_format`` or ``torch.channels_last``.
        training: Whether the training images are held too.
        augment: Random crop, and a horizontal flip where it keeps the label.
        seed: Of order and augmentation.
    """

    waited_s = None

    def __init__(
        self,
        data: ImageData,
        device: torch.device,
        *,
        batch_format: torch.memory_format,
        training: bool,
        augment: bool = False,
        seed: int = 0,
    ) -> None:
        self._device, self._format, self._seed = device, batch_format, seed
        self._size = data.image_shape[1:]
        self._padding = PADDING if augment else 0
        self._flip = augment and data.flip_keeps_label
        self._mean = torch.tensor(data.mean, device=device) * 255
        self._scale = 1 / (torch.tensor(data.std, device=device) * 255)
        if training:
            self._train_images = _channels_last(data.train_images.to(device), self._padding)
            self._train_labels = data.train_labels.to(device)
        self._test_images = _channels_last(data.test_images.to(device), 0)
        self._test_labels = data.test_labels.to(device)

    def train_batches(self, stream: int, bounds: Bounds) -> Batches:
        """See :class:`BatchSource`."""
        count, device = len(self._train_labels), self._device
        generator = torch.Generator(device).manual_seed(stream_seed(self._seed, stream))
        order = torch.randperm(count, generator=generator, device=device)
        corner = torch.randint(
            2 * self._padding + 1, (2, count, 1), generator=generator, device=device
        )
        flipped = torch.rand(count, 1, generator=generator, device=device) < 0.5
        height, width = (torch.arange(length, device=device) for length in self._size)
        for start, stop in bounds:
            chosen = order[start:stop]
            rows = corner[0, start:stop] + height
            columns = corner[1, start:stop] + width
            if self._flip:
                columns = torch.where(flipped[start:stop], columns.flip(1), columns)
            pixels = self._train_images[
                chosen[:, None, None], rows[:, :, None], columns[:, None, :]
            ]
            yield Batch(self._normalised(pixels), self._train_labels[chosen])

    def test_batches(self, bounds: Bounds) -> Batches:
        """See :class:`BatchSource`."""
        for start, stop in bounds:
            pixels = self._test_images[start:stop]
            yield Batch(self._normalised(pixels), self._test_labels[start:stop])

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        values = pixels.to(torch.float32).sub_(self._mean).mul_(self._scale)
        return values.permute(0, 3, 1, 2).contiguous(memory_format=self._format)


def _channels_last(images: torch.Tensor, padding: int) -> torch.Tensor:
    """(N, C, H, W) as (N, H + 2p, W + 2p, C), contiguous, so that a crop is one gather."""
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    return padded.permute(0, 2, 3, 1).contiguous()
