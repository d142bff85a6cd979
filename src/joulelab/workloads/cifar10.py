"""CIFAR-10 (A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009).

Two forms of it are read. The *binary version* is six files of records: a label byte, then 3 x 32 x
32 bytes. The *python version*, which torchvision leaves behind, is six pickles. Loading a pickle
can run any code that its author wished, so none is loaded: each file must first have the MD5 sum
that torchvision publishes for it, and then its opcodes are only *listed*, with
:func:`pickletools.genops`, which executes nothing; the pixels are the one byte string of the right
length and the labels the integers that follow the word ``labels``.
"""

from __future__ import annotations

import hashlib
import pickletools
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from joulelab.errors import DatasetError
from joulelab.workloads.files import data_directories, fetch, read_exactly, readable
from joulelab.workloads.images import ImageData, image_data

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
# Published beside the archive, at https://www.cs.toronto.edu/~kriz/cifar.html
ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
ARCHIVE = "cifar-10-binary.tar.gz"
BINARY_FOLDER = "cifar-10-batches-bin"
PYTHON_FOLDER = "cifar-10-batches-py"
CLASSES = 10
IMAGES_PER_FILE = 10_000
PIXEL_BYTES = 3 * 32 * 32

Bytes = npt.NDArray[np.uint8]
Part = tuple[torch.Tensor, torch.Tensor]


def load_cifar10(root: str | Path | None, *, download: bool, image_size: int | None) -> ImageData:
    """CIFAR-10: 50,000 training and 10,000 test images, 3 x 32 x 32, in 10 classes.

    Args:
        root: Looked into first.
        download: Whether the binary archive may be fetched, into the first directory of the
            search, when no copy is found.
        image_size: As for :func:`joulelab.workloads.datasets.load_dataset`.

    Raises:
        DatasetError: It is not there, damaged, or could not be fetched.
    """
    directories = data_directories(root)
    found = _find(directories)
    if found is None and download:
        found = _read_archive, fetch(URL, directories[0], md5=ARCHIVE_MD5)
    if found is None:
        raise DatasetError(
            "no copy of cifar10",
            why=f"looked for {BINARY_FOLDER}, {ARCHIVE} and {PYTHON_FOLDER} in "
            + ", ".join(str(directory) for directory in directories),
            hint=f"put {ARCHIVE} into one of these, or set download = true",
        )
    read, path = found
    train, test = read(path)
    return image_data(
        name="cifar10",
        train=train,
        test=test,
        num_classes=CLASSES,
        origin=str(path),
        real=True,
        image_size=image_size,
    )


def _find(
    directories: Sequence[Path],
) -> tuple[Callable[[Path], tuple[Part, Part]], Path] | None:
    for directory in directories:
        # torchvision's root is the folder that holds its folder; some name the inner one.
        for path, read in (
            (directory / BINARY_FOLDER, _read_binary_folder),
            (directory / ARCHIVE, _read_archive),
            (directory / PYTHON_FOLDER, _read_python_folder),
        ):
            with readable(path):
                if path.exists():
                    return read, path
    return None


def _joined(files: Sequence[tuple[Bytes, Bytes]]) -> tuple[Part, Part]:
    """Five training files and a test file, each (pixels, labels), as two parts."""

    def part(chosen: Sequence[tuple[Bytes, Bytes]]) -> Part:
        pixels = np.concatenate([pixels for pixels, _ in chosen])
        labels = np.concatenate([labels for _, labels in chosen])
        return (
            torch.from_numpy(pixels.reshape(-1, 3, 32, 32)),
            torch.from_numpy(labels.astype(np.int64)),
        )

    return part(files[:-1]), part(files[-1:])


def _binary_names() -> list[str]:
    return [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]


def _binary_size_bytes() -> int:
    return IMAGES_PER_FILE * (1 + PIXEL_BYTES)


def _parse_binary(content: bytes) -> tuple[Bytes, Bytes]:
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + PIXEL_BYTES)
    return records[:, 1:], records[:, 0]


def _read_binary_folder(folder: Path) -> tuple[Part, Part]:
    size_bytes = _binary_size_bytes()
    return _joined(
        [_parse_binary(read_exactly(folder / name, size_bytes)) for name in _binary_names()]
    )


def _read_archive(path: Path) -> tuple[Part, Part]:
    with readable(path), path.open("rb") as file:
        _require_md5(path, hashlib.file_digest(file, _md5).hexdigest(), ARCHIVE_MD5)
    with readable(path), tarfile.open(path) as archive:
        return _joined([_parse_member(archive, name, path) for name in _binary_names()])


def _parse_member(archive: tarfile.TarFile, name: str, path: Path) -> tuple[Bytes, Bytes]:
    try:
        file = archive.extractfile(f"{BINARY_FOLDER}/{name}")
    except KeyError:
        file = None
    content = file.read(_binary_size_bytes() + 1) if file else b""
    if len(content) != _binary_size_bytes():
        raise DatasetError(f"{path} is damaged", why=f"{name} is not as published")
    return _parse_binary(content)


def _read_python_folder(folder: Path) -> tuple[Part, Part]:
    from torchvision.datasets import CIFAR10  # noqa: PLC0415  (slow to import)

    return _joined(
        [
            _read_python_file(folder / name, published)
            for name, published in (*CIFAR10.train_list, *CIFAR10.test_list)
        ]
    )


def _read_python_file(path: Path, published_md5: str) -> tuple[Bytes, Bytes]:
    with readable(path):
        content = path.read_bytes()
    _require_md5(path, _md5(content).hexdigest(), published_md5)
    return _parse_python(content, path)


def _parse_python(content: bytes, path: Path) -> tuple[Bytes, Bytes]:
    pixels, labels, in_labels = b"", list[int](), False
    for opcode, argument, _ in pickletools.genops(content):
        if in_labels and isinstance(argument, int) and opcode.name.startswith("BININT"):
            labels.append(argument)
        elif isinstance(argument, str):
            in_labels = argument == "labels"
            if len(argument) == IMAGES_PER_FILE * PIXEL_BYTES:
                pixels = argument.encode("latin-1")
    if not pixels or len(labels) != IMAGES_PER_FILE:
        raise DatasetError(f"{path} is not a CIFAR-10 batch")
    return (
        np.frombuffer(pixels, dtype=np.uint8).reshape(-1, PIXEL_BYTES),
        np.array(labels, dtype=np.uint8),
    )


def _md5(content: bytes = b"") -> hashlib._Hash:
    # A check against damage and mix-ups, by the sum that is published; not for secrecy.
    return hashlib.md5(content, usedforsecurity=False)


def _require_md5(path: Path, actual: str, published: str) -> None:
    if actual != published:
        raise DatasetError(
            f"{path} is damaged",
            why=f"its MD5 sum is {actual} and the published one {published}",
            hint="fetch it again",
        )
