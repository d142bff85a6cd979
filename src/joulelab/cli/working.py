"""A sign of life on the terminal."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext


def working(what: str) -> AbstractContextManager[object]:
    """Shows that something is being done, where a person is looking."""
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=True)
    return console.status(what) if console.is_terminal else nullcontext()
