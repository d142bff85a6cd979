"""Shows a place again and again, until it ends or the person has seen enough."""

from __future__ import annotations

import contextlib
import os
import sys
import time

import click
from rich.console import Console, Group

from joulelab.watch.line import line
from joulelab.watch.model import View
from joulelab.watch.places import Place
from joulelab.watch.screen import screen
from joulelab.watch.terminal import Terminal

FRAME_S = 0.5
FIRST_S = 10.0
"""So long the first readings are waited for where one frame is asked for."""
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
    deadline_s = time.monotonic() + FIRST_S
    while (view := place.look()).state == "waiting" and time.monotonic() < deadline_s:
        time.sleep(_LOOK_S)
    return view


def print_frame(view: View, console: Console | None = None) -> None:
    """One frame, as lines that stay."""
    console = console or Console(highlight=False)
    for text in screen(view, console.width, plain=not _has_unicode(console)):
        console.print(text, soft_wrap=True)


def _frames(place: Place, console: Console) -> None:
    view: View | None = None
    with contextlib.suppress(KeyboardInterrupt), Terminal() as terminal, console.screen() as shown:
        while True:
            view = place.look()
            lines = screen(view, console.width, plain=not _has_unicode(console))
            shown.update(Group(*lines))
            if _is_over(view) or terminal.quits_within(FRAME_S):
                break
    if view is not None and _is_over(view):
        print_frame(view, console)
    elif view is not None:
        click.echo(line(view))


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
