"""Where JouleLab keeps what it learns about a machine, and how a file appears whole."""

from __future__ import annotations

import contextlib
import os

from joulelab.errors import UserError

TYPE_CHECKING = False  # A command under ``joulelab run`` would wait 7 ms for typing and pathlib.
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENVIRONMENT = "JOULELAB_HOME"


def home() -> Path:
    """``$JOULELAB_HOME``, or ``joulelab`` in the user's data directory. It may not exist yet."""
    from pathlib import Path  # noqa: PLC0415

    return Path(home_path())


def home_path() -> str:
    """:func:`home` as text."""
    chosen = os.environ.get(ENVIRONMENT)
    if chosen:
        return chosen
    data = os.environ.get("XDG_DATA_HOME")
    return os.path.join(data or os.path.expanduser("~/.local/share"), "joulelab")  # noqa: PTH111, PTH118


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Says what is wrong where a file that was asked for cannot be written in the block.

    Raises:
        UserError: So it is.

    Example:
        >>> with writing("/x"):
        ...     raise PermissionError(13, "Permission denied")
        Traceback (most recent call last):
        joulelab.errors.UserError: cannot write /x: Permission denied
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}", why=error.strerror or str(error)) from error


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that is seen whole or not at all, also after a power failure.

    A pipe or a device, as ``/dev/stdout``, is written to and never replaced.

    Raises:
        OSError: The directory cannot be written to, or the disk is full. Nothing is left behind.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
