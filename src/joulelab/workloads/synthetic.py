"""Generated images, for trying things without data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from joulelab.errors import UserError, nearest
from joulelab.workloads.images import ImageData, chunks, image_data
from joulelab.workloads.seeding import stream_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticOptions:
    """What to generate. The defaults have CIFAR-10's shape.

    Attributes:
        train_count: Training images.
        test_count: Test images.
        num_classes: From 2 to 1000.
        structure: ``"learnable"``: each class has a smooth pattern of its own under noise;
            ``"random"``: pixels and labels are independent, nothing can be learned.
        seed: At least 0.

    Raises:
        UserError: A value is out of its range.
    """

    train_count: int = 50_000
    test_count: int = 10_000
    num_classes: int = 10
    structure: str = "learnable"
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {
            "train_count": (1, 10_000_000),
            "test_count": (1, 10_000_000),
            "num_classes": (2, 1000),
            "seed": (0, 2**63 - 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise UserError(
                    f"{name} is {value!r}", why=f"it must be a whole number from {low} to {high}"
                )
        if self.structure not in ("learnable", "random"):
            raise UserError(
                f"structure is {self.structure!r}",
                hint=nearest(str(self.structure), ("learnable", "random")),
            )


def load_synthetic(options: SyntheticOptions, *, image_size: int | None) -> ImageData:
    """Generated images, 3 x 32 x 32 or 3 x ``image_size`` x ``image_size``; labels are balanced.

    The same options give the same images.
    """
    size = 32 if image_size is None else image_size
    generator = torch.Generator().manual_seed(stream_seed(options.seed, 0))
    coarse = torch.rand(options.num_classes, 3, 4, 4, generator=generator) * 160 + 48
    patterns = functional.interpolate(coarse, size=(size, size), mode="bilinear")
    train, test = (
        _generated(count, patterns, options, stream_seed(options.seed, stream))
        for stream, count in ((1, options.train_count), (2, options.test_count))
    )
    return image_data(
        name="synthetic",
        train=train,
        test=test,
        num_classes=options.num_classes,
        origin=f"generated, seed {options.seed}",
        real=False,
        flip_keeps_label=False,
    )


def _generated(
    count: int, patterns: torch.Tensor, options: SyntheticOptions, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    balanced = torch.arange(count) % options.num_classes
    labels = balanced[torch.randperm(count, generator=generator)]
    images = torch.randint(
        256, (count, *patterns.shape[1:]), dtype=torch.uint8, generator=generator
    )
    if options.structure == "learnable":
        for chunk in chunks(count):
            noise = (images[chunk].to(torch.float32) - 127.5) * 0.6
            images[chunk] = (patterns[labels[chunk]] + noise).clamp(0, 255).to(torch.uint8)
    return images, labels
