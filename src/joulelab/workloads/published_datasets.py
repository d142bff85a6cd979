"""CIFAR-10 and Fashion-MNIST, read from their published files.

CIFAR-10 (A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009) is read in two
forms. The *binary version* is six files of records: a label byte, then 3 x 32 x 32 bytes. The
*python version*, which torchvision stores, is six pickles. Loading a pickle can run any code in it,
so none is loaded: each file must have its published MD5 sum, and then its opcodes are only *listed*
with :func:`pickletools.genops`, which executes nothing. The pixels are the only byte string of the
right length, and the labels are the integers that follow the word ``labels``.

Fashion-MNIST (H. Xiao, K. Rasul, R. Vollgraf, 2017, arXiv:1708.07747) is read from its IDX files.
"""

from __future__ import annotations

import gzip
import math
import pickletools
import struct
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from joulelab.errors import DatasetError
from joulelab.format import join_words
from joulelab.workloads.dataset_files import (
    data_directories,
    download,
    find_directory,
    first_existing,
    plain_or_gzip,
    read_exactly,
    readable,
    require_md5,
)
from joulelab.workloads.images import ImageData, to_rgb

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
# MD5 sums as published at https://www.cs.toronto.edu/~kriz/cifar.html, of torchvision's files as in
# torchvision.datasets.CIFAR10.
CIFAR10_ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10_BINARY_FOLDER = "cifar-10-batches-bin"
CIFAR10_PYTHON_FOLDER = "cifar-10-batches-py"
CIFAR10_PYTHON_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
CIFAR10_BINARY_NAMES = [f"{name}.bin" for name in CIFAR10_PYTHON_MD5]
CIFAR10_IMAGES_PER_FILE = 10_000
CIFAR10_PIXEL_BYTES = 3 * 32 * 32

FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
"""Files and the MD5 sums of their compressed forms, as in torchvision.datasets.FashionMNIST."""

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Location of Debian's package ``dataset-fashion-mnist``."""

Bytes = npt.NDArray[np.uint8]


def load_cifar10(root: str | Path | None, *, allow_download: bool) -> ImageData:
    """Load CIFAR-10: 50,000 training and 10,000 test images, 3 x 32 x 32, in 10 classes.

    Search ``root`` first. If there is no copy, the binary archive may be downloaded into it.
    """
    directories = data_directories(root)
    readers = {
        CIFAR10_BINARY_FOLDER: _read_cifar10_binary,
        CIFAR10_ARCHIVE: _read_cifar10_archive,
        CIFAR10_PYTHON_FOLDER: _read_cifar10_python,
    }
    path = first_existing(directory / name for directory in directories for name in readers)
    if path is None and allow_download:
        path = download(CIFAR10_URL, directories[0], md5=CIFAR10_ARCHIVE_MD5)
    if path is None:
        raise DatasetError(
            "no copy of cifar10",
            why=f"there is no {join_words(list(readers), 'or')} in "
            + ", ".join(map(str, directories)),
            hint=f"put {CIFAR10_ARCHIVE} into one of these, or set download = true",
        )
    files = readers[path.name](path)
    train_images, train_labels = _join(files[:-1])
    test_images, test_labels = _join(files[-1:])
    return ImageData(
        name="cifar10",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        num_classes=10,
        origin=str(path),
        real=True,
    )


def load_fashion_mnist(root: str | Path | None, *, allow_download: bool) -> ImageData:
    """Load Fashion-MNIST: 60,000 training and 10,000 test images of clothes in 10 classes.

    The grey images of 28 x 28 are padded with black to 32 x 32 and get three equal channels. The
    files may be in a directory itself, in its ``fashion-mnist/`` or in its ``FashionMNIST/raw/``
    (torchvision's location), plain or gzip.
    """
    directories = data_directories(root)
    below = ("", "fashion-mnist", "FashionMNIST/raw")
    searched = [directory / part for directory in directories for part in below]
    folder = find_directory([*searched, DEBIAN_FOLDER], FASHION_MD5)
    if folder is None and allow_download:
        folder = directories[0] / "FashionMNIST" / "raw"
        for name, md5 in FASHION_MD5.items():
            download(f"{FASHION_URL}{name}.gz", folder, md5=md5)
    if folder is None:
        raise DatasetError(
            "no copy of fashion-mnist",
            why=f"there is no {next(iter(FASHION_MD5))}[.gz] with its three companions in "
            + ", ".join(map(str, [*searched, DEBIAN_FOLDER])),
            hint="install Debian's package dataset-fashion-mnist, put the files into one of "
            "these, or set download = true",
        )
    train_images, train_labels, test_images, test_labels = (
        read_idx(plain_or_gzip(folder / name) or folder / name) for name in FASHION_MD5
    )
    return ImageData(
        name="fashion-mnist",
        train_images=_prepare_fashion(train_images, folder),
        train_labels=train_labels.to(torch.int64),
        test_images=_prepare_fashion(test_images, folder),
        test_labels=test_labels.to(torch.int64),
        num_classes=10,
        origin=str(folder),
        real=True,
    )


def read_idx(path: Path) -> torch.Tensor:
    """Read the uint8 array in an IDX file, plain or gzip.

    The format (Y. LeCun, C. Cortes, C. Burges, the MNIST database): two zero bytes, a type byte (8
    for uint8), the number of dimensions, then each length as a big-endian uint32, then the values.
    The name, ``...-idxN-ubyte``, states the number of dimensions too.
    """
    dimensions = int(path.name.split("-idx")[1][0])
    header_bytes = 4 + 4 * dimensions
    with readable(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        header = file.read(header_bytes)
    if len(header) < header_bytes or header[:4] != bytes((0, 0, 8, dimensions)):
        raise DatasetError(
            f"{path} is not an IDX file of {dimensions} dimensions",
            why=f"it starts with {header[:4].hex(' ') or 'nothing'}",
            hint="download it again",
        )
    shape = struct.unpack(f">{dimensions}I", header[4:])
    content = read_exactly(path, header_bytes + math.prod(shape))
    values = np.frombuffer(content, dtype=np.uint8, offset=header_bytes).reshape(shape)
    return torch.from_numpy(values.copy())


def _prepare_fashion(images: torch.Tensor, folder: Path) -> torch.Tensor:
    if images.shape[1:] != (28, 28):
        shape = " x ".join(str(length) for length in images.shape[1:])
        raise DatasetError(f"the images in {folder} are {shape}", why="they should be 28 x 28")
    return to_rgb(functional.pad(images, (2, 2, 2, 2)))


CifarFiles = list[tuple[Bytes, Bytes]]
"""Pixels and labels of five training files and a test file."""


def _join(files: CifarFiles) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = np.concatenate([pixels for pixels, _ in files]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([labels for _, labels in files]).astype(np.int64)
    return torch.from_numpy(pixels), torch.from_numpy(labels)


def _read_cifar10_binary(folder: Path) -> CifarFiles:
    size_bytes = _binary_size_bytes()
    return [_parse_binary(read_exactly(folder / name, size_bytes)) for name in CIFAR10_BINARY_NAMES]


def _read_cifar10_archive(path: Path) -> CifarFiles:
    require_md5(path, CIFAR10_ARCHIVE_MD5)
    with readable(path), tarfile.open(path) as archive:
        return [_parse_member(archive, name, path) for name in CIFAR10_BINARY_NAMES]


def _parse_member(archive: tarfile.TarFile, name: str, path: Path) -> tuple[Bytes, Bytes]:
    try:
        file = archive.extractfile(f"{CIFAR10_BINARY_FOLDER}/{name}")
    except KeyError:
        file = None
    content = file.read(_binary_size_bytes() + 1) if file else b""
    if len(content) != _binary_size_bytes():
        raise DatasetError(f"{path} is damaged", why=f"{name} differs from the published file")
    return _parse_binary(content)


def _binary_size_bytes() -> int:
    return CIFAR10_IMAGES_PER_FILE * (1 + CIFAR10_PIXEL_BYTES)


def _parse_binary(content: bytes) -> tuple[Bytes, Bytes]:
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + CIFAR10_PIXEL_BYTES)
    return records[:, 1:], records[:, 0]


def _read_cifar10_python(folder: Path) -> CifarFiles:
    files = []
    for name, md5 in CIFAR10_PYTHON_MD5.items():
        path = folder / name
        require_md5(path, md5)
        with readable(path):
            files.append(_parse_pickle(path.read_bytes(), path))
    return files


def _parse_pickle(content: bytes, path: Path) -> tuple[Bytes, Bytes]:
    pixels, labels, in_labels = b"", list[int](), False
    for opcode, argument, _ in pickletools.genops(content):
        if in_labels and isinstance(argument, int) and opcode.name.startswith("BININT"):
            labels.append(argument)
        elif isinstance(argument, str):
            in_labels = argument == "labels"
            if len(argument) == CIFAR10_IMAGES_PER_FILE * CIFAR10_PIXEL_BYTES:
                pixels = argument.encode("latin-1")
    if not pixels or len(labels) != CIFAR10_IMAGES_PER_FILE:
        raise DatasetError(f"{path} is not a CIFAR-10 batch")
    return (
        np.frombuffer(pixels, dtype=np.uint8).reshape(-1, CIFAR10_PIXEL_BYTES),
        np.array(labels, dtype=np.uint8),
    )
