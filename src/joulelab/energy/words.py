"""Energies as a person reads them."""

from __future__ import annotations


def joules(value: float, unit: str = " J") -> str:
    """Three significant digits, never an exponent below 10 MJ.

    Args:
        value: J; may be NaN.
        unit: What stands behind it.

    Example:
        >>> joules(1234.5), joules(0.01234), joules(98.76, unit="")
        ('1,234 J', '0.0123 J', '98.8')
    """
    if abs(value) >= 1e7:
        return f"{value:.3e}{unit}"
    if abs(value) >= 100:
        return f"{value:,.0f}{unit}"
    return f"{value:.3g}{unit}"
