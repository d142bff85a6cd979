"""The terminal while something is watched: single keys, and a size that changes."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from enum import Enum, auto
from types import FrameType
from typing import Any, Self

_QUIT = {b"q", b"Q", b"\x04"}
"""q and Ctrl-D; Ctrl-C comes as a signal."""
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Wish(Enum):
    """What a person wants."""

    NOTHING = auto()
    QUIT = auto()
    SUSPEND = auto()


class Terminal:
    """Within it keys come at once and are not echoed; afterwards all is as it was.

    SIGTERM and SIGHUP end the program by :class:`SystemExit`, so that this is so then too; SIGTSTP
    (Ctrl-Z) is a wish, so that the terminal can be given back before.
    """

    def __init__(self) -> None:
        self._input: int | None = None
        self._modes: list[Any] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._woken, self._wakes = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wakes, False)
        self._before = signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        for number in _ENDING:
            self._handlers[number] = signal.signal(number, _end)
        for number in (signal.SIGWINCH, signal.SIGTSTP):
            self._handlers[number] = signal.signal(number, _nothing)
        if sys.stdin is not None and sys.stdin.isatty():
            self._input = sys.stdin.fileno()
            self._modes = termios.tcgetattr(self._input)
            tty.setcbreak(self._input, termios.TCSANOW)
        return self

    def __exit__(self, *_: object) -> None:
        if self._input is not None:
            termios.tcsetattr(self._input, termios.TCSANOW, self._modes)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._before)
        os.close(self._woken)
        os.close(self._wakes)

    def wish_within(self, duration_s: float) -> Wish:
        """Waits so long, less when the terminal's size changes or a wish is made."""
        watched = [self._woken] if self._input is None else [self._woken, self._input]
        ready, _, _ = select.select(watched, [], [], duration_s)
        if self._woken in ready and signal.SIGTSTP in os.read(self._woken, 4096):
            return Wish.SUSPEND
        if self._input is None or self._input not in ready:
            return Wish.NOTHING
        key = os.read(self._input, 1)
        if not key:
            self._input = None
        return Wish.QUIT if key in _QUIT else Wish.NOTHING


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Only wakes who waits."""
