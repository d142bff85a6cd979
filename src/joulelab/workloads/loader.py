"""The input path of most training scripts, and of the paper: a DataLoader and transforms."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from joulelab.errors import WorkloadError
from joulelab.workloads.batches import PADDING, Batch, Batches, Bounds
from joulelab.workloads.failures import first_line
from joulelab.workloads.images import ImageData
from joulelab.workloads.seeding import stream_seed

Sample = tuple[torch.Tensor, torch.Tensor]


class LoaderBatches:
    """A DataLoader each epoch, with torchvision's transforms applied image by image.

    Args:
        data: The data set, which stays in the host's memory.
        device: Where batches are sent, from pinned memory on CUDA.
        batch_format: Of the batches; ``torch.contiguous_format`` or ``torch.channels_last``.
        workers: Processes, started anew each epoch; 0 loads in the calling thread.
        augment: Random crop, and a horizontal flip where it keeps the label.
        seed: Of order and augmentation. Results depend on ``workers`` too: each process has its own
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
        """See :class:`joulelab.workloads.batches.BatchSource`."""
        generator = torch.Generator().manual_seed(stream_seed(self._seed, stream))
        order = torch.randperm(len(self._train), generator=generator).tolist()
        return self._batches(self._train, [order[start:stop] for start, stop in bounds], generator)

    def test_batches(self, bounds: Bounds) -> Batches:
        """See :class:`joulelab.workloads.batches.BatchSource`."""
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
        samples = _mapped(iter(loader))
        for images, labels in samples:
            self.waited_s += time.monotonic() - began_s
            yield Batch(
                images.to(self._device, non_blocking=True, memory_format=self._format),
                labels.to(self._device, non_blocking=True),
            )
            began_s = time.monotonic()


class _Transformed(Dataset[Sample]):
    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        transform: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        self._images, self._labels, self._transform = images, labels, transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Sample:
        return self._transform(self._images[index]), self._labels[index]


def _mapped(samples: Iterator[Sample]) -> Iterator[Sample]:
    while True:
        try:
            sample = next(samples)
        except StopIteration:
            return
        except (RuntimeError, OSError) as error:
            raise WorkloadError(
                "the data loader failed",
                kind="input_failed",
                why=first_line(error),
                hint="use fewer loader_workers, or input_path 'device'",
            ) from error
        yield sample
