"""Image classification data sets as tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from joulelab.errors import DatasetError, nearest
from joulelab.workloads.cifar10 import load_cifar10
from joulelab.workloads.fashion_mnist import load_fashion_mnist
from joulelab.workloads.images import ImageData, as_rgb, image_data
from joulelab.workloads.synthetic import SyntheticOptions, load_synthetic

DATASETS = ("cifar10", "fashion-mnist", "digits", "synthetic")

__all__ = ["DATASETS", "ImageData", "SyntheticOptions", "load_dataset"]


def load_dataset(
    name: str,
    *,
    root: str | Path | None = None,
    download: bool = False,
    image_size: int | None = None,
    synthetic: SyntheticOptions | None = None,
) -> ImageData:
    """A data set by name, as 3 x 32 x 32 images in memory.

    Args:
        name: ``"cifar10"`` and ``"fashion-mnist"`` are looked for in ``root``,
            ``data`` in JouleLab's home (``$JOULELAB_HOME``, else ``joulelab`` in the user's data
            directory) and ``./data``, and the latter where Debian's package puts it too;
            ``"digits"`` ships with scikit-learn; ``"synthetic"`` is generated.
        root: A directory that is looked into first.
        download: Whether a data set that is not found may be fetched, into the first of the
            directories above. Nothing is fetched otherwise.
        image_size: Height and width to resize to; ``None`` for 32.
        synthetic: What to generate; ``None`` for the defaults of :class:`SyntheticOptions`.

    Raises:
        DatasetError: No such data set, it is not there, or it is damaged; the message says what was
            looked at and what to do.
        UserError: ``image_size`` is not a positive whole number.

    Example:
        >>> digits = load_dataset("digits")
        >>> tuple(digits.train_images.shape), tuple(digits.test_images.shape), digits.real
        ((1437, 3, 32, 32), (360, 3, 32, 32), True)
    """
    match name:
        case "cifar10":
            return load_cifar10(root, download=download, image_size=image_size)
        case "fashion-mnist":
            return load_fashion_mnist(root, download=download, image_size=image_size)
        case "digits":
            return _load_digits(image_size)
        case "synthetic":
            return load_synthetic(synthetic or SyntheticOptions(), image_size=image_size)
        case _:
            raise DatasetError(f"no data set {name!r}", hint=nearest(str(name), DATASETS))


def _load_digits(image_size: int | None) -> ImageData:
    """scikit-learn's 1,797 scans of handwritten digits, 8 x 8 in 17 grey levels.

    They are the test set of E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits,
    UCI, 1998. Scaled to 0..255, enlarged to 32 x 32 (bilinear), three equal channels; a fixed
    split, stratified by class, into 1,437 for training and 360 for testing.
    """
    import sklearn  # noqa: PLC0415  (slow to import, and needed by this data set alone)
    from sklearn.datasets import load_digits  # noqa: PLC0415
    from sklearn.model_selection import train_test_split  # noqa: PLC0415

    scans, classes = load_digits(return_X_y=True)
    train, test = train_test_split(
        np.arange(len(classes)), test_size=360, random_state=0, stratify=classes
    )
    grey = torch.from_numpy(scans.reshape(-1, 1, 8, 8)).to(torch.float32) * (255 / 16)
    enlarged = functional.interpolate(grey, size=(32, 32), mode="bilinear")
    images = as_rgb(enlarged.round().clamp(0, 255).to(torch.uint8).squeeze(1))
    labels = torch.from_numpy(classes.astype(np.int64))
    return image_data(
        name="digits",
        train=(images[train], labels[train]),
        test=(images[test], labels[test]),
        num_classes=10,
        origin=f"scikit-learn {sklearn.__version__}",
        real=True,
        flip_keeps_label=False,
        image_size=image_size,
    )
