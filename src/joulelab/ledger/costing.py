"""Entries with what they cost at the site of each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from joulelab.carbon.costs import Costs
from joulelab.errors import JoulelabError
from joulelab.ledger.entries import Complain, Entry
from joulelab.recording.trace_format import READINGS_FILE
from joulelab.uncertain import UncertainValue

if TYPE_CHECKING:
    from joulelab.recording.trace import Trace


@dataclass(frozen=True, slots=True, eq=False)
class Costed:
    """An entry and its costs.

    Attributes:
        entry: It.
        energy: Gross, J; ``None`` when nothing was measured.
        costs: Of that energy; ``None`` without one.
    """

    entry: Entry
    energy: UncertainValue | None
    costs: Costs | None

    @property
    def carbon(self) -> UncertainValue | None:
        """Grams of CO2-equivalent; ``None`` when they are not known."""
        return self._times(math.nan if self.costs is None else self.costs.carbon_g_per_j)

    @property
    def price(self) -> UncertainValue | None:
        """In :attr:`currency`; ``None`` when it is not known."""
        return self._times(math.nan if self.costs is None else self.costs.price_per_j)

    @property
    def currency(self) -> str | None:
        """Of the price; ``None`` when there is none."""
        return None if self.price is None or self.costs is None else self.costs.currency

    def _times(self, factor: float) -> UncertainValue | None:
        if self.energy is None or math.isnan(factor):
            return None
        return self.energy.scaled(factor)


def costed(
    entries: Iterable[Entry], complain: Complain, *, own_share: bool = False
) -> list[Costed]:
    """Each entry with its costs.

    Args:
        entries: Any.
        complain: Is told, once, of an intensity that cannot be read.
        own_share: Of each its own part of what its machine drew, where that is known.
    """
    found = []
    told: set[str] = set()
    for entry in entries:
        energy = entry.own_energy if own_share else entry.energy
        costs = None
        if energy is not None:
            try:
                costs = _costs(entry, energy)
            except JoulelabError as error:
                if str(error) not in told:
                    told.add(str(error))
                    complain(error)
        found.append(Costed(entry, energy, costs))
    return found


def _costs(entry: Entry, energy: UncertainValue) -> Costs:
    recorded = (entry.directory / READINGS_FILE).is_file()
    return entry.site.costs(
        energy.value,
        energy.interval,
        started_unix_s=entry.started_unix_s,
        stopped_unix_s=entry.ended_unix_s,
        trace=partial(_trace, entry.directory) if recorded else None,
    )


def _trace(directory: Path) -> Trace:
    from joulelab.recording.trace import read_trace  # noqa: PLC0415

    return read_trace(directory)
