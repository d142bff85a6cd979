"""Bytes that the machine sends and receives, as counters of its network interfaces.

The kernel counts them for interfaces, not for processes. What goes through InfiniBand or RoCE
passes the kernel by; their adapters count it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from joulelab.sensors.interfaces import NET_DEV, InterfaceBytes, read_interfaces, system_root
from joulelab.sensors.sensor import (
    Channel,
    DataPlace,
    Discovery,
    Gap,
    NothingOpen,
    Provenance,
    Quantity,
    Reading,
)

INTERVAL_S = 0.5
RDMA_WORD_BYTES = 4
"""Adapters count words of 32 bits (Linux, Documentation/ABI/stable/sysfs-class-infiniband)."""
_SOURCES = {
    DataPlace.NETWORK: "os.network",
    DataPlace.LOOPBACK: "os.loopback",
    DataPlace.RDMA: "infiniband.ports",
}
_DIRECTIONS = {Quantity.SENT: "xmit", Quantity.RECEIVED: "rcv"}
_INTERFACE_CHANNELS = 4


class NetworkSensor(NothingOpen):
    """Bytes through network interfaces, the loopback interface and RDMA adapters.

    Args:
        before: An earlier state, which becomes the first reading.
        sysfs: Root of sysfs; default: that of this machine.
    """

    interval_s = INTERVAL_S

    def __init__(self, before: InterfaceBytes | None = None, sysfs: Path | None = None) -> None:
        self._before, self._sysfs = before, sysfs or system_root()
        self._ports = sorted(self._sysfs.glob("class/infiniband/*/ports/*/counters"))
        places = [DataPlace.NETWORK, DataPlace.LOOPBACK, *([DataPlace.RDMA] if self._ports else [])]
        self.channels: Sequence[Channel] = tuple(
            Channel(
                component=place,
                quantity=quantity,
                source=_SOURCES[place],
                provenance=Provenance.MEASURED,
                update_period_s=INTERVAL_S,
                resolution=RDMA_WORD_BYTES if place is DataPlace.RDMA else 1,
                note="all programs of the machine",
            )
            for place in places
            for quantity in _DIRECTIONS
        )

    def read(self) -> list[Reading | Gap]:
        """Read each counter once."""
        before, self._before = self._before, None
        found: list[Reading | Gap] = [] if before is None else _readings(before)
        try:
            found += _readings(read_interfaces(self._sysfs))
        except (OSError, ValueError, IndexError) as error:
            t_ns, reason = time.monotonic_ns(), f"{NET_DEV} cannot be read: {error}"
            found += [Gap(t_ns, i, reason) for i in range(_INTERFACE_CHANNELS)]
        return [*found, *self._adapters()]

    def _adapters(self) -> list[Reading | Gap]:
        if not self._ports:
            return []
        found: list[Reading | Gap] = []
        for i, direction in enumerate(_DIRECTIONS.values(), start=_INTERFACE_CHANNELS):
            files = (port / f"port_{direction}_data" for port in self._ports)
            t_ns = time.monotonic_ns()
            try:
                words = sum(int(file.read_text()) for file in files)
                found.append(Reading(t_ns, i, float(RDMA_WORD_BYTES * words)))
            except (OSError, ValueError) as error:
                found.append(Gap(t_ns, i, str(error)))
        return found


def _readings(state: InterfaceBytes) -> list[Reading | Gap]:
    t_ns, *counters = state
    return [Reading(t_ns, i, float(value)) for i, value in enumerate(counters)]


def with_network(found: Discovery, before: InterfaceBytes) -> Discovery:
    """Add the network to the sensors of a real machine."""
    is_real = any(
        channel.provenance is not Provenance.SIMULATED
        for sensor in found.sensors
        for channel in sensor.channels
    )
    return Discovery((*found.sensors, NetworkSensor(before)), found.absent) if is_real else found
