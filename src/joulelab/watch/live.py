"""Poll a source and show it: live in a terminal, as lines in a pipe, or once."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import sys
import termios
import time
import tty
from types import FrameType
from typing import Any, Self

import click
from rich.console import Console
from rich.live import Live

from joulelab.watch.screen import Frame, line
from joulelab.watch.sources import Source
from joulelab.watch.view import View

FRAME_S = 1.0
PATIENCE_S = 10.0
"""Without live display, how long to wait for progress before the first readings."""
_POLL_S = 0.1
_QUIT_KEYS = {b"q", b"Q", b"\x04"}
"""q and Ctrl-D; Ctrl-C comes as a signal."""


def watch(source: Source, interval_s: float) -> None:
    """Show a source until it ends or the user quits; as lines if the output is not a terminal."""
    console = Console(highlight=False)
    if console.is_terminal and not console.is_dumb_terminal and _is_in_foreground():
        _watch_on_screen(source, console)
    else:
        _watch_in_lines(source, interval_s)


def first_view(source: Source) -> View:
    """Poll until there are values to show."""
    reason, deadline_s = "", math.inf
    while (view := source.poll()).state == "waiting":
        if view.state_words != reason:
            reason, deadline_s = view.state_words, time.monotonic() + PATIENCE_S
        if time.monotonic() >= deadline_s:
            break
        time.sleep(_POLL_S)
    return view


def print_frame(view: View, console: Console | None = None) -> None:
    """Print one frame."""
    (console or Console(highlight=False)).print(Frame(view), end="")


def _watch_on_screen(source: Source, console: Console) -> None:
    view = View(title="joulelab watch", state="waiting", state_words="reading")
    live = Live(
        console=console, screen=True, auto_refresh=False,
        redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip
    # Ctrl-C is a way to quit, too.
    with contextlib.suppress(KeyboardInterrupt), _Keyboard() as keyboard, live:
        while not view.is_over and not keyboard.quit_requested:
            live.update(Frame(view, "q quits"), refresh=True)
            keyboard.wait(_POLL_S if view.state == "waiting" else FRAME_S, console)
            if keyboard.suspend_requested:
                live.stop()
                keyboard.suspend()
                live.start()
            view = source.poll()
    if view.is_over:
        print_frame(view, console)
    else:
        click.echo(line(view))


def _watch_in_lines(source: Source, interval_s: float) -> None:
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        while True:
            view = source.poll()
            click.echo(line(view))
            if view.is_over:
                return
            time.sleep(interval_s)


def _is_in_foreground() -> bool:
    """Report whether this process may write to the terminal and read from it."""
    try:
        return os.tcgetpgrp(sys.stdout.fileno()) == os.getpgrp()
    except OSError:
        return False


class _Keyboard:
    """Reads single keys without echo, and restores the terminal, also on SIGTERM and SIGHUP."""

    def __init__(self) -> None:
        self.quit_requested = self.suspend_requested = False
        self._has_input = sys.stdin is not None and sys.stdin.isatty()
        self._modes: list[Any] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP):
            self._handlers[number] = signal.signal(number, self._handle)
        self._set_modes()
        return self

    def __exit__(self, *_: object) -> None:
        self._restore_modes()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def wait(self, duration_s: float, console: Console) -> None:
        """Wait, but not longer than until there is a request or the terminal is resized."""
        size, deadline_s = console.size, time.monotonic() + duration_s
        while time.monotonic() < deadline_s and console.size == size:
            if self.quit_requested or self.suspend_requested:
                return
            ready, _, _ = select.select([sys.stdin] if self._has_input else [], [], [], _POLL_S)
            if ready:
                key = os.read(sys.stdin.fileno(), 1)
                self._has_input = bool(key)
                self.quit_requested = key in _QUIT_KEYS

    def suspend(self) -> None:
        """Stop this process as Ctrl-Z does, with the terminal restored in the meantime."""
        self.suspend_requested = False
        self._restore_modes()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._set_modes()

    def _set_modes(self) -> None:
        if self._has_input:
            self._modes = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin, termios.TCSANOW)

    def _restore_modes(self) -> None:
        if self._modes:
            termios.tcsetattr(sys.stdin, termios.TCSANOW, self._modes)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number != signal.SIGTSTP:
            sys.exit(128 + number)
        self.suspend_requested = True
