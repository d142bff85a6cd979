"""A data set of labelled images in memory, and the changes of shape that data sets share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

from joulelab.errors import DatasetError, UserError


def chunks(count: int, size: int = 4096) -> Iterator[slice]:
    """Slices that cover ``count`` images, so that a set is never held in float as a whole.

    Example:
        >>> list(chunks(5, size=3))
        [slice(0, 3, None), slice(3, 5, None)]
    """
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageData:
    """Labelled images in memory.

    Attributes:
        name: As given to :func:`joulelab.workloads.datasets.load_dataset`.
        train_images: uint8, (N, C, H, W), on the CPU.
        train_labels: int64, (N,), from 0 to ``num_classes - 1``.
        test_images: uint8, (M, C, H, W).
        test_labels: int64, (M,).
        num_classes: How many classes there are.
        mean: Per channel, of the training images scaled to [0, 1].
        std: Per channel, likewise; > 0.
        origin: Where the images come from: a path, ``"generated, seed S"``,
            ``"scikit-learn X.Y"``.
        real: Whether they are photographs or scans, not generated.
        flip_keeps_label: Whether a mirrored image has the same label; not so for digits.
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    origin: str
    real: bool
    flip_keeps_label: bool = True

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width


def image_data(
    *,
    name: str,
    train: tuple[torch.Tensor, torch.Tensor],
    test: tuple[torch.Tensor, torch.Tensor],
    num_classes: int,
    origin: str,
    real: bool,
    flip_keeps_label: bool = True,
    image_size: int | None = None,
) -> ImageData:
    """An :class:`ImageData` that was checked, with its mean and standard deviation.

    Args:
        name: Of the data set.
        train: Images, uint8 (N, C, H, W), and labels, int64 (N,).
        test: Likewise.
        num_classes: Labels must be below it.
        origin: Where the images come from.
        real: Whether they are photographs or scans.
        flip_keeps_label: Whether a mirrored image has the same label.
        image_size: Height and width to resize to; ``None`` keeps them.

    Raises:
        DatasetError: A set is empty, images and labels differ in number, or a label is out of
            range.
        UserError: ``image_size`` is not a positive whole number.
    """
    for part, (images, labels) in (("training", train), ("test", test)):
        _check(f"the {part} set of {name} ({origin})", images, labels, num_classes)
    train_images, test_images = (
        images if image_size is None else resized(images, image_size) for images, _ in (train, test)
    )
    mean, std = channel_statistics(train_images)
    return ImageData(
        name=name,
        train_images=train_images,
        train_labels=train[1],
        test_images=test_images,
        test_labels=test[1],
        num_classes=num_classes,
        mean=mean,
        std=std,
        origin=origin,
        real=real,
        flip_keeps_label=flip_keeps_label,
    )


def _check(what: str, images: torch.Tensor, labels: torch.Tensor, num_classes: int) -> None:
    if len(images) == 0:
        raise DatasetError(f"{what} is empty")
    if len(images) != len(labels):
        raise DatasetError(f"{what} has {len(images)} images and {len(labels)} labels")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        wrong = low if low < 0 else high
        raise DatasetError(
            f"{what} has the label {wrong}", why=f"labels go from 0 to {num_classes - 1}"
        )


def channel_statistics(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of values scaled to [0, 1].

    Args:
        images: uint8, (N, C, H, W).

    Returns:
        Two tuples of length C. A constant channel gets the standard deviation of one grey level
        (1/255), so that dividing by it is safe.

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


def resized(images: torch.Tensor, size: int) -> torch.Tensor:
    """The images at ``size`` x ``size``, bilinear with antialiasing.

    Args:
        images: uint8, (N, C, H, W).
        size: At least 1.

    Raises:
        UserError: ``size`` is not a positive whole number.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UserError(f"image_size is {size!r}", why="it must be a whole number from 1 up")
    if images.shape[2:] == (size, size):
        return images
    result = torch.empty((*images.shape[:2], size, size), dtype=torch.uint8)
    for chunk in chunks(len(images)):
        values = functional.interpolate(
            images[chunk].to(torch.float32), size=(size, size), mode="bilinear", antialias=True
        )
        result[chunk] = values.round().clamp(0, 255).to(torch.uint8)
    return result


def as_rgb(images: torch.Tensor) -> torch.Tensor:
    """Grey images, (N, H, W), as three equal channels, (N, 3, H, W)."""
    return images.unsqueeze(1).repeat(1, 3, 1, 1)
