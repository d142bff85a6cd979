"""Figures and pictures of text for a screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta

from joulelab.format import quantity

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = ".:-=+*#@"
GAP, ASCII_GAP = "·", "?"
UNKNOWN = "-"


def amount(value: float, unit: str) -> str:
    """Three digits, the unit and its prefix; a dash for what is not known.

    Example:
        >>> amount(1234.5, "J"), amount(math.nan, "W")
        ('1,234 J', '-')
    """
    return quantity(value, unit) if math.isfinite(value) else UNKNOWN


def clock(duration_s: float) -> str:
    """A time as a clock shows it; with decimals below ten seconds.

    Example:
        >>> clock(0.1234), clock(1.234), clock(75.2), clock(90000), clock(math.nan)
        ('123 ms', '1.23 s', '0:01:15', '1 day, 1:00:00', '-')
    """
    if not math.isfinite(duration_s):
        return UNKNOWN
    if duration_s < 0.9995:
        return f"{1e3 * duration_s:.3g} ms"
    return f"{duration_s:.2f} s" if duration_s < 10 else str(timedelta(seconds=int(duration_s)))


def sparkline(values: Sequence[float], width: int, *, plain: bool = False) -> str:
    """The last values as bars from zero to the highest of them, a gap as a dot.

    Args:
        values: The last one last; NaN is a gap.
        width: At most so many are shown; what there is not yet is blank.
        plain: Use ASCII only.

    Example:
        >>> sparkline([0.0, 50.0, math.nan, 100.0], 5)
        ' ▁▄·█'
    """
    bars, gap = (ASCII_BARS, ASCII_GAP) if plain else (BARS, GAP)
    shown = list(values)[-width:] if width > 0 else []
    top = max((value for value in shown if math.isfinite(value)), default=0.0)
    return "".join(_bar(value, top, bars, gap) for value in shown).rjust(width)


def _bar(value: float, top: float, bars: str, gap: str) -> str:
    if not math.isfinite(value):
        return gap
    if top <= 0:
        return bars[0]
    return bars[min(max(math.ceil(value / top * len(bars)) - 1, 0), len(bars) - 1)]


def meter(share: float, width: int, *, plain: bool = False) -> str:
    """A bar filled so far.

    Example:
        >>> meter(0.5, 4), meter(0.26, 4, plain=True)
        ('██░░', '#---')
    """
    full, empty = ("#", "-") if plain else ("█", "░")
    filled = round(min(max(share, 0.0), 1.0) * width)
    return full * filled + empty * (width - filled)


def printable(text: str) -> str:
    """The text on one line, without what would move the cursor or change colours.

    Example:
        >>> printable("a\\x1b[31m\\nb")
        'a�[31m b'
    """
    return "".join(one if one.isprintable() else "�" for one in " ".join(text.split()))
