"""Other clocks against CLOCK_MONOTONIC: they place wall-clock stamps and show suspends."""

from __future__ import annotations

import time
from collections.abc import Sequence

from joulelab.sensors.sensor import Channel, Gap, Provenance, Quantity, Reading

READ_INTERVAL_S = 1.0
CLOCKS = {"realtime": time.CLOCK_REALTIME, "boottime": time.CLOCK_BOOTTIME}


class ClockSensor:
    """The wall clock, and CLOCK_BOOTTIME, which goes on while the machine is suspended."""

    interval_s = READ_INTERVAL_S

    def __init__(self) -> None:
        self.channels: Sequence[Channel] = tuple(
            Channel(
                component="clock",
                quantity=Quantity.CLOCK_OFFSET,
                source=f"clock.{name}",
                provenance=Provenance.MEASURED,
                update_period_s=READ_INTERVAL_S,
            )
            for name in CLOCKS
        )

    def read(self) -> list[Reading | Gap]:
        """The offset of each clock."""
        t_ns = time.monotonic_ns()
        return [Reading(t_ns, i, ahead_ns(clock) * 1e-9) for i, clock in enumerate(CLOCKS.values())]

    def close(self) -> None:
        """Nothing to give back."""


def ahead_ns(clock: int) -> int:
    """A clock minus CLOCK_MONOTONIC, by the closest of three pairs."""
    pairs = []
    for _ in range(3):
        before_ns = time.monotonic_ns()
        there_ns = time.clock_gettime_ns(clock)
        after_ns = time.monotonic_ns()
        pairs.append((after_ns - before_ns, there_ns - (before_ns + after_ns) // 2))
    return min(pairs)[1]
