"""Format values for people: numbers, SI prefixes, durations, money, intervals and lists.

Every text that JouleLab shows (terminal, page, notebook, log, finding) takes its numbers from here.
:func:`finite_or_none` and :func:`nan_if_none` are the only translation between NaN and JSON's null.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

ABSENT = "–"
"""Shown in place of a value that was not measured."""

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))
_GRAMS = ((1e6, "t"), (1e3, "kg"), (1.0, "g"), (1e-3, "mg"), (1e-6, "µg"))
_UNITS: Mapping[str, Sequence[tuple[float, str]]] = {
    "g": _GRAMS,
    **{
        unit: tuple((size, prefix + unit) for size, prefix in _PREFIXES)
        for unit in ("J", "Wh", "W", "B", "Hz", "J/step", "J/sample", "J/token", "FLOP", "MAC")
    },
}
J_PER_WH = 3600.0
LEAST_WATT_HOURS_J = 1000.0
"""Energies from here on are given in watt-hours, too."""
_LEAST_OF_INTERVAL = 1e-3
"""A value below this share of its interval may be written as 0."""
_ROUNDING = 1e-6
"""Smaller ratios, and percentages, are errors of arithmetic."""
_LEAST_MONEY = 1e-4
"""Smaller amounts of money are only said to be below this."""
_LEAST_MULTIPLE = 10.0
"""A prefix above the base unit is used from this multiple on: 9,876 J, but 12.3 kJ."""
_LEAST_FRACTION = 0.1
"""A prefix below the base unit is used below this fraction: 0.123 J, but 12.3 mJ."""


def number(value: float | None, digits: int = 3, like: float | None = None) -> str:
    """Format a number to a number of significant digits, without an exponent.

    Args:
        value: The number. ``None``, NaN and infinities give :data:`ABSENT`.
        digits: Significant digits. Digits before the decimal point are never dropped.
        like: Use as many decimals as this number gets, so that the ends of an interval match it.

    Example:
        >>> number(1234.5), number(0.01234), number(98.76, like=1234.5), number(-5.0)
        ('1,234', '0.0123', '99', '-5.00')
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    reference = value if like is None or not math.isfinite(like) else like
    text = f"{value:,.{_decimals(reference, digits)}f}"
    return text.removeprefix("-") if not text.strip("-0.,") else text


def quantity(value: float | None, unit: str, digits: int = 3) -> str:
    """Format a value with its unit, scaled by an SI prefix where the unit takes one.

    J, Wh, W, B, Hz and g (up to t) are scaled; other units (kWh, EUR, %) are kept.

    Args:
        value: In ``unit``. ``None``, NaN and infinities give :data:`ABSENT`.
        unit: The unit without a prefix.
        digits: Significant digits.

    Example:
        >>> quantity(12.34e6, "J"), quantity(2882.0, "J"), quantity(0.0123, "J")
        ('12.3 MJ', '2,882 J', '12.3 mJ')
        >>> quantity(25_000.0, "g"), quantity(0.25, "kWh"), quantity(float("nan"), "J")
        ('25.0 kg', '0.250 kWh', '–')
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    size, name = scale(value, unit)
    return f"{number(value / size, digits)} {name}".rstrip()


def memory_size(size_bytes: float | None) -> str:
    """Format an amount of memory, by powers of 1,024 as it is sold.

    Example:
        >>> memory_size(24 * 2**30), memory_size(25.28e9), memory_size(48.2e6), memory_size(4096)
        ('24 GiB', '23.5 GiB', '46 MiB', '4 KiB')
    """
    if size_bytes is None or not math.isfinite(size_bytes):
        return ABSENT
    sizes = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
    size, unit = next((one for one in sizes if size_bytes >= _LEAST_FRACTION * one[0]), sizes[-1])
    text = number(size_bytes / size)
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"


def watt_hours(energy_j: float | None) -> str:
    """Format an energy in watt-hours, to follow the joules; empty below 1 kJ.

    Example:
        >>> watt_hours(2882.0), watt_hours(7.2e6), watt_hours(999.0), watt_hours(None)
        ('0.801 Wh', '2,000 Wh', '', '')
    """
    if energy_j is None or not energy_j >= LEAST_WATT_HOURS_J:
        return ""
    return quantity(energy_j / J_PER_WH, "Wh")


def with_interval(
    value: float | None,
    low: float | None,
    high: float | None,
    unit: str = "",
    *,
    digits: int = 3,
    level: str = "95 % CI ",
) -> str:
    """Format a value with its unit and interval, all three on one scale.

    The larger of the value and the half-width of the interval determines scale and decimals.

    Args:
        value: In ``unit``.
        low: Lower end of the interval. Without an interval (``None``, NaN or no width) only the
            value is formatted.
        high: Upper end.
        unit: The unit without a prefix.
        digits: Significant digits of the value; the ends get as many decimals.
        level: Text in front of the ends; empty in tables whose heading states the level.

    Example:
        >>> with_interval(2882.0, 2622.0, 3141.0, "J")
        '2,882 J (95 % CI 2,622–3,141 J)'
        >>> with_interval(12.34e6, 11.9e6, 12.8e6, "J", level="")
        '12.3 MJ (11.9–12.8 MJ)'
        >>> with_interval(0.9, 0.72, 0.97), with_interval(0.003, -36.0, 42.0, "J", level="")
        ('0.900 (95 % CI 0.720–0.970)', '0.0 J (-36.0 to 42.0 J)')
        >>> with_interval(-0.35, -68.0, 208.0, "%", level="")
        '-0.3 % (-68 to 208 %)'
        >>> with_interval(2e-14, -2e-7, 2e-7, "%")
        '0.00 %'
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return quantity(value, unit, digits)
    if unit == "%" and _is_point(low / 100, high / 100):
        return percent(value / 100, digits)
    if math.isclose(low, high, rel_tol=1e-9):
        return quantity(value, unit, digits)
    size, name = scale(_magnitude(value, low, high), unit)
    like = _magnitude(value, low, high) / size
    shown = number(value / size, digits, like=like)
    if not shown.strip("0.,") and abs(value) > _LEAST_OF_INTERVAL * (high - low):
        shown = number(value / size, 1)
    text = f"{shown} {name}".rstrip()
    ends = interval(low / size, high / size, value / size, digits=digits)
    return f"{text} ({level}{ends}{' ' + name if name else ''})"


def joules(value: float, low: float, high: float) -> str:
    """Format an energy with its interval, and from 1 kJ on in watt-hours, too.

    Example:
        >>> joules(2882.0, 2622.0, 3141.0), joules(9.0, 8.0, 10.0)
        ('2,882 J (95 % CI 2,622–3,141 J), 0.801 Wh', '9.00 J (95 % CI 8.00–10.00 J)')
    """
    return ", ".join(filter(None, (with_interval(value, low, high, "J"), watt_hours(value))))


def interval(low: float, high: float, value: float, *, digits: int = 3) -> str:
    """Format the two ends of an interval with the decimals of its value.

    Example:
        >>> interval(541.2, 658.8, 600.0), interval(-1.5, 2.5, 0.5), interval(1.0, math.inf, 2.0)
        ('541–659', '-1.50 to 2.50', 'above 1.00')
    """
    if math.isnan(low) or math.isnan(high):
        return ""
    like = _magnitude(value, low, high)
    lower, upper = number(low, digits, like=like), number(high, digits, like=like)
    if math.isinf(low) and math.isinf(high):
        return "unbounded"
    if math.isinf(high):
        return f"above {lower}"
    if math.isinf(low):
        return f"below {upper}"
    return f"{lower} to {upper}" if "-" in lower + upper else f"{lower}–{upper}"


def scale(value: float, unit: str) -> tuple[float, str]:
    """Choose the scale on which to show a value: the size of the scaled unit and its name.

    Example:
        >>> scale(12.34e6, "J"), scale(2882.0, "J"), scale(0.5, "EUR")
        ((1000000.0, 'MJ'), (1.0, 'J'), (1.0, 'EUR'))
    """
    scales = _UNITS.get(unit)
    if scales is None or not math.isfinite(value) or value == 0:
        return 1.0, unit
    for size, name in scales:
        least = size * (_LEAST_MULTIPLE if size > 1 else _LEAST_FRACTION)
        if abs(value) >= least * (1 - 1e-12):
            return size, name
    return scales[-1]


def percent(fraction: float, digits: int = 3, *, signed: bool = False) -> str:
    """Format a fraction as a percentage.

    Example:
        >>> percent(0.0731), percent(0.5, signed=True), percent(float("nan"))
        ('7.31 %', '+50.0 %', '–')
    """
    value = 100 * fraction
    text = number(0.0 if abs(value) < _ROUNDING else value, digits)
    if text == ABSENT:
        return text
    return f"{'+' if signed and fraction > 0 else ''}{text} %"


def change(ratio: float, low: float, high: float, *, level: str = "95 % CI ") -> str:
    """Format a ratio as a relative change with its interval.

    Example:
        >>> change(0.942, 0.93, 0.954), change(1.12, 1.08, 1.16, level="")
        ('-5.80 % (95 % CI -7.00 to -4.60 %)', '+12.0 % (8.0–16.0 %)')
        >>> change(12.5, 11.0, 14.0, level="")
        '12.5 times (11.0–14.0)'
        >>> change(0.5, 0.0, math.inf, level=""), change(math.nan, math.nan, math.nan)
        ('cannot be determined', '')
    """
    if math.isnan(ratio):
        return ""
    if is_undetermined(low, high):
        return undetermined()
    text = percent(ratio - 1, signed=True)
    ends = f"{interval(100 * (low - 1), 100 * (high - 1), 100 * (ratio - 1))} %"
    if ratio >= _LEAST_MULTIPLE:
        text, ends = f"{number(ratio)} times", interval(low, high, ratio)
    return text if _is_point(low, high) else f"{text} ({level}{ends})"


def relative_to(ratio: float, low: float, high: float) -> tuple[str, str]:
    """Format a ratio and the ends of its interval: as a change below 2, else as times.

    Example:
        >>> relative_to(1.35, 1.2, 1.5), relative_to(27.74, 16.86, 45.64)
        (('+35.0 %', '20.0–50.0 %'), ('27.7 times', '16.9–45.6'))
        >>> relative_to(3.0, 0.0, math.inf), relative_to(1.5, math.nan, math.nan)
        (('cannot be determined', ''), ('+50.0 %', ''))
    """
    if is_undetermined(low, high):
        return undetermined(), ""
    if ratio >= 2:
        return f"{number(ratio)} times", interval(low, high, ratio)
    ends = interval(100 * (low - 1), 100 * (high - 1), 100 * (ratio - 1))
    return percent(ratio - 1, signed=True), f"{ends} %" if ends else ""


def is_undetermined(low: float, high: float) -> bool:
    """Report whether the interval of a ratio determines nothing, and so is 0 to infinity.

    :func:`joulelab.uncertain.ratio_interval` makes this of each that spans more than a factor of 10
    (:data:`joulelab.uncertain.MOST_FACTOR`) to either side.
    """
    return low <= 0 and math.isinf(high)


def undetermined(data: str = "") -> str:
    """Say that a value cannot be determined, and from what.

    Example:
        >>> undetermined("2 repeats"), undetermined()
        ('cannot be determined from 2 repeats', 'cannot be determined')
    """
    return f"cannot be determined from {data}" if data else "cannot be determined"


def ratio_with_interval(ratio: float, low: float, high: float) -> str:
    """Format a ratio with its interval, or say that it cannot be determined.

    Example:
        >>> ratio_with_interval(3.0, 2.5, 3.6), ratio_with_interval(1.64, 0.0, math.inf)
        ('3.00 (95 % CI 2.50–3.60)', 'cannot be determined')
    """
    return undetermined() if is_undetermined(low, high) else with_interval(ratio, low, high)


def parse_percent(text: str) -> float:
    """Parse a fraction that is written as ``5%`` or ``0.05``.

    Raises:
        ValueError: It is not a number, negative, or too large (1 or ``1000%``) to be meant.

    Example:
        >>> parse_percent("5%"), parse_percent("0.05"), parse_percent("150%")
        (0.05, 0.05, 1.5)
    """
    number_text = text.strip().removesuffix("%")
    is_percent = number_text != text.strip()
    fraction = float(number_text) / (100 if is_percent else 1)
    if not 0 <= fraction < (10 if is_percent else 1):
        raise ValueError(f"{text} is out of range")
    return fraction


def duration(value_s: float | None) -> str:
    """Format a duration in the units in which people state it.

    Args:
        value_s: Seconds. ``None``, NaN and infinities give :data:`ABSENT`.

    Example:
        >>> duration(0.0123), duration(12.34), duration(125.0), duration(7325.0)
        ('12.3 ms', '12.3 s', '2 min 5 s', '2 h 2 min')
        >>> duration(3600.0), duration(200_000.0), duration(7.5e-6)
        ('1 h', '2 d 8 h', '7.50 µs')
    """
    if value_s is None or not math.isfinite(value_s):
        return ABSENT
    if value_s < 0:
        return f"-{duration(-value_s)}"
    if value_s < 59.95:
        size, unit = time_scale(value_s)
        return f"{number(value_s / size)} {unit}" if value_s else "0 s"
    seconds = round(value_s)
    if seconds >= 86400:
        return _two_units(round(seconds / 3600), 24, "d", "h")
    if seconds >= 3600:
        return _two_units(round(seconds / 60), 60, "h", "min")
    return _two_units(seconds, 60, "min", "s")


def time_scale(value_s: float) -> tuple[float, str]:
    """Choose the unit of a short duration: its length in seconds and its name.

    Example:
        >>> time_scale(12.0), time_scale(0.0123)
        ((1.0, 's'), (0.001, 'ms'))
    """
    scales = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
    return next((one for one in scales if value_s >= 0.9995 * one[0]), (1e-9, "ns"))


def money(value: float | None, currency: str) -> str:
    """Format an amount of money: two decimals from 10 on, else three significant digits.

    An amount below 0.0001 is only said to be that.

    Args:
        value: In ``currency``.
        currency: ISO 4217 code.

    Example:
        >>> money(1234.5, "EUR"), money(0.00024, "EUR"), money(float("nan"), "EUR")
        ('1,234.50 EUR', '0.000240 EUR', '–')
        >>> money(7e-7, "EUR")
        '< 0.0001 EUR'
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    if 0 < value < _LEAST_MONEY:
        return f"< {_LEAST_MONEY} {currency}"
    text = f"{value:,.2f}" if abs(value) >= 10 else number(value)
    return f"{text} {currency}"


def money_with_interval(value: float, low: float, high: float, currency: str) -> str:
    """Format an amount of money with its 95 % interval; only the amount if there is none.

    Example:
        >>> money_with_interval(0.24, 0.219, 0.262, "EUR")
        '0.240 EUR (95 % CI 0.219–0.262 EUR)'
    """
    if 0 < value < _LEAST_MONEY and not high >= _LEAST_MONEY:
        return money(value, currency)
    if not math.isfinite(value) or abs(value) < 10:
        return with_interval(value, low, high, currency)
    text = money(value, currency)
    if math.isnan(low) or math.isnan(high) or math.isclose(low, high, rel_tol=1e-9):
        return text
    return f"{text} (95 % CI {low:,.2f}–{high:,.2f} {currency})"


def date(unix_s: float) -> str:
    """Format a time as a UTC date.

    Example:
        >>> date(0.0)
        '1970-01-01'
    """
    return timestamp(unix_s)[:10]


def timestamp(unix_s: float) -> str:
    """Format a time in UTC, to the second.

    Example:
        >>> timestamp(0.0)
        '1970-01-01 00:00:00 UTC'
    """
    if not math.isfinite(unix_s):
        return ABSENT
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def join_words(texts: Sequence[str], conjunction: str = "and") -> str:
    """Join texts into an enumeration.

    Example:
        >>> join_words(["8"]), join_words(["8", "16"]), join_words(["8", "16", "32"], "or")
        ('8', '8 and 16', '8, 16 or 32')
    """
    if len(texts) < 2:
        return "".join(texts)
    return f"{', '.join(texts[:-1])} {conjunction} {texts[-1]}"


def first_words(texts: Sequence[str], most: int, total: int | None = None) -> str:
    """Join the first texts, and count the others.

    Args:
        texts: All of them, or at least the first ones.
        most: The number that is shown.
        total: How many there are; default: those that are given.

    Example:
        >>> first_words(["a", "b"], 3), first_words(["a", "b", "c"], 1), first_words(["a"], 3, 9)
        ('a and b', 'a and 2 more', 'a and 8 more')
    """
    shown = list(texts[:most])
    left = (len(texts) if total is None else total) - len(shown)
    return join_words([*shown, f"{left:,} more"] if left > 0 else shown)


def count(value: int, singular: str, plural: str = "") -> str:
    """Format a count with its noun.

    Example:
        >>> count(1, "run"), count(3, "run"), count(2, "repeat of", "repeats of")
        ('1 run', '3 runs', '2 repeats of')
    """
    return f"{value:,} {singular if value == 1 else plural or singular + 's'}"


def p_value(p: float) -> str:
    """Format a p-value.

    Example:
        >>> p_value(0.0312), p_value(0.0002), p_value(float("nan"))
        ('p = 0.031', 'p < 0.001', 'p unknown')
    """
    if math.isnan(p):
        return "p unknown"
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def sentence(text: str) -> str:
    """Capitalise a text and end it with a full stop; names such as lm:gpt2 and vLLM stay.

    Example:
        >>> sentence("net energy rises"), sentence("lm:gpt2 needs less"), sentence("vLLM stopped")
        ('Net energy rises.', 'lm:gpt2 needs less.', 'vLLM stopped.')
    """
    if not text.strip():
        return ""
    first = text.split(maxsplit=1)[0]
    is_name = ":" in first[:-1] or (first[0].islower() and not first.islower())
    return f"{text}." if is_name else f"{text[:1].upper()}{text[1:]}."


def shorten(text: str, width: int) -> str:
    """Put a text on one line and cut it to a width.

    Example:
        >>> shorten("python  train.py --epochs 100", 15)
        'python train.p…'
    """
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 1]}…"


def printable(text: str) -> str:
    r"""Escape the characters of a text that a terminal would act on, except line feeds.

    Example:
        >>> printable("red \x1b[31m\u202e, 5 °C\nend")
        'red \\x1b[31m\\u202e, 5 °C\nend'
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in "\n\xa0\u202f" else ascii(one)[1:-1] for one in text
    )


def slug(text: str) -> str:
    """Turn a text into a file name: letters, digits, dots and hyphens.

    Example:
        >>> slug("ResNet-18 (batch 8)"), slug("///")
        ('ResNet-18-batch-8', 'unnamed')
    """
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "unnamed"


def markdown_text(text: str) -> str:
    r"""Escape the characters of a text that Markdown, also in a table, would act on.

    Example:
        >>> print(markdown_text("a|b_c of <x> `y`"))
        a\|b\_c of \<x\> \`y\`
    """
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(printable(text).split()))


def markdown_code(text: str) -> str:
    r"""Put a name into a code span of Markdown, which shows it as it is, also in a table.

    Example:
        >>> print(markdown_code("lr=1|2"), markdown_code("a `b`"))
        `lr=1\|2` `` a `b` ``
    """
    text = " ".join(printable(text).split()).replace("|", r"\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def csv_cell(value: Any) -> Any:
    """Return a value for a CSV file; text that a spreadsheet would run as a formula gets a quote.

    Example:
        >>> csv_cell("=1+1"), csv_cell("epoch"), csv_cell(-1.5)
        ("'=1+1", 'epoch', -1.5)
    """
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value


def finite_or_none(value: Any) -> Any:
    """Replace NaN and infinities by ``None``, also inside mappings and sequences, for JSON.

    Example:
        >>> finite_or_none({"gross_j": math.nan, "interval_j": (1.0, math.inf)})
        {'gross_j': None, 'interval_j': [1.0, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite_or_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(item) for item in value]
    return value


def with_ends(
    name: str, unit: str, value: float | None, low: float | None, high: float | None
) -> dict[str, float | None]:
    """Name a value and the ends of its interval, as in JSON.

    Example:
        >>> with_ends("gross", "_j", 2.0, 1.5, 2.5)
        {'gross_j': 2.0, 'gross_low_j': 1.5, 'gross_high_j': 2.5}
    """
    return {f"{name}{unit}": value, f"{name}_low{unit}": low, f"{name}_high{unit}": high}


def nan_if_none(value: float | None) -> float:
    """Read a number back from JSON, where null stands for NaN.

    Example:
        >>> nan_if_none(None), nan_if_none(2.5)
        (nan, 2.5)
    """
    return math.nan if value is None else float(value)


def _is_point(low: float, high: float) -> bool:
    """Report whether an interval of a ratio or share is no wider than errors of arithmetic."""
    return math.isclose(low, high, rel_tol=_ROUNDING, abs_tol=_ROUNDING)


def _magnitude(value: float, low: float, high: float) -> float:
    half_width = (high - low) / 2
    return max(abs(value), half_width) if math.isfinite(half_width) else abs(value)


def _decimals(value: float, digits: int) -> int:
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    # 9.996 to three digits is 10.0, not 10.00.
    if magnitude < digits and round(abs(value), digits - 1 - magnitude) >= 10 ** (magnitude + 1):
        magnitude += 1
    return min(max(0, digits - 1 - magnitude), 12)


def _two_units(value: int, factor: int, large: str, small: str) -> str:
    whole, rest = divmod(value, factor)
    return f"{whole} {large} {rest} {small}" if rest else f"{whole} {large}"
