"""Lay out text for a terminal of any width: wrapped between words, and never within a number."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Sequence
from typing import IO

from joulelab.format import printable

Line = tuple[str, str]
"""A label and a text."""

LEAST_WIDTH = 20
"""Narrower terminals get lines of this many columns."""
_GLUE = re.compile(
    r"(?<=\d) (?=[^\W\d_]|[°%])|(?<=±) | (?=CI )|(?<=\(pid) |(?<=PUE) |(?<= to) (?=-?\d)"
)
"""The spaces within a value: between a number and its unit, in ``95 % CI``, after ``±``."""
_SHORT_COMMAND = re.compile(r"`[^`]{1,24}`")
_NO_BREAK = "\xa0"
_LABEL = re.compile(r"- | *\S+(?: \S+)? {2,}|")
_WIDEST_LABEL = 16
_LEAST_LABEL = 10
"""Columns of labels, or more if one needs them."""


def terminal_width(stream: IO[str]) -> int | None:
    """Return the columns of the terminal that a stream is, or of ``COLUMNS``; else ``None``.

    Lines in a pipe or a file have any length, unless ``COLUMNS`` asks for it.
    """
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        is_terminal = stream.isatty()
        return (os.get_terminal_size(stream.fileno()).columns or None) if is_terminal else None
    except (OSError, ValueError):
        return None


def wrap(text: str, width: int | None) -> str:
    """Wrap a text between words to a width, but not between a number and its unit.

    What follows a bullet, or a label and at least two spaces, is wrapped as a column.

    Args:
        text: One line; its leading spaces indent every line. A word that is too long, for example
            a path, stays whole.
        width: Columns; ``None`` for any number.

    Example:
        >>> print(wrap("2,882 J (95 % CI 2,622–3,141 J), 300 W on average", 26))
        2,882 J
        (95 % CI 2,622–3,141 J),
        300 W on average
    """
    if width is None:
        return text
    label = _LABEL.match(text)
    column = label.end() if label and label.end() <= _WIDEST_LABEL else 0
    indent = " " * (column or len(text) - len(text.lstrip(" ")))
    text = _SHORT_COMMAND.sub(lambda found: found[0].replace(" ", _NO_BREAK), text)
    lines = textwrap.wrap(
        _GLUE.sub(_NO_BREAK, text),
        max(width, LEAST_WIDTH),
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        expand_tabs=False,
    )
    return "\n".join(lines).replace(_NO_BREAK, " ")


def labelled(lines: Sequence[Line], width: int | None, *, is_dim: bool = False) -> str:
    """Format labelled lines in two columns; a label that repeats is shown once.

    Args:
        lines: Labels and texts, which are made printable. A line feed in a text becomes two
            spaces if the text then fits.
        width: Columns of the terminal; ``None`` for any number.
        is_dim: Print labels dim.

    Example:
        >>> lines = [("energy", "54.4 J, 12.2 W on average"), ("energy", "net unknown")]
        >>> print(labelled(lines, 24), end="")
        energy    54.4 J, 12.2 W
                  on average
                  net unknown
    """
    label_width = max(_LEAST_LABEL, *(len(label) + 1 for label, _ in lines), 0)
    before, after = ("\x1b[2m", "\x1b[0m") if is_dim else ("", "")
    room = None if width is None else width - label_width
    last = ""
    text = ""
    for label, content in lines:
        shown = "" if label == last else label
        parts = printable(content).split("\n")
        one_line = "  ".join([parts[0], *map(str.lstrip, parts[1:])])
        if room is None or len(one_line) <= room:
            parts = [one_line]
        body = "\n".join(wrap(part, room) for part in parts)
        body = body.replace("\n", "\n" + " " * label_width)
        text += f"{before}{shown:{label_width}}{after}{body}\n"
        last = label
    return text


def write_lines(lines: Sequence[Line], stream: IO[str]) -> None:
    """Write labelled lines to a stream, on a terminal in its width and with dim labels."""
    is_plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    is_dim = stream.isatty() and not is_plain
    stream.write(labelled(lines, terminal_width(stream), is_dim=is_dim))
    stream.flush()
