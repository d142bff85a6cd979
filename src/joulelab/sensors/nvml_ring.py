"""The driver's ring of power readings, and how its wall-clock stamps become monotonic times."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import pynvml

from joulelab.sensors.clocks import ahead_ns
from joulelab.sensors.nvml_accuracy import HOLE_PERIODS, RING_PERIOD_S, timestamp_latency
from joulelab.sensors.sensor import Channel, Gap, Provenance, Quantity, Reading

RING_S = 3.0
"""Longer than the ring reaches back (120 readings of 20 ms are 2.4 s)."""
CLOCK_STEP_S = 0.05
"""Wall and monotonic clock drift apart by at most 500 ppm unless the wall clock is set."""
SILENCE_S = 1.0
"""No new reading for this long is a gap."""

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
        return cls(ring_channel(component, stamps_us, gain_uncertainty))

    def read(self, handle: Any, channel: int) -> list[Reading | Gap]:
        """The readings since the last call, oldest first; on the first call, all of the ring.

        Where readings are missing in between, a :class:`Gap` stands where the first of them
        would be. After a step of the wall clock the ring is not used until it holds no stamp of
        the old clock.

        Raises:
            pynvml.NVMLError: The GPU or driver does not answer.
        """
        offset_ns = ahead_ns(time.CLOCK_REALTIME)
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
            return [Gap(now_ns, channel, "the wall clock jumped: the ring's times are unsure")]
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


def ring_channel(component: str, stamps_us: Sequence[int], gain_uncertainty: float) -> Channel:
    """What the ring's stamps say of it.

    Args:
        component: As ``"gpu:0"``.
        stamps_us: The times of its readings, oldest first.
        gain_uncertainty: Relative standard uncertainty of its scale.

    Example:
        >>> channel = ring_channel("gpu:0", [20_000 * i for i in range(120)], 0.065)
        >>> channel.update_period_s, channel.delay_s, round(channel.time_uncertainty_s, 4)
        (0.02, 0.0, 0.0029)
    """
    period_s = _period_s(stamps_us)
    steps_s = [(later - earlier) * 1e-6 for earlier, later in pairwise(stamps_us)]
    delay_s, time_uncertainty_s = timestamp_latency(steps_s, period_s)
    return Channel(
        component=component,
        quantity=Quantity.POWER,
        source="nvml.samples",
        provenance=Provenance.MEASURED,
        update_period_s=period_s,
        window_s=period_s,
        delay_s=delay_s,
        time_uncertainty_s=time_uncertainty_s,
        resolution=1e-3,
        gain_uncertainty=gain_uncertainty,
        priority=0,
    )


def _period_s(stamps_us: Sequence[int]) -> float:
    """The median distance of the stamps; the usual 20 ms when there are too few to tell."""
    steps_us = [later - earlier for earlier, later in pairwise(stamps_us)]
    steps_us = [step for step in steps_us if step > 0]
    if len(steps_us) < 10:
        return RING_PERIOD_S
    return round(median(steps_us) / 1e6, 3) or RING_PERIOD_S


def _samples(handle: Any, since_us: int) -> list[tuple[int, float]]:
    """(wall-clock microseconds, watts), oldest first."""
    kind, samples = pynvml.nvmlDeviceGetSamples(handle, pynvml.NVML_TOTAL_POWER_SAMPLES, since_us)
    field = _VALUE_FIELDS[kind]
    pairs = [(int(s.timeStamp), float(getattr(s.sampleValue, field)) / 1e3) for s in samples]
    return sorted(pair for pair in pairs if pair[0] > 0)
