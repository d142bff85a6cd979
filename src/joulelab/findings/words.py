"""Figures and intervals as a person reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

import pandas as pd

ABSENT = "–"
"""Stands where nothing was measured."""

_PREFIXES = (("M", 1e6), ("k", 1e3), ("", 1.0), ("m", 1e-3), ("µ", 1e-6), ("n", 1e-9))


def number(value: float | None, digits: int = 3, like: float | None = None) -> str:
    """A figure to some significant digits, never with an exponent.

    Args:
        value: The figure; ``None`` and NaN give :data:`ABSENT`.
        digits: Significant digits; those before the decimal point are never dropped.
        like: Take as many decimals as this figure has, so that an interval fits its value.

    Example:
        >>> number(1234.5), number(0.01234), number(98.76, like=1234.5), number(-5.0)
        ('1,234', '0.0123', '99', '−5.00')
    """
    if value is None or pd.isna(value) or not math.isfinite(value):
        return ABSENT
    reference = value if like is None or not math.isfinite(like) else like
    magnitude = math.floor(math.log10(abs(reference))) if reference else 0
    decimals = max(0, digits - 1 - magnitude)
    return f"{value:,.{decimals}f}".replace("-", "−")


def interval(low: float, high: float, value: float, digits: int = 3) -> str:
    """``"low to high"`` with the decimals of the value; empty when it is not known.

    Example:
        >>> interval(541.2, 658.8, 600.0)
        '541 to 659'
    """
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"{number(low, digits, like=value)} to {number(high, digits, like=value)}"


def prefix(values: pd.Series[float]) -> tuple[str, float]:
    """The SI prefix that suits most of the values, and its factor.

    Example:
        >>> prefix(pd.Series([0.002, 0.03, float("nan")]))
        ('m', 0.001)
        >>> prefix(pd.Series([float("nan")]))
        ('', 1.0)
    """
    typical = values.abs().median()
    if pd.isna(typical) or typical == 0:
        return "", 1.0
    fitting = [(name, factor) for name, factor in _PREFIXES if typical >= factor]
    return fitting[0] if fitting else _PREFIXES[-1]


def span_of_time(duration_s: float) -> str:
    """A duration in the units a person would say it in.

    Example:
        >>> span_of_time(42.0), span_of_time(600.0), span_of_time(9000.0)
        ('42.0 s', '10.0 min', '2.50 h')
    """
    if duration_s >= 2 * 3600:
        return f"{number(duration_s / 3600)} h"
    if duration_s >= 120:
        return f"{number(duration_s / 60)} min"
    text = number(duration_s)
    return text if text == ABSENT else f"{text} s"


def moment(unix_s: float) -> str:
    """A moment in UTC, to the second.

    Example:
        >>> moment(0.0)
        '1970-01-01 00:00:00 UTC'
    """
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def listed(texts: Sequence[str]) -> str:
    """Texts as an enumeration.

    Example:
        >>> listed(["8"]), listed(["8", "16"]), listed(["8", "16", "32"])
        ('8', '8 and 16', '8, 16 and 32')
    """
    if len(texts) < 2:
        return "".join(texts)
    return f"{', '.join(texts[:-1])} and {texts[-1]}"


def counted(count: int, one: str, many: str = "") -> str:
    """A count with its noun.

    Example:
        >>> counted(1, "run"), counted(3, "run"), counted(2, "repeat of", "repeats of")
        ('1 run', '3 runs', '2 repeats of')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def with_interval(value: float, low: float, high: float, unit: str = "", digits: int = 3) -> str:
    """A figure with its 95 % interval.

    Example:
        >>> with_interval(0.9, 0.72, 0.97, digits=2)
        '0.90 (95 % interval 0.72 to 0.97)'
        >>> with_interval(4.2, float("nan"), float("nan"), "W")
        '4.20 W (no interval)'
    """
    text = number(value, digits)
    if text != ABSENT and unit:
        text = f"{text} {unit}"
    if math.isnan(low) or math.isnan(high):
        return f"{text} (no interval)"
    return f"{text} (95 % interval {interval(low, high, value, digits)})"


def probability(p: float) -> str:
    """A p-value.

    Example:
        >>> probability(0.0312), probability(0.0002), probability(float("nan"))
        ('p = 0.031', 'p < 0.001', 'p not known')
    """
    if math.isnan(p):
        return "p not known"
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def sentence(text: str) -> str:
    """With a capital first and a full stop last.

    Example:
        >>> sentence("net energy rises"), sentence("")
        ('Net energy rises.', '')
    """
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def scaled(value: float, digits: int = 3) -> str:
    """A figure with an SI prefix, to which a unit is appended.

    Example:
        >>> scaled(1234.5) + "J", scaled(0.0021) + "J"
        ('1.23 kJ', '2.10 mJ')
    """
    name, factor = prefix(pd.Series([value]))
    text = number(value / factor, digits)
    return text if text == ABSENT else f"{text} {name}"
