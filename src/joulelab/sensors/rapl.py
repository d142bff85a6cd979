"""Processor and memory energy from RAPL, through Linux's powercap files.

Intel: Software Developer's Manual, volume 3B, "Platform specific power management support".
Linux: Documentation/power/powercap/powercap.rst. These zones are counted:

- ``intel-rapl:N`` named ``package-N`` (also on AMD) is a ``cpu``. Its ``core`` and ``uncore`` are
  inside it and not counted.
- ``dram`` below a package is a ``dram``, which on servers is not inside the package.
- ``psys`` is a ``soc`` that contains all others. What it covers depends on the platform: the
  manufacturer has to wire and enable it (Intel SDM, volume 4, MSR_PLATFORM_ENERGY_COUNTER). It may
  be the whole platform, or not more than packages and memory.
- ``intel-rapl-mmio`` repeats ``intel-rapl``: it is used only for a package that the latter lacks.
- Packages or dies that show the same counter are counted once.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from joulelab.sensors.interfaces import system_root
from joulelab.sensors.plausibility import (
    DEVICE_W,
    implausible,
    max_power_w,
    memory_bound_w,
    package_bound_w,
)
from joulelab.sensors.sensor import (
    Absence,
    Channel,
    Gap,
    NothingOpen,
    Provenance,
    Quantity,
    Reading,
)
from joulelab.sensors.sysfs_files import failure_reason, read_number, read_number_or_none

READ_INTERVAL_S = 0.1
FASTEST_READ_S = 1e-3
"""Counters of a small range are read more often, but at most this often."""
UPDATE_PERIOD_S = 1e-3
"""Intel: "updated every ~1 msec" (SDM, MSR_PKG_ENERGY_STATUS); AMD the same."""
RESOLUTION_J = 61e-6
"""2^-14 J, Intel's usual energy unit (SDM, MSR_RAPL_POWER_UNIT); AMD's is finer, 2^-16 J."""
FASTEST_W = 1000.0
"""The highest power for which the reading interval is safe."""
LEAST_RANGE_J = FASTEST_W * FASTEST_READ_S
"""A counter that can wrap between two readings is useless."""
MIRROR_READINGS = 9
MIRROR_APART_S = 2e-3
"""Counters are read this often, two of their updates apart, to find those that are the same."""
START_CHECK_S = 0.025
START_CHECKS = 4
"""A counter whose power is not possible over each of these times in a row is refused."""
GAIN_UNCERTAINTY = 0.05
"""Packages since Haswell measure (Hackenberg et al. 2015); RAPL is within a few per cent of changes
of plug power (Khan et al. 2018)."""
MODELLED_GAIN_UNCERTAINTY = 0.10
"""DRAM is within 20 % of metered modules (Desrochers et al. 2016), twice this value; AMD's counters
come from a model (Schöne et al. 2021)."""
UNREADABLE_HINT = (
    "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj (until reboot); to make it "
    "permanent, add the line 'z /sys/class/powercap/intel-rapl:*/energy_uj 0444 - - -' to "
    "/etc/tmpfiles.d/rapl.conf"
)
HIDDEN_HINT = (
    "containers hide /sys/devices/virtual/powercap (containerd since 1.6.26 and 1.7.11, Docker, "
    "Podman): mount it, for example with docker run -v /sys:/host/sys:ro "
    "-e JOULELAB_SYSFS=/host/sys"
)

_NOTES = {
    "cpu": "includes core and uncore",
    "soc": "what psys covers depends on how the manufacturer wired the board: it is next to the "
    "total, and never in it with its parts",
}
_ZONE = re.compile(r"^(intel-rapl|intel-rapl-mmio):(\d+)(?::(\d+))?$")
_PLATFORM = re.compile(r"^psys(?:-\d+)?$")
_PACKAGE = re.compile(r"^package-\d+(?:-die-\d+)?$")


@dataclass(frozen=True, slots=True)
class _Zone:
    """A power zone of powercap."""

    path: Path
    kind: str
    label: str

    @property
    def energy_uj(self) -> Path:
        return self.path / "energy_uj"


class RaplSensor(NothingOpen):
    """The energy counters of packages and of their memory, in joules.

    A counter returns to zero after :attr:`Channel.wrap`; the energy estimate unwraps it. Files are
    opened for each reading: one that vanishes is a gap until it is back.
    """

    def __init__(self, channels: Sequence[Channel], paths: Sequence[Path]) -> None:
        self.channels = channels
        self._paths = tuple(map(str, paths))
        wraps_j = [channel.wrap for channel in channels if channel.wrap]
        fastest_s = min(wraps_j, default=math.inf) / FASTEST_W / 4
        self.interval_s = min(READ_INTERVAL_S, max(FASTEST_READ_S, fastest_s))

    def read(self) -> list[Reading | Gap]:
        """Read every counter."""
        readings: list[Reading | Gap] = []
        for position, path in enumerate(self._paths):
            try:
                microjoules = read_number(path)
            except (OSError, ValueError) as error:
                readings.append(Gap(time.monotonic_ns(), position, failure_reason(error)))
            else:
                readings.append(Reading(time.monotonic_ns(), position, microjoules / 1e6))
        return readings


def discover_rapl(
    kinds: Iterable[str] = ("cpu", "dram", "soc"),
    *,
    root: Path | None = None,
    vendor: str | None = None,
    tdp_w: float | None = None,
) -> tuple[list[RaplSensor], list[Absence]]:
    """Find the RAPL counters of this machine.

    Args:
        kinds: Of ``cpu``, ``dram`` and ``soc``.
        root: Another root for ``/sys``.
        vendor: The processor's vendor as in /proc/cpuinfo.
        tdp_w: Thermal design power of one package, if it is known.

    Returns:
        At most one sensor, with channels ``cpu:0 ...``, ``dram:0 ...`` and ``soc``, and what is
        absent.
    """
    kinds = tuple(kinds)
    expected = [kind for kind in kinds if kind != "soc"]
    powercap = (root or system_root()) / "class" / "powercap"
    names, nameless = _zone_names(powercap)
    if not names and not nameless:
        reason = f"no RAPL counters in {powercap} (usual in virtual machines and containers)"
        hint = "on Linux on bare metal: sudo modprobe intel_rapl_msr"
        return [], [Absence(kind, "rapl", reason, hint) for kind in expected]
    absences = [Absence(kind, "rapl", why, hint) for kind in expected for why, hint in nameless]
    channels: list[Channel] = []
    paths: list[Path] = []
    for kind in kinds:
        zones = [zone for zone in _counted(powercap, names) if zone.kind == kind]
        if not zones and names and kind in expected:
            absences.append(_no_zone(kind, names))
        readable, refused = _readable(zones)
        absences += refused
        distinct, mirrored = _without_mirrors(readable)
        absences += mirrored
        for number, zone in enumerate(distinct):
            bound_w = _bound_w(zone, tdp_w)
            component = kind if kind == "soc" and len(distinct) == 1 else f"{kind}:{number}"
            channel = _channel(zone, component, vendor)
            channels.append(replace(channel, max_power_w=bound_w))
            paths.append(zone.energy_uj)
    for channel, path, power_w in _impossible(channels, paths):
        channels.remove(channel)
        paths.remove(path)
        absences.append(Absence(channel.component, channel.source, implausible(channel, power_w)))
    return ([RaplSensor(channels, paths)] if channels else []), absences


def package_zones() -> list[Path]:
    """Return the directories of the processor packages in powercap, in package order."""
    powercap = system_root() / "class" / "powercap"
    zones = _counted(powercap, _zone_names(powercap)[0])
    return [zone.path for zone in zones if zone.kind == "cpu"]


def _zone_names(powercap: Path) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The name of each zone by its directory, in order; why some have no name, and the fix."""
    found, nameless = {}, []
    if powercap.is_dir():
        for path in sorted(powercap.iterdir()):
            if _ZONE.match(path.name):
                try:
                    found[path.name] = (path / "name").read_text(errors="replace").strip()
                except OSError as error:
                    if path.is_symlink() and not path.exists():
                        target = powercap.parents[1] / "devices" / "virtual" / "powercap"
                        reason = f"the links in {powercap} lead nowhere: {target} is hidden"
                        if (reason, HIDDEN_HINT) not in nameless:
                            nameless.append((reason, HIDDEN_HINT))
                        continue
                    reason = f"it is unknown what {path} counts: cannot read {path / 'name'}"
                    nameless.append((f"{reason}: {failure_reason(error)}", ""))
    by_number = sorted(found.items(), key=lambda one: [int(n) for n in re.findall(r"\d+", one[0])])
    return dict(by_number), nameless


def _counted(powercap: Path, names: dict[str, str]) -> list[_Zone]:
    """Packages and their DRAM, in package order; mmio zones only where msr has no twin."""
    zones: list[_Zone] = []
    for driver in ("intel-rapl", "intel-rapl-mmio"):
        twins = {zone.label for zone in zones}
        for directory, name in names.items():
            match = _ZONE.match(directory)
            if match is None or match[1] != driver:
                continue
            parent = names.get(f"{driver}:{match[2]}", "")
            if match[3] is None and _PACKAGE.match(name):
                zone = _Zone(powercap / directory, "cpu", name)
            elif match[3] is None and _PLATFORM.match(name):
                zone = _Zone(powercap / directory, "soc", name)
            elif match[3] is not None and name == "dram" and _PACKAGE.match(parent):
                zone = _Zone(powercap / directory, "dram", f"{parent}.dram")
            else:
                continue
            if zone.label not in twins:
                zones.append(zone)
    return sorted(zones, key=lambda zone: [int(n) for n in re.findall(r"\d+", zone.label)])


def _no_zone(kind: str, names: dict[str, str]) -> Absence:
    if kind == "cpu" and set(names.values()) == {"psys"}:
        return Absence(
            kind, "rapl", "RAPL has only psys, which is the platform and not the processor alone"
        )
    listed = ", ".join(dict.fromkeys(map(repr, names.values())))
    what = "package" if kind == "cpu" else "dram"
    return Absence(kind, "rapl", f"RAPL counts no {what} on this processor, only {listed}")


def _readable(zones: Sequence[_Zone]) -> tuple[list[_Zone], list[Absence]]:
    good, refused = [], []
    for zone in zones:
        try:
            read_number(zone.energy_uj)
        except PermissionError:
            reason = f"only root may read {zone.energy_uj} (since Linux 5.10, CVE-2020-8694)"
            refused.append(Absence(zone.kind, f"rapl.{zone.label}", reason, UNREADABLE_HINT))
        except (OSError, ValueError) as error:
            reason = f"cannot read {zone.energy_uj}: {failure_reason(error)}"
            refused.append(Absence(zone.kind, f"rapl.{zone.label}", reason))
        else:
            range_j = _wrap_j(zone)
            if range_j is None or range_j >= LEAST_RANGE_J:
                good.append(zone)
                continue
            reason = f"{zone.path} counts only to {range_j:g} J: it can wrap between two readings"
            refused.append(Absence(zone.kind, f"rapl.{zone.label}", reason))
    return good, refused


def _without_mirrors(zones: Sequence[_Zone]) -> tuple[list[_Zone], list[Absence]]:
    """Each counter once, from the first zone that shows it."""
    readings = list(_repeated_readings(zones)) if len(zones) > 1 else []
    distinct: list[int] = []
    absences = []
    for i, zone in enumerate(zones):
        twins = (k for k in distinct if _same_counter([(one[k], one[i]) for one in readings]))
        twin = next(twins, None)
        if twin is None:
            distinct.append(i)
        else:
            reason = f"shows the same counter as {zones[twin].label}, which is counted"
            absences.append(Absence(zone.kind, f"rapl.{zone.label}", reason))
    return [zones[i] for i in distinct], absences


def _repeated_readings(zones: Sequence[_Zone]) -> Iterator[list[tuple[int, int]]]:
    """Readings of each zone, in order and then in reverse order."""
    for i in range(MIRROR_READINGS):
        if i:
            time.sleep(MIRROR_APART_S)
        try:
            first = [read_number(zone.energy_uj) for zone in zones]
            second = [read_number(zone.energy_uj) for zone in reversed(zones)]
        except (OSError, ValueError):
            continue
        yield list(zip(first, reversed(second), strict=True))


def _same_counter(pairs: Sequence[tuple[tuple[int, int], tuple[int, int]]]) -> bool:
    """Whether a counter mostly lies between the two readings of another that surround it.

    Not always: the other may wrap, or be updated a moment earlier.
    """
    between = sum(before <= value <= after for (before, after), (value, _) in pairs)
    return between > len(pairs) / 2


def _bound_w(zone: _Zone, tdp_w: float | None) -> float:
    """The largest plausible power of a zone, from what the kernel or the chip's name states."""
    if zone.kind == "soc":
        return DEVICE_W["node"]
    if zone.kind == "dram":
        return memory_bound_w(psutil.virtual_memory().total)
    rated_w = [tdp_w or 0.0]
    for path in zone.path.glob("constraint_*_max_power_uw"):
        with contextlib.suppress(OSError, ValueError):
            rated_w.append(read_number(path) / 1e6)
    return package_bound_w(max(rated_w))


def _impossible(
    channels: Sequence[Channel], paths: Sequence[Path]
) -> list[tuple[Channel, Path, float]]:
    """The counters that count more than their zone can draw, and the power that they show."""
    suspects = [(channel, path, 0.0) for channel, path in zip(channels, paths, strict=True)]
    for _ in range(START_CHECKS):
        if not suspects:
            break
        started = [(time.monotonic(), read_number_or_none(path)) for _, path, _ in suspects]
        time.sleep(START_CHECK_S)
        found = []
        for (start_s, first), (channel, path, _) in zip(started, suspects, strict=True):
            last, took_s = read_number_or_none(path), time.monotonic() - start_s
            if first is None or last is None or last < first:
                # It cannot be read now, or may have wrapped.
                continue
            energy_j = (last - first) / 1e6
            if energy_j > max_power_w(channel) * (took_s + channel.update_period_s):
                found.append((channel, path, energy_j / took_s))
        suspects = found
    return suspects


def _channel(zone: _Zone, component: str, vendor: str | None) -> Channel:
    modelled = zone.kind != "cpu" or vendor in ("AuthenticAMD", "HygonGenuine")
    return Channel(
        component=component,
        quantity=Quantity.ENERGY,
        source=f"rapl.{zone.label}",
        provenance=Provenance.MEASURED,
        update_period_s=UPDATE_PERIOD_S,
        polled=True,
        resolution=RESOLUTION_J,
        gain_uncertainty=MODELLED_GAIN_UNCERTAINTY if modelled else GAIN_UNCERTAINTY,
        wrap=_wrap_j(zone),
        contains=("cpu", "gpu", "dram") if zone.kind == "soc" else (),
        note=_NOTES.get(zone.kind, ""),
    )


def _wrap_j(zone: _Zone) -> float | None:
    range_uj = read_number_or_none(zone.path / "max_energy_range_uj")
    return range_uj / 1e6 if range_uj else None
