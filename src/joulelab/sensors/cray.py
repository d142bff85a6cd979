"""Energy counters of Cray nodes (XC, EX), which their board controllers publish ten times a second.

Martin et al., *Cray XC30 power monitoring and management*, Cray User Group 2014; HPE, *Cray EX
hardware management*, "pm_counters". Each file of ``/sys/cray/pm_counters`` is a value and the time
of its measurement, ``<J> J <us> us``, on a clock of its own; ``freshness`` changes with each scan.

- ``energy`` is the node's, which contains all others.
- ``cpu_energy`` is that of all sockets; ``memory_energy`` that of all memory.
- ``accelN_energy`` is an accelerator's module: with MI250X, of two GPUs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from joulelab.sensors.hwmon_boards import EVERYTHING
from joulelab.sensors.interfaces import system_root
from joulelab.sensors.nvml_binding import NvmlError, within
from joulelab.sensors.sensor import (
    Absence,
    Channel,
    Gap,
    NothingOpen,
    Provenance,
    Quantity,
    Reading,
)
from joulelab.sensors.sysfs_files import failure_reason, read_text

READ_INTERVAL_S = 0.043
"""Not a simple part of the update period, so that some reading soon follows an update closely."""
UPDATE_PERIOD_S = 0.1
GAIN_UNCERTAINTY = 0.05
"""Neither Cray nor HPE states one."""
TIME_UNCERTAINTY_S = 0.01
"""It is not stated how long after a scan its values are published."""
DRIFT = 1e-4
"""Clocks drift apart by less than this share."""
CLOCK_STEP_NS = 500_000_000
SILENCE_NS = 1_000_000_000
OBSERVE_S = 0.25
TRIES = 3
ANSWER_S = 10.0
FRESHNESS = "freshness"
_VALUE = re.compile(r"(\d+) J (\d+) us")
_FILE = re.compile(r"(?:(cpu|memory|accel)(\d*)_)?energy")


class CraySensor(NothingOpen):
    """The counters of a node, in joules, at the times of their own clock.

    A value was measured at some time before it is read. The shortest time from a timestamp until it
    was read therefore aligns the counters' clock with CLOCK_MONOTONIC.
    """

    def __init__(self, channels: list[Channel], directory: Path, files: list[str]) -> None:
        self.channels: Sequence[Channel] = channels
        self.interval_s = READ_INTERVAL_S
        self._directory = directory
        self._paths = [directory / file for file in files]
        self._has_freshness = (directory / FRESHNESS).exists()
        now_ns = time.monotonic_ns()
        self._freshness = ""
        self._stamps_ns = [0] * len(files)
        self._new_ns = [now_ns] * len(files)
        self._offset_ns: int | None = None
        self._aligned_ns = now_ns
        until_s = time.monotonic() + OBSERVE_S
        observed: list[tuple[int, list[Reading | Gap]]] = []
        while time.monotonic() < until_s:
            found = self._read_new()
            observed.append((self._offset_ns or 0, found))
            time.sleep(0.001)
        self._early: list[Reading] = [
            one._replace(t_ns=one.t_ns + (self._offset_ns or 0) - offset_ns)
            for offset_ns, found in observed
            for one in found
            if isinstance(one, Reading)
        ]

    def read(self) -> list[Reading | Gap]:
        """Return the new values of every counter; at first, those since it was opened."""
        early, self._early = self._early, []
        return [*early, *self._read_new()]

    def _read_new(self) -> list[Reading | Gap]:
        for _ in range(TRIES):
            now_ns = time.monotonic_ns()
            try:
                before = self._scan()
                if before and before == self._freshness:
                    return self._silent(now_ns, f"{FRESHNESS} does not change")
                found = [self._value(path) for path in self._paths]
                after = self._scan()
            except (OSError, ValueError) as error:
                reason = f"{FRESHNESS}: {failure_reason(error)}"
                return [Gap(now_ns, position, reason) for position in range(len(self._paths))]
            if before == after:
                self._freshness = before
                return self._new(now_ns, found)
        reason = "the counters changed each time while they were read"
        return [Gap(now_ns, position, reason) for position in range(len(self._paths))]

    def _scan(self) -> str:
        return read_text(self._directory / FRESHNESS) if self._has_freshness else ""

    def _value(self, path: Path) -> tuple[int, int] | str:
        """Return a counter's joules and its time, ns, or why there is none."""
        try:
            return read_value(path)
        except (OSError, ValueError) as error:
            return failure_reason(error)

    def _new(self, now_ns: int, found: list[tuple[int, int] | str]) -> list[Reading | Gap]:
        readings: list[Reading | Gap] = []
        is_new = [
            not isinstance(one, str) and one[1] != last
            for one, last in zip(found, self._stamps_ns, strict=True)
        ]
        stamps_ns = [one[1] for one in found if not isinstance(one, str)]
        jumped = any(is_new) and self._align(now_ns, now_ns - max(stamps_ns))
        for position, (one, new) in enumerate(zip(found, is_new, strict=True)):
            if isinstance(one, str):
                readings.append(Gap(now_ns, position, one))
            elif new and self._offset_ns is not None:
                joules, stamp_ns = one
                self._stamps_ns[position], self._new_ns[position] = stamp_ns, now_ns
                if jumped:
                    readings.append(Gap(now_ns, position, "the counters' clock jumped"))
                else:
                    readings.append(Reading(stamp_ns + self._offset_ns, position, float(joules)))
        return readings + self._silent(now_ns, "its timestamp does not change")

    def _align(self, now_ns: int, offset_ns: int) -> bool:
        """Take in that CLOCK_MONOTONIC is at most so far ahead; report whether a clock jumped."""
        known_ns = self._offset_ns
        if known_ns is None or abs(offset_ns - known_ns) > CLOCK_STEP_NS:
            self._offset_ns, self._aligned_ns = offset_ns, now_ns
            return known_ns is not None
        drifted_ns = known_ns + round(DRIFT * (now_ns - self._aligned_ns))
        self._offset_ns, self._aligned_ns = min(drifted_ns, offset_ns), now_ns
        return False

    def _silent(self, now_ns: int, reason: str) -> list[Reading | Gap]:
        """Return gaps of the counters that have had nothing new for a while."""
        gaps: list[Reading | Gap] = []
        for position, new_ns in enumerate(self._new_ns):
            if now_ns - new_ns > SILENCE_NS:
                self._new_ns[position] = now_ns
                gaps.append(Gap(now_ns, position, reason))
        return gaps


def read_value(path: Path) -> tuple[int, int]:
    """Read a counter's joules and the time of its measurement, ns.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not of the form ``<J> J <us> us``.
    """
    text = read_text(path)
    match = _VALUE.fullmatch(text)
    if match is None:
        raise ValueError(f"{path.name} contains {text!r}, not joules and a time")
    return int(match[1]), int(match[2]) * 1000


def discover_cray(
    kinds: Collection[str], found: Collection[str], *, root: Path | None = None
) -> tuple[list[CraySensor], list[Absence]]:
    """Find the counters of a Cray node.

    Returns:
        At most one sensor, and what is absent; nothing of either on another machine.
    """
    directory = (root or system_root()) / "cray" / "pm_counters"
    try:
        return within(ANSWER_S, partial(_discover, kinds, found, directory))
    except NvmlError as error:
        return [], [Absence("node", "cray", str(error))]


def _discover(
    kinds: Collection[str], found: Collection[str], directory: Path
) -> tuple[list[CraySensor], list[Absence]]:
    if not directory.is_dir():
        return [], []
    names = sorted(path.name for path in directory.iterdir() if _FILE.fullmatch(path.name))
    channels: list[Channel] = []
    files: list[str] = []
    absent: list[Absence] = []
    for name in names:
        component, inside = _component(name, names, found)
        if component.partition(":")[0] not in kinds:
            continue
        source = f"cray.{name}"
        try:
            read_value(directory / name)
        except (OSError, ValueError) as error:
            reason = f"cannot read {directory / name}: {failure_reason(error)}"
            absent.append(Absence(component, source, reason))
            continue
        files.append(name)
        channels.append(
            Channel(
                component=component,
                quantity=Quantity.ENERGY,
                source=source,
                provenance=Provenance.MEASURED,
                update_period_s=UPDATE_PERIOD_S,
                time_uncertainty_s=TIME_UNCERTAINTY_S,
                resolution=1.0,
                gain_uncertainty=GAIN_UNCERTAINTY,
                priority=3,
                contains=inside,
            )
        )
    return ([CraySensor(channels, directory, files)] if files else []), absent


def _component(
    name: str, names: Collection[str], found: Collection[str]
) -> tuple[str, tuple[str, ...]]:
    match = _FILE.fullmatch(name)
    assert match is not None
    part, number = match[1], match[2] or "0"
    if part is None:
        return "node", EVERYTHING
    if part == "accel":
        gpus = sorted(
            (one for one in found if one.startswith("gpu:")), key=lambda one: int(one[4:])
        )
        if not gpus:
            return f"gpu:{number}", ()
        each, rest = divmod(len(gpus), sum(one.startswith("accel") for one in names))
        own = gpus[int(number) * each :][:each]
        return f"module:{number}", tuple(own) if own and not rest else ("gpu",)
    kind = "dram" if part == "memory" else part
    if match[2]:
        return f"{kind}:{number}", ()
    parts = {one for one in found if one.startswith(f"{kind}:")}
    parts |= {f"{kind}:{one[1]}" for one in map(re.compile(rf"{part}(\d+)_").match, names) if one}
    return (kind, tuple(sorted(parts))) if len(parts) > 1 else (f"{kind}:0", ())
