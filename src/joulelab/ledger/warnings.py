"""Warnings about the sums of a ledger: what is missing, estimated, shared or counted twice."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise

from joulelab.energy.baseline import BUSY_IDLE
from joulelab.format import count, first_words, percent, quantity, with_interval
from joulelab.ledger.entries import Entry
from joulelab.ledger.group import count_records
from joulelab.runs.shared_machine import Sharing, has_busy_idle
from joulelab.sensors.sensor import Provenance
from joulelab.uncertain import UncertainValue

LEAST_OVERLAP = 0.01
"""Share of the sum from which energy that counts twice is reported."""
MOST_NAMES = 3

Stretch = tuple[float, float, float]
"""Start and end, unix seconds, and mean power, W."""


def find_warnings(
    entries: Sequence[Entry],
    copies: int,
    undated: int,
    *,
    own_share: bool = False,
    twice_j: float | None = None,
) -> list[str]:
    """Return what the user should know about the sums of entries.

    ``copies`` and ``undated`` records are not in the sums; the latter have an unknown start.
    ``twice_j`` is the energy that counts twice, if the entries do not show it.
    """
    warnings = []
    unfinished = [one for one in entries if not one.run.finished]
    if unfinished:
        warnings.append(
            f"{count(count_records(unfinished), 'unfinished run')}, counted up to the last "
            f"reading: {_some_runs(unfinished)}"
        )
    unmeasured = [one for one in entries if one.energy is None]
    if unmeasured:
        warnings.append(
            f"{count(count_records(unmeasured), 'run')} without energy, not in the sums: "
            f"{_some_runs(unmeasured)}"
        )
    measured = [one for one in entries if one.energy is not None]
    warnings += [*_of_provenance(measured), *_of_sharing(measured, own_share=own_share)]
    for kind, lacking in sorted(_lacking(measured).items()):
        runs = count(count_records(lacking), "run")
        warnings.append(f"no {kind} energy in {runs}: {_some_runs(lacking)}")
    if twice_j is None:
        twice_j = counted_twice_j(measured, unshared_only=own_share)
    total_j = math.fsum(one.energy.value for one in measured if one.energy is not None)
    if twice_j > LEAST_OVERLAP * total_j:
        warnings.append(
            "runs overlapped on the same machine, and each contains all that the machine used: the "
            f"sums are {quantity(twice_j, 'J')} too large"
        )
    if copies:
        warnings.append(f"{count(copies, 'copy of a record', 'copies of records')} not counted")
    if undated:
        warnings.append(f"{count(undated, 'run')} left out, with an unknown start")
    return warnings


def counted_twice_j(entries: Iterable[Entry], *, unshared_only: bool = False) -> float:
    """Return how much more the sum of entries is than what their machines used, J.

    A run's record has all that its machine's components used. Where runs overlap on a component,
    all but the largest of their mean powers are counted twice. ``unshared_only`` leaves out
    components whose own share is known and added.
    """
    stretches: dict[Hashable, list[Stretch]] = {}
    for entry in entries:
        start_s, duration_s = entry.run.started_unix_s, entry.run.duration_s
        if not duration_s > 0 or math.isnan(start_s):
            continue
        for part in entry.parts:
            if part.share is None or not unshared_only:
                stretch = (start_s, start_s + duration_s, part.gross_j / duration_s)
                key = (entry.boards[part.component], part.component)
                stretches.setdefault(key, []).append(stretch)
    return math.fsum(overlap_j(found) for found in stretches.values())


def overlap_j(stretches: list[Stretch]) -> float:
    """Return what is counted twice on one component.

    Example:
        >>> overlap_j([(0.0, 10.0, 100.0), (5.0, 10.0, 90.0), (20.0, 30.0, 100.0)])
        450.0
    """
    edges = sorted({edge for start, end, _ in stretches for edge in (start, end)})
    waiting = sorted(stretches, reverse=True)
    under_way: list[Stretch] = []
    total_j = 0.0
    for begin, end in pairwise(edges):
        while waiting and waiting[-1][0] <= begin:
            under_way.append(waiting.pop())
        under_way = [one for one in under_way if one[1] > begin]
        powers_w = [power_w for _, _, power_w in under_way]
        if len(powers_w) > 1:
            total_j += (math.fsum(powers_w) - max(powers_w)) * (end - begin)
    return total_j


def _of_provenance(entries: Sequence[Entry]) -> list[str]:
    parts = [part for one in entries for part in one.parts if part.gross_j > 0]
    total_j = math.fsum(part.gross_j for part in parts)
    warnings = []
    for kind in (Provenance.SIMULATED, Provenance.ESTIMATED):
        some_j = math.fsum(part.gross_j for part in parts if part.provenance is kind)
        if some_j:
            warnings.append(f"{percent(some_j / total_j)} of the energy is {kind}, not measured")
    return warnings


def _of_sharing(entries: Sequence[Entry], *, own_share: bool) -> list[str]:
    doubtful = sum(has_busy_idle(one.run.energy) for one in entries)
    idle = f"{BUSY_IDLE} for {count(doubtful, 'run')}: energies net of idle are uncertain"
    warnings = [idle] if doubtful else []
    sharing = Sharing.of((str(one.run.directory), one.run.energy) for one in entries)
    if sharing is None:
        return warnings
    shared = [one for one in entries if one.is_shared]
    users = f" ({first_words(sharing.users, MOST_NAMES)})" if sharing.users else ""
    runs = f"{count(len(shared), 'run')} on shared machines{users}"
    if own_share:
        return [*warnings, f"{runs}: own share counted (estimated)"]
    whole = UncertainValue.total(filter(None, (one.gross_energy() for one in shared)))
    own = UncertainValue.total(filter(None, (one.gross_energy(own_share=True) for one in shared)))
    return [
        *warnings,
        f"{runs}: about "
        f"{with_interval(own.value, *own.interval, 'J')} of {quantity(whole.value, 'J')} is their "
        "own share (estimated); count only that with --own-share",
    ]


def _lacking(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Return the entries that lack a kind of component that others have."""
    kinds = [({part.component.partition(":")[0] for part in one.parts}, one) for one in entries]
    every = set().union(*(found for found, _ in kinds))
    lacking = {kind: [one for found, one in kinds if kind not in found] for kind in every}
    return {kind: some for kind, some in lacking.items() if some}


def _some_runs(entries: Sequence[Entry]) -> str:
    names = [one.run.name for one in entries[:MOST_NAMES]]
    return first_words(names, MOST_NAMES, count_records(entries))
