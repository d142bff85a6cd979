"""Thermal design power of processors, by exact model name."""

from __future__ import annotations

import csv
import re
from functools import cache
from importlib import resources

_NOISE = re.compile(
    r"\((?:r|tm|c)\)|[®™©]|@.*$|\bwith\b.*$|\bcpu\b|\bprocessor\b"
    r"|\b(?:\d+|dual|quad|six|eight|twelve|sixteen)-core\b|\b\d+(?:st|nd|rd|th) gen\b",
    re.IGNORECASE,
)
_CORES = re.compile(r"\b(\d+)-Core\b", re.IGNORECASE)


def normalise(model: str) -> str:
    """A processor's name without trademarks, clock rate, core count and generation.

    Example:
        >>> normalise("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz")
        'intel xeon e5-2680 v4'
        >>> normalise("12th Gen Intel(R) Core(TM) i5-12500")
        'intel core i5-12500'
        >>> normalise("AMD EPYC 7763 64-Core Processor")
        'amd epyc 7763'
    """
    return " ".join(_NOISE.sub(" ", model).lower().split())


def chip_tdp_w(model: str | None) -> float | None:
    """The thermal design power of one chip, in watts.

    Only a name that equals a name of the table after :func:`normalise` is known: a name that is
    merely close may be another chip.

    Args:
        model: The name as ``/proc/cpuinfo`` gives it.

    Returns:
        Watts, or ``None`` when the chip is not in the table.

    Example:
        >>> chip_tdp_w("Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz")
        95.0
        >>> chip_tdp_w("Intel(R) Xeon(R) Processor") is None
        True
    """
    return _table().get(normalise(model)) if model else None


def chip_threads(model: str | None) -> int | None:
    """Hardware threads of one whole chip, where its name says so.

    AMD EPYC names carry the number of cores, and all EPYC chips have two threads a core. Other
    names do not tell: ``None``.

    Example:
        >>> chip_threads("AMD EPYC 7763 64-Core Processor")
        128
        >>> chip_threads("Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz") is None
        True
    """
    if not model or "epyc" not in model.lower():
        return None
    found = _CORES.search(model)
    return 2 * int(found[1]) if found else None


@cache
def _table() -> dict[str, float]:
    text = (resources.files(__package__) / "data" / "cpu_tdp.csv").read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return {row["model"]: float(row["tdp_w"]) for row in csv.DictReader(lines)}
