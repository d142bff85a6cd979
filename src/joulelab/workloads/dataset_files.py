"""Find, read, verify and download the files of a data set."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import shutil
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import wrap_file

from joulelab.errors import DatasetError
from joulelab.storage import home

TIMEOUT_S = 30.0
"""A download fails if it receives nothing for this long."""


def data_directories(root: str | Path | None) -> list[Path]:
    """Return where to search for data sets: ``root``, ``data`` in JouleLab's home, ``./data``."""
    given = [Path(root).expanduser()] if root is not None else []
    return [*given, home() / "data", Path.cwd() / "data"]


def find_directory(directories: Iterable[Path], names: Iterable[str]) -> Path | None:
    """Return the first directory that contains all files, either plain or with ``.gz``."""
    names = list(names)
    for directory in directories:
        with readable(directory):
            if all(plain_or_gzip(directory / name) for name in names):
                return directory
    return None


def first_existing(paths: Iterable[Path]) -> Path | None:
    """Return the first path that exists."""
    for path in paths:
        with readable(path):
            if path.exists():
                return path
    return None


def plain_or_gzip(path: Path) -> Path | None:
    """Return the path or its compressed form with ``.gz``; ``None`` if neither is a file."""
    packed = path.with_name(f"{path.name}.gz")
    return path if path.is_file() else packed if packed.is_file() else None


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Map errors of reading a file to a DatasetError: it is unreadable or damaged."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DatasetError(
            f"{path} is damaged", why=str(error), hint="download it again"
        ) from error
    except OSError as error:
        raise DatasetError(
            f"cannot read {path}", why=error.strerror or str(error), hint="check its permissions"
        ) from error


def read_exactly(path: Path, size_bytes: int) -> bytes:
    """Read a plain or gzip file, which must have exactly ``size_bytes`` when unpacked."""
    with readable(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content = file.read(size_bytes + 1)
    if len(content) != size_bytes:
        length = "longer" if len(content) > size_bytes else f"{len(content):,} bytes long"
        raise DatasetError(
            f"{path} is damaged",
            why=f"it should be {size_bytes:,} bytes long but is {length}",
            hint="download it again",
        )
    return content


def require_md5(path: Path, published: str) -> None:
    """Compare a file with its published MD5 sum, to detect damage and mix-ups."""
    with readable(path), path.open("rb") as file:
        actual = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if actual != published:
        raise DatasetError(
            f"{path} is damaged",
            why=f"its MD5 sum is {actual}, but the published one is {published}",
            hint="download it again",
        )


def download(url: str, directory: Path, *, md5: str) -> Path:
    """Download a file, verify its MD5 sum and move it into the directory."""
    name = url.rpartition("/")[2]
    console = Console(stderr=True)
    request = urllib.request.Request(url, headers={"User-Agent": "joulelab"})  # noqa: S310
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".download-") as partial:
            path = Path(partial) / name
            with (
                urllib.request.urlopen(request, timeout=TIMEOUT_S) as response,  # noqa: S310
                wrap_file(
                    response,
                    response.length or 0,
                    description=f"Downloading {name}",
                    console=console,
                    transient=True,
                    disable=not console.is_terminal,
                ) as source,
                path.open("wb") as file,
            ):
                shutil.copyfileobj(source, file)
            require_md5(path, md5)
            path.replace(directory / name)
    except (OSError, http.client.HTTPException, DatasetError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise DatasetError(
            f"cannot download {url}",
            why=getattr(error, "why", "") or str(error) or type(error).__name__,
            hint=f"check the network, or download it elsewhere and put it into {directory}",
        ) from error
    return directory / name
