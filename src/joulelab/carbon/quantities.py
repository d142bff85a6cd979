"""Carbon from energy. The intensity of the electricity is given, never guessed from a place."""

from __future__ import annotations

J_PER_KWH = 3.6e6


def carbon_g(energy_j: float, intensity_g_per_kwh: float, *, pue: float = 1.0) -> float:
    """Grams of CO2-equivalent that the electricity of a computation emits.

    Args:
        energy_j: What the metered components drew.
        intensity_g_per_kwh: Of the grid, at the place and time of the computation.
        pue: Power usage effectiveness: energy of the whole site over that of its computers
            (ISO/IEC 30134-2), at least 1. The default counts the computers alone.

    Raises:
        ValueError: The intensity is negative or the PUE is below 1.

    Example:
        >>> carbon_g(7.2e6, 400.0)
        800.0
        >>> carbon_g(7.2e6, 400.0, pue=1.25)
        1000.0
    """
    if not intensity_g_per_kwh >= 0:
        raise ValueError(f"intensity {intensity_g_per_kwh} g/kWh: it must be 0 or more")
    if not pue >= 1:
        raise ValueError(f"PUE {pue}: it must be 1 or more")
    return energy_j / J_PER_KWH * intensity_g_per_kwh * pue
