"""What network interfaces count, read with the standard library alone.

``joulelab run`` reads it before its command starts, when nothing else is imported yet.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

NET_DEV = Path("/proc/net/dev")
_RECEIVED_AT, _SENT_AT = 0, 8


class InterfaceBytes(NamedTuple):
    """What all interfaces have sent and received since they exist; ``t_ns`` is CLOCK_MONOTONIC."""

    t_ns: int
    sent: int
    received: int
    loopback_sent: int
    loopback_received: int


def read_interfaces(sysfs: Path | None = None, table: Path = NET_DEV) -> InterfaceBytes:
    """Read the counters of all interfaces (proc_pid_net(5)).

    Where there are interfaces of hardware, others (bridges, containers, tunnels) are left out:
    their bytes pass an interface of hardware, too, or stay on the machine.

    Raises:
        OSError: This system has no such table.
        ValueError: It reads differently.
    """
    sysfs = sysfs or system_root()
    t_ns = time.monotonic_ns()
    with table.open("rb", buffering=0) as file:
        text = file.read().decode()
    rows = (line.rpartition(":") for line in text.splitlines())
    counts = {name.strip(): counters.split() for name, colon, counters in rows if colon}
    found = {name: (int(row[_SENT_AT]), int(row[_RECEIVED_AT])) for name, row in counts.items()}
    loopback = found.pop("lo", (0, 0))
    # Path objects would take three times as long, twice a second.
    hardware = [name for name in found if os.path.exists(f"{sysfs}/class/net/{name}/device")]  # noqa: PTH110
    links = [found[name] for name in hardware or found]
    return InterfaceBytes(
        t_ns, sum(one for one, _ in links), sum(one for _, one in links), *loopback
    )


def interfaces_now() -> InterfaceBytes:
    """Read the counters of all interfaces, or 0 at this moment where that is not possible."""
    try:
        return read_interfaces()
    except (OSError, ValueError, IndexError):
        return InterfaceBytes(time.monotonic_ns(), 0, 0, 0, 0)


def system_root() -> Path:
    """Return where ``/sys`` is: ``$JOULELAB_SYSFS``, or ``/sys``."""
    return Path(os.environ.get("JOULELAB_SYSFS") or "/sys")
