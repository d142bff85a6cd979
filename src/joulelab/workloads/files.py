"""Finding, reading and fetching the files of a data set."""

from __future__ import annotations

import gzip
import http.client
import socket
import tempfile
import urllib.error
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from joulelab.errors import DatasetError
from joulelab.storage import home

T = TypeVar("T")

TIMEOUT_S = 30.0
"""A download that receives nothing for so long has failed."""


def data_directories(root: str | Path | None) -> list[Path]:
    """Where data sets are looked for: ``root``, ``data`` in JouleLab's home, ``./data``."""
    given = [Path(root).expanduser()] if root is not None else []
    return [*given, home() / "data", Path.cwd() / "data"]


def first_that_holds(places: Iterable[Path], names: Iterable[str]) -> Path | None:
    """The first directory that holds a file of each name, plain or with ``.gz``.

    Raises:
        DatasetError: A directory cannot be looked into.
    """
    names = list(names)
    for place in places:
        with readable(place):
            if all(either(place / name) for name in names):
                return place
    return None


def either(path: Path) -> Path | None:
    """The path or, with ``.gz`` added, its compressed form; ``None`` where neither is a file."""
    packed = path.with_name(f"{path.name}.gz")
    return path if path.is_file() else packed if packed.is_file() else None


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Maps what reading a file can raise.

    Raises:
        DatasetError: The file cannot be read, or is damaged.
    """
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DatasetError(f"{path} is damaged", why=str(error), hint="fetch it again") from error
    except OSError as error:
        raise DatasetError(
            f"cannot read {path}", why=error.strerror or str(error), hint="check its permissions"
        ) from error


def read_exactly(path: Path, size_bytes: int) -> bytes:
    """The content of a plain or gzip file that must be ``size_bytes`` long when unpacked.

    Raises:
        DatasetError: It is unreadable, damaged, shorter or longer.
    """
    with readable(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content = file.read(size_bytes + 1)
    if len(content) != size_bytes:
        length = "longer" if len(content) > size_bytes else f"{len(content):,} bytes long"
        raise DatasetError(
            f"{path} is damaged",
            why=f"it should be {size_bytes:,} bytes long and is {length}",
            hint="fetch it again",
        )
    return content


def fetch(url: str, directory: Path, *, md5: str) -> Path:
    """Downloads a file, checks it and puts it into the directory, whole or not at all.

    Args:
        url: Of the file.
        directory: Made if missing.
        md5: As published with the file.

    Raises:
        DatasetError: It could not be fetched or stored, or is not what was published.
    """
    from torchvision.datasets.utils import download_url  # noqa: PLC0415  (slow to import)

    name = url.rpartition("/")[2]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".fetching-") as aside:
            _with_timeout(lambda: download_url(url, aside, filename=name, md5=md5))
            (Path(aside) / name).replace(directory / name)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise DatasetError(
            f"cannot download {url}",
            why=str(error) or type(error).__name__,
            hint=f"check the network, or fetch it elsewhere and put it into {directory}",
        ) from error
    return directory / name


def _with_timeout(action: Callable[[], T]) -> T:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        return action()
    finally:
        socket.setdefaulttimeout(before)
