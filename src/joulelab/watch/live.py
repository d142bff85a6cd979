"""Shows a place again and again, until it ends or the person has seen enough."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time

import click
from rich.console import Console, Group, ScreenContext
from rich.text import Text

from joulelab.watch.line import line
from joulelab.watch.model import View
from joulelab.watch.places import Place
from joulelab.watch.screen import screen
from joulelab.watch.terminal import Terminal, Wish

FRAME_S = 0.5
FIRST_S = 10.0
"""So long something new is waited for before the first readings, where one frame is asked for."""
_LOOK_S = 0.1


def watch(place: Place, interval_s: float) -> None:
    """Shows frames in a terminal, or else a line each so often, until the end or a key.

    Args:
        place: What is watched.
        interval_s: Between two lines.
    """
    console = Console(highlight=False)
    if console.is_terminal and not console.is_dumb_terminal and _in_foreground():
        _frames(place, console)
    else:
        _lines(place, interval_s)


def look_once(place: Place) -> View:
    """The first view that shows something."""
    words, deadline_s = "", math.inf
    while (view := place.look()).state == "waiting":
        if view.state_words != words:
            words, deadline_s = view.state_words, time.monotonic() + FIRST_S
        if time.monotonic() >= deadline_s:
            break
        time.sleep(_LOOK_S)
    return view


def print_frame(view: View, console: Console | None = None) -> None:
    """One frame, as lines that stay."""
    console = console or Console(highlight=False)
    for text in screen(view, console.width, plain=not _has_unicode(console)):
        console.print(text, soft_wrap=True)


def _frames(place: Place, console: Console) -> None:
    view = View(title="joulelab watch", state="waiting", state_words="reading")
    while not _is_over(view):
        with Terminal() as terminal, console.screen() as shown:
            view, wish = _until_a_wish(place, view, console, terminal, shown)
        if wish is Wish.QUIT:
            break
        if wish is Wish.SUSPEND:
            os.kill(os.getpid(), signal.SIGSTOP)
    if _is_over(view):
        print_frame(view, console)
    else:
        click.echo(line(view))


def _until_a_wish(
    place: Place, view: View, console: Console, terminal: Terminal, shown: ScreenContext
) -> tuple[View, Wish]:
    """Draws until the end or a wish, and gives the last view."""
    try:
        while True:
            shown.update(Group(*_frame(view, console)))
            wish = terminal.wish_within(FRAME_S)
            if wish is not Wish.NOTHING:
                return view, wish
            view = place.look()
            if _is_over(view):
                return view, Wish.NOTHING
    except KeyboardInterrupt:
        return view, Wish.QUIT


def _frame(view: View, console: Console) -> list[Text]:
    """The lines that the terminal has room for, and one at the bottom."""
    width, height = console.size
    lines = screen(view, width, plain=not _has_unicode(console))
    room = max(height - 2, 1)
    more = f" - {len(lines) - room} more lines need a higher terminal" if len(lines) > room else ""
    lines = [*lines[:room], *(Text() for _ in range(room - len(lines)))]
    return [*lines, Text(), Text(f"q quits{more}", style="dim")]


def _lines(place: Place, interval_s: float) -> None:
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        while True:
            view = place.look()
            click.echo(line(view))
            if _is_over(view):
                return
            time.sleep(interval_s)


def _is_over(view: View) -> bool:
    return view.state in ("ended", "lost")


def _in_foreground() -> bool:
    """Whether the terminal is this process's to write to and to read from."""
    try:
        return os.tcgetpgrp(sys.stdout.fileno()) == os.getpgrp()
    except OSError:
        return False


def _has_unicode(console: Console) -> bool:
    return console.encoding.startswith("utf")
