"""Writing so that nothing is ever half there, and saying plainly why it could not be written."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from joulelab import storage as home
from joulelab.errors import StoreError

_HINTS = {
    errno.ENOSPC: "make room there and start again; all finished runs are kept",
    errno.EDQUOT: "make room there and start again; all finished runs are kept",
    errno.EACCES: "give yourself access, or choose another directory",
    errno.EPERM: "give yourself access, or choose another directory",
    errno.EROFS: "choose another directory",
    errno.ENOTDIR: "choose another directory",
    errno.EEXIST: "choose another directory",
}


@contextmanager
def mapped(doing: str) -> Iterator[None]:
    """Maps what the operating system raises in the block.

    Args:
        doing: What the block does, as ``"cannot write /x"``.

    Raises:
        StoreError: One line with the reason and the hint.
    """
    try:
        yield
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "")
        raise StoreError(doing, why=error.strerror or str(error), hint=hint) from error


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is either not there or complete, also after a power cut.

    Raises:
        StoreError: It cannot be written.
    """
    with mapped(f"cannot write {path}"):
        home.write_whole(path, text.encode())


def sync(path: Path) -> None:
    """Waits until a file's content, or a directory's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Lock:
    """Held by one process at a time. The kernel releases it when that process ends."""

    def __init__(self, path: Path) -> None:
        with mapped(f"cannot write {path}"):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise StoreError(
                f"{path.parent} is in use",
                why=f"process {holder or 'unknown'} is running this study",
                hint="wait for it to end, or choose another directory",
            ) from None
        with mapped(f"cannot write {path}"):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Lets the next one in."""
        os.close(self._descriptor)
