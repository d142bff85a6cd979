"""Fashion-MNIST (H. Xiao, K. Rasul, R. Vollgraf, 2017, arXiv:1708.07747), from its IDX files."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from joulelab.errors import DatasetError
from joulelab.workloads.files import (
    data_directories,
    either,
    fetch,
    first_that_holds,
    read_exactly,
    readable,
)
from joulelab.workloads.images import ImageData, as_rgb, image_data

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts it."""
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def load_fashion_mnist(
    root: str | Path | None, *, download: bool, image_size: int | None
) -> ImageData:
    """Fashion-MNIST: 60,000 training and 10,000 test images of clothes in 10 classes.

    The grey images of 28 x 28 are padded with black to 32 x 32 and given three equal channels.

    Args:
        root: Looked into first; the files may lie in it, in ``fashion-mnist/`` or in
            ``FashionMNIST/raw/`` (torchvision's place), plain or gzip.
        download: Whether they may be fetched, into the first directory of the search, when no copy
            is found.
        image_size: As for :func:`joulelab.workloads.datasets.load_dataset`.

    Raises:
        DatasetError: It is not there, damaged, or could not be fetched.
    """
    directories = data_directories(root)
    places = [
        place
        for directory in directories
        for place in (directory, directory / "fashion-mnist", directory / "FashionMNIST" / "raw")
    ]
    places.append(DEBIAN_FOLDER)
    folder = first_that_holds(places, FILES)
    if folder is None and download:
        folder = directories[0] / "FashionMNIST" / "raw"
        _fetch_all(folder)
    if folder is None:
        raise DatasetError(
            "no copy of fashion-mnist",
            why=f"looked for {FILES[0]}[.gz] and its three siblings in "
            + ", ".join(str(place) for place in places),
            hint="install Debian's package dataset-fashion-mnist, put the files into one of "
            "these, or set download = true",
        )
    train_images, train_labels, test_images, test_labels = (
        read_idx(either(folder / name) or folder / name) for name in FILES
    )
    return image_data(
        name="fashion-mnist",
        train=(_prepared(train_images, folder), train_labels.to(torch.int64)),
        test=(_prepared(test_images, folder), test_labels.to(torch.int64)),
        num_classes=10,
        origin=str(folder),
        real=True,
        image_size=image_size,
    )


def _fetch_all(folder: Path) -> None:
    from torchvision.datasets import FashionMNIST  # noqa: PLC0415  (slow to import)

    for name, md5 in FashionMNIST.resources:
        fetch(f"{FashionMNIST.mirrors[0]}{name}", folder, md5=md5)


def _prepared(images: torch.Tensor, folder: Path) -> torch.Tensor:
    if images.shape[1:] != (28, 28):
        shape = " x ".join(str(length) for length in images.shape[1:])
        raise DatasetError(f"the images in {folder} are {shape}", why="they should be 28 x 28")
    return as_rgb(functional.pad(images, (2, 2, 2, 2)))


def read_idx(path: Path) -> torch.Tensor:
    """The uint8 array in an IDX file, plain or gzip.

    The format (Y. LeCun, C. Cortes, C. Burges, the MNIST database): two zero bytes, a type byte (8
    for uint8), the number of dimensions, then each length as a big-endian uint32, then the values.

    Args:
        path: 1 dimension (labels) or 3 (images), as the name says: ``...-idxN-ubyte``.

    Raises:
        DatasetError: It is unreadable, or not such a file.
    """
    dimensions = int(path.name.split("-idx")[1][0])
    header_bytes = 4 + 4 * dimensions
    with readable(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        header = file.read(header_bytes)
    if len(header) < header_bytes or header[:4] != bytes((0, 0, 8, dimensions)):
        raise DatasetError(
            f"{path} is not an IDX file of {dimensions} dimensions",
            why=f"it starts with {header[:4].hex(' ') or 'nothing'}",
            hint="fetch it again",
        )
    shape = struct.unpack(f">{dimensions}I", header[4:])
    content = read_exactly(path, header_bytes + math.prod(shape))
    values = np.frombuffer(content, dtype=np.uint8, offset=header_bytes).reshape(shape)
    return torch.from_numpy(values.copy())
