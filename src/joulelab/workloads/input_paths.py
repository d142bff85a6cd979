"""Input paths: the data set on the device, or a DataLoader with torchvision's transforms."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from joulelab.errors import WorkloadError
from joulelab.workloads.images import ImageData
from joulelab.workloads.torch_runtime import first_line, stream_seed

PADDING = 4
"""Black pixels around an image before the random crop, as in the usual CIFAR-10 recipe
(K. He et al., Deep Residual Learning for Image Recognition, 2015, section 4.2)."""

Bounds = Sequence[tuple[int, int]]
"""Index of the first image and one past the last, for each batch."""


class Batch(NamedTuple):
    """Normalised images, float32 (B, C, H, W), and labels, int64 (B,), on the device."""

    images: torch.Tensor
    labels: torch.Tensor


Batches = Generator[Batch, None, None]
Sample = tuple[torch.Tensor, torch.Tensor]


class BatchSource(Protocol):
    """An input path."""

    @property
    def waited_s(self) -> float | None:
        """Time spent waiting for batches so far; ``None`` if the path never waits."""

    def train_batches(self, stream: int, bounds: Bounds) -> Batches:
        """Yield training batches, shuffled and augmented by the seed and ``stream``."""

    def test_batches(self, bounds: Bounds) -> Batches:
        """Yield test batches in the order of the set."""


def batch_bounds(
    count: int, batch_size: int, *, fold_single: bool = False
) -> list[tuple[int, int]]:
    """Divide ``count`` images into batches; the last may be smaller.

    With ``fold_single``, a last batch of one image joins the one before it, because batch
    normalisation cannot train on one value per channel.

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
    """Keeps the data set on the device as uint8, and augments and normalises it there."""

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
        """Implement :class:`BatchSource`."""
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
        """Implement :class:`BatchSource`."""
        for start, stop in bounds:
            pixels = self._test_images[start:stop]
            yield Batch(self._normalised(pixels), self._test_labels[start:stop])

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        values = pixels.to(torch.float32).sub_(self._mean).mul_(self._scale)
        return values.permute(0, 3, 1, 2).contiguous(memory_format=self._format)


class LoaderBatches:
    """Uses a DataLoader per epoch, with torchvision's transforms applied image by image.

    This is the input path of most training scripts, and of the paper. The data set stays in the
    host's memory. Results also depend on the number of worker processes, because each has its own
    random stream.
    """

    def __init__(
        self,
        data: ImageData,
        device: torch.device,
        *,
        batch_format: torch.memory_format,
        workers: int,
        augment: bool = False,
        seed: int = 0,
    ) -> None:
        from torchvision.transforms import v2  # noqa: PLC0415 - takes seconds to import

        self.waited_s = 0.0
        self._device, self._format = device, batch_format
        self._workers, self._seed = workers, seed
        to_normalised = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.mean, data.std)]
        random = [v2.RandomCrop(data.image_shape[1:], padding=PADDING)] if augment else []
        random += [v2.RandomHorizontalFlip()] if augment and data.flip_keeps_label else []
        self._train = _Transformed(
            data.train_images, data.train_labels, v2.Compose([*random, *to_normalised])
        )
        self._test = _Transformed(data.test_images, data.test_labels, v2.Compose(to_normalised))

    def train_batches(self, stream: int, bounds: Bounds) -> Batches:
        """Implement :class:`BatchSource`."""
        generator = torch.Generator().manual_seed(stream_seed(self._seed, stream))
        order = torch.randperm(len(self._train), generator=generator).tolist()
        return self._batches(self._train, [order[start:stop] for start, stop in bounds], generator)

    def test_batches(self, bounds: Bounds) -> Batches:
        """Implement :class:`BatchSource`."""
        batches = [list(range(start, stop)) for start, stop in bounds]
        return self._batches(self._test, batches, torch.Generator())

    def _batches(
        self, dataset: _Transformed, batches: list[list[int]], generator: torch.Generator
    ) -> Batches:
        loader = DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            generator=generator,
        )
        began_s = time.monotonic()
        samples = iter(loader)
        while (sample := _next_sample(samples)) is not None:
            self.waited_s += time.monotonic() - began_s
            images, labels = sample
            yield Batch(
                images.to(self._device, non_blocking=True, memory_format=self._format),
                labels.to(self._device, non_blocking=True),
            )
            began_s = time.monotonic()


def _channels_last(images: torch.Tensor, padding: int) -> torch.Tensor:
    """Pad and permute to (N, H + 2p, W + 2p, C), contiguous, so that a crop is one gather."""
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    return padded.permute(0, 2, 3, 1).contiguous()


@dataclass
class _Transformed(Dataset[Sample]):
    images: torch.Tensor
    labels: torch.Tensor
    transform: Callable[[torch.Tensor], torch.Tensor]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        return self.transform(self.images[index]), self.labels[index]


def _next_sample(samples: Iterator[Sample]) -> Sample | None:
    try:
        return next(samples, None)
    except (RuntimeError, OSError) as error:
        raise WorkloadError(
            "the data loader failed",
            kind="input_failed",
            why=first_line(error),
            hint="use fewer loader_workers, or input_path 'device'",
        ) from error
