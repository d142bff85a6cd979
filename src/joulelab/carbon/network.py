"""The energy that networks use to carry data, from published values per byte.

Such energies are derived, not measured: publications differ by a factor of ten, since networks
draw nearly the same power whatever they carry. They are reported next to measured energies and
never added to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Self

from joulelab.carbon.costs import J_PER_KWH
from joulelab.energy.data_exchange import DataVolume
from joulelab.errors import UserError, nearest
from joulelab.format import with_interval
from joulelab.packaged import packaged_rows

BYTES_PER_GB = 1e9
BASES = ("average", "marginal")


@dataclass(frozen=True, slots=True)
class NetworkIntensity:
    """Energy of a kind of network per byte, J, with the range of what is published."""

    access: str  # ``"fixed"``, ``"mobile"`` (both include the core) or ``"core"``.
    basis: str  # ``"average"``: all energy over all data; ``"marginal"``: what more data adds.
    j_per_byte: float
    low: float
    high: float
    sources: tuple[str, ...]  # Publications with their years.


@dataclass(frozen=True, slots=True)
class NetworkEnergy:
    """Energy of networks for some data, J, with the range of what is published."""

    volume: DataVolume  # What was sent and received.
    average: NetworkIntensity  # The data's part of all energy that such networks use.
    marginal: NetworkIntensity  # What such networks use more because of the data.

    @classmethod
    def of(cls, volume: DataVolume, access: str) -> Self:
        """Return the energy of a kind of network.

        Args:
            volume: What was sent and received.
            access: ``"fixed"``, ``"mobile"`` or ``"core"``.

        Raises:
            UserError: There is no such network.

        Example:
            >>> found = NetworkEnergy.of(DataVolume(1e9, 1e9, 1e9), "fixed")
            >>> [round(value_j) for value_j in found.energy("average")]
            [108000, 23400, 216000]
        """
        return cls(volume, *(network_intensity(access, one) for one in BASES))

    def energy(self, basis: str) -> tuple[float, float, float]:
        """Return the energy and its range, J, ``"average"`` or ``"marginal"``."""
        one = self.average if basis == "average" else self.marginal
        volume = self.volume
        return volume.value * one.j_per_byte, volume.low * one.low, volume.high * one.high

    def text(self) -> str:
        """Describe both energies in a sentence without its full stop."""
        average, marginal = (with_interval(*self.energy(basis), "J", level="") for basis in BASES)
        return (
            f"{self.average.access} networks used {average} for it by their average, "
            f"{marginal} more because of it (derived, not in the energy above)"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        energies = {
            f"{basis}_{end}": value
            for basis in BASES
            for end, value in zip(("j", "low_j", "high_j"), self.energy(basis), strict=True)
        }
        sources = {"average": self.average.sources, "marginal": self.marginal.sources}
        return {
            "access": self.average.access,
            "bytes": self.volume.value,
            **energies,
            "provenance": "derived",
            "sources": {basis: list(one) for basis, one in sources.items()},
        }


def network_intensity(access: str, basis: str = "average") -> NetworkIntensity:
    """Return the published energy of a kind of network per byte.

    Raises:
        UserError: There is no such network.
    """
    table = _table()
    kinds = list(dict.fromkeys(access for access, _ in table))
    if access not in kinds:
        raise UserError(f"no network {access!r}", hint=nearest(access, kinds))
    return table[access, basis]


@cache
def _table() -> dict[tuple[str, str], NetworkIntensity]:
    values: dict[tuple[str, str], dict[str, float]] = {}
    sources: dict[tuple[str, str], list[str]] = {}
    for row in packaged_rows("joulelab.carbon", "data/network_intensity.csv"):
        key = row["access"], row["basis"]
        values.setdefault(key, {})[row["role"]] = (
            float(row["kwh_per_gb"]) * J_PER_KWH / BYTES_PER_GB
        )
        sources.setdefault(key, []).append(f"{row['source']} ({row['role']}, {row['year']})")
    return {
        key: NetworkIntensity(*key, one["estimate"], one["low"], one["high"], tuple(sources[key]))
        for key, one in values.items()
    }
