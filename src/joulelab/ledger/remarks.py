"""What a person should know of a ledger's sums, beside the sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

from joulelab.carbon.costs import JOULES, quantity
from joulelab.energy.energy import REPORTED_GAP
from joulelab.ledger.book import NO_INTERVAL, Row
from joulelab.ledger.costing import Costed
from joulelab.ledger.entries import Entry
from joulelab.ledger.overlaps import counted_twice_j
from joulelab.sensors.sensor import Provenance
from joulelab.uncertain import UncertainValue


def remarks(
    entries: Sequence[Costed], copies: int, undated: int, *, own_share: bool = False
) -> list[str]:
    """What a person should know of the sums.

    Args:
        entries: All that are in the sums.
        copies: Records left out as copies.
        undated: Records left out since nobody knows when they began.
        own_share: Whether the sums are of own shares where these are known.
    """
    notes = []
    unfinished = [one.entry.name for one in entries if one.entry.unfinished]
    if unfinished:
        notes.append(
            f"{len(unfinished)} not finished, counted up to the last reading: {_some(unfinished)}"
        )
    unmeasured = [one.entry.name for one in entries if one.energy is None]
    if unmeasured:
        notes.append(f"{len(unmeasured)} without any energy, not in the sums: {_some(unmeasured)}")
    measured = [one.entry for one in entries if one.energy is not None]
    notes += [*_provenances(measured), *_sharing(measured, own_share=own_share)]
    for component, lacking in sorted(_lacking(measured).items()):
        notes.append(
            f"{component} not measured in {len(lacking)}, though in others: {_some(lacking)}"
        )
    twice_j = counted_twice_j(measured, unshared_only=own_share)
    if twice_j > REPORTED_GAP * Row("", tuple(entries)).energy.value:
        energy = quantity(twice_j, NO_INTERVAL, JOULES)
        notes.append(
            f"some ran at the same time on the same machine: the sums are {energy} too large, "
            "since each record has all that the machine drew"
        )
    if copies:
        notes.append(f"{copies} copies of records count once")
    if undated:
        notes.append(f"{undated} left out: nobody knows when they began")
    return notes


def _provenances(entries: Sequence[Entry]) -> list[str]:
    """How much of the energy no sensor measured."""
    parts = [part for one in entries for part in one.parts if part.gross_j > 0]
    total_j = math.fsum(part.gross_j for part in parts)
    notes = []
    for kind in (Provenance.SIMULATED, Provenance.ESTIMATED):
        some_j = math.fsum(part.gross_j for part in parts if part.provenance is kind)
        if some_j:
            notes.append(f"{100 * some_j / total_j:.3g} % of the energy is {kind}, not measured")
    return notes


def _sharing(entries: Sequence[Entry], *, own_share: bool) -> list[str]:
    """What others had of the machines, as far as it is known."""
    shared = [one for one in entries if one.is_shared]
    if not shared:
        return []
    if own_share:
        return [f"of {len(shared)} that shared their machine the own part counts, an estimate"]
    whole = UncertainValue.total(filter(None, (one.energy for one in shared)))
    own = UncertainValue.total(filter(None, (one.own_energy for one in shared)))
    whole_words = quantity(whole.value, NO_INTERVAL, JOULES)
    own_words = quantity(own.value, own.interval, JOULES)
    return [
        f"{len(shared)} shared their machine with others: of {whole_words} about {own_words} was "
        "their own, an estimate; --own-share counts that"
    ]


def _lacking(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """Kinds of component that some entries have, and the names of those that lack them."""
    kinds = [({_kind(part.component) for part in one.parts}, one.name) for one in entries]
    every = set().union(*(found for found, _ in kinds))
    lacking = {kind: [name for found, name in kinds if kind not in found] for kind in every}
    return {kind: names for kind, names in lacking.items() if names}


def _kind(component: str) -> str:
    return component.partition(":")[0]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
