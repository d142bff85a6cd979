"""A forecast in words."""

from __future__ import annotations

import math
from datetime import timedelta

from joulelab.forecast.profile import Forecast


def line(forecast: Forecast) -> str:
    """One line: energy, time and carbon with their intervals.

    Example:
        >>> from joulelab.forecast.profile import Profile, Row
        >>> rows = [Row(phase="epoch", duration_s=60.0, gross_j=30e3) for _ in range(4)]
        >>> print(line(Profile(rows).forecast(4, carbon_intensity_g_per_kwh=400.0)))
        4 epochs: 120 kJ (120 to 120), 0:04:00 (0:04:00 to 0:04:00), 13.3 g CO2e (13.3 to 13.3)
    """
    parts = []
    if math.isfinite(forecast.gross_j):
        low, high = forecast.gross_low_j, forecast.gross_high_j
        parts.append(_range(forecast.gross_j, low, high, "J"))
    parts.append(
        f"{_time(forecast.duration_s)} ({_time(forecast.duration_low_s)} to "
        f"{_time(forecast.duration_high_s)})"
    )
    if forecast.carbon_g is not None and math.isfinite(forecast.gross_j):
        parts.append(_range(*forecast.carbon_g, "g", " CO2e"))
    return f"{forecast.epochs:g} epochs: {', '.join(parts)}"


def details(forecast: Forecast) -> list[str]:
    """What a forecast rests on and is made of, a line each."""
    seen = f"{forecast.epochs_seen:.3g} epochs seen, {100 * forecast.spent_fraction:.3g} % of it"
    if forecast.startup:
        seen += f"; the first {forecast.startup} pieces are unlike the rest and counted once"
    lines = [seen]
    if len(forecast.phases) > 1:
        for phase in forecast.phases:
            share = f"{_time(phase.duration_s)}"
            if math.isfinite(phase.gross_j):
                share = f"{figure(phase.gross_j, 'J')}, {share}"
            lines.append(f"{phase.count:g} x {phase.phase}: {share}")
    return lines


def figure(value: float, unit: str) -> str:
    """Three digits with the unit and its prefix.

    Example:
        >>> figure(1234.5, "J"), figure(2.5e6, "g"), figure(0.5, "J")
        ('1.23 kJ', '2.50 Mg', '0.500 J')
    """
    size, prefix = _prefix(value)
    return f"{_digits(value / size)} {prefix}{unit}"


def _range(value: float, low: float, high: float, unit: str, of: str = "") -> str:
    size, prefix = _prefix(value)
    middle, bottom, top = (_digits(part / size) for part in (value, low, high))
    return f"{middle} {prefix}{unit}{of} ({bottom} to {top})"


def _prefix(value: float) -> tuple[float, str]:
    prefixes = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
    return next(((size, name) for size, name in prefixes if abs(value) >= size), (1.0, ""))


def _digits(value: float) -> str:
    """Three significant digits, no exponent."""
    places = 2 - math.floor(math.log10(abs(value))) if value else 2
    return f"{value:,.{min(max(places, 0), 6)}f}"


def _time(duration_s: float) -> str:
    """Hours, minutes and seconds; seconds with their decimals below a minute."""
    if abs(duration_s) < 60:
        return f"{_digits(duration_s)} s"
    return str(timedelta(seconds=round(duration_s)))
