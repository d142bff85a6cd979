"""Where JouleLab saves what it learns, and how a file is written whole, locked and refused."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from joulelab.errors import StoreError

ENVIRONMENT = "JOULELAB_HOME"
LARGEST_RECORD_BYTES = 1 << 28
STALE_AFTER_S = 60.0
"""Files and directories that are not in use are not removed before: a process may be about to use
them."""

_PARTIAL = ".joulelab-", ".partial"
_FULL = "free some space and start again; everything that was finished is saved"
_HINTS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _FULL),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "give yourself access, or choose another path"),
    **dict.fromkeys((errno.EROFS, errno.ENOTDIR, errno.EEXIST), "choose another path"),
}


def home() -> Path:
    """Return ``$JOULELAB_HOME``, or ``joulelab`` in the user's data directory. It may not exist.

    A user without a data directory that can be written to (in a container, for example) gets a
    private one in the temporary directory; see :func:`home_note`.

    Raises:
        StoreError: That one belongs to another user.
    """
    chosen = os.environ.get(ENVIRONMENT)
    if chosen:
        return Path(chosen)
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")  # noqa: PTH111
    path = Path(data) / "joulelab"
    # Without a home directory, "~" remains: it must not become a directory of that name.
    if path.is_absolute() and (path.exists() or _can_be_made(path)):
        return path
    return private_directory(Path(tempfile.gettempdir()) / f"joulelab-{os.getuid()}") / "home"


def home_note() -> str:
    """Return a warning if what is saved may be lost at the next start; empty otherwise."""
    path = home()
    if os.environ.get(ENVIRONMENT) or Path(tempfile.gettempdir()) not in path.parents:
        return ""
    return (
        f"saved in {path}, which may be deleted, because this user has no home directory to "
        f"write to: set {ENVIRONMENT}"
    )


def _can_be_made(path: Path) -> bool:
    existing = next(one for one in path.parents if one.exists())
    return os.access(existing, os.W_OK | os.X_OK)


def private_directory(path: Path) -> Path:
    """Make a directory that only this user may use, and return its path.

    Raises:
        StoreError: It cannot be made, belongs to another user, or others may use it.
    """
    with file_errors(f"cannot use {path}"):
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StoreError(
            f"{path} is not private",
            why="it should be a directory that only its owner may use",
            hint=f"remove it, run chmod 700 {path}, or set {ENVIRONMENT}",
        )
    return path


@contextmanager
def file_errors(doing: str) -> Iterator[None]:
    """Map the errors of the operating system in a block to a StoreError with a hint.

    Args:
        doing: What fails if the block does, for example ``"cannot read /x"``.
    """
    try:
        yield
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "")
        raise StoreError(doing, why=error.strerror or str(error), hint=hint) from error


def writing(path: Path | str) -> AbstractContextManager[None]:
    """Map the errors of a block that writes a file."""
    return file_errors(f"cannot write {path}")


def write_whole(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a file that is seen whole or not at all, also after a power failure.

    A pipe or a device, for example ``/dev/stdout``, is written to and not replaced.

    Args:
        path: The file, which is replaced if it exists.
        data: Its content.
        private: Only this user may read the file; otherwise the umask decides.

    Raises:
        OSError: The directory cannot be written to, or the disk is full. Nothing is left behind.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    # In a directory of several users, no other user can put a link where this file will be.
    aside = path.with_name(f"{_PARTIAL[0]}{os.urandom(8).hex()}{_PARTIAL[1]}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(aside, flags, 0o600 if private else 0o666), "wb") as file:  # noqa: PTH123
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:  # Also Ctrl-C.
        with suppress(OSError):
            aside.unlink()
        raise
    sync(path.parent)


def is_partial(name: str) -> bool:
    """Report whether a file is what a kill has left of :func:`write_whole`."""
    return name.startswith(_PARTIAL[0]) and name.endswith(_PARTIAL[1])


def private_opener(path: str, flags: int) -> int:
    """Open a file for :func:`open` that only this user may use, if it does not exist yet."""
    return os.open(path, flags, 0o600)


def in_use(directory: Path) -> int:
    """Mark a directory as in use; return a descriptor that does so until it is closed.

    Raises:
        OSError: It cannot be opened.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with suppress(OSError):  # Some network file systems have no locks.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return descriptor


def is_in_use(directory: Path) -> bool:
    """Report whether a process has marked a directory by :func:`in_use`, or may have done so."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def remove_abandoned(prefix: str) -> None:
    """Remove this user's temporary directories of such names whose processes were all killed.

    Those in use must be marked by :func:`in_use` soon after they are made.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):
            found = path.lstat()
            is_old = time.time() - found.st_mtime > STALE_AFTER_S
            if is_old and found.st_uid == os.getuid() and not is_in_use(path):
                shutil.rmtree(path, ignore_errors=True)


def make_private_directories(path: Path) -> None:
    """Make a directory and those above it that are missing, which only this user may use.

    Raises:
        OSError: It cannot be made.
    """
    for one in reversed(path.parents):
        if not one.exists():
            one.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, without waiting for the writer of a pipe of that name.

    Raises:
        OSError: It cannot be read, or is a pipe, a device or a directory.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_whole(path: Path) -> bytes:
    """Read a file of at most :data:`LARGEST_RECORD_BYTES`.

    Raises:
        OSError: It cannot be read, is not a regular file, or is larger.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > LARGEST_RECORD_BYTES:
            raise OSError(errno.EFBIG, "it is too large for a record", str(path))
        return file.read()


def sync(path: Path) -> None:
    """Wait until the content of a file, or the entries of a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Lock:
    """A lock file that one process has at a time; the kernel releases it when that process ends.

    A child that inherits :attr:`descriptor` has the lock, too, until one of them releases it.

    Args:
        path: The file.
        resource: What is locked, for the error; by default the file's directory.
        use: What the process that has it is doing.
        hint: What else the user can do than wait.

    Raises:
        StoreError: Another process has it, or the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        resource: str = "",
        use: str = "running this study",
        hint: str = "choose another directory",
    ) -> None:
        with writing(path):
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self.descriptor, 32, 0).decode(errors="replace").strip()
            os.close(self.descriptor)
            raise StoreError(
                f"{resource or path.parent} is in use",
                why=f"process {owner or 'unknown'} is {use}",
                hint=f"wait for it to end, or {hint}",
            ) from None
        with writing(path):
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let another process have the lock, also if children have inherited it."""
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        os.close(self.descriptor)
