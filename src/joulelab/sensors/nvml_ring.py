"""The driver's ring of power readings, and how its wall-clock stamps become monotonic times."""

from __future__ import annotations

import time
from itertools import pairwise
from statistics import median
from typing import Any

import pynvml

from joulelab.sensors.sensor import Channel, Gap, Provenance, Quantity, Reading

DEFAULT_PERIOD_S = 0.02
RING_S = 3.0
"""Longer than the ring reaches back (120 readings of 20 ms are 2.4 s)."""
CLOCK_STEP_S = 0.05
"""Wall and monotonic clock drift apart by at most 500 ppm unless the wall clock is set."""
HOLE_PERIODS = 2.5
"""Stamps jitter by more than a period (8 to 45 ms about 20 ms on an H100), so that a wait of up to
this many periods is no hole."""
SILENCE_S = 1.0
"""No new reading for this long is a gap."""

STAMP_UNCERTAINTY_S = 0.003
"""k = 1. Against a known on/off load an H100's stamps lay 0 to 5 ms after their window's end."""

_VALUE_FIELDS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""By nvmlValueType_t."""


class PowerRing:
    """Reads what is new in the ring of one GPU.

    Args:
        channel: The channel that the readings belong to.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._last_stamp_us = 0
        self._last_new_ns = time.monotonic_ns()
        self._offset_ns: int | None = None
        self._unsettled_until_ns = 0

    @classmethod
    def open(cls, handle: Any, component: str, gain_uncertainty: float) -> PowerRing:
        """The ring of a GPU, with the update period that its own stamps show.

        Raises:
            pynvml.NVMLError: The GPU or driver has no such ring.
        """
        stamps_us = [stamp_us for stamp_us, _ in _samples(handle, 0)]
        period_s = _period_s(stamps_us)
        return cls(
            Channel(
                component=component,
                quantity=Quantity.POWER,
                source="nvml.samples",
                provenance=Provenance.MEASURED,
                update_period_s=period_s,
                window_s=period_s,
                time_uncertainty_s=STAMP_UNCERTAINTY_S,
                resolution=1e-3,
                gain_uncertainty=gain_uncertainty,
                priority=0,
            )
        )

    def read(self, handle: Any, channel: int) -> list[Reading | Gap]:
        """The readings since the last call, oldest first; on the first call, all of the ring.

        Where readings are missing in between, a :class:`Gap` stands where the first of them
        would be. After a step of the wall clock the ring is not used until it holds no stamp of
        the old clock.

        Raises:
            pynvml.NVMLError: The GPU or driver does not answer.
        """
        offset_ns = _wall_minus_monotonic_ns()
        try:
            samples = _samples(handle, self._last_stamp_us)
        except pynvml.NVMLError_NotFound:
            samples = []
        now_ns = time.monotonic_ns()
        if self._stepped(offset_ns):
            self._unsettled_until_ns = now_ns + int(RING_S * 1e9)
        self._offset_ns = offset_ns
        if now_ns < self._unsettled_until_ns:
            self._last_stamp_us = (now_ns + offset_ns) // 1000
            return [Gap(now_ns, channel, "the wall clock was set: the ring's times are unsure")]
        new = [(us, w) for us, w in samples if us > self._last_stamp_us]
        if not new:
            if now_ns - self._last_new_ns < SILENCE_S * 1e9:
                return []
            return [Gap(now_ns, channel, "the driver's power ring has nothing new")]
        readings: list[Reading | Gap] = []
        hole_us = HOLE_PERIODS * self.channel.update_period_s * 1e6
        for stamp_us, power_w in new:
            if self._last_stamp_us and stamp_us - self._last_stamp_us > hole_us:
                missing_us = self._last_stamp_us + int(self.channel.update_period_s * 1e6)
                reason = "readings are missing from the driver's power ring"
                readings.append(Gap(missing_us * 1000 - offset_ns, channel, reason))
            readings.append(Reading(stamp_us * 1000 - offset_ns, channel, power_w))
            self._last_stamp_us = stamp_us
        self._last_new_ns = now_ns
        return readings

    def _stepped(self, offset_ns: int) -> bool:
        if self._offset_ns is None:
            return False
        return abs(offset_ns - self._offset_ns) > CLOCK_STEP_S * 1e9


def _period_s(stamps_us: list[int]) -> float:
    """The median distance of the stamps; the usual 20 ms when there are too few to tell."""
    steps_us = [later - earlier for earlier, later in pairwise(stamps_us)]
    steps_us = [step for step in steps_us if step > 0]
    if len(steps_us) < 10:
        return DEFAULT_PERIOD_S
    return round(median(steps_us) / 1e6, 3) or DEFAULT_PERIOD_S


def _wall_minus_monotonic_ns() -> int:
    """Wall clock minus CLOCK_MONOTONIC, by the closest of three pairs."""
    pairs = []
    for _ in range(3):
        before_ns, wall_ns, after_ns = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        pairs.append((after_ns - before_ns, wall_ns - (before_ns + after_ns) // 2))
    return min(pairs)[1]


def _samples(handle: Any, since_us: int) -> list[tuple[int, float]]:
    """(wall-clock microseconds, watts), oldest first."""
    kind, samples = pynvml.nvmlDeviceGetSamples(handle, pynvml.NVML_TOTAL_POWER_SAMPLES, since_us)
    field = _VALUE_FIELDS[kind]
    pairs = [(int(s.timeStamp), float(getattr(s.sampleValue, field)) / 1e3) for s in samples]
    return sorted(pair for pair in pairs if pair[0] > 0)
