"""Processor and memory energy from RAPL, through Linux's powercap files.

Intel: Software Developer's Manual, volume 3B, "Platform specific power management support".
Linux: Documentation/power/powercap/powercap.rst. What is counted:

- ``intel-rapl:N`` named ``package-N``, also on AMD: a ``cpu``. Its ``core`` and ``uncore`` are
  inside it and not counted.
- ``dram`` below a package: a ``dram``, which on servers is not inside the package.
- ``psys`` overlaps everything and is never counted.
- ``intel-rapl-mmio`` repeats ``intel-rapl``: used only for a package that the latter lacks.
- Packages or dies that show one and the same counter: counted once.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from joulelab.sensors.host import system_root
from joulelab.sensors.sensor import Absence, Channel, Gap, Provenance, Quantity, Reading

READ_INTERVAL_S = 0.1
UPDATE_PERIOD_S = 1e-3
"""Intel: "updated every ~1 msec" (SDM, MSR_PKG_ENERGY_STATUS); AMD the same."""
RESOLUTION_J = 61e-6
"""2^-14 J, Intel's usual energy unit (SDM, MSR_RAPL_POWER_UNIT); AMD's is finer, 2^-16 J."""
FASTEST_W = 1000.0
"""No zone draws more: what the reading interval is safe for."""
GAIN_UNCERTAINTY = 0.05
"""Packages since Haswell measure (Hackenberg et al. 2015; Khan et al. 2018 find RAPL within a few
per cent of plug power's changes)."""
MODELLED_GAIN_UNCERTAINTY = 0.10
"""DRAM is within 20 % of metered modules (Desrochers et al. 2016), which is twice this; AMD's
counters come from a model (Schöne et al. 2021)."""
UNREADABLE_MEND = (
    "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj (until reboot), or for good a line "
    "'z /sys/class/powercap/intel-rapl:*/energy_uj 0444 - - -' in /etc/tmpfiles.d/rapl.conf"
)

_ZONE = re.compile(r"^(intel-rapl|intel-rapl-mmio):(\d+)(?::(\d+))?$")
_PACKAGE = re.compile(r"^package-\d+(?:-die-\d+)?$")


@dataclass(frozen=True, slots=True)
class _Zone:
    """One power zone of powercap that is counted."""

    path: Path
    kind: str
    label: str

    @property
    def energy_uj(self) -> Path:
        return self.path / "energy_uj"


class RaplSensor:
    """The energy counters of packages and of their memory, in joules as they stand.

    A counter returns to zero after :attr:`Channel.wrap`; unwrapping is for accounting. Files are
    opened for each reading: one that vanishes is a gap, and is read again when it is back.

    Args:
        channels: One a counter.
        paths: The ``energy_uj`` file of each channel.
    """

    def __init__(self, channels: Sequence[Channel], paths: Sequence[Path]) -> None:
        self.channels = channels
        self._paths = tuple(paths)
        wraps_j = [channel.wrap for channel in channels if channel.wrap]
        self.interval_s = min([READ_INTERVAL_S, *(wrap_j / FASTEST_W / 4 for wrap_j in wraps_j)])

    def read(self) -> list[Reading | Gap]:
        """Every counter."""
        readings: list[Reading | Gap] = []
        for position, path in enumerate(self._paths):
            try:
                microjoules = _read_number(path)
            except (OSError, ValueError) as error:
                readings.append(Gap(time.monotonic_ns(), position, _why(error)))
            else:
                readings.append(Reading(time.monotonic_ns(), position, microjoules / 1e6))
        return readings

    def close(self) -> None:
        """Holds nothing."""


def discover_rapl(
    kinds: Iterable[str] = ("cpu", "dram"),
    *,
    root: Path | None = None,
    vendor: str | None = None,
) -> tuple[list[RaplSensor], list[Absence]]:
    """The RAPL counters of this machine.

    Args:
        kinds: Which components: ``"cpu"``, ``"dram"``.
        root: Where ``/sys`` is; ``$JOULELAB_SYSFS`` or ``/sys`` by default.
        vendor: The processor's vendor as in ``/proc/cpuinfo``.

    Returns:
        At most one sensor, with channels ``cpu:0 ...`` and ``dram:0 ...``, and what is absent.
    """
    kinds = tuple(kinds)
    powercap = (root or system_root()) / "class" / "powercap"
    names = _zone_names(powercap)
    if not names:
        reason = f"no RAPL counters in {powercap}: usual in virtual machines and containers"
        mend = "on Linux on bare metal: sudo modprobe intel_rapl_msr"
        return [], [Absence(kind, "rapl", reason, mend) for kind in kinds]
    absences: list[Absence] = []
    channels: list[Channel] = []
    paths: list[Path] = []
    for kind in kinds:
        zones = [zone for zone in _counted(powercap, names) if zone.kind == kind]
        if not zones:
            absences.append(_no_zone(kind, names))
        readable, refused = _readable(zones)
        absences += refused
        kept, mirrored = _without_mirrors(readable)
        absences += mirrored
        for number, zone in enumerate(kept):
            channels.append(_channel(zone, f"{kind}:{number}", vendor, "psys" in names.values()))
            paths.append(zone.energy_uj)
    return ([RaplSensor(channels, paths)] if channels else []), absences


def _zone_names(powercap: Path) -> dict[str, str]:
    """The zones' directory names and what they are called, ordered by number."""
    found = {}
    if powercap.is_dir():
        for path in powercap.iterdir():
            if _ZONE.match(path.name):
                try:
                    found[path.name] = (path / "name").read_text().strip()
                except OSError:
                    continue
    return dict(
        sorted(found.items(), key=lambda item: [int(n) for n in re.findall(r"\d+", item[0])])
    )


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
            elif match[3] is not None and name == "dram" and _PACKAGE.match(parent):
                zone = _Zone(powercap / directory, "dram", f"{parent}.dram")
            else:
                continue
            if zone.label not in twins:
                zones.append(zone)
    return sorted(zones, key=lambda zone: [int(n) for n in re.findall(r"\d+", zone.label)])


def _no_zone(kind: str, names: dict[str, str]) -> Absence:
    if kind == "cpu" and "psys" in names.values():
        reason = "RAPL has only psys here, which is the whole platform and not the processor"
    else:
        reason = f"RAPL gives no {'package' if kind == 'cpu' else 'dram'} counter on this processor"
    return Absence(kind, "rapl", reason)


def _readable(zones: Sequence[_Zone]) -> tuple[list[_Zone], list[Absence]]:
    good, refused = [], []
    for zone in zones:
        try:
            _read_number(zone.energy_uj)
        except PermissionError:
            reason = f"{zone.energy_uj} may be read by root only (since Linux 5.10, CVE-2020-8694)"
            refused.append(Absence(zone.kind, f"rapl.{zone.label}", reason, UNREADABLE_MEND))
        except (OSError, ValueError) as error:
            reason = f"cannot read {zone.energy_uj}: {_why(error)}"
            refused.append(Absence(zone.kind, f"rapl.{zone.label}", reason))
        else:
            good.append(zone)
    return good, refused


def _without_mirrors(zones: Sequence[_Zone]) -> tuple[list[_Zone], list[Absence]]:
    """Each counter once, by whichever zone shows it first."""
    kept: list[_Zone] = []
    absences = []
    for zone in zones:
        twin = next((other for other in kept if _same_counter(other, zone)), None)
        if twin is None:
            kept.append(zone)
        else:
            reason = f"shows the same counter as {twin.label}, which is counted"
            absences.append(Absence(zone.kind, f"rapl.{zone.label}", reason))
    return kept, absences


def _same_counter(one: _Zone, other: _Zone, rounds: int = 3) -> bool:
    """Whether the second always lies between two readings of the first."""
    try:
        for _ in range(rounds):
            before = _read_number(one.energy_uj)
            between = _read_number(other.energy_uj)
            after = _read_number(one.energy_uj)
            if not before <= between <= after:
                return False
    except (OSError, ValueError):
        return False
    return True


def _channel(zone: _Zone, component: str, vendor: str | None, psys: bool) -> Channel:
    modelled = zone.kind == "dram" or vendor in ("AuthenticAMD", "HygonGenuine")
    note = "core and uncore are inside it" if zone.kind == "cpu" else ""
    if psys and zone.kind == "cpu":
        note += "; psys overlaps it and is not counted"
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
        note=note,
    )


def _wrap_j(zone: _Zone) -> float | None:
    try:
        return _read_number(zone.path / "max_energy_range_uj") / 1e6 or None
    except (OSError, ValueError):
        return None


def _read_number(path: Path) -> int:
    """A non-negative integer from a file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It holds something else.
    """
    # Read ten times a second for hours: a file object would take three times as long.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(descriptor, 64).strip()
    finally:
        os.close(descriptor)
    if not text.isdigit():
        raise ValueError(f"{path.name} holds {text.decode(errors='replace')!r}, not a number")
    return int(text)


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return (error.strerror or type(error).__name__).lower()
    return str(error)
