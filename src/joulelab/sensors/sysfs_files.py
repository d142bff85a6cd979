"""Numbers in the files of drivers, read cheaply and without waiting."""

from __future__ import annotations

import os
from pathlib import Path

LONGEST_TEXT = 256
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def read_text(path: str | Path, directory: int | None = None) -> str:
    """Read a short file, by its path from an open directory if there is one.

    Raises:
        OSError: It cannot be read, or has nothing to read now.
    """
    # A file object would take three times as long, many times a second.
    descriptor = os.open(path, _FLAGS, dir_fd=directory)
    try:
        return os.read(descriptor, LONGEST_TEXT).decode(errors="replace").strip()
    finally:
        os.close(descriptor)


def read_number(path: str | Path, directory: int | None = None) -> int:
    """Read a non-negative integer from a file.

    Raises:
        OSError: It cannot be read.
        ValueError: It contains anything else.
    """
    # A file may be empty for as long as it is being written.
    text = read_text(path, directory) or read_text(path, directory)
    if not (text.isascii() and text.isdigit()):
        # A reason that has the number in it would be another one each time.
        found = "a negative number" if text.startswith("-") else f"{text!r}, not a number"
        raise ValueError(f"{Path(path).name} contains {found}")
    return int(text)


def read_number_or_none(path: str | Path, directory: int | None = None) -> int | None:
    """Read a non-negative integer from a file; ``None`` if that is not possible."""
    try:
        return read_number(path, directory)
    except (OSError, ValueError):
        return None


def failure_reason(error: OSError | ValueError) -> str:
    """Explain why a file gave no number."""
    if isinstance(error, OSError):
        return (error.strerror or type(error).__name__).lower()
    return str(error)
