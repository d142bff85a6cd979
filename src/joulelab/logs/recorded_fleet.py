"""Logs of power of many hosts as one energy report.

Each host is read and integrated on its own, since clocks and sampling times differ, and only
energies are added. A host is counted only while its log covers the window.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from joulelab.energy.energy import Energy
from joulelab.energy.uncertainty import gross_energy
from joulelab.errors import UserError
from joulelab.format import count, duration, finite_or_none, first_words, join_words
from joulelab.logs.columns import LogOptions
from joulelab.logs.power_log import Log, read_logs
from joulelab.logs.span_energies import ImportedSpan, energy_row, per_sample, span_energies
from joulelab.logs.timestamps import EPOCH_S
from joulelab.uncertain import Ratio, UncertainValue, ratio

WHOLE = "whole recording"
MOST_NAMES = 8
SAME_TIME = 0.01  # Recordings that differ by less than this part of their length were together.
_NUMBERED = re.compile(r"(.*?)(\d+)(\D*)")
QUARTER_HOUR_S = 900.0
LARGEST_OFFSET_S = 26 * 3600.0
"""Time zones are up to 26 h apart, by multiples of a quarter of an hour (IANA tz database)."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the hosts of a fleet recorded."""

    logs: Mapping[str, Log]  # By host, each on its own clock.
    missing: Mapping[str, str]  # Hosts without a record, and why.
    notes: tuple[str, ...]  # What was assumed or found, host by host.


@dataclass(frozen=True, slots=True)
class FleetEnergy:
    """Energy of a fleet within a window, or over each host's whole recording."""

    # Its name and times; from the first to the last reading for whole recordings.
    window: ImportedSpan
    # By host; ``None`` for a host whose log is outside the window.
    energies: Mapping[str, Energy | None]
    # The same as plain values, see :func:`~joulelab.logs.span_energies.energy_row`.
    rows: Sequence[Mapping[str, Any]]
    total: UncertainValue  # Of all hosts, J.

    def to_json(self) -> dict[str, Any]:
        """Return the row of the fleet, with those of its hosts."""
        low_j, high_j = self.total.interval
        reasons = by_text((row["host"], row["reason"]) for row in self.rows if row["reason"])
        duration_s = self.window.stop_s - self.window.start_s
        are_together = all(
            abs(row["duration_s"] - duration_s) <= SAME_TIME * duration_s for row in self.rows
        )
        powers_w = [row["mean_power_w"] for row in self.rows if row["mean_power_w"] is not None]
        return {
            "name": self.window.name,
            **finite_or_none({"start_s": self.window.start_s, "stop_s": self.window.stop_s}),
            **finite_or_none({"duration_s": duration_s, "gross_j": self.total.value}),
            **finite_or_none({"low_j": low_j, "high_j": high_j}),
            # Hosts that were recorded at different times never drew the sum of their powers.
            "mean_power_w": math.fsum(powers_w) if powers_w and are_together else None,
            **per_sample(self.window, self.total.value, low_j, high_j),
            "reason": "; ".join(reasons) or None,
            "hosts": [dict(row) for row in self.rows],
        }


def read_fleet(patterns: Sequence[str], options: LogOptions) -> Fleet:
    """Read the logs of hosts. A log that cannot be read is a host without a record.

    Args:
        patterns: Of files, each of one host; of directories, each of one host; or one directory
            of such files or directories. Hosts are named after them.
        options: What the user states about all of them.

    Raises:
        UserError: No host can be read, or two have the same name.
    """
    logs: dict[str, Log] = {}
    missing: dict[str, str] = {}
    notes: list[tuple[str, str]] = []
    first: UserError | None = None
    for host, paths in find_host_logs(patterns).items():
        try:
            log = read_logs(paths, options)
        except UserError as error:
            first = first or error
            missing[host] = str(error)
            continue
        logs[host] = log
        # A host of one log has the log's name.
        file = f"{paths[0].name}: " if len(paths) == 1 else ""
        notes += [(host, note.removeprefix(file)) for note in log.notes]
    if first is not None and not logs:
        raise first
    missing |= dict.fromkeys(_skipped_numbers([*logs, *missing]), "there is no log of this name")
    return Fleet(logs, missing, (*by_text(notes), *_copies(logs), *_clocks(logs)))


def find_host_logs(patterns: Sequence[str]) -> dict[str, list[Path]]:
    """Return the logs of each host, by its name in order.

    Raises:
        UserError: A pattern matches nothing, or two hosts have the same name.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        matches = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        if len(matches) == 1 and matches[0].is_dir():
            matches = _entries(matches[0])
        if not matches:
            raise UserError(f"no log of a host matches {pattern!r}", hint="check the path")
        found |= dict.fromkeys(matches)
    by_name = Counter(_stem(path) for path in found)
    if len(by_name) < len(found):
        # The same file name for every host, in a directory of its own.
        parents = Counter(path.resolve().parent.name for path in found)
        if len(by_name) > 1 or len(parents) < len(found):
            twice = by_name.most_common(1)[0][0]
            raise UserError(
                f"several logs are of host {twice!r}",
                why=join_words([str(path) for path in found if _stem(path) == twice]),
                hint="give logs behind the power supplies with --dc, which are never added; "
                "put several logs of one host into a directory for each host",
            )
        names = {path.resolve().parent.name: [path] for path in found}
    else:
        names = {_stem(path): _entries(path) if path.is_dir() else [path] for path in found}
    return dict(sorted(names.items(), key=lambda item: _natural(item[0])))


def fleet_energy(fleet: Fleet, window: ImportedSpan | None = None, meter: str = "") -> FleetEnergy:
    """Compute the energy of each host and of all.

    Args:
        fleet: The logs of the hosts.
        window: On their clocks. ``None``: from each host's own first to its last reading.
        meter: Distinguishes several meters of a host, whose errors are independent.

    Raises:
        UserError: No host has readings in the window.
    """
    energies: dict[str, Energy | None] = {}
    rows: list[dict[str, Any]] = []
    for host, log in fleet.logs.items():
        own = window or ImportedSpan(WHOLE, log.start_s, log.stop_s)
        energy = _host_energy(log, own)
        energies[host] = energy
        row = energy_row(log, own, energy or Energy(duration_s=math.nan))
        if energy is not None and energy.duration_s > 0:
            # Nothing says that a host draws nothing while its log has no readings.
            row["mean_power_w"] = energy.mean_power_w
        if energy is None and (offset := _clock_offset(log, own)):
            row["reason"] = f"{row['reason']}; {offset}"
        rows.append({"host": host, **row})
    counted = [
        gross_energy(energy, dict.fromkeys(energy.components, (host, meter)))
        for host, energy in energies.items()
        if energy is not None and energy.components
    ]
    if not counted:
        raise UserError(
            f"no host has readings in the window {window.name!r}" if window else "no energy",
            why=next((str(row["reason"]) for row in rows), ""),
            hint="give logs and a window on one clock; --timezone states that of dates",
        )
    if window is None:
        start_s = min(log.start_s for log in fleet.logs.values())
        stop_s = max(log.stop_s for log in fleet.logs.values())
        if len({_is_dated(log) for log in fleet.logs.values()}) > 1:
            start_s = stop_s = math.nan
        window = ImportedSpan(WHOLE, start_s, stop_s)
    return FleetEnergy(window, energies, rows, UncertainValue.total(counted))


@dataclass(frozen=True, slots=True)
class SupplyLoss:
    """What power supplies lose: the difference of energies before and behind them."""

    ac: FleetEnergy  # Energy at the wall, of the hosts that have both meters.
    dc: FleetEnergy  # Energy behind the power supplies, of the same hosts.
    hosts: int  # Number of these hosts.

    @property
    def fraction(self) -> Ratio:
        """Lost part of the energy at the wall."""
        efficiency = ratio(self.dc.total, self.ac.total)
        if efficiency is None:
            return Ratio(math.nan, math.nan, math.nan)
        # Supplies lose energy, so an interval that reaches below 0 ends there.
        value = 1 - efficiency.value
        return Ratio(value, min(max(1 - efficiency.high, 0.0), value), 1 - efficiency.low)

    @property
    def lost_j(self) -> float:
        """Lost energy, J."""
        return self.ac.total.value - self.dc.total.value


def supply_loss(ac: Fleet, dc: Fleet, window: ImportedSpan | None) -> SupplyLoss:
    """Compare meters before and behind the power supplies, over a window that all cover.

    Args:
        ac: Logs at the wall.
        dc: Logs behind the power supplies of the same hosts.
        window: ``None`` for the time that all logs cover.

    Raises:
        UserError: No host has both, or no time is covered by all.
    """
    both = [host for host in ac.logs if host in dc.logs]
    if not both:
        raise UserError(
            "no host has a log with --hosts and with --dc",
            why=f"they are of {join_words([*ac.logs])}, and of {join_words([*dc.logs])}",
            hint="give both logs of a host the same name, in two directories",
        )
    sides = [replace(one, logs={host: one.logs[host] for host in both}) for one in (ac, dc)]
    if window is None:
        logs = [log for side in sides for log in side.logs.values()]
        start_s, stop_s = max(log.start_s for log in logs), min(log.stop_s for log in logs)
        if stop_s <= start_s:
            raise UserError(
                "no time is covered by all logs of --hosts and --dc",
                hint="compare them within a --window, or leave out hosts whose log is short",
            )
        window = ImportedSpan("time that all logs cover", start_s, stop_s)
    before, behind = (
        fleet_energy(side, window, meter) for side, meter in zip(sides, ("ac", "dc"), strict=True)
    )
    return SupplyLoss(before, behind, len(both))


def _host_energy(log: Log, window: ImportedSpan) -> Energy | None:
    """Compute the energy of a host while its log covers the window; ``None`` if it never does."""
    if not log.overlaps(window.start_s, window.stop_s):
        return None
    # Seen over the whole window, a log that ends early lists its devices only for a part of it.
    start_s, stop_s = min(log.start_s, window.start_s), max(log.stop_s, window.stop_s)
    # The window is of another clock: nothing says that this host's power changed at its edges.
    seen = replace(log, start_s=start_s, stop_s=stop_s)
    return span_energies(seen, [window], may_change_at_edges=False)[0]


def _clock_offset(log: Log, window: ImportedSpan) -> str:
    """Say by which multiple of a quarter of an hour the window would lie within a log, if any."""
    middle_s, log_middle_s = ((one.start_s + one.stop_s) / 2 for one in (window, log))
    offset_s = round((log_middle_s - middle_s) / QUARTER_HOUR_S) * QUARTER_HOUR_S
    fits = log.overlaps(window.start_s + offset_s, window.stop_s + offset_s)
    if not fits or not 0 < abs(offset_s) <= LARGEST_OFFSET_S:
        return ""
    direction = "ahead" if offset_s > 0 else "behind"
    return (
        f"it would fit if its clock were {duration(abs(offset_s))} {direction}: "
        "import logs of another time zone with their --timezone"
    )


def _is_dated(log: Log) -> bool:
    return EPOCH_S[0] <= log.start_s < EPOCH_S[1]


def _clocks(logs: Mapping[str, Log]) -> Iterator[str]:
    """Name the hosts whose times are no dates, if those of others are."""
    others = [host for host, log in logs.items() if not _is_dated(log)]
    if 0 < len(others) < len(logs):
        times = "has times" if len(others) == 1 else "have times"
        yield (
            f"{first_words(others, MOST_NAMES)} {times} of another clock than the other hosts: no "
            "time of all is known"
        )


def _copies(logs: Mapping[str, Log]) -> Iterator[str]:
    """Name hosts with identical readings: one log may be a copy of the other."""
    same: dict[bytes, list[str]] = {}
    for host, log in logs.items():
        digest = hashlib.sha256(np.float64(log.origin_s).tobytes())
        for one in log.trace.series:
            digest.update(one.t_ns.tobytes() + one.value.tobytes())
        same.setdefault(digest.digest(), []).append(host)
    for hosts in same.values():
        if len(hosts) > 1:
            yield (
                f"{first_words(hosts, MOST_NAMES)} have identical readings, all of which count: "
                "a log may be a copy"
            )


def _skipped_numbers(hosts: Sequence[str]) -> list[str]:
    """Return the names that are missing from a numbered series of hosts.

    Example:
        >>> _skipped_numbers(["node_0", "node_1", "node_3"]), _skipped_numbers(["n01", "n03"])
        (['node_2'], ['n02'])
        >>> _skipped_numbers(["rack1-7", "rack1-4000"])  # numbers of machines, not of a series
        []
    """
    matches = [_NUMBERED.fullmatch(host) for host in hosts]
    parts = [match.groups() for match in matches if match is not None]
    if len(parts) < len(hosts) or len({(one[0], one[2]) for one in parts}) != 1:
        return []
    present = {int(number) for _, number, _ in parts}
    absent = [number for number in range(min(present), max(present)) if number not in present]
    if len(absent) >= len(present):
        return []
    prefix, text, suffix = parts[0]
    width = len(text) if all(len(one[1]) == len(text) for one in parts) else 0
    return [f"{prefix}{number:0{width}d}{suffix}" for number in absent]


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]


def _entries(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if not path.name.startswith("."))


def _natural(text: str) -> list[tuple[int, str]]:
    """Sort numbers in names by their value."""
    return [(int(one), "") if one.isdigit() else (-1, one) for one in re.split(r"(\d+)", text)]


def by_text(remarks: Iterable[tuple[str, str]]) -> list[str]:
    """Put the hosts in front of each remark, those with the same remark together.

    Example:
        >>> by_text([("a", "is late"), ("b", "is cut short"), ("c", "is late"), ("a", "is late")])
        ['a and c: is late', 'b: is cut short']
    """
    hosts: dict[str, dict[str, None]] = {}
    for host, text in remarks:
        hosts.setdefault(text, {})[host] = None
    return [f"{first_words([*some], MOST_NAMES)}: {text}" for text, some in hosts.items()]


def describe_missing(missing: Mapping[str, str]) -> str:
    """Name the hosts without a record.

    Example:
        >>> describe_missing({"node_2": "there is no log of this name"})
        'no record of 1 host, which is not counted: node_2 (there is no log of this name)'
    """
    verb = "which is" if len(missing) == 1 else "which are"
    hosts = "; ".join(f"{host} ({why})" for host, why in missing.items())
    return f"no record of {count(len(missing), 'host')}, {verb} not counted: {hosts}"
