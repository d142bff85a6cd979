"""What is compared, and how a reader calls it."""

from __future__ import annotations

from collections.abc import Mapping

PHASES: Mapping[str, str] = {"train": "training", "infer": "inference"}
"""The phases."""

ENERGIES: Mapping[str, str] = {"net": "net_j_per_sample", "gross": "gross_j_per_sample"}
"""Energies of a sample, and their columns in a summary."""

QUANTITIES: Mapping[str, str] = {"time": "duration_s_per_sample", **ENERGIES}
"""Time and energies of a sample, and their columns in a summary."""

NAMES: Mapping[str, str] = {
    "time": "time",
    "net": "net energy",
    "gross": "gross energy",
    "macs_per_parameter": "MACs per parameter",
    "macs": "MACs",
    "parameters": "parameters",
    "size_bytes": "size in bytes",
    "operators": "number of operators",
}
"""Quantities and characteristics."""
