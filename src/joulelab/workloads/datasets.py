"""Image classification data sets by name: published, shipped with scikit-learn, or generated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from joulelab.errors import DatasetError, UserError, nearest
from joulelab.workloads.images import ImageData, chunks, to_rgb
from joulelab.workloads.phases import require_choice, require_whole
from joulelab.workloads.published_datasets import load_cifar10, load_fashion_mnist
from joulelab.workloads.torch_runtime import stream_seed

DATASETS = ("cifar10", "fashion-mnist", "digits", "synthetic")


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticOptions:
    """Options of generated images. The defaults have the shape of CIFAR-10.

    In ``"learnable"`` images each class has its own smooth pattern under noise; in ``"random"``
    ones pixels and labels are independent, so nothing can be learned.
    """

    train_count: int = 50_000
    test_count: int = 10_000
    num_classes: int = 10  # from 2 to 1000
    structure: str = "learnable"
    seed: int = 0

    def __post_init__(self) -> None:
        require_whole(self, 1, "train_count", "test_count", most=10_000_000)
        require_whole(self, 2, "num_classes", most=1000)
        require_whole(self, 0, "seed", most=2**63 - 1)
        require_choice(self, "structure", ("learnable", "random"))


def load_dataset(
    name: str,
    *,
    root: str | Path | None = None,
    download: bool = False,
    image_size: int | None = None,
    synthetic: SyntheticOptions | None = None,
) -> ImageData:
    """Load a data set by name, as 3 x 32 x 32 images in memory.

    Args:
        name: ``"cifar10"`` and ``"fashion-mnist"`` are searched for in ``root``, in ``data`` in
            JouleLab's home (``$JOULELAB_HOME``, else ``joulelab`` in the user's data directory)
            and in ``./data``, the latter also at the location of Debian's package; ``"digits"``
            comes with scikit-learn; ``"synthetic"`` is generated.
        root: Directory to search first.
        download: Whether a data set that is not found may be downloaded into the first of these
            directories. Otherwise nothing is downloaded.
        image_size: Height and width to resize to; ``None`` for 32.
        synthetic: Options of the generated images; ``None`` for their defaults.

    Raises:
        DatasetError: The data set is unknown, missing or damaged.
        UserError: ``image_size`` is not a positive whole number.

    Example:
        >>> digits = load_dataset("digits")
        >>> tuple(digits.train_images.shape), tuple(digits.test_images.shape), digits.real
        ((1437, 3, 32, 32), (360, 3, 32, 32), True)
    """
    whole = isinstance(image_size, int) and not isinstance(image_size, bool)
    if image_size is not None and not (whole and image_size >= 1):
        raise UserError(f"image_size is {image_size!r}", why="it must be a whole number from 1 up")
    size = image_size or 32
    match name:
        case "cifar10":
            return load_cifar10(root, allow_download=download).resized(size)
        case "fashion-mnist":
            return load_fashion_mnist(root, allow_download=download).resized(size)
        case "digits":
            return _load_digits().resized(size)
        case "synthetic":
            return _generate(synthetic or SyntheticOptions(), size)
        case _:
            raise DatasetError(f"no data set {name!r}", hint=nearest(str(name), DATASETS))


def _load_digits() -> ImageData:
    """Load scikit-learn's 1,797 scans of handwritten digits, 8 x 8 in 17 grey levels.

    They are the test set of E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits,
    UCI, 1998. Scaled to 0..255, enlarged to 32 x 32 (bilinear), three equal channels; a fixed
    split, stratified by class, into 1,437 for training and 360 for testing.
    """
    from sklearn import __version__, datasets, model_selection  # noqa: PLC0415 - slow to import

    scans, classes = datasets.load_digits(return_X_y=True)
    train, test = model_selection.train_test_split(
        np.arange(len(classes)), test_size=360, random_state=0, stratify=classes
    )
    grey = torch.from_numpy(scans.reshape(-1, 1, 8, 8)).to(torch.float32) * (255 / 16)
    enlarged = functional.interpolate(grey, size=(32, 32), mode="bilinear")
    images = to_rgb(enlarged.round().clamp(0, 255).to(torch.uint8).squeeze(1))
    labels = torch.from_numpy(classes.astype(np.int64))
    return ImageData(
        name="digits",
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        num_classes=10,
        origin=f"scikit-learn {__version__}",
        real=True,
        flip_keeps_label=False,
    )


def _generate(options: SyntheticOptions, size: int) -> ImageData:
    """Generate images of 3 x ``size`` x ``size`` with balanced labels."""
    generator = torch.Generator().manual_seed(stream_seed(options.seed, 0))
    coarse = torch.rand(options.num_classes, 3, 4, 4, generator=generator) * 160 + 48
    patterns = functional.interpolate(coarse, size=(size, size), mode="bilinear")
    train_images, train_labels = _generate_part(options.train_count, patterns, options, stream=1)
    test_images, test_labels = _generate_part(options.test_count, patterns, options, stream=2)
    return ImageData(
        name="synthetic",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        num_classes=options.num_classes,
        origin=f"generated, seed {options.seed}",
        real=False,
        flip_keeps_label=False,
    )


def _generate_part(
    count: int, patterns: torch.Tensor, options: SyntheticOptions, stream: int
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(stream_seed(options.seed, stream))
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
