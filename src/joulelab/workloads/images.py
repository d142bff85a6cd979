"""Labelled images in memory, and the conversions that data sets share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch.nn import functional

from joulelab.errors import DatasetError


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ImageData:
    """Labelled images in memory, on the CPU."""

    name: str  # as for load_dataset
    train_images: torch.Tensor  # uint8, (N, C, H, W)
    train_labels: torch.Tensor  # int64, (N,), from 0 to num_classes - 1
    test_images: torch.Tensor  # uint8, (M, C, H, W)
    test_labels: torch.Tensor  # int64, (M,)
    num_classes: int
    origin: str  # a path, "generated, seed S" or "scikit-learn X.Y"
    real: bool  # photographs or scans, not generated
    flip_keeps_label: bool = True  # whether a mirrored image has the same label, unlike digits
    mean: tuple[float, ...] = dataclasses.field(init=False)  # per channel of the training images,
    std: tuple[float, ...] = dataclasses.field(init=False)  # scaled to [0, 1]; std > 0

    def __post_init__(self) -> None:
        self._check("training", self.train_images, self.train_labels)
        self._check("test", self.test_images, self.test_labels)
        mean, std = channel_statistics(self.train_images)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    def resized(self, size: int) -> ImageData:
        """Return the data with images of ``size`` x ``size``."""
        if self.image_shape[1:] == (size, size):
            return self
        return dataclasses.replace(
            self,
            train_images=resize(self.train_images, size),
            test_images=resize(self.test_images, size),
        )

    def _check(self, part: str, images: torch.Tensor, labels: torch.Tensor) -> None:
        what = f"the {part} set of {self.name} ({self.origin})"
        if len(images) == 0:
            raise DatasetError(f"{what} is empty")
        if len(images) != len(labels):
            raise DatasetError(f"{what} has {len(images)} images and {len(labels)} labels")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.num_classes:
            raise DatasetError(
                f"{what} has the label {low if low < 0 else high}",
                why=f"labels go from 0 to {self.num_classes - 1}",
            )


def chunks(count: int, size: int = 4096) -> Iterator[slice]:
    """Yield slices that cover ``count`` images, so that a set is never in float as a whole.

    Example:
        >>> list(chunks(5, size=3))
        [slice(0, 3, None), slice(3, 5, None)]
    """
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def channel_statistics(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, of values scaled to [0, 1].

    A constant channel gets the standard deviation of one grey level (1/255), so it is safe to
    divide by it.

    Example:
        >>> channel_statistics(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1))
        ((0.5,), (0.5,))
    """
    channels = images.shape[1]
    total = torch.zeros(channels, dtype=torch.float64)
    squares = torch.zeros(channels, dtype=torch.float64)
    for chunk in chunks(len(images)):
        scaled = images[chunk].to(torch.float32) / 255
        total += scaled.sum(dim=(0, 2, 3), dtype=torch.float64)
        squares += scaled.square().sum(dim=(0, 2, 3), dtype=torch.float64)
    count = images.numel() // channels
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resize images, uint8 (N, C, H, W), bilinear with antialiasing."""
    if images.shape[2:] == (size, size):
        return images
    result = torch.empty((*images.shape[:2], size, size), dtype=torch.uint8)
    for chunk in chunks(len(images)):
        values = functional.interpolate(
            images[chunk].to(torch.float32), size=(size, size), mode="bilinear", antialias=True
        )
        result[chunk] = values.round().clamp(0, 255).to(torch.uint8)
    return result


def to_rgb(images: torch.Tensor) -> torch.Tensor:
    """Convert grey images, (N, H, W), to three equal channels, (N, 3, H, W)."""
    return images.unsqueeze(1).repeat(1, 3, 1, 1)
