"""JouleLab measures, studies, forecasts and reduces the energy of machine learning."""

from __future__ import annotations

__version__ = "0.1.0"
